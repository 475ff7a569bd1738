"""``edge.distribution``: how far the ratios of edge features are from a gamma distribution (arXiv:2409.03463)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maprobe.measurements.edges import EDGES, OVER, PER, SITE, EdgeLayer, Edges
from maprobe.measurements.gamma import demand_scipy, fitted
from maprobe.readings import Axis, Quantity, Reading, Scalar
from maprobe.recipes import MeasurementRecipe, Parameter, QuantitySpec

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EDGE_DISTRIBUTION", "negative_log"]

_BINS = 60
_UNITS = {"log_likelihood": "nats"}
_NAMES = ("shape", "loc", "scale", "log_likelihood", "ks", "left")


@dataclass
class _EdgeDistributionFold(Edges):
    worded: bool = False

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        demand_scipy("edge.distribution")
        per = str(self.context.request.option("per"))
        rows: dict[int, dict[str, float]] = {}
        notes = [*self.notes()]
        records: list[dict[str, Scalar]] = []
        for layer in self.layers():
            notes += self.doubts(layer, per)
            rows[layer.number] = dict.fromkeys(_NAMES, math.nan)
            if layer.unknown is None:
                notes += self._look(layer, per, rows[layer.number], records)
        axes = (Axis("layer", tuple(rows)),)
        return Reading(
            kind="edge.distribution",
            quantities={
                name: Quantity(
                    name=name,
                    values=tuple(row[name] for row in rows.values()),
                    axes=axes,
                    unit=_UNITS.get(name, ""),
                )
                for name in _NAMES
            },
            records=tuple(records),
            notes=tuple(notes),
        )

    def _look(
        self, layer: EdgeLayer, per: str, row: dict[str, float], records: list[dict[str, Scalar]]
    ) -> tuple[str, ...]:
        """Fill in one layer, and return what there is to be said of it."""
        ratios = layer.ratios(per, layer.magnitudes)
        over = float(self.context.request.option("over"))  # type: ignore[arg-type]
        row["left"] = int((ratios > over).sum()) / ratios.numel()
        endless = int(ratios.isinf().sum())
        if endless:
            what = "1 entry has a ratio" if endless == 1 else f"{endless} entries have ratios"
            return (f"layer {layer.number} has no fit: {what} that cannot be counted, for the median is 0",)
        values = negative_log(ratios.numpy())
        records += _histogram(layer.number, values, over)
        if values[0] == values[-1]:
            return (f"layer {layer.number} has no fit: all of its ratios are the same",)
        found = fitted(values, int(self.context.request.option("values")))  # type: ignore[arg-type]
        if found is None:
            return (f"layer {layer.number} has no fit: no gamma distribution of finite likelihood was found",)
        row.update({name: getattr(found, name) for name in _NAMES if name != "left"})
        return ()


def negative_log(ratios: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return -log10 of ratios, each with the smallest step of double precision from 1 added, in ascending order."""
    import numpy as np

    values: np.ndarray[Any, Any] = np.sort(-np.log10(ratios.ravel() + np.finfo(np.float64).eps))
    return values


def _histogram(layer: int, values: np.ndarray[Any, Any], over: float) -> list[dict[str, Scalar]]:
    import numpy as np

    densities, bounds = np.histogram(values, bins=_BINS, density=True)
    return [
        {"layer": layer, "left": float(left), "right": float(right), "density": float(density), "over": over}
        for left, right, density in zip(bounds[:-1], bounds[1:], densities, strict=True)
    ]


EDGE_DISTRIBUTION = MeasurementRecipe(
    name="edge.distribution",
    summary="How far the ratios of the edge features of graphs, in attention, are from a gamma distribution.",
    sites=(SITE,),
    quantities=(
        QuantitySpec(name="shape", axes=("layer",), meaning="shape of the likeliest gamma distribution"),
        QuantitySpec(name="loc", axes=("layer",), meaning="where it begins"),
        QuantitySpec(name="scale", axes=("layer",), meaning="its scale"),
        QuantitySpec(
            name="log_likelihood", axes=("layer",), unit="nats", meaning="mean of its log density at the values"
        ),
        QuantitySpec(
            name="ks",
            axes=("layer",),
            meaning="largest distance between its distribution function and that of the values",
        ),
        QuantitySpec(name="left", axes=("layer",), meaning="share of the entries with a ratio above `over`"),
    ),
    headline="ks",
    parameters=(
        PER,
        EDGES,
        OVER,
        Parameter(
            name="values",
            schema={"type": "integer", "minimum": 100},
            default=100_000,
            meaning="how many values of each layer the fit is searched with, at evenly spaced ranks",
        ),
    ),
    takes_tokens=False,
    modality="own",
    start=_EdgeDistributionFold,
)
