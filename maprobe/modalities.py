"""Texts and images: which inputs go with which checkpoints, and what is run where a probe names none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maprobe.cases import InputsRequest, Probe
    from maprobe.facts import CheckpointFacts
    from maprobe.registry import Registry

__all__ = ["DEFAULT", "brings_inputs", "foreign", "own_inputs"]

_CORPORA = {"text": "python-docs", "image": "test-images"}
_WORDS = {
    "text": "texts",
    "image": "images",
    "graph": "graphs",
    "own": "inputs of its own",
    "other": "neither texts nor images",
}
_OWN = ("graph", "own")
DEFAULT = "default"  # the inputs that a model names first


def own_inputs(inputs: InputsRequest, facts: CheckpointFacts) -> InputsRequest:
    """Return inputs as they are; where a probe leaves them out, what goes with the checkpoint's own modality."""
    if inputs.source != "default":
        return inputs
    if brings_inputs(facts):
        return replace(inputs, source="own", value=(DEFAULT,))
    return replace(inputs, source="corpus", value=(_CORPORA.get(facts["modality"], _CORPORA["text"]),))


def brings_inputs(facts: CheckpointFacts) -> bool:
    """Whether a checkpoint is run on inputs that it brings itself, and on no others."""
    return facts["modality"] in _OWN


def foreign(probe: Probe, facts: CheckpointFacts, registry: Registry) -> str:
    """Return why a probe cannot be put to a checkpoint of this modality; empty where it can.

    A checkpoint of neither modality is taken for one of texts, since a plain module with a tokenizer is measured on
    them; what else stands in the way is told when its inputs are made.
    """
    here = f"{facts['model_type'] or facts.label} takes {_WORDS[facts['modality']]}"
    taken = "own" if brings_inputs(facts) else "image" if facts["modality"] == "image" else "text"
    wanted, what = _modality(probe.inputs, registry)
    if taken != wanted:
        if wanted == "own":
            return f"its inputs are those that the model brings ({what}), and {here}, and brings none"
        return f"its inputs are {_WORDS[wanted]} ({what}), and {here}"
    kind, tokens = probe.measure.kind, probe.measure.tokens.kind
    needed = registry.measurements[kind].modality if kind in registry.measurements else ""
    if needed and taken != needed:
        return f"{kind} is for models of {_WORDS[needed]}, and {here}"
    if taken == "own" and kind in registry.measurements and registry.measurements[kind].causal:
        return f"{kind} is for language models, and {here}"
    if taken == "own" and tokens not in ("all", "index"):
        return f"it is about tokens of class {tokens}, and {here}, of whose rows none is that"
    return ""


def _modality(inputs: InputsRequest, registry: Registry) -> tuple[str, str]:
    """Return whether inputs are ``text``, ``image`` or ``own``, and what they are in words."""
    if inputs.source == "own":
        return "own", f"`own: {inputs.value[0]}`"
    if inputs.source != "corpus":
        return ("image" if inputs.source == "images" else "text"), f"`{inputs.source}`"
    name = inputs.value[0]
    return (registry.corpora[name].modality if name in registry.corpora else "text"), f"corpus {name}"
