"""``outliers``: features that are large throughout a model, beside the dims of its massive activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.survey import nothing_massive, ratio, survey
from maprobe.readings import Axis, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["OUTLIERS"]

_LISTED = 32


@dataclass(kw_only=True)
class _Layer:
    """What is kept of one layer: for each dim how many entries are large and the sum of squares, over all tokens.

    Attributes:
        large: entries of each dim at or above the threshold.
        squares: sum of the squares of each dim.
        ratios: sum over tokens of largest over median.
        tokens: number of tokens.
        finite: whether every entry was a finite number.
    """

    large: torch.Tensor
    squares: torch.Tensor
    ratios: float
    tokens: int
    finite: bool

    def add(self, other: _Layer) -> None:
        self.large += other.large
        self.squares += other.squares
        self.ratios += other.ratios
        self.tokens += other.tokens
        self.finite = self.finite and other.finite

    @property
    def kurtosis(self) -> float:
        """The kurtosis of the dims' root mean squares: 1 where all are alike, the width where one dim has all."""
        mean = float(self.squares.mean())
        return float((self.squares / mean).square().mean()) if self.finite and mean else math.nan

    @property
    def max_median(self) -> float:
        return self.ratios / self.tokens if self.finite else math.nan


@dataclass
class _OutliersFold:
    context: FoldContext
    layers: dict[int, _Layer] = field(default_factory=dict)
    massive: set[int] = field(default_factory=set)
    nearest: tuple[int, float, float] = (0, 0.0, -1.0)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.out", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        threshold = self._option("threshold")
        for row, sequence in enumerate(batch.sequences):
            found = survey(value[row], tap, sequence, self.context.memo)
            self.massive.update(entry.dim for entry in found.hits)
            peak = abs(found.top[0].value)
            self.nearest = max(self.nearest, (tap.layer, peak, ratio(peak, found.median)), key=lambda near: near[2])
            hidden = value[row].float()
            magnitudes = hidden.abs()
            # torch.median takes the lower of the two in the middle, as everywhere here.
            ratios = magnitudes.amax(dim=1).double() / magnitudes.median(dim=1).values.double()
            layer = _Layer(
                large=(magnitudes >= threshold).sum(dim=0),
                squares=hidden.double().square().sum(dim=0),
                ratios=float(ratios.sum()),
                tokens=len(hidden),
                finite=not math.isnan(found.median),
            )
            if tap.layer in self.layers:
                self.layers[tap.layer].add(layer)
            else:
                self.layers[tap.layer] = layer

    def _option(self, name: str) -> float:
        return float(self.context.request.option(name))  # type: ignore[arg-type]

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        levels = dict(sorted(self.layers.items()))
        axes = (Axis("layer", tuple(levels)),)
        kurtosis = tuple(level.kurtosis for level in levels.values())
        max_median = tuple(level.max_median for level in levels.values())
        whole, records = self._whole(levels)
        quantities = [
            *whole,
            Quantity(name="kurtosis", values=kurtosis, axes=axes),
            Quantity(name="max_median", values=max_median, axes=axes),
        ]
        return Reading(
            kind="outliers", quantities={quantity.name: quantity for quantity in quantities}, records=records
        )

    def _whole(self, levels: Mapping[int, _Layer]) -> tuple[list[Quantity], tuple[dict[str, Scalar], ...]]:
        if not all(level.finite for level in levels.values()):
            return [Quantity(name=spec.name, values=(math.nan,)) for spec in _WHOLE], ()
        large = {layer: level.large.tolist() for layer, level in levels.items()}
        tokens = sum(level.tokens for level in levels.values())
        width = len(next(iter(large.values())))
        layers = [sum(1 for counts in large.values() if counts[dim]) / len(large) for dim in range(width)]
        share = [sum(counts[dim] for counts in large.values()) / tokens for dim in range(width)]
        least_layers, least_tokens = self._option("layer_share"), self._option("token_share")
        features = {dim for dim in range(width) if layers[dim] >= least_layers and share[dim] >= least_tokens}
        values = {
            "features": len(features),
            "width_share": len(features) / width,
            "massive_dims": len(self.massive),
        }
        quantities = [Quantity(name=name, values=(float(value),)) for name, value in values.items()]
        if self.massive:
            both = len(features & self.massive)
            overlap = {"overlap": both, "jaccard": both / len(features | self.massive)}
            quantities += [Quantity(name=name, values=(float(value),)) for name, value in overlap.items()]
        else:
            reason = nothing_massive(min(levels), max(levels), self.nearest)
            quantities += [Quantity(name=name, absent=reason) for name in ("overlap", "jaccard")]
        # The dims of massive activations first, whatever their rank, and of the others those with most large entries.
        order = sorted(features | self.massive, key=lambda dim: (dim not in self.massive, -share[dim], dim))
        records = tuple(
            {
                "dim": dim,
                "outlier": dim in features,
                "massive": dim in self.massive,
                "layer_share": layers[dim],
                "token_share": share[dim],
            }
            for dim in order[:_LISTED]
        )
        return quantities, records


_WHOLE: tuple[QuantitySpec, ...] = (
    QuantitySpec(name="features", meaning="number of outlier features"),
    QuantitySpec(name="width_share", meaning="outlier features over the number of dims"),
    QuantitySpec(name="massive_dims", meaning="dims with a massive activation in some layer and sequence"),
    QuantitySpec(name="overlap", meaning="dims that are both; absent without a massive activation"),
    QuantitySpec(name="jaccard", meaning="overlap over the dims that are either; absent without a massive activation"),
)


def _share(name: str, default: float, meaning: str) -> Parameter:
    return Parameter(name=name, schema={"type": "number", "minimum": 0, "maximum": 1}, default=default, meaning=meaning)


OUTLIERS = MeasurementRecipe(
    name="outliers",
    summary="Outlier features by the criterion of LLM.int8, and how many of them are dims of massive activations.",
    sites=("block.out",),
    quantities=(
        *_WHOLE,
        QuantitySpec(
            name="kurtosis",
            axes=("layer",),
            meaning="kurtosis of the dims' root mean squares over tokens, not excess: from 1 to the number of dims",
        ),
        QuantitySpec(
            name="max_median",
            axes=("layer",),
            meaning="largest |x| of a token over the median |x| of that token, mean over tokens",
        ),
    ),
    parameters=(
        Parameter(
            name="threshold",
            schema={"type": "number", "exclusiveMinimum": 0},
            default=6.0,
            meaning="an entry is large from this |x| on",
        ),
        _share("layer_share", 0.25, "an outlier feature has a large entry in at least this share of the layers"),
        _share("token_share", 0.06, "and its large entries are at least this share of all tokens of all layers"),
    ),
    takes_tokens=False,
    start=_OutliersFold,
)
