"""How constant massive activations are beside ordinary entries: arXiv:2402.17762, section 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maprobe.readings import Scalar, unplain
from maprobe.reporting.plots.canvas import BLUE, RED, Undrawable, plain_numbers, sheet, titled
from maprobe.reporting.plots.captions import figure_of, taken, visible
from maprobe.reporting.report import ReadingUse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_MOST = 8  # massive dims that are drawn
_LINEAR = 1.0  # the signed axis is linear between minus this and this, and logarithmic beyond


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One dim: its signed mean over sequences, and its standard deviation."""

    name: str
    dim: int
    mean: float
    deviation: float

    @property
    def massive(self) -> bool:
        return self.name.startswith("massive")

    @property
    def label(self) -> str:
        return f"{self.name}, dim {self.dim}" if self.massive else f"ordinary ({self.name}), dim {self.dim}"

    @property
    def variation(self) -> float:
        return self.deviation / abs(self.mean) if self.mean else math.nan


def draw(use: ReadingUse) -> Figure:
    """Return the picture of a ``constancy`` Reading: value with error bar, and coefficient of variation, by dim.

    Raises:
        Undrawable: nothing is massive, or a mean or deviation is not a number.
    """
    columns = _columns(use.reading.records)
    if not columns:
        raise Undrawable(use.reading.absent or "it has no mean and deviation that are numbers")
    figure = sheet(6.8, 1.3 + 0.34 * len(columns))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _values(left, columns)
    _variations(right, columns)
    engine: Any = figure.get_layout_engine()
    engine.set(wspace=0.08)
    place = use.reading["value_mean"].places[0]
    layer = figure_of(use.reading["layer"].value)
    sequences = figure_of(use.reading["sequences"].value)
    where = f"token {place.position} of each sequence" if place.position is not None else "each sequence"
    titled(
        figure,
        f"{use.checkpoint}: massive and ordinary values in layer {layer}",
        [*taken(use), f"{sequences} sequences, read at {where} (in the first: {visible(place.token or '')})"],
    )
    return figure


def _values(axes: Axes, columns: Sequence[_Column]) -> None:
    for place, column in enumerate(columns):
        axes.errorbar(
            column.mean,
            place,
            xerr=column.deviation,
            fmt="o",
            markersize=3.5,
            capsize=4,
            color=RED if column.massive else BLUE,
        )
    axes.set_xscale("symlog", linthresh=_LINEAR)
    axes.axvline(0, color="black", linewidth=0.8)
    ends = [column.mean + sign * column.deviation for column in columns for sign in (-1, 1)]
    ticks = _powers(min(ends), max(ends))
    axes.set_xticks(ticks)
    axes.set_xlim(min(ticks), max(ticks))
    plain_numbers(axes, "x")
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_yticks(range(len(columns)), [column.label for column in columns])
    axes.set_ylim(len(columns) - 0.5, -0.5)
    axes.set_xlabel("signed value x: mean \u00b1 std, symlog scale")
    axes.grid(visible=True, axis="x")


def _powers(low: float, high: float) -> list[float]:
    """Return at most seven ticks: 0 and powers of ten on both sides as far as the values reach, in equal steps."""
    below = math.ceil(math.log10(max(1.0, -low))) if low < 0 else -1
    above = math.ceil(math.log10(max(1.0, high))) if high > 0 else -1
    step = max(1, math.ceil((below + above + 2) / 7))
    negative = [-(10.0**power) for power in range(below, -1, -step)]
    positive = [10.0**power for power in range(above, -1, -step)]
    return [*negative, 0.0, *reversed(positive)]


def _variations(axes: Axes, columns: Sequence[_Column]) -> None:
    for place, column in enumerate(columns):
        if column.variation > 0:
            axes.plot(column.variation, place, marker="o", markersize=5, color=RED if column.massive else BLUE)
        else:
            told = "constant" if column.deviation == 0 else "mean 0"
            axes.text(0.02, place, told, transform=axes.get_yaxis_transform(), fontsize=8, va="center")
    axes.set_xscale("log")
    found = [column.variation for column in columns if column.variation > 0]
    if found:
        axes.set_xlim(10 ** math.floor(math.log10(min(found))), 10 ** math.ceil(math.log10(max(found) * 1.01)))
    plain_numbers(axes, "x")
    axes.set_xlabel("std / |mean|, log scale")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")


def _columns(records: Sequence[Mapping[str, Scalar]]) -> list[_Column]:
    found = [
        _Column(
            name=str(row["column"]),
            dim=int(_number(row["dim"])),
            mean=_number(row["mean"]),
            deviation=_number(row["std"]),
        )
        for row in records
    ]
    known = [column for column in found if math.isfinite(column.mean) and math.isfinite(column.deviation)]
    massive = [column for column in known if column.massive][:_MOST]
    return [*massive, *(column for column in known if not column.massive)] if massive else []


def _number(value: Scalar) -> float:
    number = unplain(value)
    return float(number) if isinstance(number, int | float) else math.nan
