"""``noise``: noise on the embeddings, learnt to raise the loss (arXiv:2409.03463, the adversarial framework)."""

from __future__ import annotations

from typing import Literal

from maprobe.cases import InterveneRequest
from maprobe.edits import NoiseEdit
from maprobe.readings import Reading
from maprobe.recipes import InterventionRecipe, Parameter

__all__ = ["NOISE"]


def _edits(
    found: Reading | None, request: InterveneRequest, arm: Literal["edited", "control"]
) -> tuple[NoiseEdit, ...]:
    assert found is None, "nothing is located"
    return (
        NoiseEdit(
            deviation=float(request.option("deviation")),  # type: ignore[arg-type]
            learnt=arm == "edited",
            seed=int(request.option("seed")),  # type: ignore[arg-type]
            steps=int(request.option("steps")),  # type: ignore[arg-type]
            rate=float(request.option("rate")),  # type: ignore[arg-type]
            patience=int(request.option("patience")),  # type: ignore[arg-type]
            min_rate=float(request.option("min_rate")),  # type: ignore[arg-type]
        ),
    )


def _number(name: str, default: float, meaning: str) -> Parameter:
    return Parameter(name=name, schema={"type": "number", "exclusiveMinimum": 0}, default=default, meaning=meaning)


NOISE = InterventionRecipe(
    name="noise",
    summary="Noise added to the embeddings of rows and edges, learnt to raise the loss that the model's code brings.",
    locate=None,
    at=("embeddings",),
    sets=(),
    controls=("random",),
    learning="steps",
    edits=_edits,
    parameters=(
        _number("deviation", 0.1, "standard deviation of the noise, over all inputs and columns of a site"),
        Parameter(
            name="steps",
            schema={"type": "integer", "minimum": 1, "maximum": 10000},
            default=1000,
            meaning="steps of learning, at most",
        ),
        _number("rate", 7e-4, "the first rate of learning, of Adam"),
        Parameter(
            name="patience",
            schema={"type": "integer", "minimum": 0},
            default=15,
            meaning="steps without a higher loss after which the rate is halved",
        ),
        _number("min_rate", 1e-6, "learning ends when the rate has fallen below it"),
        Parameter(
            name="seed", schema={"type": "integer", "minimum": 0}, default=0, meaning="of the noise that is drawn"
        ),
    ),
)
