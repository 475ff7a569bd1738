"""``edge.distribution``: how far the ratios of edge features are from a gamma distribution (arXiv:2409.03463)."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from maprobe.errors import MeasurementError
from maprobe.measurements.edges import EDGES, OVER, PER, SITE, EdgeLayer, Edges
from maprobe.readings import Axis, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["EDGE_DISTRIBUTION", "Fit", "fitted", "negative_log"]

_BINS = 60
_UNITS = {"log_likelihood": "nats"}
_NAMES = ("shape", "loc", "scale", "log_likelihood", "ks", "left")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A gamma distribution, and how well it goes with values.

    Attributes:
        shape: its shape.
        loc: the value from which on it has a density.
        scale: its scale.
        log_likelihood: mean of the log density at the values, in nats.
        ks: largest distance of the values' distribution function from its own (Kolmogorov-Smirnov, one sample).
    """

    shape: float
    loc: float
    scale: float
    log_likelihood: float
    ks: float


@dataclass
class _EdgeDistributionFold:
    context: FoldContext
    edges: Edges = field(init=False)

    def __post_init__(self) -> None:
        self.edges = Edges(self.context, worded=False)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return self.edges.taps

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        self.edges.take(tap, value, batch)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        _scipy_stats()  # nothing is worked out where it is missing
        per = str(self.context.request.option("per"))
        rows: dict[int, dict[str, float]] = {}
        notes = [*self.edges.notes()]
        records: list[dict[str, Scalar]] = []
        for layer in self.edges.layers():
            notes += self.edges.doubts(layer, per)
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
            return (f"layer {layer.number} has no fit: the search for the likeliest gamma distribution came to no end",)
        row.update({name: getattr(found, name) for name in _NAMES if name != "left"})
        return ()


def _scipy_stats() -> ModuleType:
    """Return the module of scipy that has distributions.

    Raises:
        MeasurementError: scipy is not installed.
    """
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise MeasurementError(
            f"edge.distribution fits distributions with the package scipy, which cannot be imported ({error}); "
            f"pip install 'maprobe[graphs]'"
        ) from None


def negative_log(ratios: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return -log10 of ratios, each with the smallest step of double precision from 1 added, in ascending order."""
    import numpy as np

    values: np.ndarray[Any, Any] = np.sort(-np.log10(ratios.ravel() + np.finfo(np.float64).eps))
    return values


def fitted(values: np.ndarray[Any, Any], most: int) -> Fit | None:
    """Return the likeliest gamma distribution of values in ascending order, or None where none is found.

    Args:
        values: the values, finite and not all the same.
        most: how many of them the search looks at. They are taken at evenly spaced ranks, both ends among them, so
            that their distribution function is that of all values within 1 / most. How well it goes with the values
            is asked of all of them.

    Raises:
        MeasurementError: scipy is not installed.
    """
    import numpy as np

    gamma = _scipy_stats().gamma
    count = len(values)
    ranks = np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            shape, loc, scale = (float(number) for number in gamma.fit(values[ranks]))
        except (RuntimeError, ValueError):  # what scipy says where its search leaves the distribution's domain
            return None
        below = gamma.cdf(values, shape, loc, scale)
        likelihood = float(gamma.logpdf(values, shape, loc, scale).mean())
    steps = np.arange(count + 1) / count
    distance = float(max((steps[1:] - below).max(), (below - steps[:-1]).max()))
    if not all(map(math.isfinite, (shape, loc, scale, likelihood, distance))):
        return None
    return Fit(shape=shape, loc=loc, scale=scale, log_likelihood=likelihood, ks=distance)


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
