"""What pruning did, as text: sparsities by layer, perplexities by method, and what is to be known of both."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from maprobe.reporting.grids import Grid, draw, titled

if TYPE_CHECKING:
    from maprobe.pruning.pruner import Outcome

__all__ = ["comparison_table", "layers_table", "notes"]

_SHOWN = 3


def layers_table(outcome: Outcome, title: str) -> str:
    """Return a table of the layers: active parameters where they were counted, sparsity asked for and counted."""
    counts = outcome.counts
    headers = ("layer", *(("active",) if counts else ()), "asked", "counted")
    rows = [
        (
            str(layer),
            *((f"{counts[layer - 1]}",) if counts else ()),
            f"{outcome.shares[layer - 1]:.4f}",
            f"{outcome.counted(layer):.4f}",
        )
        for layer in outcome.layers
    ]
    mean = statistics.fmean(outcome.shares)
    rows.append(("all", *((str(sum(counts)),) if counts else ()), f"{mean:.4f}", f"{outcome.counted():.4f}"))
    grid = Grid(headers=headers, rows=tuple(rows), numeric=frozenset(headers))
    return titled(title, draw(grid, format="simple"), "simple")


def comparison_table(outcomes: Sequence[Outcome], title: str) -> str:
    """Return a table of the perplexity by method, and as a multiple of that of the first outcome."""
    base = outcomes[0].perplexity
    grid = Grid(
        headers=("model", "sparsity", "perplexity", "x dense"),
        rows=tuple(
            (
                outcome.method,
                f"{outcome.counted():.4f}",
                f"{outcome.perplexity:.3f}",
                f"{outcome.perplexity / base:.3f}",
            )
            for outcome in outcomes
        ),
        numeric=frozenset(("sparsity", "perplexity", "x dense")),
    )
    return titled(title, draw(grid, format="simple"), "simple")


def notes(outcome: Outcome, left: Sequence[str], written: str, causal: bool) -> tuple[str, ...]:  # noqa: FBT001
    """Return what a user has to know of a pruned model beyond its tables, one sentence each.

    Args:
        outcome: what was done.
        left: parameters within the blocks that are no matrix of a linear layer.
        written: class of the model that is written.
        causal: whether it has its language-model head.
    """
    found = []
    if left:
        found.append(f"Left as they are, being no matrix of a linear layer: {_some(left)}.")
    unseen = [matrix.path for matrix in outcome.matrices if not matrix.seen]
    if unseen:
        found.append(f"Scored by the size of the weights alone, as calibration did not reach them: {_some(unseen)}.")
    fixed = [matrix.path for matrix in outcome.matrices if matrix.zeros > round(matrix.weights * matrix.asked)]
    if fixed:
        found.append(f"Sparser than asked for, since more of their weights were zero before: {_some(fixed)}.")
    sizes = {sum(matrix.weights for matrix in outcome.matrices if matrix.layer == layer) for layer in outcome.layers}
    if len(sizes) > 1 and len({*outcome.shares}) > 1:
        found.append(
            "The layers differ in size, so that the share of all weights is not the mean of the layers' sparsities."
        )
    if not causal:
        found.append(f"Written as {written}, which is what maprobe loads: heads that it does not read are not in it.")
    return tuple(found)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
