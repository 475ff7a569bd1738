"""Wanda: pruning by weights and activations, block by block (arXiv:2306.11695), with a sparsity for each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.errors import PruningError
from maprobe.running.calling import incoming, resting
from maprobe.running.inputs import batches, count_batches
from maprobe.running.matrices import Matrix
from maprobe.running.replay import BlockCalls, record, require_replay

if TYPE_CHECKING:
    from maprobe.progress import Progress
    from maprobe.running.anatomy import Anatomy
    from maprobe.running.inputs import Inputs

__all__ = ["PrunedMatrix", "lowest", "prune", "row_counts"]

_CHUNK = 1 << 24  # scores that are sorted at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedMatrix:
    """What became of one matrix.

    Attributes:
        layer: number of its block, from 1.
        path: attribute path of its layer from the model.
        outputs: rows, as outputs x inputs.
        inputs: columns.
        asked: share of its weights that were to be set to zero.
        zeros: weights that are zero now, those that were zero before included.
        seen: whether calibration reached it. If not (an expert that no token was routed to), its weights were scored
            by their size alone.
    """

    layer: int
    path: str
    outputs: int
    inputs: int
    asked: float
    zeros: int
    seen: bool = True

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.outputs * self.inputs


def prune(
    anatomy: Anatomy,
    targets: Sequence[Matrix],
    inputs: Inputs,
    shares: Sequence[float],
    *,
    device: torch.device,
    progress: Progress,
) -> tuple[PrunedMatrix, ...]:
    """Set to zero, in every row of every target, the weights of the lowest scores; the model itself is changed.

    The score of a weight is its magnitude times the L2 norm of its input channel over all tokens of the inputs. What a
    block takes in comes from the blocks before it as they are after pruning; all matrices of a block are scored on one
    pass through it, before any of them is pruned, as Wanda does it.

    Args:
        anatomy: the model's parts.
        targets: the matrices.
        inputs: the calibration inputs.
        shares: share of weights to set to zero, layer by layer, from the first.
        device: where token ids go.
        progress: where to show how far it is.

    Raises:
        PruningError: what a matrix takes in is not finite.
        DiscoveryError: the blocks cannot be called one by one, or give something else then.
    """
    calls: list[BlockCalls] = []
    with resting(anatomy.model):
        with progress.bar("inputs of the blocks", count_batches(inputs, 1), "sequence") as bar:
            for batch in batches(inputs, size=1, device=device):
                assert isinstance(batch.given, torch.Tensor), "calibration inputs are texts"
                if not calls:
                    require_replay(anatomy, batch.given)
                calls.append(record(anatomy, batch.given))
                bar.advance()
        streams = [call.stream for call in calls]
        done: list[PrunedMatrix] = []
        with progress.bar("pruning", anatomy.depth, "layer") as bar, torch.inference_mode():
            for block in anatomy.blocks:
                own = [target for target in targets if target.layer == block.layer]
                with _norms_of(own) as norms:
                    for call, stream in zip(calls, streams, strict=True):
                        call.through(block, stream)
                done += [_pruned(target, norms.get(target.path), shares[block.layer - 1]) for target in own]
                if block.layer < anatomy.depth:
                    streams = [call.through(block, stream) for call, stream in zip(calls, streams, strict=True)]
                bar.advance()
    return tuple(done)


def row_counts(rows: int, columns: int, share: float) -> list[int]:
    """Return how many weights of each row go, so that the whole matrix loses the nearest whole number to its share.

    Rows differ by one weight at most, and those with one more are spread evenly.
    """
    total = round(rows * columns * share)
    return [(row + 1) * total // rows - row * total // rows for row in range(rows)]


def lowest(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return which entries are the lowest of their rows: bool, of the shape of ``scores``; of equal ones, the first.

    Args:
        scores: shape (rows, columns).
        counts: how many of each row, shape (rows,).
    """
    counts = counts.to(scores.device)
    bounds = scores.new_full((len(scores), 1), -torch.inf)
    for count in {*counts.tolist()}:  # two neighbours at most
        rows = counts == count
        if count:
            bounds[rows] = scores[rows].kthvalue(count, dim=1, keepdim=True).values
    below, ties = scores < bounds, scores == bounds
    room = counts[:, None] - below.sum(dim=1, keepdim=True)
    return below | (ties & (ties.cumsum(dim=1, dtype=torch.int32) <= room))


@contextmanager
def _norms_of(targets: Sequence[Matrix]) -> Iterator[dict[str, torch.Tensor]]:
    """Sum up what matrices take in, for the time of the context; then the norms by path, each of shape (inputs,)."""
    norms: dict[str, torch.Tensor] = {}

    def watch(target: Matrix) -> Any:  # noqa: ANN401 - a hook of torch
        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del module
            taken = incoming(args, kwargs)
            if taken is not None and taken.numel():
                # In float32: the square of a massive activation leaves the range of float16.
                squares = taken.reshape(-1, taken.shape[-1]).float().square().sum(dim=0)
                norms[target.path] = norms[target.path] + squares if target.path in norms else squares

        return see

    with ExitStack() as hooks:
        for target in targets:
            hooks.callback(target.module.register_forward_pre_hook(watch(target), with_kwargs=True).remove)
        yield norms
    for path, squares in norms.items():
        norms[path] = squares.sqrt()


def _pruned(target: Matrix, norms: torch.Tensor | None, share: float) -> PrunedMatrix:
    if norms is not None and not bool(norms.isfinite().all()):
        raise PruningError(
            f"what {target.path} takes in is not finite on the calibration inputs, so its weights cannot be scored; "
            f"measure `finite`, or load the checkpoint with --dtype float32"
        )
    weight = target.weight
    rows, columns = weight.shape
    counts = torch.tensor(row_counts(rows, columns, share))
    step = max(1, _CHUNK // columns)
    for start in range(0, rows, step):
        part = weight[start : start + step]
        scores = part.float().abs()
        part.masked_fill_(lowest(scores if norms is None else scores * norms, counts[start : start + step]), 0)
    return PrunedMatrix(
        layer=target.layer,
        path=target.path,
        outputs=rows,
        inputs=columns,
        asked=share,
        zeros=int((weight == 0).sum()),
        seen=norms is not None,
    )
