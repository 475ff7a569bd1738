"""``untrained``: all weights as they were before training, for what training has brought about (arXiv:2409.03463)."""

from __future__ import annotations

from typing import Literal

from maprobe.cases import InterveneRequest
from maprobe.edits import UntrainedEdit
from maprobe.readings import Reading
from maprobe.recipes import InterventionRecipe

__all__ = ["UNTRAINED"]


def _edits(
    found: Reading | None, request: InterveneRequest, arm: Literal["edited", "control"]
) -> tuple[UntrainedEdit, ...]:
    del found, request, arm
    return (UntrainedEdit(),)


UNTRAINED = InterventionRecipe(
    name="untrained",
    summary="All weights and buffers as they were before training, where the code that brings the model knows them.",
    locate=None,
    edits=_edits,
    at=("everywhere",),
    sets=(),
    controls=(),
)
