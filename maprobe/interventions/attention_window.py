"""``attention-window``: let queries see the last keys only, as a rolling cache does (arXiv:2309.17453)."""

from __future__ import annotations

from typing import Literal

from maprobe.cases import InterveneRequest
from maprobe.edits import AttentionWindow
from maprobe.readings import Reading
from maprobe.recipes import InterventionRecipe, Parameter

__all__ = ["ATTENTION_WINDOW"]

KEPT = 4  # first tokens that suffice in every family that the paper tries (section 3.2)


def _edits(
    found: Reading | None, request: InterveneRequest, arm: Literal["edited", "control"]
) -> tuple[AttentionWindow, ...]:
    assert found is None, "nothing is located"
    size = int(request.option("size"))  # type: ignore[arg-type]
    sinks = int(request.option("sinks"))  # type: ignore[arg-type]
    return (AttentionWindow(size=size, sinks=sinks if arm == "edited" else max(sinks, KEPT)),)


ATTENTION_WINDOW = InterventionRecipe(
    name="attention-window",
    summary="Attention narrowed to the last tokens, so that later queries no longer see the first ones.",
    locate=None,
    at=("every-layer",),
    sets=(),
    controls=("sinks",),
    edits=_edits,
    parameters=(
        Parameter(
            name="size",
            schema={"type": "integer", "minimum": 1},
            default=256,
            meaning="keys up to and including its own position that a query sees",
        ),
        Parameter(
            name="sinks",
            schema={"type": "integer", "minimum": 0},
            default=0,
            meaning="first keys that every query sees besides",
        ),
    ),
)
