"""The largest magnitudes and the median by layer: arXiv:2402.17762, the layer-wise figure of section 2."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from maprobe.measurements.layerwise import MAJORITY
from maprobe.measurements.survey import ABSOLUTE, RELATIVE
from maprobe.readings import Quantity, Reading, unplain
from maprobe.reporting.plots.canvas import BLUE, GREEN, GREY, ORANGE, RED, Undrawable, plain_numbers, sheet, titled
from maprobe.reporting.plots.captions import figure_of, taken
from maprobe.reporting.profiles import levels
from maprobe.reporting.report import ReadingUse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_NAMES = ("largest |x|", "second largest", "third largest")
_FEWEST = 2  # layers that make a profile


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    """One number a layer for each line; nan where it is unknown."""

    layers: tuple[int, ...]
    tops: tuple[tuple[float, ...], ...]
    median: tuple[float, ...]
    massive: frozenset[int]

    @property
    def emergence(self) -> int | None:
        return min(self.massive, default=None)


def draw(use: ReadingUse) -> Figure:
    """Return the picture of a ``layerwise`` or ``magnitude`` Reading.

    Raises:
        Undrawable: fewer than two layers have a number.
    """
    from matplotlib.ticker import MaxNLocator

    profile = _profile(use.reading)
    known = [layer for layer, top in zip(profile.layers, profile.tops[0], strict=True) if math.isfinite(top)]
    if len(known) < _FEWEST:
        told = "no layer has" if not known else f"layer {known[0]} alone has"
        raise Undrawable(f"a profile needs two layers at least, and {told} a magnitude that is a number")
    figure = sheet(6.8, 3.5)
    axes = figure.add_subplot()
    _shade(axes, profile)
    _lines(axes, profile)
    axes.set_xlim(profile.layers[0] - 0.5, profile.layers[-1] + 0.5)
    axes.set_xlabel("layer (number of the block)")
    axes.set_ylabel("magnitude |x|, log scale")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.grid(visible=True, axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.8)
    titled(figure, _headline(use, profile), taken(use))
    return figure


def _headline(use: ReadingUse, profile: _Profile) -> str:
    what = f"{use.checkpoint}: magnitudes by layer"
    if profile.emergence is None:
        return f"{what}; nothing massive in layers {profile.layers[0]}..{profile.layers[-1]}"
    return f"{what}; massive activations emerge in layer {profile.emergence}"


def _lines(axes: Axes, profile: _Profile) -> None:
    axes.set_yscale("log")
    styles = zip(profile.tops, _NAMES, (BLUE, ORANGE, GREEN), ("o", "s", "^"), strict=False)
    for values, name, colour, marker in styles:
        axes.plot(profile.layers, _positive(values), color=colour, marker=marker, markersize=3.2, label=name)
    median = _positive(profile.median)
    axes.plot(profile.layers, median, color="black", linestyle="--", linewidth=1.2, label="median of |h|")
    criterion = [max(ABSOLUTE, RELATIVE * value) for value in median]
    axes.plot(
        profile.layers,
        criterion,
        color=RED,
        linestyle=":",
        linewidth=1.2,
        label=f"strict criterion: {ABSOLUTE:g}\nand {figure_of(RELATIVE)} \u00d7 median",
    )
    plain_numbers(axes, "y")


def _positive(values: Sequence[float]) -> list[float]:
    """Return the values with nan where a logarithm has no place for them, so that the line has a gap there."""
    return [value if math.isfinite(value) and value > 0 else math.nan for value in values]


def _shade(axes: Axes, profile: _Profile) -> None:
    for number, (first, last) in enumerate(_runs(profile)):
        label = "massive layers" if number == 0 else None
        axes.axvspan(first - 0.5, last + 0.5, color=ORANGE, alpha=0.16, linewidth=0, label=label)
    if profile.emergence is not None:
        axes.axvline(profile.emergence, color=GREY, linewidth=1, label=f"emergence: layer {profile.emergence}")


def _runs(profile: _Profile) -> Iterator[tuple[int, int]]:
    """Yield the first and the last layer of each run of massive layers."""
    for massive, run in groupby(profile.layers, key=lambda layer: layer in profile.massive):
        layers = list(run)
        if massive:
            yield layers[0], layers[-1]


def _profile(reading: Reading) -> _Profile:
    found = levels(reading)
    if found:
        ranked = {(record["layer"], record["rank"]): record["value"] for record in reading.records}
        ranks = [rank for rank in (2, 3) if any((level.layer, rank) in ranked for level in found)]
        return _Profile(
            layers=tuple(level.layer for level in found),
            tops=(
                tuple(level.top for level in found),
                *(tuple(_magnitude(ranked.get((level.layer, rank))) for level in found) for rank in ranks),
            ),
            median=tuple(level.median for level in found),
            massive=frozenset(level.layer for level in found if level.hits),
        )
    top = reading.quantities.get("top1")
    if top is None or not top.values:
        raise Undrawable(reading.absent or "it has no magnitudes by layer")
    massive = reading["massive"]
    return _Profile(
        layers=top.axes[0].labels,
        tops=tuple(_values(reading.quantities.get(f"top{rank}"), top) for rank in (1, 2, 3)),
        median=reading["median"].values,
        massive=frozenset(
            layer for layer, share in zip(top.axes[0].labels, massive.values, strict=True) if share >= MAJORITY
        ),
    )


def _values(quantity: Quantity | None, like: Quantity) -> tuple[float, ...]:
    return quantity.values if quantity and quantity.values else (math.nan,) * len(like.values)


def _magnitude(value: object) -> float:
    """Return |x| of a record's value, which may be missing or, as plain data, a text such as ``nan``."""
    number = unplain(value)  # type: ignore[arg-type]
    return abs(number) if isinstance(number, int | float) else math.nan
