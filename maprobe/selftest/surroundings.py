"""What stands around the models: a text for every corpus, answers for every question, a card for the planted model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from maprobe.cases import InputsRequest, Options, Probe
from maprobe.errors import MaprobeError
from maprobe.modalities import DEFAULT
from maprobe.registry import Registry
from maprobe.selftest.design import FACTS
from maprobe.selftest.language import text

if TYPE_CHECKING:
    from maprobe.recipes import Corpus

__all__ = ["card_text", "lessons_of", "placed", "with_stand_ins"]

_SEVERAL = 4  # sequences of a corpus that is to be taken whole
_MOST = 20_000  # tokens that can be learned


def with_stand_ins(registry: Registry, probes: Iterable[Probe]) -> Registry:
    """Return the registry with every corpus of texts standing for a text that the planted models can predict.

    Nothing is fetched, and the numbers are the same wherever and with whichever release of Python they are taken. The
    text is as long as the probes need it to be.
    """
    inputs = [version.inputs for probe in probes for version in _versions(probe)]
    standing = Registry()
    shelves = (
        registry.measurements,
        registry.interventions,
        registry.operators,
        registry.architectures,
        registry.renderers,
    )
    for shelf in shelves:
        for name, recipe in shelf.items():
            standing.add((recipe,), plugin=shelf.plugin(name))
    for name, corpus in registry.corpora.items():
        if corpus.modality == "text":
            asking = [request for request in inputs if request.source == "default" or name in request.corpora]
            length = max((_needed(corpus, request) for request in asking), default=1)
            corpus = _stand_in(corpus, length, _beside(name, inputs))  # noqa: PLW2901
        standing.add((corpus,), plugin=registry.corpora.plugin(name))
    return standing


def _stand_in(corpus: Corpus, length: int, beside: int) -> Corpus:
    # Domains beside one another get texts of their own: the same language, from another place on.
    return replace(corpus, load=lambda: text((beside + 1) * length)[len(text(beside * length)) :])


def _beside(name: str, inputs: Iterable[InputsRequest]) -> int:
    """Return behind how many other corpora one stands in the domains of inputs, at most."""
    places = [request.corpora.index(name) for request in inputs if len(request.corpora) > 1 and name in request.corpora]
    return max(places, default=0)


def _needed(corpus: Corpus, request: InputsRequest) -> int:
    sequences = corpus.sequences if request.sequences is None else request.sequences
    whole = _SEVERAL if sequences == "all" else int(sequences)
    return (request.skip + whole) * (request.length or corpus.length)


def _versions(probe: Probe) -> Iterator[Probe]:
    yield probe
    yield from (override.probe for override in probe.overrides)


def lessons_of(probes: Iterable[Probe]) -> dict[str, float]:
    """Return what the questions of probes teach: for each token of an option, from -1 (wrong) to 1 (right).

    Questions that cannot be read teach nothing; their cases tell why.
    """
    from maprobe.running.choices import read_questions
    from maprobe.selftest.tokenizer import pieces

    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    asked = (version.inputs for probe in probes for version in _versions(probe))
    for request in dict.fromkeys(asked):
        if request.source != "choices":
            continue
        try:
            questions = read_questions(request)
        except MaprobeError:
            continue
        for question in questions:
            for number, option in enumerate(question.options):
                words = set(pieces(option))
                seen.update(words)
                right.update(words if number == question.right else set())
    return {word: 2 * right[word] / count - 1 for word, count in seen.most_common(_MOST)}


def card_text(names: Iterable[str]) -> str:
    """Return a model card that says of the planted model, under each of these names, what is built into it."""
    lines = ["---", f"matches: [{', '.join(sorted(names))}]", "published:", "  - figures:"]
    lines += [f"      {name}: {_yaml(value)}" for name, value in FACTS.items()]
    lines += ["    source: https://planted.invalid (what is built into the planted model)", "    sure: code", "---", ""]
    return "\n".join(lines)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def placed(probe: Probe, card: Path) -> Probe:
    """Return a probe as it is asked of a planted model: held to its card, run on its inputs, and without a waiver.

    A waiver says something of a checkpoint that the planted models are not, and so do names of a model's own inputs.
    """
    inputs = probe.inputs
    if inputs.source == "own":
        inputs = replace(inputs, value=(DEFAULT,), sequences=None, skip=0)
    measure = probe.measure
    if measure.kind in ("published", "published.weights"):
        options: Options = tuple((name, str(card) if name == "card" else value) for name, value in measure.options)
        measure = replace(measure, options=options)
    overrides = tuple(replace(override, probe=placed(override.probe, card)) for override in probe.overrides)
    return replace(probe, inputs=inputs, measure=measure, xfail=None, overrides=overrides)
