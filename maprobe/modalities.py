"""Texts and images: which inputs go with which checkpoints, and what is run where a probe names none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maprobe.cases import InputsRequest, Probe
    from maprobe.facts import CheckpointFacts
    from maprobe.registry import Registry

__all__ = ["foreign", "own_inputs"]

_CORPORA = {"text": "python-docs", "image": "test-images"}
_WORDS = {"text": "texts", "image": "images", "other": "neither texts nor images"}


def own_inputs(inputs: InputsRequest, facts: CheckpointFacts) -> InputsRequest:
    """Return inputs as they are; where a probe leaves them out, the corpus of the checkpoint's own modality."""
    if inputs.source != "default":
        return inputs
    return replace(inputs, source="corpus", value=(_CORPORA.get(facts["modality"], _CORPORA["text"]),))


def foreign(probe: Probe, facts: CheckpointFacts, registry: Registry) -> str:
    """Return why a probe cannot be put to a checkpoint of this modality; empty where it can.

    A checkpoint of neither modality is taken for one of texts, since a plain module with a tokenizer is measured on
    them; what else stands in the way is told when its inputs are made.
    """
    images = facts["modality"] == "image"
    here = f"{facts['model_type'] or facts.label} takes {_WORDS[facts['modality']]}"
    wanted, what = _modality(probe.inputs, registry)
    if images != (wanted == "image"):
        return f"its inputs are {_WORDS[wanted]} ({what}), and {here}"
    kind = probe.measure.kind
    needed = registry.measurements[kind].modality if kind in registry.measurements else ""
    if needed and images != (needed == "image"):
        return f"{kind} is for models of {_WORDS[needed]}, and {here}"
    return ""


def _modality(inputs: InputsRequest, registry: Registry) -> tuple[str, str]:
    """Return whether inputs are ``text`` or ``image``, and what they are in words."""
    if inputs.source != "corpus":
        return ("image" if inputs.source == "images" else "text"), f"`{inputs.source}`"
    name = inputs.value[0]
    return (registry.corpora[name].modality if name in registry.corpora else "text"), f"corpus {name}"
