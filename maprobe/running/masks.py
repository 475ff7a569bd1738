"""Which tokens of a batch a set of positions means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from maprobe.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["at_positions"]


def at_positions(
    positions: Iterable[int], shape: tuple[int, int], device: torch.device, *, sequence: int
) -> torch.Tensor:
    """Return a mask of these positions in every sequence, bool, of that shape; negative ones count from the end.

    Raises:
        MeasurementError: a position lies outside the sequences, of which the first has the number ``sequence``.
    """
    length = shape[1]
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    for position in positions:
        if not -length <= position < length:
            raise MeasurementError(
                f"token position {position} is out of range: sequence {sequence} has {length} tokens; "
                f"allowed: 0..{length - 1}, or -{length}..-1 counted from the end"
            )
        mask[:, position] = True
    return mask
