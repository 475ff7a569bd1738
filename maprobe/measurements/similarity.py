"""``parameters.similarity``: whether texts of one domain hang on the same weights (arXiv:2405.17799, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from operator import sub, truediv
from typing import TYPE_CHECKING

from maprobe.readings import Axis, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap
from maprobe.sites import ATTRIBUTION

if TYPE_CHECKING:
    import torch

__all__ = ["SIMILARITY", "deep_layers", "shallow_layers"]

_ONE_DOMAIN = "the inputs are of one domain; name several under `domains`"
_ALONE = "no domain has two sequences to compare"


def shallow_layers(depth: int) -> tuple[int, ...]:
    """Return the layers in which the paper finds texts of different domains alike: 2 to 12 of 32, in proportion."""
    return tuple(range(2, 3 * depth // 8 + 1))


def deep_layers(depth: int) -> tuple[int, ...]:
    """Return the layers over which the paper's code takes the mean: of blocks counted from 0, those in [L/2, L-2)."""
    return tuple(range(depth // 2 + 1, depth - 1))


@dataclass
class _SimilarityFold:
    context: FoldContext
    # By layer: the product of every two sequences, shape (sequences, sequences), rows in the order of the batch.
    products: dict[int, torch.Tensor] = field(default_factory=dict)
    order: tuple[int, ...] = ()

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap(ATTRIBUTION, layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        self.order = batch.sequences
        self.products[tap.layer] = self.products.get(tap.layer, 0.0) + (value @ value.T).double().cpu()

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        layers = tuple(sorted(self.products))
        domains = [self.context.groups[number] if self.context.groups else "" for number in self.order]
        means = {layer: _means(_cosines(self.products[layer]), domains) for layer in layers}
        within = self._by_layer("within", layers, [_pooled(means[layer], same=True) for layer in layers], _ALONE)
        across = self._by_layer("across", layers, [_pooled(means[layer], same=False) for layer in layers], _ONE_DOMAIN)
        ranges = {"shallow": shallow_layers(self.context.depth), "deep": deep_layers(self.context.depth)}
        over = {
            f"{place}_{quantity.name}": _over(f"{place}_{quantity.name}", quantity, layers, wanted)
            for place, wanted in ranges.items()
            for quantity in (within, across)
        }
        highest = () if across.absent else (float(layers[max(range(len(layers)), key=across.values.__getitem__)]),)
        quantities = [
            within,
            across,
            *over.values(),
            _of_two("separation", over["deep_within"], over["deep_across"], sub),
            _of_two("decline", over["deep_across"], over["shallow_across"], truediv),
            Quantity(name="across_peak_layer", values=highest, absent=across.absent),
        ]
        return Reading(
            kind="parameters.similarity",
            quantities={quantity.name: quantity for quantity in quantities},
            records=_records(means, ranges, domains),
        )

    @staticmethod
    def _by_layer(name: str, layers: tuple[int, ...], values: list[float | None], none: str) -> Quantity:
        known = tuple(value for value in values if value is not None)
        if len(known) < len(values):
            return Quantity(name=name, absent=none)
        return Quantity(name=name, values=known, axes=(Axis("layer", layers),))


def _cosines(products: torch.Tensor) -> torch.Tensor:
    """Return the cosine of every two sequences, from their products."""
    norms = products.diagonal().sqrt()
    return products / (norms[:, None] * norms[None, :])


_Means = dict[tuple[str, str], tuple[float, int]]


def _means(cosines: torch.Tensor, domains: list[str]) -> _Means:
    """Return for every two domains, in the order of the inputs, the mean cosine of two sequences and how many pairs."""
    import torch

    rows: dict[str, list[int]] = {}
    for row, domain in enumerate(domains):
        rows.setdefault(domain, []).append(row)
    found: _Means = {}
    for one, other in combinations_with_replacement(rows, 2):
        part = cosines[rows[one]][:, rows[other]]
        if one == other:
            part = part[torch.ones_like(part, dtype=torch.bool).triu(diagonal=1)]
        if part.numel():
            found[one, other] = (float(part.mean()), part.numel())
    return found


def _pooled(means: _Means, *, same: bool) -> float | None:
    """Return the mean over all pairs of sequences of one domain, or of two; None where there is no such pair."""
    chosen = [entry for (one, other), entry in means.items() if (one == other) is same]
    return sum(mean * count for mean, count in chosen) / sum(count for _, count in chosen) if chosen else None


def _over(name: str, quantity: Quantity, layers: tuple[int, ...], wanted: tuple[int, ...]) -> Quantity:
    """Return the mean of a quantity over some layers."""
    if quantity.absent is not None:
        return Quantity(name=name, absent=quantity.absent)
    if not wanted or not set(wanted) <= set(layers):
        told = f"layers {wanted[0]} to {wanted[-1]}, not all of which were measured" if wanted else "none in this model"
        return Quantity(name=name, absent=f"the layers that it is the mean of are {told}")
    return Quantity(name=name, values=(_mean(quantity.values[layers.index(layer)] for layer in wanted),))


def _of_two(name: str, one: Quantity, other: Quantity, combined: Callable[[float, float], float]) -> Quantity:
    why = one.absent or other.absent
    return Quantity(name=name, values=() if why else (combined(one.values[0], other.values[0]),), absent=why)


def _mean(values: Iterable[float]) -> float:
    known = tuple(values)
    return sum(known) / len(known)


def _records(
    means: Mapping[int, _Means], ranges: Mapping[str, tuple[int, ...]], domains: list[str]
) -> tuple[dict[str, Scalar], ...]:
    """Return the similarity of every two domains, over the shallow and the deep layers."""
    if len(set(domains)) == 1:
        return ()
    records = []
    for (one, other), (_, pairs) in next(iter(means.values())).items():
        record: dict[str, Scalar] = {"domain": one, "other": other, "pairs": pairs}
        for place, wanted in ranges.items():
            if wanted and set(wanted) <= set(means):
                record[place] = _mean(means[layer][one, other][0] for layer in wanted)
        records.append(record)
    return tuple(records)


SIMILARITY = MeasurementRecipe(
    name="parameters.similarity",
    summary="How alike the weights are that texts hang on, within a domain and across domains.",
    sites=(ATTRIBUTION,),
    quantities=(
        QuantitySpec(name="within", axes=("layer",), meaning="mean cosine of two different sequences of one domain"),
        QuantitySpec(name="across", axes=("layer",), meaning="mean cosine of two sequences of different domains"),
        QuantitySpec(name="shallow_within", meaning="mean of within over the shallow layers: 2 to 3L/8"),
        QuantitySpec(name="shallow_across", meaning="mean of across over the shallow layers"),
        QuantitySpec(name="deep_within", meaning="mean of within over the deep layers: L/2 + 1 to L - 2"),
        QuantitySpec(name="deep_across", meaning="mean of across over the deep layers"),
        QuantitySpec(name="separation", meaning="deep_within - deep_across"),
        QuantitySpec(name="decline", meaning="deep_across / shallow_across"),
        QuantitySpec(name="across_peak_layer", unit="layer", meaning="the layer in which across is greatest"),
    ),
    takes_tokens=False,
    causal=True,
    modality="text",
    start=_SimilarityFold,
)
