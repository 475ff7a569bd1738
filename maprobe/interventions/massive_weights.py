"""``massive-weights``: switch off the rows that make a token massive, or all others (arXiv:2410.01866, section 3.2)."""

from __future__ import annotations

import random
from typing import Literal

from maprobe.cases import InputsRequest, InterveneRequest, MeasureRequest
from maprobe.edits import RowsEdit
from maprobe.errors import InterventionError
from maprobe.readings import Reading
from maprobe.recipes import InterventionRecipe, Parameter

__all__ = ["MASSIVE_WEIGHTS_OFF"]

_SEED = 20241002
_SPARED = 5  # the largest channels, which are never drawn as ordinary ones


def _edits(found: Reading | None, request: InterveneRequest, arm: Literal["edited", "control"]) -> tuple[RowsEdit, ...]:
    assert found is not None, "massive weights are located first"
    order: tuple[int, ...] = found.kept["order"]
    top, others = int(request.option("top")), request.option("rows") == "others"  # type: ignore[arg-type]
    if top > len(order):
        raise InterventionError(
            f"`top: {top}` is more than the {len(order)} channels of the MLP; allowed: {len(order)} or less"
        )
    if not top and not others:
        raise InterventionError(
            "`top: 0` with `rows: top` sets no row to zero, so nothing is edited; allowed: 1 or more, or `rows: "
            "others`, which sets every row to zero"
        )
    chosen = order[:top] if arm == "edited" else _ordinary(order, top)
    expert = found["expert"]
    return (
        RowsEdit(
            layer=int(found["layer"].value),
            channels=tuple(chosen),
            keep=others,
            expert=None if expert.absent is not None else int(expert.value),
        ),
    )


def _ordinary(order: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return as many channels, drawn by a fixed seed from all but the largest."""
    rest = sorted(order[max(count, _SPARED) :])
    if not count or count > len(rest):
        told = "no row" if not count else f"{count} rows"
        raise InterventionError(
            f"`top: {count}` has no control arm: {told} cannot be drawn at random from the {len(rest)} that are not "
            f"among the largest; write `control: none`"
        )
    return tuple(random.Random(_SEED).sample(rest, count))  # noqa: S311 - drawn to be repeated, not to be secret


def _inputs(request: InterveneRequest) -> InputsRequest | None:
    return InputsRequest(source="token", value=("bos",)) if request.option("token") == "bos" else None


MASSIVE_WEIGHTS_OFF = InterventionRecipe(
    name="massive-weights",
    summary="The rows of an MLP's gate and up projections through which a token gets its massive activation.",
    locate=MeasureRequest(kind="massive.weights", site="block.mlp.hidden"),
    at=("largest-gain",),
    at_layer=True,
    sets=(),
    controls=("random",),
    handed=("at", "least"),
    inputs=_inputs,
    edits=_edits,
    parameters=(
        Parameter(
            name="top",
            schema={"type": "integer", "minimum": 0},
            default=5,
            meaning="how many channels, those with the largest magnitude first",
        ),
        Parameter(
            name="rows",
            schema={"enum": ["top", "others"]},
            default="top",
            meaning="which rows to set to zero: those of these channels, or those of all others",
        ),
        Parameter(
            name="token",
            schema={"enum": ["bos", "first"]},
            default="bos",
            meaning="the token by which they are found: BOS alone, or the first of the probe's own inputs",
        ),
        Parameter(
            name="least",
            schema={"type": "number", "exclusiveMinimum": 0},
            default=100.0,
            meaning="the gain below which no layer is taken for one of massive weights",
        ),
    ),
)
