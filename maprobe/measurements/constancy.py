"""``constancy``: whether a massive activation has the same value whatever the text, as a bias would."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.readings import Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["CONSTANCY", "FEWEST"]

FEWEST = 2
_PERCENT = 100


@dataclass
class _Spread:
    """Mean and variance of each dim over sequences, one sequence at a time, in double precision (Welford)."""

    count: int = 0
    mean: torch.Tensor | None = None
    squares: torch.Tensor | None = None

    def add(self, values: torch.Tensor) -> None:
        self.count += 1
        if self.mean is None or self.squares is None:
            self.mean, self.squares = values.clone(), values * 0
            return
        delta = values - self.mean
        self.mean += delta / self.count
        self.squares += delta * (values - self.mean)

    def moments(self) -> tuple[list[float], list[float]]:
        """Return the mean and the standard deviation (n - 1) of each dim."""
        assert self.mean is not None
        assert self.squares is not None
        means: list[float] = self.mean.tolist()
        deviations: list[float] = (self.squares / (self.count - 1)).sqrt().tolist()
        return means, deviations


@dataclass
class _ConstancyFold:
    context: FoldContext
    token: dict[int, _Spread] = field(default_factory=dict)
    last: dict[int, _Spread] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    starts: set[int | None] = field(default_factory=set)
    without: set[int] = field(default_factory=set)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.out", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        for row, sequence in enumerate(batch.sequences):
            if sequence not in self.positions and sequence not in self.without:
                self._find(batch, row, sequence)
        rows = [row for row, sequence in enumerate(batch.sequences) if sequence in self.positions]
        if not rows:
            return
        places = [self.positions[batch.sequences[row]] for row in rows]
        # Two rows of each sequence leave the device at once, and are added one by one, so that batches do not matter.
        for spreads, chosen in ((self.token, value[rows, places]), (self.last, value[rows, -1])):
            spread = spreads.setdefault(tap.layer, _Spread())
            for values in chosen.float().cpu().double():
                spread.add(values)

    def _find(self, batch: Batch, row: int, sequence: int) -> None:
        """Remember the first token of the set in this sequence."""
        found = batch.mask(self.context.request.tokens)[row].nonzero().flatten().tolist()
        if not found:
            self.without.add(sequence)
            return
        position = self.positions[sequence] = found[0]
        self.texts[sequence] = batch.text(row, position)
        # A token at position 0 of a causal model sees itself alone; its id says whether it is always the same.
        self.starts.add(int(batch.ids[row, 0]) if position == 0 and self.context.facts["causal"] else None)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        tokens = self.context.request.tokens
        if not self.positions:
            return Reading(kind="constancy", absent=f"no token of the inputs is of class {tokens}")
        if len(self.positions) < FEWEST:
            raise MeasurementError(
                f"constancy compares values between sequences and needs at least {FEWEST} that have a token of class "
                f"{tokens}; the inputs have {len(self.positions)}: raise `sequences` (arXiv:2402.17762 takes 100)"
            )
        massive = companions["massive"]
        if massive.absent is not None:
            return Reading(kind="constancy", absent=massive.absent)
        emergence, dims = _emergence(massive)
        layers = self.context.layers
        layer = layers[0] if len(layers) == 1 else emergence
        if layer not in self.token:
            return Reading(
                kind="constancy",
                absent=f"massive activations emerge in layer {layer}, which is not among the layers asked for, "
                f"{layers[0]}..{layers[-1]}",
            )
        return self._reading(layer, dims)

    def _reading(self, layer: int, dims: frozenset[int]) -> Reading:
        means, deviations = self.token[layer].moments()
        order = sorted(range(len(means)), key=lambda dim: -abs(means[dim]))
        ranked = [dim for dim in order if dim in dims]
        ordinary = [dim for dim in order if dim not in dims]
        top, variations = ranked[0], [_variation(means[dim], deviations[dim]) for dim in range(len(means))]
        elsewhere = [_variation(*pair) for pair in zip(*self.last[layer].moments(), strict=True)]
        value_cv = variations[top]
        ordinary_cv = _lower_median([variations[dim] for dim in ordinary])
        elsewhere_cv = _lower_median([elsewhere[dim] for dim in ordinary])
        first = min(self.positions)
        place = Place(position=self.positions[first], token=self.texts[first], dim=top, sequence=first)
        values = {
            "value_mean": means[top],
            "value_std": deviations[top],
            "value_cv": value_cv,
            "ordinary_cv": ordinary_cv,
            "elsewhere_cv": elsewhere_cv,
            "layer": float(layer),
            "sequences": float(len(self.positions)),
        }
        quantities = [Quantity(name=name, values=(value,), places=(place,)) for name, value in values.items()]
        if len(self.starts) == 1 and None not in self.starts and self.context.facts["causal"]:
            reason = (
                f"each sequence starts with the same token, {self.texts[first]!r}, on which every entry there depends "
                f"alone; write `bos: never`, or another class under `tokens`"
            )
            quantities += [Quantity(name=name, absent=reason) for name in _RATIOS]
        else:
            ratios = (_over(value_cv, ordinary_cv), _over(value_cv, elsewhere_cv))
            quantities += [Quantity(name=name, values=(value,)) for name, value in zip(_RATIOS, ratios, strict=True)]
        columns = [(f"massive {rank}", dim) for rank, dim in enumerate(ranked, start=1)]
        columns += [(name, ordinary[place]) for name, place in _ordinary_columns(len(ordinary)).items() if ordinary]
        records: tuple[dict[str, Scalar], ...] = tuple(
            {
                "column": name,
                "layer": layer,
                "dim": dim,
                "mean": means[dim],
                "std": deviations[dim],
                "cv": variations[dim],
            }
            for name, dim in columns
        )
        lacking = f"{len(self.without)} of {self.context.sequences} sequences have no such token"
        return Reading(
            kind="constancy",
            quantities={quantity.name: quantity for quantity in quantities},
            records=records,
            notes=(lacking,) if self.without else (),
        )


def _ordinary_columns(count: int) -> dict[str, int]:
    """Return the ranks, by magnitude, of the two ordinary entries that are told beside the massive ones."""
    return {"top 1 %": count // _PERCENT, "median": count // 2}


def _emergence(massive: Reading) -> tuple[int, frozenset[int]]:
    """Return the layer at which most sequences have their first massive activations, and the dims of these.

    Of layers that are equally common the lowest is taken. A sequence in which something else comes first, at another
    layer, does not decide where all are compared.
    """
    found = [record for record in massive.records if record["arm"] == "edited"]
    firsts = Counter(layer for layer, _ in {(int(row["layer"] or 0), row["sequence"]) for row in found})
    layer = min(firsts, key=lambda candidate: (-firsts[candidate], candidate))
    return layer, frozenset(int(row["dim"] or 0) for row in found if row["layer"] == layer)


def _variation(mean: float, deviation: float) -> float:
    """Return the coefficient of variation; inf for a value that varies about 0, and 0 for one that is always 0."""
    if math.isnan(mean) or math.isnan(deviation):
        return math.nan
    if not mean:
        return math.inf if deviation else 0.0
    return deviation / abs(mean)


def _lower_median(values: Sequence[float]) -> float:
    if not values or any(math.isnan(value) for value in values):
        return math.nan
    return sorted(values)[(len(values) - 1) // 2]


def _over(value: float, other: float) -> float:
    if math.isnan(value) or math.isnan(other) or (math.isinf(value) and math.isinf(other)):
        return math.nan
    return value / other if other else math.nan


_RATIOS = ("cv_ratio", "elsewhere_ratio")

CONSTANCY = MeasurementRecipe(
    name="constancy",
    summary="How little the largest massive activation varies between sequences, beside ordinary entries.",
    sites=("block.out",),
    quantities=(
        QuantitySpec(name="value_mean", meaning="signed mean over sequences of the largest massive dim at the token"),
        QuantitySpec(name="value_std", meaning="its standard deviation over sequences (n - 1)"),
        QuantitySpec(name="value_cv", meaning="value_std over |value_mean|"),
        QuantitySpec(name="ordinary_cv", meaning="lower median over the other dims of the same, at the same token"),
        QuantitySpec(name="elsewhere_cv", meaning="lower median over the other dims of the same, at the last token"),
        QuantitySpec(name="layer", meaning="the layer that was looked at"),
        QuantitySpec(name="sequences", meaning="sequences that were compared"),
        QuantitySpec(name="cv_ratio", meaning="value_cv over ordinary_cv"),
        QuantitySpec(name="elsewhere_ratio", meaning="value_cv over elsewhere_cv"),
    ),
    companions=("massive",),
    start=_ConstancyFold,
)
