"""``parameters.relatedness``: whether texts that people call related hang on the same weights (arXiv:2405.17799)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maprobe.readings import Axis, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap
from maprobe.sites import ATTRIBUTION

if TYPE_CHECKING:
    import torch

__all__ = ["RELATEDNESS", "chance", "rank_correlation", "ranks"]

_PERMUTATIONS = 9999
_SEED = 20240527
_FEWEST = 3


def ranks(values: Sequence[float]) -> Any:  # noqa: ANN401 - an array
    """Return the rank of each value, from 1; equal values share the mean of their ranks. Shape (values,)."""
    import numpy as np

    _, inverse, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks, ties averaged. NaN where one side is constant."""
    import numpy as np

    one, other = (ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size else float("nan")


def chance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how often shuffling one side correlates at least as highly (one-sided), by 9999 seeded permutations.

    The order that was found counts as one of them, so that it is never 0.
    """
    import numpy as np

    # RandomState, unlike default_rng, is promised to give the same numbers in every release of numpy.
    random = np.random.RandomState(_SEED)
    one, other = ranks(first), ranks(second)
    found = float(one @ other)
    reached = sum(float(random.permutation(one) @ other) >= found - 1e-9 for _ in range(_PERMUTATIONS))
    return (1 + reached) / (1 + _PERMUTATIONS)


@dataclass
class _RelatednessFold:
    context: FoldContext
    # By layer: the product of the two of each pair, and of every sequence with itself, in the order of the pairs.
    products: dict[int, torch.Tensor] = field(default_factory=dict)
    rows: tuple[list[int], list[int]] = ([], [])

    @property
    def taps(self) -> tuple[Tap, ...]:
        low, high = self.context.request.option("depth")  # type: ignore[misc, str-unpack]
        depth = self.context.depth
        first, last = max(1, round(float(low) * depth)), round(float(high) * depth)
        return tuple(Tap(ATTRIBUTION, layer) for layer in self.context.layers if first <= layer <= last)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        import torch

        if not self.rows[0]:
            row = {number: index for index, number in enumerate(batch.sequences)}
            pairs = self.context.pairs
            self.rows = ([row[pair.first] for pair in pairs], [row[pair.second] for pair in pairs])
        one, other = value[self.rows[0]], value[self.rows[1]]
        sums = torch.stack([_dots(one, other), _dots(one, one), _dots(other, other)])
        self.products[tap.layer] = self.products.get(tap.layer, 0.0) + sums.double().cpu()

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        scores = [pair.score for pair in self.context.pairs]
        layers = tuple(sorted(self.products))
        fault = self._fault(layers, scores)
        if fault:
            return Reading(kind="parameters.relatedness", absent=fault)
        cosines = {layer: (dots / (ones * others).sqrt()).tolist() for layer, (dots, ones, others) in self._sums()}
        summed = [sum(values) for values in zip(*(cosines[layer] for layer in layers), strict=True)]
        axis = Axis("layer", layers)
        quantities = [
            Quantity(name="correlation", values=(rank_correlation(summed, scores),)),
            Quantity(name="p_value", values=(chance(summed, scores),)),
            Quantity(name="pairs", values=(float(len(scores)),)),
            Quantity(
                name="layer_correlation",
                values=tuple(rank_correlation(cosines[layer], scores) for layer in layers),
                axes=(axis,),
            ),
        ]
        return Reading(
            kind="parameters.relatedness",
            quantities={quantity.name: quantity for quantity in quantities},
            records=tuple(
                {"line": pair.line, "score": pair.score, "similarity": similarity / len(layers)}
                for pair, similarity in zip(self.context.pairs, summed, strict=True)
            ),
            notes=(f"the cosines are summed over layers {layers[0]} to {layers[-1]}",),
        )

    def _sums(self) -> list[tuple[int, torch.Tensor]]:
        return sorted(self.products.items())

    def _fault(self, layers: tuple[int, ...], scores: list[float]) -> str:
        if not layers:
            return "no layer asked for lies within `depth`; widen `depth` or `layers`"
        if len(scores) < _FEWEST:
            return f"{len(scores)} pairs have no order worth speaking of; name {_FEWEST} or more"
        if len(set(scores)) == 1:
            return "all pairs have the same score, so there is no order to compare with"
        return ""


def _dots(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the product of each row with its counterpart, without the products of single entries in memory."""
    return (first.unsqueeze(1) @ second.unsqueeze(2)).flatten()


RELATEDNESS = MeasurementRecipe(
    name="parameters.relatedness",
    summary="Whether texts hang on the same weights the more, the closer people have graded them.",
    sites=(ATTRIBUTION,),
    quantities=(
        QuantitySpec(name="correlation", meaning="Spearman's rank correlation of summed cosines and scores"),
        QuantitySpec(name="p_value", meaning="share of 10000 orders of the scores that correlate at least as highly"),
        QuantitySpec(name="pairs", unit="pairs", meaning="how many pairs"),
        QuantitySpec(name="layer_correlation", axes=("layer",), meaning="the correlation of each layer by itself"),
    ),
    parameters=(
        Parameter(
            name="depth",
            schema={
                "type": "array",
                "items": {"type": "number", "minimum": 0, "maximum": 1},
                "minItems": 2,
                "maxItems": 2,
            },
            default=(0.625, 0.9375),
            meaning="first and last of the layers whose cosines are summed, as shares of the depth",
        ),
    ),
    takes_tokens=False,
    causal=True,
    source="pairs",
    modality="text",
    start=_RelatednessFold,
)
