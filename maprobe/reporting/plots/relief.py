"""One hidden state in three dimensions, magnitude over token and dim: arXiv:2402.17762, its first two figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maprobe.readings import Scalar, unplain
from maprobe.reporting.plots.canvas import BLUE, RED, Undrawable, plain_numbers, sheet, titled
from maprobe.reporting.plots.captions import figure_of, taken, visible
from maprobe.reporting.report import ReadingUse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

_APART = 0.08  # ticks of the dim axis stand at least this share of the width apart
_TOLD = 9  # texts of tokens that there is room for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ridge:
    """One token: its magnitudes by dim, ascending, and whether it carries a massive activation."""

    position: int
    token: str
    dims: tuple[float, ...]
    magnitudes: tuple[float, ...]
    massive: bool


def draw(use: ReadingUse) -> Figure:
    """Return the picture of a ``landscape`` Reading.

    Raises:
        Undrawable: no magnitude is a number.
    """
    from matplotlib.ticker import MaxNLocator

    records = use.reading.records
    ridges = _ridges(records)
    heights = [height for ridge in ridges for height in ridge.magnitudes if math.isfinite(height)]
    if not heights:
        raise Undrawable(use.reading.absent or "it has no magnitude that is a number")
    named = sorted({int(_number(row["dim"])) for row in records if row["massive"]})
    named += [place.dim for place in use.reading["top"].places if place.dim is not None]
    width = max(int(_number(row["last_dim"])) for row in records) + 1
    figure = sheet(6.8, 3.9)
    figure.set_layout_engine("none")  # the box of these axes is larger than what is drawn in it
    axes: Any = figure.add_axes((-0.1, -0.09, 1.1, 1.18), projection="3d", computed_zorder=False)
    for order, ridge in enumerate(reversed(ridges)):
        _raise(axes, ridge, order)
    _label_peak(axes, use, width)
    axes.set_xlim(0, width - 1)
    axes.set_ylim(-0.4, len(ridges) - 0.6)
    axes.set_zlim(0, max(heights) * 1.02)
    axes.set_xticks(_apart((*named, 0, width - 1), _APART * width))
    carriers = [ridge.position for ridge in ridges if ridge.massive]
    told = [ridges[place] for place in _apart((*carriers, *range(len(ridges))), len(ridges) / _TOLD)]
    axes.set_yticks([ridge.position for ridge in told], [visible(ridge.token) for ridge in told])
    axes.tick_params(axis="y", pad=-2)
    for ridge, text in zip(told, axes.get_yticklabels(), strict=True):
        text.set(ha="left", va="center", color=RED if ridge.massive else "black")
    axes.set_xlabel("dim (those with massive activations marked)" if _massive(ridges) else "dim", labelpad=4)
    axes.set_zlabel("magnitude |x|", labelpad=7)
    axes.zaxis.set_major_locator(MaxNLocator(nbins=6, prune="lower"))  # 0 would stand on the last token's text
    plain_numbers(axes, "z")
    axes.set_box_aspect((1.7, 1.25, 0.85), zoom=1.12)
    axes.view_init(elev=24, azim=-62)
    titled(figure, _headline(use, ridges), [*taken(use), _explained(ridges)])
    return figure


def _raise(axes: Any, ridge: _Ridge, order: int) -> None:  # noqa: ANN401 - the axes of mplot3d have no types
    """Draw a token's line over a veil that hides those behind it; later ones stand in front."""
    from matplotlib.collections import PolyCollection

    heights = [height if math.isfinite(height) else math.nan for height in ridge.magnitudes]
    ground = [height if math.isfinite(height) else 0.0 for height in heights]
    outline = [(ridge.dims[0], 0.0), *zip(ridge.dims, ground, strict=True), (ridge.dims[-1], 0.0)]
    veil = PolyCollection([outline], facecolor="white", alpha=0.9, linewidth=0, zorder=2 * order + 1)
    axes.add_collection3d(veil, zs=ridge.position, zdir="y")
    axes.plot(
        ridge.dims,
        [ridge.position] * len(ridge.dims),
        heights,
        color=RED if ridge.massive else BLUE,
        linewidth=1.5 if ridge.massive else 1.0,
        label=ridge.token,
        zorder=2 * order + 2,
    )


def _headline(use: ReadingUse, ridges: Sequence[_Ridge]) -> str:
    layer = figure_of(use.reading["layer"].value)
    told = f"{use.checkpoint}: magnitudes of the hidden state of layer {layer}"
    return told if _massive(ridges) else f"{told}; nothing massive"


def _explained(ridges: Sequence[_Ridge]) -> str:
    told = "dims without a massive activation are told by the largest |x| of each stretch of neighbours"
    return f"red: tokens with a massive activation; {told}" if _massive(ridges) else told


def _massive(ridges: Sequence[_Ridge]) -> bool:
    return any(ridge.massive for ridge in ridges)


def _label_peak(axes: Any, use: ReadingUse, width: int) -> None:  # noqa: ANN401
    top, ratio = use.reading["top"], use.reading["ratio"]
    place = top.places[0] if top.places else None
    if place is None or place.dim is None or place.position is None or not math.isfinite(top.value):
        return
    told = f"{figure_of(top.value)} = {figure_of(ratio.value)} \u00d7 median  \nat dim {place.dim}  "
    side = "right"
    if place.dim < width / 3:  # there is no room on the left
        told, side = "\n".join(f"  {line.strip()}" for line in told.splitlines()), "left"
    axes.text(place.dim, place.position, top.value, told, fontsize=8, va="top", ha=side, zorder=1000)


def _apart(wanted: Iterable[int], distance: float) -> list[int]:
    """Return those places that stand far enough from the others, the first ones wanted first; in ascending order."""
    chosen: list[int] = []
    for place in wanted:
        if all(abs(place - other) >= distance for other in chosen):
            chosen.append(place)
    return sorted(chosen)


def _ridges(records: Sequence[Mapping[str, Scalar]]) -> list[_Ridge]:
    ridges = []
    for position in sorted({int(_number(row["position"])) for row in records}):
        rows = sorted((row for row in records if row["position"] == position), key=lambda row: _number(row["dim"]))
        ridges.append(
            _Ridge(
                position=position,
                token=str(rows[0]["token"]),
                dims=tuple((_number(row["dim"]) + _number(row["last_dim"])) / 2 for row in rows),
                magnitudes=tuple(_number(row["magnitude"]) for row in rows),
                massive=any(row["massive"] for row in rows),
            )
        )
    return ridges


def _number(value: Scalar) -> float:
    number = unplain(value)
    return float(number) if isinstance(number, int | float) else math.nan
