"""A(s, w) = |w * dD/dw| of the weights of the blocks' linear layers, exact and in chunks (arXiv:2405.17799, section 3).

D is the largest next-token logit at the last position of sequence s, so that A is to first order how much D changes if
the weight is set to zero. Weights are those of the two-dimensional matrices of the blocks' linear layers, taken
together layer by layer; embeddings, head, norms and biases are left out, as in the paper.

The gradient of a matrix is a product over the tokens of what it took in and of the gradient of what it gave out. It is
made for some rows of a matrix at a time, and for all sequences at once: so nothing as large as a layer's gradient is
ever held, and whatever two sequences have in common can be worked out exactly, since they meet in every chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from maprobe.errors import MeasurementError
from maprobe.running.calling import resting
from maprobe.running.gradients import Flow, frozen, gradient_walk
from maprobe.running.matrices import Matrix, matrices_of

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy, Block
    from maprobe.sites import TokenSet

__all__ = ["AllSequences", "densities", "groups_of", "matrices", "show_attributions"]

_CHUNK = 1 << 20  # entries that are worked out at a time, over all sequences; they stay in the cache of a core
_TOKENS = 1024  # in one forward call
_WITHOUT_TOKENS = "block.attribution sums over the tokens of each sequence, and shows all sequences without them"


@dataclass(frozen=True, slots=True, eq=False)
class AllSequences:
    """All sequences of the inputs at once, as far as they can be told; the ``Batch`` of a gradient pass.

    Attributes:
        sequences: their numbers, in the order of the rows that are shown.
        length: number of tokens of the longest.
    """

    sequences: tuple[int, ...]
    length: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of sequences, and of tokens of the longest."""
        return len(self.sequences), self.length

    @property
    def given(self) -> torch.Tensor:
        """Refused: there are several forward calls behind it."""
        raise MeasurementError(_WITHOUT_TOKENS)

    @property
    def ids(self) -> torch.Tensor:
        """Refused: the sequences may be of unequal length."""
        raise MeasurementError(_WITHOUT_TOKENS)

    def mask(self, tokens: TokenSet) -> torch.Tensor:
        """Refused: no axis of what is shown stands for tokens."""
        raise MeasurementError(f"{_WITHOUT_TOKENS}; `tokens: {tokens}` has no meaning for it")

    def text(self, row: int, position: int) -> str:
        """Refused: no axis of what is shown stands for tokens."""
        raise MeasurementError(f"{_WITHOUT_TOKENS}; there is none at {row}, {position}")


def matrices(block: Block) -> tuple[Matrix, ...]:
    """Return the matrices of a block's linear layers, in the order in which the block holds them.

    Raises:
        MeasurementError: there are none; or one is not of floating numbers that can be differentiated, or lies on no
            device.
    """
    found = tuple(matrices_of(block))
    for matrix in found:
        if not matrix.plain:
            raise MeasurementError(
                f"{matrix.path} holds its weights as {matrix.dtype}, which cannot be differentiated; load the "
                f"checkpoint without quantisation"
            )
        if matrix.weight.is_meta:
            raise MeasurementError(
                f"the weights of {matrix.path} lie on no device while it is not called, so they cannot be multiplied "
                f"with their gradient; load the whole model on one device"
            )
    if not found:
        raise MeasurementError(
            f"block {block.path} has no linear layer whose weights are a plain matrix (quantised and fused weights are "
            f"none), so its weights cannot be attributed to; restrict the probe with `when`"
        )
    return found


