"""The statistics of one hidden state that the strict criterion needs, exact, computed once for each pass.

The criterion (arXiv:2402.17762, section 2): an entry is a massive activation if |x| > 100 and |x| is at least
1000 times the median of |h| over all entries of its hidden state. The median is the lower one for even counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maprobe.errors import MeasurementError

if TYPE_CHECKING:
    import torch

    from maprobe.recipes import Tap

__all__ = [
    "ABSOLUTE",
    "RELATIVE",
    "Entry",
    "Survey",
    "known",
    "largest",
    "lower_median",
    "nearer",
    "nothing_massive",
    "survey",
    "unknown",
]

ABSOLUTE = 100.0
RELATIVE = 1000.0
_KEPT = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a hidden state: its place and its signed value."""

    position: int
    dim: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is kept of one hidden state of one sequence.

    Attributes:
        median: lower median of |h| over all tokens and dims; nan where an entry is not finite.
        top: the largest entries by magnitude, largest first.
        hits: every entry that meets the strict criterion, largest first.
    """

    median: float
    top: tuple[Entry, ...]
    hits: tuple[Entry, ...]


def lower_median(magnitudes: torch.Tensor) -> float:
    """Return the lower median of a tensor of any shape, exactly, without sorting it."""
    flat = magnitudes.flatten()
    middle = (flat.numel() - 1) // 2
    if flat.device.type == "cpu":
        import numpy as np

        # numpy's introselect is several times faster here than torch.median; it needs a buffer of its own.
        return float(np.partition(flat.numpy(), middle)[middle])
    return float(flat.kthvalue(middle + 1).values)


def largest(hidden: torch.Tensor, count: int) -> tuple[Entry, ...]:
    """Return the entries of largest magnitude of a hidden state, shape (tokens, dims), largest first."""
    flat = hidden.flatten()
    order = flat.abs().topk(min(count, flat.numel())).indices
    width = hidden.shape[1]
    values = flat[order].tolist()
    return tuple(
        Entry(index // width, index % width, value) for index, value in zip(order.tolist(), values, strict=True)
    )


def survey(hidden: torch.Tensor, tap: Tap, sequence: int, memo: dict[Any, Any]) -> Survey:
    """Survey one sequence's hidden state, shape (tokens, dims), or return what another fold found before."""
    key = ("survey", tap, sequence)
    if key not in memo:
        memo[key] = _survey(hidden.float())
    found: Survey = memo[key]
    return found


def known(hidden: torch.Tensor, tap: Tap, sequence: int, memo: dict[Any, Any]) -> Survey:
    """Survey one sequence's hidden state where nothing can be said of one that is not finite.

    Raises:
        MeasurementError: an entry is not finite.
    """
    found = survey(hidden, tap, sequence, memo)
    if math.isnan(found.median):
        raise MeasurementError(unknown(tap.layer, sequence))
    return found


def unknown(layer: int, sequence: int) -> str:
    """Say that a hidden state is not finite, so that nothing can be said of what is massive in it."""
    return (
        f"layer {layer} holds entries that are not finite (sequence {sequence}), so what is massive cannot be said; a "
        f"probe of kind `finite` tells where activations stop being finite"
    )


def nearer(nearest: tuple[int, float, float], layer: int, found: Survey) -> tuple[int, float, float]:
    """Return the nearer to being massive of two layers, as :func:`nothing_massive` takes it."""
    peak = abs(found.top[0].value)
    return max(nearest, (layer, peak, ratio(peak, found.median)), key=lambda near: near[2])


def _survey(hidden: torch.Tensor) -> Survey:
    top = largest(hidden, _KEPT)
    peak = abs(top[0].value)
    if not math.isfinite(peak):
        return Survey(median=math.nan, top=top, hits=())
    magnitudes = hidden.abs()
    median = lower_median(magnitudes)
    # The largest entry decides whether any other can qualify, so the full comparison is rarely made.
    if not meets(peak, median):
        return Survey(median=median, top=top, hits=())
    chosen = ((magnitudes > ABSOLUTE) & (magnitudes >= RELATIVE * median)).nonzero().tolist()
    hits = [Entry(position, dim, float(hidden[position, dim])) for position, dim in chosen]
    return Survey(median=median, top=top, hits=tuple(sorted(hits, key=lambda entry: -abs(entry.value))))


def meets(magnitude: float, median: float) -> bool:
    """Whether a magnitude meets the strict criterion in a hidden state of that median."""
    return magnitude > ABSOLUTE and magnitude >= RELATIVE * median


def nothing_massive(first: int, last: int, nearest: tuple[int, float, float]) -> str:
    """Say that no entry meets the strict criterion, and which layer comes nearest.

    Args:
        first: the first layer looked at.
        last: the last one.
        nearest: the layer whose largest entry has the largest ratio, that entry's magnitude, and its ratio.
    """
    layer, magnitude, times = nearest
    return (
        f"nothing massive here: in layers {first}..{last} no entry exceeds {times:.4g} x its median (layer {layer}, "
        f"|x| = {magnitude:.4g})"
    )


def ratio(magnitude: float, median: float) -> float:
    """Return magnitude over median; inf where the median is 0 (more than half of the entries are 0)."""
    if math.isnan(median) or not math.isfinite(magnitude):
        return math.nan
    return magnitude / median if median else math.inf
