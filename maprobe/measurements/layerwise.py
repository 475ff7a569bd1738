"""``layerwise``: how the largest entries rise, stay and fall along the depth of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from maprobe.measurements.survey import meets, ratio, survey
from maprobe.readings import Axis, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["LAYERWISE", "MAJORITY"]

MAJORITY = 0.5
_RANKS = 3
_TOLD = {
    "per-sequence": "order per-sequence: the criterion is judged in each sequence, and a layer is massive where it is "
    "so in at least half of them",
    "mean-first": "order mean-first: top1 and median are averaged over the sequences, and the averages are compared",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What is kept of one layer of one sequence."""

    tops: tuple[float, ...]
    median: float
    massive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """One layer over all sequences; every number is nan where an entry of any sequence is not finite."""

    tops: tuple[float, ...]
    median: float
    ratio: float
    massive: float

    @property
    def is_massive(self) -> bool:
        return self.massive >= MAJORITY


@dataclass
class _LayerwiseFold:
    context: FoldContext
    states: dict[int, list[_State]] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        # The layer before the first is looked at too: what emerges in the first one is compared with it.
        first = self.context.layers[0]
        return tuple(Tap("block.out", layer) for layer in (*range(max(0, first - 1), first), *self.context.layers))

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        for row, sequence in enumerate(batch.sequences):
            found = survey(value[row], tap, sequence, self.context.memo)
            tops = [abs(entry.value) for entry in found.top[:_RANKS]]
            tops += [math.nan] * (_RANKS - len(tops))
            state = _State(tops=tuple(tops), median=found.median, massive=bool(found.hits))
            self.states.setdefault(tap.layer, []).append(state)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        order = str(self.context.request.option("order"))
        all_levels = {layer: _level(states, order) for layer, states in sorted(self.states.items())}
        levels = {layer: all_levels[layer] for layer in self.context.layers}
        axes = (Axis("layer", tuple(levels)),)
        columns = {
            **{f"top{rank + 1}": [level.tops[rank] for level in levels.values()] for rank in range(_RANKS)},
            "median": [level.median for level in levels.values()],
            "ratio": [level.ratio for level in levels.values()],
            "massive": [level.massive for level in levels.values()],
        }
        by_layer = [Quantity(name=name, values=tuple(values), axes=axes) for name, values in columns.items()]
        return Reading(
            kind="layerwise",
            quantities={quantity.name: quantity for quantity in (*by_layer, *self._whole(levels, all_levels))},
            notes=(_TOLD[order],),
        )

    def _whole(self, levels: Mapping[int, _Level], looked_at: Mapping[int, _Level]) -> list[Quantity]:
        if any(math.isnan(level.massive) for level in levels.values()):
            return [Quantity(name=spec.name, values=(math.nan,)) for spec in _WHOLE]
        massive = [layer for layer, level in levels.items() if level.is_massive]
        count = Quantity(name="massive_layers", values=(float(len(massive)),))
        if not massive:
            reason = _nothing_massive(levels)
            return [count, *(Quantity(name=spec.name, absent=reason) for spec in _WHOLE[1:])]
        emergence, last = massive[0], massive[-1]
        longest = max(_runs(massive))
        peaks = [levels[layer].tops[0] for layer in massive]
        return [
            count,
            Quantity(name="emergence_layer", values=(float(emergence),)),
            _vanishing(last, max(levels), self.context.depth),
            Quantity(name="persistence", values=(float(longest),)),
            Quantity(name="persistence_share", values=(longest / self.context.depth,)),
            _jump(emergence, looked_at),
            Quantity(name="steadiness", values=(min(peaks) / max(peaks),)),
        ]


def _level(states: Sequence[_State], order: str) -> _Level:
    if any(math.isnan(state.median) for state in states):
        return _Level(tops=(math.nan,) * _RANKS, median=math.nan, ratio=math.nan, massive=math.nan)
    tops = tuple(_mean([state.tops[rank] for state in states]) for rank in range(_RANKS))
    median = _mean([state.median for state in states])
    if order == "mean-first":
        return _Level(tops=tops, median=median, ratio=ratio(tops[0], median), massive=float(meets(tops[0], median)))
    return _Level(
        tops=tops,
        median=median,
        ratio=_mean([ratio(state.tops[0], state.median) for state in states]),
        massive=_mean([float(state.massive) for state in states]),
    )


