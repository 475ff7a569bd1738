"""What a Reading says layer by layer: the profile of magnitudes, and a table for any other quantity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from maprobe.expectations import number
from maprobe.measurements.survey import RELATIVE
from maprobe.readings import Place, Quantity, Reading
from maprobe.reporting.grids import Grid

__all__ = ["NEAR_MISS", "Level", "has_layers", "layer_grid", "levels", "scalars", "top_entries"]

NEAR_MISS = RELATIVE / 2
_PROFILE = ("top", "median", "ratio", "hits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One layer of a magnitude profile; ``hits`` counts the entries that meet the strict criterion."""

    layer: int
    top: float
    place: Place
    median: float
    ratio: float
    hits: int

    @property
    def remark(self) -> str:
        """``massive`` where the criterion is met, ``near miss`` from half its ratio on, ``not finite``; or empty."""
        if math.isnan(self.ratio):
            return "not finite"
        if self.hits:
            return "massive"
        return "near miss" if self.ratio >= NEAR_MISS else ""


def levels(reading: Reading) -> tuple[Level, ...]:
    """Return the layers of a magnitude Reading in ascending order; empty for any other Reading."""
    found = [reading.quantities.get(name) for name in _PROFILE]
    if reading.kind != "magnitude" or any(not quantity or _axes(quantity) != ("layer",) for quantity in found):
        return ()
    top, median, ratio, hits = (quantity for quantity in found if quantity is not None)
    places = top.places or (Place(),) * len(top.values)
    return tuple(
        Level(
            layer=layer,
            top=top.at(layer=layer),
            place=place,
            median=median.at(layer=layer),
            ratio=ratio.at(layer=layer),
            hits=0 if math.isnan(hits.at(layer=layer)) else int(hits.at(layer=layer)),
        )
        for layer, place in zip(top.axes[0].labels, places, strict=True)
    )


def has_layers(reading: Reading) -> bool:
    """Whether some quantity of the Reading ranges over the layers."""
    return any(_axes(quantity)[:1] == ("layer",) for quantity in reading.quantities.values())


def layer_grid(reading: Reading, *, every: bool) -> Grid:
    """Return the Reading's table by layer.

    Args:
        reading: a Reading for which :func:`has_layers` holds.
        every: whether all layers are shown; otherwise, for magnitudes, the first, the last, and both ends of each run
            of massive layers and of near misses; a row ``...`` stands for the layers between.
    """
    profile = levels(reading)
    return _magnitude_grid(profile, every=every) if profile else _general_grid(reading)


def _magnitude_grid(profile: Sequence[Level], *, every: bool) -> Grid:
    return Grid(
        headers=("layer", "largest |x|", "at", "median", "ratio", "strict hits", "remark"),
        rows=tuple(_profile_rows(profile, every=every)),
        numeric=frozenset({"layer", "largest |x|", "median", "ratio", "strict hits"}),
    )


def _profile_rows(profile: Sequence[Level], *, every: bool) -> Iterator[tuple[str, ...]]:
    """Yield a row for each layer, or the first and last of each run of layers with the same remark."""
    for _, group in groupby(profile, key=lambda level: (level.remark, level in (profile[0], profile[-1]))):
        run = list(group)
        ends = 1 if run[0].remark else 0
        hidden = run[ends : len(run) - ends]
        if every or len(hidden) <= 1:
            yield from map(_level_row, run)
        else:
            yield from map(_level_row, run[:ends])
            yield _collapsed(hidden)
            yield from map(_level_row, run[len(run) - ends :])


def _collapsed(hidden: Sequence[Level]) -> tuple[str, ...]:
    hits = sorted({level.hits for level in hidden})
    ratios = sorted(level.ratio for level in hidden)
    counted = str(hits[0]) if len(hits) == 1 else f"{hits[0]}-{hits[-1]}"
    told = f"{number(ratios[0])}..{number(ratios[-1])}"
    return ("...", "", f"layers {hidden[0].layer}-{hidden[-1].layer}", "", told, counted, hidden[0].remark)


def _level_row(level: Level) -> tuple[str, ...]:
    figures = (number(level.median), number(level.ratio), str(level.hits))
    return (str(level.layer), number(level.top), str(level.place), *figures, level.remark)


def _general_grid(reading: Reading) -> Grid:
    """Return one column for each quantity by layer; of heads the one with the largest value is told."""
    quantities = [quantity for quantity in reading.quantities.values() if _axes(quantity)[:1] == ("layer",)]
    layers = dict.fromkeys(layer for quantity in quantities for layer in quantity.axes[0].labels)
    headers = [quantity.name if len(quantity.axes) == 1 else f"largest {quantity.name}" for quantity in quantities]
    return Grid(
        headers=("layer", *headers),
        rows=tuple((str(layer), *(_cell(quantity, layer) for quantity in quantities)) for layer in sorted(layers)),
        numeric=frozenset({"layer", *headers}),
    )


def _cell(quantity: Quantity, layer: int) -> str:
    indexes = [i for i in range(len(quantity.values)) if quantity.labels(i)["layer"] == layer]
    if not indexes:
        return ""
    best = max(indexes, key=lambda i: -math.inf if math.isnan(quantity.values[i]) else quantity.values[i])
    others = [f"{axis} {label}" for axis, label in quantity.labels(best).items() if axis != "layer"]
    return number(quantity.values[best]) + (f" ({', '.join(others)})" if others else "")


def scalars(reading: Reading) -> tuple[Quantity, ...]:
    """Return the quantities that are one number each."""
    return tuple(quantity for quantity in reading.quantities.values() if not quantity.axes and quantity.values)


def top_entries(reading: Reading) -> Grid | None:
    """Return the largest entries of the massive layers of a magnitude Reading, or None where there are none."""
    massive = {level.layer for level in levels(reading) if level.hits}
    rows = tuple(
        (
            str(record["layer"]),
            str(record["rank"]),
            number(record["value"]),
            str(record["sequence"]),
            f"{record['position']} {record['token']!r}",
            str(record["dim"]),
            number(record["ratio"]),
            "yes" if record["massive"] else "no",
        )
        for record in reading.records
        if massive and record["layer"] in massive
    )
    headers = ("layer", "rank", "value", "sequence", "token", "dim", "ratio", "strict")
    numeric = frozenset({"layer", "rank", "value", "sequence", "dim", "ratio"})
    return Grid(headers=headers, rows=rows, numeric=numeric) if rows else None


def _axes(quantity: Quantity) -> tuple[str, ...]:
    return tuple(axis.name for axis in quantity.axes)
