"""``edge.ratios``: how many times a median the largest features of edges are (arXiv:2409.03463)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maprobe.measurements.edges import EDGES, OVER, PER, SITE, EdgeLayer, Edges
from maprobe.readings import Axis, Place, Quantity, Reading, Scalar
from maprobe.recipes import MeasurementRecipe, QuantitySpec

if TYPE_CHECKING:
    import torch

__all__ = ["EDGE_RATIOS"]

_POINTS = 101  # of the curve of each layer
_NAMES = ("top", "median", "edge_ratio", "layer_ratio", "peak", "edge_hits", "layer_hits", "share")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One layer in numbers, and where those that have a place were found."""

    layer: int
    values: Mapping[str, float]
    places: Mapping[str, Place]
    hit: float
    records: tuple[dict[str, Scalar], ...] = ()


@dataclass
class _EdgeRatiosFold(Edges):
    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        per = str(self.context.request.option("per"))
        rows: list[_Row] = []
        notes = [*self.notes()]
        for layer in self.layers():
            rows.append(self._row(layer, per))
            notes += self.doubts(layer, per)
        axes = (Axis("layer", tuple(row.layer for row in rows)),)
        quantities = [
            Quantity(
                name=name,
                values=tuple(row.values[name] for row in rows),
                axes=axes,
                places=tuple(row.places[name] for row in rows) if name in rows[0].places else (),
            )
            for name in _NAMES
        ]
        return Reading(
            kind="edge.ratios",
            quantities={quantity.name: quantity for quantity in (*quantities, *_whole(rows))},
            records=tuple(record for row in rows for record in row.records),
            notes=tuple(notes),
        )

    def _row(self, layer: EdgeLayer, per: str) -> _Row:
        placed = ("top", "edge_ratio", "layer_ratio", "peak")
        if layer.unknown is not None:
            place = self.place(*layer.unknown)
            return _Row(
                layer=layer.number,
                values=dict.fromkeys(_NAMES, math.nan),
                places=dict.fromkeys(placed, place),
                hit=math.nan,
            )
        over = float(self.context.request.option("over"))  # type: ignore[arg-type]
        largest, channels = layer.largest()
        by = {name: layer.ratios(name, largest) for name in ("edge", "layer")}
        at = {name: int(values.argmax()) for name, values in {**by, "top": largest}.items()}
        places = {name: self.place(edge, int(channels[edge])) for name, edge in at.items()}
        peaks = {name: float(values[at[name]]) for name, values in by.items()}
        hits = int((by[per] > over).sum())
        values = {
            "top": float(largest[at["top"]]),
            "median": layer.median,
            "edge_ratio": peaks["edge"],
            "layer_ratio": peaks["layer"],
            "peak": peaks[per],
            "edge_hits": float((by["edge"] > over).sum()),
            "layer_hits": float(layer.entries_over(over)),
            "share": hits / len(largest),
        }
        found = (places["top"], places["edge"], places["layer"], places[per])
        return _Row(
            layer=layer.number,
            values=values,
            places=dict(zip(placed, found, strict=True)),
            hit=float(hits > 0),
            records=_curve(layer.number, by[per], over),
        )


def _whole(rows: list[_Row]) -> tuple[Quantity, ...]:
    """Return what is told of all layers together; unknown where one of them is."""
    best = max(rows, key=lambda row: (math.isnan(row.values["peak"]), row.values["peak"]))
    return (
        Quantity(name="highest", values=(best.values["peak"],), places=(best.places["peak"],)),
        Quantity(name="layers_hit", values=(sum(row.hit for row in rows),)),
    )


def _curve(layer: int, ratios: torch.Tensor, over: float) -> tuple[dict[str, Scalar], ...]:
    """Return the ratios in ascending order at evenly spaced ranks, the first and the last among them."""
    count = len(ratios)
    points = min(_POINTS, count)
    ranks = sorted({round(point * (count - 1) / max(1, points - 1)) for point in range(points)})
    ordered = ratios.sort().values[ranks].tolist()
    return tuple(
        {"layer": layer, "rank": (rank + 1) / count, "ratio": ratio, "over": over}
        for rank, ratio in zip(ranks, ordered, strict=True)
    )


EDGE_RATIOS = MeasurementRecipe(
    name="edge.ratios",
    summary="How many times a median the largest features of the edges of graphs are, in attention.",
    sites=(SITE,),
    quantities=(
        QuantitySpec(name="top", axes=("layer",), meaning="largest |a|"),
        QuantitySpec(name="median", axes=("layer",), meaning="lower median of |a| over all edges and channels"),
        QuantitySpec(
            name="edge_ratio", axes=("layer",), meaning="largest ratio of an entry to the median of its own edge"
        ),
        QuantitySpec(name="layer_ratio", axes=("layer",), meaning="largest ratio of an entry to the layer's median"),
        QuantitySpec(name="peak", axes=("layer",), meaning="whichever of the two `per` names"),
        QuantitySpec(
            name="edge_hits",
            axes=("layer",),
            unit="edges",
            meaning="edges with an entry more than `over` times their own median",
        ),
        QuantitySpec(name="layer_hits", axes=("layer",), meaning="entries more than `over` times the layer's median"),
        QuantitySpec(
            name="share",
            axes=("layer",),
            meaning="share of the edges with an entry more than `over` times it, by `per`",
        ),
        QuantitySpec(name="highest", meaning="largest `peak` of any layer"),
        QuantitySpec(name="layers_hit", unit="layers", meaning="layers whose `peak` exceeds `over`; 0 without one"),
    ),
    headline="peak",
    parameters=(PER, EDGES, OVER),
    takes_tokens=False,
    modality="own",
    start=_EdgeRatiosFold,
)