def _mean(values: Sequence[float]) -> float:
    """Return the mean; a sum in full precision does not depend on the order in which sequences came."""
    return math.fsum(values) / len(values)


def _runs(layers: Sequence[int]) -> list[int]:
    """Return the lengths of the runs of consecutive numbers in an ascending list."""
    return [len(list(run)) for _, run in groupby(enumerate(layers), key=lambda item: item[1] - item[0])]


def _vanishing(last: int, end: int, depth: int) -> Quantity:
    if last < end:
        return Quantity(name="vanishing_layer", values=(float(last + 1),))
    which = "the last block" if last == depth else "the last layer asked for"
    return Quantity(name="vanishing_layer", absent=f"layer {last}, {which}, is still massive")


def _jump(emergence: int, levels: Mapping[int, _Level]) -> Quantity:
    if emergence - 1 not in levels:
        return Quantity(name="emergence_jump", absent=f"no layer stands before layer {emergence}")
    return Quantity(name="emergence_jump", values=(ratio(levels[emergence].tops[0], levels[emergence - 1].tops[0]),))


def _nothing_massive(levels: Mapping[int, _Level]) -> str:
    layer, nearest = max(levels.items(), key=lambda item: (item[1].massive, item[1].ratio))
    share = f", and {nearest.massive:.0%} of the sequences have a massive activation there" if nearest.massive else ""
    return (
        f"nothing massive here: of layers {min(levels)}..{max(levels)}, layer {layer} comes nearest, with a largest "
        f"entry of {nearest.tops[0]:.4g} and a ratio of {nearest.ratio:.4g} in the mean{share}"
    )


_WHOLE: tuple[QuantitySpec, ...] = (
    QuantitySpec(name="massive_layers", meaning="number of massive layers; 0 without one"),
    QuantitySpec(name="emergence_layer", meaning="first massive layer"),
    QuantitySpec(
        name="vanishing_layer",
        meaning="first layer after the last massive one; absent where the last layer is still massive",
    ),
    QuantitySpec(name="persistence", meaning="longest run of consecutive massive layers"),
    QuantitySpec(name="persistence_share", meaning="persistence over the number of blocks"),
    QuantitySpec(
        name="emergence_jump",
        meaning="top1 at the emergence layer over top1 one layer before; large where they emerge at once",
    ),
    QuantitySpec(name="steadiness", meaning="smallest top1 of the massive layers over the largest; 1 where constant"),
)

LAYERWISE = MeasurementRecipe(
    name="layerwise",
    summary="The three largest entries and the median of each layer, and where massive layers begin and end.",
    sites=("block.out",),
    quantities=(
        QuantitySpec(name="top1", axes=("layer",), meaning="largest |x| of a sequence, mean over sequences"),
        QuantitySpec(name="top2", axes=("layer",), meaning="second largest |x|, mean over sequences"),
        QuantitySpec(name="top3", axes=("layer",), meaning="third largest |x|, mean over sequences"),
        QuantitySpec(name="median", axes=("layer",), meaning="lower median of |h|, mean over sequences"),
        QuantitySpec(
            name="ratio",
            axes=("layer",),
            meaning="mean of the sequences' ratios of top1 to median; with mean-first, the ratio of the means",
        ),
        QuantitySpec(
            name="massive",
            axes=("layer",),
            meaning="share of the sequences in which the layer has a massive activation; with mean-first 0 or 1",
        ),
        *_WHOLE,
    ),
    parameters=(
        Parameter(
            name="order",
            schema={"enum": list(_TOLD)},
            default="per-sequence",
            meaning="judge the criterion in each sequence, or average over the sequences first and then compare",
        ),
    ),
    takes_tokens=False,
    start=_LayerwiseFold,
)
