"""``registers``: overwrite the registers before every block by their means (arXiv:2402.17762, section 5)."""

from __future__ import annotations

from typing import Literal

from maprobe.cases import InterveneRequest, MeasureRequest
from maprobe.edits import TokenEdit
from maprobe.errors import InterventionError
from maprobe.readings import Reading
from maprobe.recipes import InterventionRecipe
from maprobe.sites import LayerRange

__all__ = ["REGISTERS"]


def _edits(
    found: Reading | None, request: InterveneRequest, arm: Literal["edited", "control"]
) -> tuple[TokenEdit, ...]:
    assert found is not None, "the means are taken first"
    means = found.kept[arm]
    if not means:
        raise InterventionError(
            "the control overwrites patches at the same places in every image, and the images here are of different "
            "sizes; write `control: none`, or name images of one size"
        )
    return tuple(
        TokenEdit(
            layer=layer, position=position, values=tuple(values if request.set == "mean" else [0.0] * len(values))
        )
        for layer, tokens in means.items()
        for position, values in tokens.items()
    )


REGISTERS = InterventionRecipe(
    name="registers",
    summary="The registers before every block, whole: each overwritten by its mean over the images.",
    # The input of block l is the output of the one before; 0 is the embedding output.
    locate=MeasureRequest(kind="registers", site="block.out", layers=LayerRange(0, -2)),
    at=("every-block",),
    sets=("mean", "zero"),
    controls=("patches",),
    edits=_edits,
)
