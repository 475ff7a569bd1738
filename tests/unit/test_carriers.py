from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hidden_states import PlainBatch, context, noise

from maprobe.errors import MeasurementError
from maprobe.measurements.carriers import CARRIERS, token_class
from maprobe.readings import Reading
from maprobe.recipes import Tap

WORDS = ("Summer", " is", " warm", ".", " Winter", ",", " and", "\n", ".", " cold")
EXACT = {"first": 0, "is": 1, "warm": 2, "strong": 3, "comma": 5, "and": 6, "later": 8, "cold": 9}


@dataclass
class Sentence(PlainBatch):
    """Each sequence reads as WORDS."""

    def text(self, row: int, position: int) -> str:
        return WORDS[position]


def measure(*by_sequence: tuple[str, ...], size: int = 1, layers: tuple[int, ...] = (2, 3)) -> Reading:
    """Plant massive activations on the named tokens of each sequence, in two of four layers."""
    fold = CARRIERS.start(context(CARRIERS, sequences=len(by_sequence)))
    for start in range(0, len(by_sequence), size):
        rows = list(range(start, min(start + size, len(by_sequence))))
        ids = torch.arange(len(WORDS)).expand(len(rows), -1)
        for tap in fold.taps:
            hidden = noise(len(rows), len(WORDS), seed=tap.layer)
            for row, sequence in enumerate(rows):
                for name in by_sequence[sequence] if tap.layer in layers else ():
                    hidden[row, EXACT[name], 7] = 5000.0
            fold.observe(tap, hidden, Sentence(ids, tuple(rows)))
    return fold.finish({})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".", "strong_delimiter"),
        (" . ", "strong_delimiter"),
        (".\n", "strong_delimiter"),
        ("\n\n", "strong_delimiter"),
        ("\r\n  ", "strong_delimiter"),
        (",", "other_delimiter"),
        (" '", "other_delimiter"),
        ("...", "other_delimiter"),
        (" ==", "other_delimiter"),
        (" of", "weak_word"),
        ("The", "weak_word"),
        ("2", "weak_word"),
        ("22", "other"),
        (" ", "other"),
        ("", "other"),
        ("often", "other"),
        ("<s>", "other"),
        ("e.", "other"),
    ],
)
def test_a_token_is_classed_by_its_text(text: str, expected: str) -> None:
    assert expected == token_class(text)


class TestGroups:
    @pytest.mark.parametrize(
        ("hit", "group"),
        [
            (("first",), 1),
            (("first", "strong"), 2),
            (("strong",), 2),
            (("first", "later"), 3),
            (("first", "strong", "comma"), 3),
            (("first", "and"), 3),
            (("first", "is"), 3),
            (("first", "warm"), 4),
            (("cold",), 4),
        ],
    )
    def test_the_narrowest_group_that_holds_all_of_them(self, hit: tuple[str, ...], group: int) -> None:
        reading = measure(hit)
        assert (group, float(group == 1)) == (reading["group"].value, reading["first_token_only"].value)

    def test_one_sequence_is_enough_to_widen_it(self) -> None:
        assert 1.0 == measure(("first",), ("first",))["group"].value
        assert 4.0 == measure(("first",), ("first", "warm"))["group"].value

    def test_an_odd_token_is_named_by_its_place(self) -> None:
        (place,) = measure(("first",), ("first", "warm"))["other"].places
        assert (1, 2, " warm") == (place.sequence, place.position, place.token)


class TestShares:
    def test_each_token_counts_once_whatever_its_number_of_layers(self) -> None:
        reading = measure(("first", "strong", "comma", "and", "warm"), ("first",), ("first",))
        assert (7.0, 7 / 3) == (reading["tokens"].value, reading["tokens_per_sequence"].value)
        assert 3 / 7 == reading["first"].value
        for name in ("strong_delimiter", "other_delimiter", "weak_word", "other"):
            assert 1 / 7 == reading[name].value

    def test_records_count_tokens_and_hits_by_text_and_tell_the_first_strong_delimiter_apart(self) -> None:
        records = measure(("first", "strong", "later"), ("first", "strong")).records
        rows = [tuple(row.values()) for row in records]
        assert [
            ("first", "Summer", False, 2, 4),
            ("strong_delimiter", ".", True, 2, 4),
            ("strong_delimiter", ".", False, 1, 2),
        ] == rows

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_batches_do_not_change_it(self, size: int) -> None:
        hits = (("first", "strong"), ("and",), ("first",))
        assert measure(*hits).to_dict() == measure(*hits, size=size).to_dict()

    def test_sequences_without_any_are_told(self) -> None:
        assert ("1 of 2 sequences have a massive activation in these layers",) == measure(("first",), ()).notes
        assert () == measure(("first",), ("first",)).notes


def test_without_a_planted_entry_it_is_absent() -> None:
    absent = measure((), ()).absent
    assert absent is not None
    assert absent.startswith("nothing massive here: in layers 1..4 no entry exceeds")


def test_a_stream_that_is_not_finite_leaves_the_question_open() -> None:
    fold = CARRIERS.start(context(CARRIERS))
    hidden = noise()
    hidden[0, 2, 3] = math.inf
    with pytest.raises(MeasurementError, match=r"layer 1 holds entries that are not finite \(sequence 0\)"):
        fold.observe(Tap("block.out", 1), hidden, Sentence(torch.arange(6)[None], (0,)))
