"""A few recipes that measure nothing, for testing what is read from probe files."""

from __future__ import annotations

from typing import Any

from maprobe.cases import MeasureRequest
from maprobe.expectations import OPERATORS
from maprobe.recipes import Corpus, InterventionRecipe, MeasurementRecipe, Parameter, QuantitySpec
from maprobe.registry import Registry


def _unused(*arguments: Any) -> Any:
    raise AssertionError("reading a probe file calls no recipe")


def _by_layer(name: str) -> QuantitySpec:
    return QuantitySpec(name=name, axes=("layer",), meaning=f"{name} of a layer")


MAGNITUDE = MeasurementRecipe(
    name="magnitude",
    summary="The largest entries.",
    sites=("block.out", "block.mlp.out", "embed.out"),
    quantities=(_by_layer("top"), _by_layer("ratio"), QuantitySpec(name="layers_hit", meaning="layers with a hit")),
    parameters=(
        Parameter(name="top", schema={"type": "integer", "minimum": 1, "maximum": 16}, default=3, meaning="how many"),
        Parameter(
            name="dims", schema={"type": "array", "items": {"type": "integer"}}, default=[], meaning="which dims"
        ),
    ),
    start=_unused,
)
PERPLEXITY = MeasurementRecipe(
    name="perplexity",
    summary="How well the model predicts.",
    sites=("logits",),
    quantities=(QuantitySpec(name="perplexity", meaning="exp(loss)"), QuantitySpec(name="loss", meaning="mean loss")),
    headline="perplexity",
    takes_layers=False,
    takes_tokens=False,
    start=_unused,
)
CONCENTRATION = MeasurementRecipe(
    name="attention.concentration",
    summary="Attention on some tokens.",
    sites=("block.attn.probs",),
    quantities=(
        QuantitySpec(name="share", axes=("layer", "head"), meaning="share of a head"),
        _by_layer("layer_share"),
        QuantitySpec(name="rise", meaning="after - before"),
    ),
    start=_unused,
)
MASSIVE = InterventionRecipe(
    name="massive",
    summary="The massive activations.",
    locate=MeasureRequest(kind="magnitude", site="block.out"),
    at=("first-layer", "every-layer"),
    edits=_unused,
    parameters=(Parameter(name="limit", schema={"type": "number"}, default=100, meaning="what counts as massive"),),
)
PYTHON_DOCS = Corpus(name="python-docs", summary="The documentation.", protocol="", load=_unused)


def small_registry() -> Registry:
    """Return a registry of these recipes and of the real operators."""
    registry = Registry()
    registry.add((*OPERATORS, MAGNITUDE, PERPLEXITY, CONCENTRATION, MASSIVE, PYTHON_DOCS), plugin="small")
    return registry


REGISTRY = small_registry()