def groups_of(sequences: Sequence[Sequence[int]], *, single: bool = False) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the sequences that share a forward call: sequences of one length, up to 1024 tokens.

    Args:
        sequences: token ids.
        single: whether each sequence is called by itself.
    """
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    groups = []
    for length, numbers in groupby(order, key=lambda number: len(sequences[number])):
        size = 1 if single else max(1, _TOKENS // length)
        same = tuple(numbers)
        groups += [same[start : start + size] for start in range(0, len(same), size)]
    return tuple(groups)


def show_attributions(
    anatomy: Anatomy,
    sequences: Sequence[Sequence[int]],
    layers: Sequence[int],
    show: Callable[[int, torch.Tensor, AllSequences, int], None],
    *,
    advance: Callable[[], None] = lambda: None,
) -> int:
    """Show A of every weight of some layers for all sequences, chunk by chunk, from the last layer to the first.

    Args:
        anatomy: the model's parts.
        sequences: token ids.
        layers: the layers asked about.
        show: takes the layer, the chunk of shape (sequences, weights), what tells the sequences of its rows, and the
            number of its first weight within the layer. The chunk must be neither kept nor changed.
        advance: called when a block is done with.

    Returns:
        Number of forward calls of the model. As much again is computed block by block, and differentiated.

    Raises:
        MeasurementError: see :func:`matrices` and :func:`maprobe.running.gradients.gradient_walk`.
    """
    held = {layer: matrices(anatomy.blocks[layer - 1]) for layer in layers}
    groups = groups_of(sequences, single=_routed(anatomy))
    order = tuple(number for group in groups for number in group)
    everything = AllSequences(order, max(map(len, sequences)))
    device = _device(anatomy)
    ids = [torch.tensor([list(sequences[number]) for number in group]).to(device) for group in groups]
    watched = {layer: [matrix.module for matrix in found] for layer, found in held.items()}
    with torch.inference_mode(mode=False), resting(anatomy.model), frozen(anatomy.model):
        for layer, flows in gradient_walk(anatomy, ids, watched):
            for matrix in held.get(layer, ()):
                through = [flow.pop(matrix.module, None) for flow in flows]
                for start, chunk in _chunks(matrix, through, [len(group) for group in groups]):
                    show(layer, chunk, everything, matrix.offset + start)
            advance()
    return len(groups)


def _routed(anatomy: Anatomy) -> bool:
    """Whether some layers see the tokens routed to them alone, so that only a lone sequence tells whose they are."""
    return any(part.routed or part.parameter for block in anatomy.blocks for part in block.down)


def _device(anatomy: Anatomy) -> torch.device:
    owner = anatomy.embedding.module if anatomy.embedding else anatomy.model
    return next(iter(owner.parameters())).device


def _chunks(
    matrix: Matrix, through: Sequence[Flow | None], counts: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the number of the first weight of each chunk of a matrix, and A of shape (sequences, weights)."""
    outputs, inputs = matrix.weight.shape
    wide = torch.promote_types(matrix.weight.dtype, torch.float32)
    weight = matrix.weight.to(wide)
    flows = [_joined(flow, wide) if flow and flow.taken else None for flow in through]
    total = sum(counts)
    rows = max(1, min(outputs, _CHUNK // (total * inputs)))
    room = torch.empty(total * rows * inputs, dtype=wide, device=weight.device)
    for first in range(0, outputs, rows):
        part = weight[first : first + rows]
        chunk = room[: total * part.numel()].view(total, *part.shape)
        start = 0
        for flow, count in zip(flows, counts, strict=True):
            own = chunk[start : start + count]
            start += count
            if flow is None:  # experts that no token of the sequence was routed to
                own.zero_()
            else:
                torch.bmm(flow[1][:, :, first : first + rows].mT, flow[0], out=own)
        yield first * inputs, chunk.mul_(part).abs_().view(total, -1)


def _joined(flow: Flow, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a layer took in and the gradients of what it gave out, of all its calls, along the tokens."""
    taken, gradients = (
        values[0] if len(values) == 1 else torch.cat(values, dim=1) for values in (flow.taken, flow.gradients)
    )
    return taken.to(dtype), gradients.to(dtype)


@dataclass(eq=False)
class _Counts:
    """How many mean attributions lie above each bound, layer by layer."""

    gammas: Sequence[float]
    counts: dict[int, list[int]] = field(default_factory=dict)

    def __call__(self, layer: int, value: torch.Tensor, batch: AllSequences, offset: int) -> None:
        del batch, offset
        mean = value.mean(dim=0)
        found = self.counts.setdefault(layer, [0] * len(self.gammas))
        for index, gamma in enumerate(self.gammas):
            found[index] += int((mean > gamma).sum())


def densities(
    anatomy: Anatomy,
    sequences: Sequence[Sequence[int]],
    gammas: Sequence[float],
    *,
    advance: Callable[[], None] = lambda: None,
) -> tuple[tuple[int, ...], ...]:
    """Return for each layer, from the first, how many of its weights have a mean A above each of the bounds.

    The mean is over the sequences, as in arXiv:2405.17799, section 3.1.

    Args:
        anatomy: the model's parts.
        sequences: token ids of each sequence, such as the ``sequences`` of prepared inputs.
        gammas: the bounds.
        advance: called when a block is done with.

    Raises:
        MeasurementError: A cannot be had in this model.
    """
    counts = _Counts(gammas)
    show_attributions(anatomy, sequences, range(1, anatomy.depth + 1), counts, advance=advance)
    return tuple(tuple(counts.counts[layer]) for layer in range(1, anatomy.depth + 1))
