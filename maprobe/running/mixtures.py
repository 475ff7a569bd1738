"""Inputs of several domains, and of graded pairs of texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from maprobe.cases import InputsRequest
from maprobe.errors import InputError, did_you_mean
from maprobe.recipes import GradedPair
from maprobe.running.texts import Passage, Texts, check_characters, check_numbers, json_lines

__all__ = ["described_domains", "read_pairs", "requests_of"]

_FIELDS = ("a", "b", "score")


def requests_of(request: InputsRequest) -> Iterator[tuple[str, InputsRequest]]:
    """Yield each domain of a request by its name, as inputs of their own with the numbers that all of them share."""
    for domain in request.domains:
        folder = "" if domain.source == "corpus" else request.folder
        yield (
            domain.name,
            replace(
                request,
                source=domain.source,
                value=(domain.value,),
                text_field=domain.text_field,
                domains=(),
                folder=folder,
            ),
        )


def described_domains(parts: Mapping[str, str]) -> str:
    """Return inputs of domains in words."""
    return "; ".join(f"{name}: {description}" for name, description in parts.items())


def read_pairs(request: InputsRequest) -> tuple[Texts, tuple[GradedPair, ...]]:
    """Read the pairs that a request chooses: their texts, two by two, and their grades.

    Raises:
        InputError: the file cannot be read, a line of it is no graded pair, or there are too few of them.
    """
    check_numbers(request)
    lines = [(line, *_pair(place, record)) for line, place, record in json_lines(request)]
    name, skip = request.value[0], request.skip
    if not lines:
        raise InputError(f"{name} holds no pair; allowed: at least one line")
    wanted = request.sequences if isinstance(request.sequences, int) else max(len(lines) - skip, 1)
    if skip + wanted > len(lines):
        skipping = f" after {skip} skipped ones" if skip else ""
        there = f"{len(lines)} pair{'' if len(lines) == 1 else 's'}"
        raise InputError(f"{name} has {there}, but the probe asks for {wanted}{skipping}; lower `sequences` or `skip`")
    chosen = lines[skip : skip + wanted]
    texts = Texts(
        name=name,
        passages=tuple(passage for _, first, second, _ in chosen for passage in (first, second)),
        stream=False,
        sequences="all",
        length=None,
        bos=request.bos or "auto",
    )
    pairs = tuple(
        GradedPair(first=2 * number, second=2 * number + 1, score=score, line=line)
        for number, (line, _, _, score) in enumerate(chosen)
    )
    return texts, pairs


def _pair(place: str, record: object) -> tuple[Passage, Passage, float]:
    if not isinstance(record, dict):
        raise InputError(f"{place} is not a JSON object; allowed: one object a line, with a, b and score")
    for field in _FIELDS:
        if field not in record:
            names = ", ".join(map(str, record)) or "none"
            raise InputError(
                f"{place} has no field {field!r}{did_you_mean(field, record)}; it has: {names}; every pair has two "
                f"texts, a and b, and a score"
            )
    score = record["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise InputError(f"'score' in {place} is {score!r}; allowed: a number, higher where the texts are closer")
    return _text(record["a"], "a", place), _text(record["b"], "b", place), float(score)


def _text(value: object, field: str, place: str) -> Passage:
    if not isinstance(value, str):
        raise InputError(f"field {field!r} in {place} is {type(value).__name__}, not a text; write a text")
    passage = Passage(value, f"{field!r} in {place}")
    check_characters(passage)
    return passage
