"""Cutting texts into sequences of token ids: one stream into consecutive ones, or each text by itself."""

from __future__ import annotations

from collections.abc import Iterator

from maprobe.errors import InputError
from maprobe.running.texts import Passage, Texts
from maprobe.running.tokens import Frame, Ids, Vocabulary

__all__ = ["cut_each", "cut_stream"]


def cut_stream(texts: Texts, skip: int, vocabulary: Vocabulary, around: Frame) -> Iterator[Ids]:
    """Yield consecutive sequences of one text, without overlap; the rest that fills no sequence is left out."""
    passage, length = texts.passages[0], texts.length
    assert length is not None
    ids = _encoded(passage, vocabulary, around)
    if around.head:
        ids = [*around.prefix, *ids]
    room = length if around.head else _room(length, around)
    there = len(ids) // room
    if not there:
        raise InputError(
            f"{passage.place} holds {len(ids)} tokens, and one sequence of {length} takes {room} of them; shorten "
            f"`length`, or name a longer text"
        )
    for number in _chosen(texts, skip, there, f"of {length} tokens"):
        body = tuple(ids[number * room : (number + 1) * room])
        yield body if around.head else (*around.prefix, *body, *around.suffix)


def cut_each(texts: Texts, skip: int, vocabulary: Vocabulary, around: Frame) -> Iterator[Ids]:
    """Yield one sequence for each text: whole, or its first tokens."""
    room = None if texts.length is None else _room(texts.length, around)
    for number in _chosen(texts, skip, len(texts.passages)):
        passage = texts.passages[number]
        body = _encoded(passage, vocabulary, around)
        if room is not None and len(body) < room:
            raise InputError(
                f"{passage.place} holds {len(body)} tokens, and a sequence of {texts.length} takes {room} of them; "
                f"lengthen the text, or shorten or leave out `length`"
            )
        yield (*around.prefix, *body[:room], *around.suffix)


def _encoded(passage: Passage, vocabulary: Vocabulary, around: Frame) -> list[int]:
    ids = vocabulary.encode(passage.text, passage.place)
    if not ids:
        raise InputError(f"{passage.place} is empty: it holds no token; write a text, or leave it out")
    # A text that begins with a written-out BOS has the one that is required: the model is to see it once.
    return ids[1:] if ids[0] == around.bos else ids


def _room(length: int, around: Frame) -> int:
    """Return how many tokens of a sequence are left to the text."""
    special = len(around.prefix) + len(around.suffix)
    if length <= special:
        raise InputError(
            f"`length: {length}` leaves no room for text beside {special} special tokens; allowed: {special + 1} or "
            f"more"
        )
    return length - special


def _chosen(texts: Texts, skip: int, there: int, each: str = "") -> range:
    wanted = max(there - skip, 1) if texts.sequences == "all" else texts.sequences
    if skip + wanted > there:
        name = texts.name or "the list of texts"
        skipping = f" after {skip} skipped ones" if skip else ""
        one_file = not texts.stream and there == 1 and texts.name
        hint = "write `length` to cut it" if one_file else "lower `sequences` or `skip`"
        what = f"{'sequence' if texts.stream else 'text'}{'' if there == 1 else 's'}{each and f' {each}'}"
        raise InputError(f"{name} has {there} {what}, but the probe asks for {wanted}{skipping}; {hint}")
    return range(skip, skip + wanted)
