"""What measurements that keep something of every token ask of their inputs: one short text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError

if TYPE_CHECKING:
    from maprobe.recipes import Batch, FoldContext

__all__ = ["LONGEST", "demand_short"]

LONGEST = 32


def demand_short(context: FoldContext, batch: Batch) -> None:
    """Refuse inputs of which too much would be kept.

    Raises:
        MeasurementError: there are several sequences, or one that is longer than :data:`LONGEST` tokens.
    """
    length = batch.shape[1]
    if context.sequences != 1 or length > LONGEST:
        plural = "s" if context.sequences != 1 else ""
        raise MeasurementError(
            f"{context.request.kind} keeps something of every token and takes one text of at most {LONGEST} tokens; "
            f"the inputs have {context.sequences} sequence{plural}, the first of {length} tokens: write a short "
            f"`text`, or `sequences: 1` and `length: {LONGEST}`"
        )
