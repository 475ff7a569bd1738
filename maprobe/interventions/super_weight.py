"""``super-weight``: set the weights through which the largest outputs are written (arXiv:2411.07191, section 3)."""

from __future__ import annotations

from typing import Literal

from maprobe.cases import InterveneRequest, MeasureRequest
from maprobe.edits import WeightEdit
from maprobe.errors import InterventionError
from maprobe.readings import Reading
from maprobe.recipes import InterventionRecipe, Parameter

__all__ = ["SUPER_WEIGHT"]


def _edits(
    found: Reading | None, request: InterveneRequest, arm: Literal["edited", "control"]
) -> tuple[WeightEdit, ...]:
    assert found is not None, "super weights are located first"
    top = int(request.option("top"))  # type: ignore[arg-type]
    weights = [record for record in found.records if record["arm"] == "edited"]
    if request.at != "largest":
        weights = [record for record in weights if record["layer"] == request.at]
    if not weights:
        layers = sorted({int(record["layer"] or 0) for record in found.records if record["arm"] == "edited"})
        raise InterventionError(
            f"layer {request.at} has no super weight; allowed under `at`: largest, or one of the layers that have one: "
            f"{', '.join(map(str, layers))}"
        )
    chosen = weights[:top]
    if arm == "control":
        # As many ordinary weights of the same columns, which therefore carry the same input.
        columns = {(record["layer"], record["column"]) for record in chosen}
        ordinary = [
            record
            for record in found.records
            if record["arm"] == "control" and (record["layer"], record["column"]) in columns
        ]
        chosen = ordinary[: len(chosen)]
    value = 0.0 if request.value is None else request.value
    return tuple(
        WeightEdit(
            layer=int(record["layer"] or 0),
            row=int(record["row"] or 0),
            column=int(record["column"] or 0),
            value=value,
        )
        for record in chosen
    )


SUPER_WEIGHT = InterventionRecipe(
    name="super-weight",
    summary="The single weights of down projections through which the largest outputs are written.",
    locate=MeasureRequest(kind="super.weights", site="block.mlp.hidden"),
    at=("largest",),
    at_layer=True,
    sets=("zero", "value"),
    edits=_edits,
    parameters=(
        Parameter(
            name="top",
            schema={"type": "integer", "minimum": 1},
            default=1,
            meaning="how many of them to edit, those with the largest output first",
        ),
    ),
)
