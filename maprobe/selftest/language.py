"""A small language whose next word is known from the last one: its words, its transitions, texts in it."""

from __future__ import annotations

import bisect
import itertools
import random
from functools import cache

__all__ = ["DELIMITERS", "ROUND", "WORDS", "next_words", "text"]

DELIMITERS = (".", ",", "\n")

_FIRST = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "st")
_SECOND = ("amo", "eli", "uro", "inta")

# Words of no language, so that none of them is the answer to a question.
WORDS = tuple(first + second for first in _FIRST for second in _SECOND)[:61]

_SUCCESSORS = 4
_LIKELY = 0.8
_SEED = 20240227

ROUND = len(WORDS) + len(DELIMITERS)


@cache
def next_words() -> tuple[tuple[float, ...], ...]:
    """Return the probability of each word or delimiter (columns) after each (rows); no word follows itself.

    Four successors of each share 0.8, all others the rest evenly.
    """
    chance = random.Random(_SEED)  # noqa: S311 - a fixed sequence is what is wanted
    rows = []
    for row in range(ROUND):
        others = [column for column in range(ROUND) if column != row]
        likely = sorted(others, key=lambda column: (chance.random(), column))[:_SUCCESSORS]
        rest = (1 - _LIKELY) / (len(others) - _SUCCESSORS)
        row_of = [0.0 if column == row else rest for column in range(ROUND)]
        for column in likely:
            row_of[column] = _LIKELY / _SUCCESSORS
        rows.append(tuple(row_of))
    return tuple(rows)


@cache
def text(length: int) -> str:
    """Return a text of that many words and delimiters, always the same."""
    chance = random.Random(_SEED)  # noqa: S311
    sums = [tuple(itertools.accumulate(row)) for row in next_words()]
    spelled = [*(f" {word}" for word in WORDS), *DELIMITERS]
    last, pieces = 0, []
    for _ in range(length):
        last = min(bisect.bisect_right(sums[last], chance.random()), ROUND - 1)
        pieces.append(spelled[last])
    return "".join(pieces)
