"""Dropping single weights of a few rows for the time of one training step (MacDrop, arXiv:2410.01866, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy
import torch

from maprobe.errors import TrainingError

if TYPE_CHECKING:
    from maprobe.running.rows import Lines

__all__ = ["MASKS", "Dropped", "Masks", "kept", "left_over"]

Masks = Literal["shared", "separate"]
MASKS: tuple[Masks, ...] = ("shared", "separate")

_MATRIX = 2
_DROPPED: list[Dropped] = []  # at this moment: the copies of the weights must outlive whoever dropped them


def kept(shape: tuple[int, int], probability: float, *, seed: int, step: int, number: int = 0) -> torch.Tensor:
    """Return which entries are kept, of the shape asked for: each with the probability 1 - ``probability``.

    The draw depends on the arguments alone, and leaves every other random state alone. At 0 all entries are kept, at 1
    none.
    """
    draw = numpy.random.default_rng((seed, step, number)).random(shape)
    return torch.from_numpy(draw >= probability)


@dataclass(frozen=True, slots=True)
class _Copy:
    line: Lines
    values: torch.Tensor

    def mask(self, masks: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return masks of shape (channels, inputs) as one of the shape of the lines."""
        rows = torch.cat([*masks]).to(self.values.device)
        columns = self.line.axis - (0 if self.line.expert is None else 1)
        return rows.T if columns else rows


class Dropped:
    """A context in which entries of a few lines of matrices are zero; then they are what they were, bit for bit.

    Every entry is dropped with the same probability, independently, and those kept are not scaled up (DropConnect
    without its factor). Matrices are edited in place, so that a backward call, a recomputation of activations, and an
    adapter that looks at the matrix (DoRA's norm) see what the forward call saw.

    Args:
        lines: of the up and gate projections, as :func:`maprobe.running.rows.feeding` gives them. Biases among them are
            left alone: the paper's models have none.
        probability: of dropping an entry, from 0 to 1.
        channels: number of the channels that the lines make; a matrix that holds gate and up has two lines for each.
        seed: of the draw.
        step: number of the training step; the draw depends on seed and step alone.
        masks: ``shared`` draws one mask of the shape of the up projection's rows for all matrices, as the paper prints
            it; ``separate`` draws one for each.

    Raises:
        TrainingError: an argument is out of range.
    """

    def __init__(
        self,
        lines: Sequence[Lines],
        probability: float,
        *,
        channels: int,
        seed: int = 0,
        step: int = 1,
        masks: Masks = "shared",
    ) -> None:
        if not 0 <= probability <= 1:
            raise TrainingError(f"{probability!r} is not a probability of dropping; allowed: a number from 0 to 1")
        if masks not in MASKS:
            raise TrainingError(f"masks = {masks!r} does not exist; allowed: {', '.join(MASKS)}")
        self._lines = [line for line in lines if line.parameter.dim() >= _MATRIX]
        self._probability = probability
        self._channels = channels
        self._draw = (seed, step)
        self._separate = masks == "separate"
        self._copies: list[_Copy] = []

    def __enter__(self) -> Dropped:
        _DROPPED.append(self)
        try:
            self._drop()
        except BaseException:
            self.restore()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def restore(self) -> bool:
        """Put the lines back, and return whether they were dropped; a second time does nothing."""
        if self not in _DROPPED:
            return False
        for copy in reversed(self._copies):
            copy.line.put(copy.values)
        self._copies.clear()
        _DROPPED.remove(self)
        return True

    def edits(self, model: torch.nn.Module) -> bool:
        """Return whether what is dropped is a weight of a model."""
        own = {id(parameter) for parameter in model.parameters()}
        return any(id(line.parameter) in own for line in self._lines)

    def _drop(self) -> None:
        number = 0
        for line in self._lines:
            copy = _Copy(line, line.take())
            self._copies.append(copy)
            matrices = len(line.indices) // self._channels
            shape = (self._channels, copy.values.numel() // len(line.indices))
            mask = copy.mask([self._mask(shape, number + within) for within in range(matrices)])
            line.put(torch.where(mask, copy.values, torch.zeros_like(copy.values)))
            number += matrices

    def _mask(self, shape: tuple[int, int], number: int) -> torch.Tensor:
        seed, step = self._draw
        return kept(shape, self._probability, seed=seed, step=step, number=number if self._separate else 0)


def left_over(model: torch.nn.Module) -> list[Dropped]:
    """Return what is dropped of a model's weights at this moment, the newest first."""
    return [dropped for dropped in reversed(_DROPPED) if dropped.edits(model)]
