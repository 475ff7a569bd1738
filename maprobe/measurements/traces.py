"""One token followed through the states of each block: what each of them is made of, in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.recipes import Batch, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["ADDED", "HIDDEN", "STREAM", "Peaks", "Trace", "weight_taps"]

STREAM, HIDDEN, ADDED = "block.out", "block.mlp.hidden", "block.mlp.out"

_ROWS = 2
_TOP = 3


@dataclass(frozen=True, slots=True)
class Peaks:
    """One state of one token in a few numbers.

    Attributes:
        dims: its largest entries by magnitude, the largest first.
        values: their values, with sign.
        median: the lower median of the magnitudes of all its entries.
        state: the state itself, where it is kept, on the CPU in float32; else None.
        expert: the expert that the state belongs to; None where there are none.
        token: the token's text.
    """

    dims: tuple[int, ...]
    values: tuple[float, ...]
    median: float
    state: torch.Tensor | None = field(default=None, compare=False)
    expert: int | None = None
    token: str = ""

    @property
    def top(self) -> float:
        """The largest magnitude."""
        return abs(self.values[0])


@dataclass
class Trace:
    """The states of the token at position 0 of each sequence.

    Attributes:
        seen: the peaks by site, layer and sequence. Of several experts, those of the one with the largest entry.
    """

    seen: dict[tuple[str, int, int], Peaks] = field(default_factory=dict)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, offset: int) -> None:
        """Take in one activation, of which position 0 alone is looked at.

        Raises:
            MeasurementError: the value is of experts, whose rows do not tell the token, and there are several tokens.
        """
        if value.dim() == _ROWS:
            if batch.shape != (1, 1):
                raise MeasurementError(
                    f"the MLP of layer {tap.layer} consists of experts, whose rows do not say which token they are, so "
                    f"one token can be followed only where it is alone: write `inputs: {{token: bos}}`, and `token: "
                    f"bos` in an intervention"
                )
            self._take(tap, batch.sequences[0], value[0], batch.text(0, 0), expert=offset)
            return
        for row, sequence in enumerate(batch.sequences):
            self._take(tap, sequence, value[row, 0], batch.text(row, 0))

    def _take(self, tap: Tap, sequence: int, state: torch.Tensor, token: str, expert: int | None = None) -> None:
        state = state.float()
        magnitudes = state.abs()
        dims = magnitudes.argsort(descending=True, stable=True)[:_TOP].tolist()
        found = Peaks(
            dims=tuple(dims),
            values=tuple(state[dims].tolist()),
            median=float(magnitudes.median()),
            state=state.cpu().clone() if tap.site == HIDDEN else None,
            expert=expert,
            token=token,
        )
        if not math.isfinite(float(magnitudes.max())):
            raise MeasurementError(
                f"{tap.site} of layer {tap.layer} holds entries that are not finite at the token that is followed, so "
                f"its largest cannot be told; a probe of kind `finite` tells where activations stop being finite"
            )
        key = (tap.site, tap.layer, sequence)
        if key not in self.seen or self.seen[key].top < found.top:
            self.seen[key] = found

    def sequences(self) -> tuple[int, ...]:
        """Return the numbers of the sequences seen."""
        return tuple(sorted({sequence for _, _, sequence in self.seen}))

    def gains(self, layers: Sequence[int]) -> dict[int, tuple[float, int]]:
        """Return the gain of each layer, and the sequence that has it: of several, the one with the largest.

        A gain is the largest magnitude that the MLP adds, over the largest in the stream that enters the block.
        """
        found = {}
        for layer in layers:
            gain, first = max((self._gain(layer, at), -at) for at in self.sequences())
            found[layer] = (gain, -first)
        return found

    def order(self, layer: int, sequence: int) -> tuple[int, ...]:
        """Return the channels of the MLP's hidden state in a layer, those of the largest magnitude first."""
        state = self.seen[HIDDEN, layer, sequence].state
        assert state is not None, "states of this site are kept"
        return tuple(state.abs().argsort(descending=True, stable=True).tolist())

    def _gain(self, layer: int, sequence: int) -> float:
        entering = self.seen[STREAM, layer - 1, sequence].top
        added = self.seen[ADDED, layer, sequence].top
        return added / entering if entering else (math.inf if added else 0.0)


def weight_taps(layers: Sequence[int]) -> tuple[Tap, ...]:
    """Return the places by which gains and channels are told, for consecutive layers."""
    return (
        *(Tap(STREAM, layer) for layer in range(layers[0] - 1, layers[-1] + 1)),
        *(Tap(site, layer) for layer in layers for site in (ADDED, HIDDEN)),
    )
