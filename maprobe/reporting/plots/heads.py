"""Attention on a token or a set of tokens, by layer and head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from maprobe.readings import Quantity
from maprobe.reporting.escaping import one_line
from maprobe.reporting.plots.canvas import Undrawable, sheet, titled
from maprobe.reporting.plots.captions import figure_of, taken
from maprobe.reporting.report import ReadingUse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

_PANELS = {
    "attention.sink": {
        "importance": "mean attention that the token draws",
        "share": "share of sequences in which it is a sink",
    },
    "attention.concentration": {"share": "share of attention on the tokens"},
}
_AXES = ("layer", "head")
_TALL = 40  # layers from which a heat map grows no further


def draw(use: ReadingUse) -> Figure:
    """Return the heat map of an ``attention.sink`` or ``attention.concentration`` Reading.

    Raises:
        Undrawable: no quantity has a number for each layer and head.
    """
    from matplotlib.ticker import MaxNLocator

    panels = [
        (quantity, label)
        for name, label in _PANELS[use.reading.kind].items()
        if (quantity := use.reading.quantities.get(name)) is not None and _has_cells(quantity)
    ]
    if not panels:
        absent = [quantity.absent for quantity in use.reading.quantities.values() if quantity.absent]
        raise Undrawable(use.reading.absent or (absent or ["no layer and head has a number"])[0])
    layers, heads = (axis.labels for axis in panels[0][0].axes)
    width = min(3.4, max(1.7, 0.16 * len(heads) + 0.6))
    figure = sheet(1.5 + len(panels) * (width + 0.3), 1.2 + 0.105 * min(len(layers), _TALL) + 0.5)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    image = None
    for axes, (quantity, label) in zip(grid, panels, strict=True):
        cells = [
            list(quantity.values[start : start + len(heads)]) for start in range(0, len(quantity.values), len(heads))
        ]
        image = axes.imshow(
            cells,
            cmap="cividis",
            vmin=0,
            vmax=1,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(heads[0] - 0.5, heads[-1] + 0.5, layers[0] - 0.5, layers[-1] + 0.5),
        )
        axes.set_facecolor("#f0f0f0")
        axes.set_title("\n".join(_broken(label)))
        axes.set_xlabel("head")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    grid[0].set_ylabel("layer")
    assert image is not None
    bar = figure.colorbar(image, ax=list(grid), aspect=25, pad=0.02)
    bar.set_label("share, 0 to 1", fontsize=8)
    bar.outline.set_visible(False)
    titled(figure, _headline(use), [*taken(use), *map(one_line, use.reading.notes)])
    return figure


def _headline(use: ReadingUse) -> str:
    what = f"{use.checkpoint}: attention by layer and head"
    sinks = use.reading.quantities.get("sinks")
    if sinks is None or not sinks.values or not math.isfinite(sinks.value):
        return what
    return f"{what}; the sink metric is {figure_of(sinks.value)}"


def _broken(label: str) -> list[str]:
    """Return a label in two lines of about the same length."""
    words = label.split()
    middle = min(range(1, len(words)), key=lambda at: abs(len(" ".join(words[:at])) - len(" ".join(words[at:]))))
    return [" ".join(words[:middle]), " ".join(words[middle:])]


def _has_cells(quantity: Quantity) -> bool:
    names = tuple(axis.name for axis in quantity.axes)
    return names == _AXES and any(math.isfinite(value) for value in quantity.values)
