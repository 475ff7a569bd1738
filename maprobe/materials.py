"""What inputs are made of: corpora of texts or pictures, and the options of questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from maprobe.cases import BosPolicy

__all__ = ["Choice", "Corpus", "GradedPair", "Picture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One option of a multiple-choice question: its tokens, and the sequence by which they are predicted.

    Attributes:
        question: number of the question within the inputs, from 0.
        option: number of the option within the question, from 0.
        right: whether it is the right one.
        sequence: number of the sequence that predicts it. Its last token is predicted and never read, so it is not in
            the sequence, and options of a question that differ in that one alone share a sequence.
        start: position that its first token has, or would have, in the sequence. It is at least 1.
        ids: its tokens.
        characters: characters of its text, without the white space around it.
        line: the line of the file that the question stands on, from 1.
    """

    question: int
    option: int
    right: bool
    sequence: int
    start: int
    ids: tuple[int, ...]
    characters: int
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedPair:
    """Two texts and how much they have to do with one another.

    Attributes:
        first: number of the sequence of the one.
        second: number of the sequence of the other.
        score: the grade that was given to them; higher is closer.
        line: the line of the file that they stand on, from 1.
    """

    first: int
    second: int
    score: float
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of a corpus of images.

    Attributes:
        name: what it is called in tables.
        pixels: a numpy array of uint8, shape (height, width, 3).
    """

    name: str
    pixels: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A named text with a fixed protocol of how sequences are cut from it, or named images.

    Attributes:
        name: the name under ``corpus``.
        summary: what the text is.
        protocol: how it is read and cut, with the source.
        load: returns the whole text, or the pictures. Raises InputError in one sentence where they cannot be had.
        sequences: default number of sequences; ``"all"`` for every one there is.
        length: default tokens a sequence; of no meaning for images.
        bos: default BOS policy; of no meaning for images.
        modality: what it holds: ``text`` or ``image``.
    """

    name: str
    summary: str
    protocol: str
    load: Callable[[], str | Sequence[Picture]]
    sequences: int | Literal["all"] = 4
    length: int = 512
    bos: BosPolicy = "auto"
    modality: Literal["text", "image"] = "text"
