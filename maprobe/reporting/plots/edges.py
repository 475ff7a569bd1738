"""The ratios of edge features, sorted and as a distribution: the figures of arXiv:2409.03463."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maprobe.readings import Reading, Scalar, unplain
from maprobe.reporting.escaping import one_line
from maprobe.reporting.plots.canvas import BLUE, GREY, RED, Undrawable, plain_numbers, sheet, titled
from maprobe.reporting.plots.captions import figure_of, taken
from maprobe.reporting.report import ReadingUse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "draw_histograms", "gamma_density"]

_SIDE_BY_SIDE = 4  # histograms in a row
_TOLD = 16  # layers that the legend names one by one
_STEPS = 240  # of a fitted density
_EMPTY = 0.03  # of the lowest column: where a density on a log axis begins


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gamma:
    shape: float
    loc: float
    scale: float
    ks: float


def draw_curves(use: ReadingUse, before: Reading | None = None) -> Figure:
    """Return the picture of an ``edge.ratios`` Reading: the largest ratio of each edge, sorted, a line a layer.

    Args:
        use: the Reading.
        before: what the same measurement found before training, which is drawn as one band over all layers.

    Raises:
        Undrawable: no ratio is a number above 0.
    """
    import matplotlib

    curves = {
        layer: [(_number(row["rank"]), _positive(_number(row["ratio"]))) for row in rows]
        for layer, rows in _by_layer(use.reading.records).items()
    }
    if not any(math.isfinite(ratio) for curve in curves.values() for _, ratio in curve):
        raise Undrawable(use.reading.absent or "it has no ratio that is a number above 0")
    over = _number(use.reading.records[0]["over"])
    figure = sheet(6.8, 3.5)
    axes = figure.add_subplot()
    axes.set_yscale("log")
    colours = matplotlib.colormaps["viridis"]
    for place, (layer, curve) in enumerate(curves.items()):
        ranks, ratios = zip(*curve, strict=True)
        colour = colours(0.9 * place / max(1, len(curves) - 1))
        axes.plot(ranks, ratios, color=colour, linewidth=1.4, label=f"layer {layer}")
    if before is not None:
        _band(axes, before.records)
    axes.axhline(over, color=RED, linestyle=":", linewidth=1.2, label=f"massive: above {figure_of(over)}")
    plain_numbers(axes, "y")
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the edges, sorted by ratio")
    axes.set_ylabel("largest ratio of an edge, log scale")
    axes.grid(visible=True, axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.8, ncols=math.ceil(len(curves) / _TOLD))
    massive = sorted({int(_number(row["layer"])) for row in use.reading.records if _number(row["ratio"]) > over})
    titled(
        figure,
        f"{use.checkpoint}: ratios of edges; " + _massive(massive, curves, over),
        [*taken(use), *map(one_line, use.reading.notes)],
    )
    return figure


def _band(axes: Axes, records: Sequence[Mapping[str, Scalar]]) -> None:
    """Shade what lies between the lowest and the highest layer at each rank."""
    ranks: dict[float, list[float]] = {}
    for row in records:
        ranks.setdefault(_number(row["rank"]), []).append(_positive(_number(row["ratio"])))
    known = {
        rank: [ratio for ratio in ratios if math.isfinite(ratio)]
        for rank, ratios in sorted(ranks.items())
        if any(map(math.isfinite, ratios))
    }
    low, high = [min(ratios) for ratios in known.values()], [max(ratios) for ratios in known.values()]
    axes.fill_between(list(known), low, high, color=GREY, alpha=0.25, linewidth=0, label="before training,\nall layers")


def draw_histograms(use: ReadingUse) -> Figure:
    """Return the picture of an ``edge.distribution`` Reading: a histogram a layer, and the gamma fitted to it.

    Raises:
        Undrawable: no layer has a histogram.
    """
    from matplotlib.ticker import MaxNLocator

    layers = _by_layer(use.reading.records)
    if not layers:
        raise Undrawable(use.reading.absent or "no layer has a histogram, since its ratios are not known or infinite")
    across = min(_SIDE_BY_SIDE, len(layers))
    down = math.ceil(len(layers) / across)
    figure = sheet(max(5.0, 2.05 * across + 0.5), 1.85 * down + 0.4)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten().tolist()
    for axes, (layer, rows) in zip(panels, layers.items(), strict=False):
        _histogram(axes, rows, _fit(use.reading, layer))
        axes.set_title(f"layer {layer}: " + _told(_fit(use.reading, layer)))
    densities = [_number(row["density"]) for rows in layers.values() for row in rows]
    panels[0].set_yscale("log")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    panels[0].set_ylim(_EMPTY * min(value for value in densities if value > 0), 2 * max(densities))
    plain_numbers(panels[0], "y")
    for axes in panels[len(layers) :]:
        axes.remove()
    for place, axes in enumerate(panels[: len(layers)]):
        axes.tick_params(labelbottom=place + across >= len(layers))
    figure.supxlabel("x = \u2212log10 of the ratio; massive entries left of the dotted line", fontsize=9)
    figure.supylabel("density, log scale", fontsize=9)
    known = {layer: fit.ks for layer in layers if (fit := _fit(use.reading, layer))}
    worst = max(known, key=lambda layer: known[layer], default=None)
    farthest = f"; farthest from a gamma distribution in layer {worst}" if worst is not None else ""
    titled(
        figure,
        f"{use.checkpoint}: distribution of the ratios of edges{farthest}",
        [
            *taken(use),
            "blue: all entries; black: the gamma distribution fitted to them; KS: their Kolmogorov-Smirnov distance",
            *map(one_line, use.reading.notes),
        ],
    )
    return figure


def gamma_density(value: float, shape: float, loc: float, scale: float) -> float:
    """Return the density of a gamma distribution; 0 up to ``loc``."""
    steps = (value - loc) / scale
    if steps <= 0:
        return 0.0
    return math.exp((shape - 1) * math.log(steps) - steps - math.lgamma(shape)) / scale


def _histogram(axes: Axes, rows: Sequence[Mapping[str, Scalar]], fit: _Gamma | None) -> None:
    bounds = [_number(row["left"]) for row in rows] + [_number(rows[-1]["right"])]
    axes.stairs([_number(row["density"]) for row in rows], bounds, fill=True, color=BLUE, alpha=0.6)
    if fit is not None:
        step = (bounds[-1] - bounds[0]) / _STEPS
        line = [bounds[0] + number * step for number in range(_STEPS + 1)]
        densities = [gamma_density(value, fit.shape, fit.loc, fit.scale) for value in line]
        axes.plot(line, [_positive(value) for value in densities], color="black", linewidth=1.1)
    axes.axvline(-math.log10(_number(rows[0]["over"])), color=RED, linestyle=":", linewidth=1.2)


def _told(fit: _Gamma | None) -> str:
    return "no fit" if fit is None else f"KS {figure_of(fit.ks)}"


def _fit(reading: Reading, layer: int) -> _Gamma | None:
    found = {name: reading[name].at(layer=layer) for name in ("shape", "loc", "scale", "ks")}
    return _Gamma(**found) if all(map(math.isfinite, found.values())) else None


def _massive(massive: Sequence[int], curves: Mapping[int, object], over: float) -> str:
    if not massive:
        return f"none above {figure_of(over)} in layers {min(curves)}..{max(curves)}"
    return f"some above {figure_of(over)} in layer{'s' if len(massive) > 1 else ''} {', '.join(map(str, massive))}"


def _by_layer(records: Sequence[Mapping[str, Scalar]]) -> dict[int, list[Mapping[str, Scalar]]]:
    found: dict[int, list[Mapping[str, Scalar]]] = {}
    for record in records:
        found.setdefault(int(_number(record["layer"])), []).append(record)
    return found


def _positive(value: float) -> float:
    """Return the value, or nan where a logarithm has no place for it, so that the line has a gap there."""
    return value if math.isfinite(value) and value > 0 else math.nan


def _number(value: Scalar) -> float:
    number = unplain(value)
    return float(number) if isinstance(number, int | float) else math.nan
