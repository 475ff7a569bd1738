"""``massive-edges``: edit the massive entries of edge features in attention (arXiv:2409.03463)."""

from __future__ import annotations

from typing import Literal

from maprobe.cases import InterveneRequest, MeasureRequest
from maprobe.edits import Edit
from maprobe.errors import InterventionError
from maprobe.measurements.edges import OVER, SITE
from maprobe.readings import Reading
from maprobe.recipes import InterventionRecipe

__all__ = ["MASSIVE_EDGES"]


def _edits(found: Reading | None, request: InterveneRequest, arm: Literal["edited", "control"]) -> tuple[Edit, ...]:
    assert found is not None, "massive edges are located first"
    if request.set == "value" and request.value is None:
        raise InterventionError("`set: {value: ...}` names no value")
    value = 0.0 if request.value is None else request.value
    return tuple(
        Edit(
            layer=int(record["layer"]),  # type: ignore[arg-type]
            sequence=int(record["sequence"]),  # type: ignore[arg-type]
            position=int(record["position"]),  # type: ignore[arg-type]
            dim=int(record["dim"]),  # type: ignore[arg-type]
            value=value,
            site=SITE,
        )
        for record in found.records
        if record["arm"] == arm
    )


MASSIVE_EDGES = InterventionRecipe(
    name="massive-edges",
    summary="The massive entries of edge features in attention, in every layer or in one of choice.",
    locate=MeasureRequest(kind="edge.massive", site=SITE),
    at=("every-layer",),
    at_layer=True,
    handed=("at", "over"),
    sets=("zero", "value"),
    edits=_edits,
    parameters=(OVER,),
)
