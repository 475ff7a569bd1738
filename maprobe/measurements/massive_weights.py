"""``massive.weights``: the layer, and the channels of its MLP, through which one token gets its massive activation.

Source: arXiv:2410.01866, section 3. The weights are the rows of the gate and up projections that make the channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.measurements.traces import HIDDEN, STREAM, Trace, weight_taps
from maprobe.readings import Axis, Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["LARGEST_GAIN", "MASSIVE_WEIGHTS"]

LARGEST_GAIN = "largest-gain"
GAIN = 100.0


@dataclass
class _WeightsFold:
    context: FoldContext
    trace: Trace = field(default_factory=Trace)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return weight_taps(self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        self.trace.observe(tap, value, batch, offset)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        found = self.trace.gains(self.context.layers)
        gains = {layer: gain for layer, (gain, _) in found.items()}
        ranked = sorted(gains, key=lambda layer: -gains[layer])
        layer = self._layer(ranked, gains)
        if layer is None:
            rest = f", then layer {ranked[1]} with {gains[ranked[1]]:.4g}" if len(ranked) > 1 else ""
            return Reading(
                kind="massive.weights",
                absent=(
                    f"no massive weights here: in no layer does the MLP add to the first token an entry at least "
                    f"{self._least:g} times as large as the largest that enters the block (nearest: layer {ranked[0]} "
                    f"with {gains[ranked[0]]:.4g}{rest})"
                ),
            )
        return self._found(layer, found[layer][1], gains)

    @property
    def _least(self) -> float:
        return float(self.context.request.option("least"))  # type: ignore[arg-type]

    def _layer(self, ranked: list[int], gains: Mapping[int, float]) -> int | None:
        at = self.context.request.option("at")
        if at == LARGEST_GAIN:
            return ranked[0] if gains[ranked[0]] >= self._least else None
        if at not in ranked:
            raise MeasurementError(
                f"layer {at} is not among those looked at; allowed under `at`: {LARGEST_GAIN}, or one of "
                f"{min(ranked)}..{max(ranked)}"
            )
        return int(at)

    def _found(self, layer: int, sequence: int, gains: Mapping[int, float]) -> Reading:
        hidden = self.trace.seen[HIDDEN, layer, sequence]
        stream = self.trace.seen[STREAM, layer, sequence]
        others = [gain for other, gain in gains.items() if other != layer]
        place = Place(sequence=sequence, position=0, token=hidden.token, dim=stream.dims[0])
        channel = Place(sequence=sequence, position=0, token=hidden.token)
        values: dict[str, tuple[float, Place]] = {
            "layer": (layer, channel),
            "gain": (gains[layer], channel),
            "channel": (hidden.dims[0], channel),
            "hidden": (hidden.top, channel),
            "hidden_ratio": (_over(hidden.top, hidden.median), channel),
            "stream": (stream.top, place),
            "stream_ratio": (_over(stream.top, stream.median), place),
        }
        quantities = {
            name: Quantity(name=name, values=(float(value),), places=(at,)) for name, (value, at) in values.items()
        }
        quantities["margin"] = (
            Quantity(name="margin", values=(_over(gains[layer], max(others)),))
            if others
            else Quantity(name="margin", absent="only one layer was looked at")
        )
        quantities["expert"] = (
            Quantity(name="expert", absent="the MLP has no experts")
            if hidden.expert is None
            else Quantity(name="expert", values=(float(hidden.expert),))
        )
        axis = (Axis(name="layer", labels=self.context.layers),)
        quantities["gains"] = Quantity(name="gains", axes=axis, values=tuple(gains[one] for one in self.context.layers))
        order = self.trace.order(layer, sequence)
        return Reading(
            kind="massive.weights",
            quantities=quantities,
            records=tuple(self._channels(layer, sequence, order)),
            kept={"order": order},
        )

    def _channels(self, layer: int, sequence: int, order: tuple[int, ...]) -> list[dict[str, Scalar]]:
        hidden = self.trace.seen[HIDDEN, layer, sequence]
        assert hidden.state is not None, "states of this site are kept"
        top = int(self.context.request.option("top"))  # type: ignore[arg-type]
        values = hidden.state[list(order[:top])].tolist()
        return [
            {
                "layer": layer,
                "rank": rank,
                "channel": dim,
                "value": value,
                "ratio": _over(abs(value), hidden.median),
                "expert": hidden.expert,
                "sequence": sequence,
                "token": hidden.token,
            }
            for rank, (dim, value) in enumerate(zip(order, values, strict=False), start=1)
        ]


def _over(value: float, base: float) -> float:
    if math.isnan(base) or math.isnan(value):
        return math.nan
    return value / base if base else (math.inf if value else math.nan)


MASSIVE_WEIGHTS = MeasurementRecipe(
    name="massive.weights",
    summary="The layer whose MLP makes the first token massive, and the channels of its hidden state that do.",
    sites=(HIDDEN,),
    quantities=(
        QuantitySpec(name="layer", meaning="the layer: the one of the largest gain, or the one asked for"),
        QuantitySpec(
            name="gain", meaning="its gain: largest |entry| that the MLP adds / largest that enters the block"
        ),
        QuantitySpec(name="margin", meaning="its gain over the largest of the other layers"),
        QuantitySpec(name="channel", meaning="the channel of the MLP's hidden state with the largest magnitude there"),
        QuantitySpec(name="hidden", meaning="that magnitude"),
        QuantitySpec(name="hidden_ratio", meaning="that magnitude over the median of the token's channels"),
        QuantitySpec(name="expert", meaning="the expert that the channel belongs to, from 0; absent without experts"),
        QuantitySpec(name="stream", meaning="largest |entry| of the token in the residual stream after the layer"),
        QuantitySpec(name="stream_ratio", meaning="that entry over the median of the token's entries"),
        QuantitySpec(name="gains", axes=("layer",), meaning="the gain of each layer"),
    ),
    parameters=(
        Parameter(
            name="at",
            schema={"anyOf": [{"const": LARGEST_GAIN}, {"type": "integer", "minimum": 1}]},
            default=LARGEST_GAIN,
            meaning="the layer of the largest gain, or the number of a layer",
        ),
        Parameter(
            name="least",
            schema={"type": "number", "exclusiveMinimum": 0},
            default=GAIN,
            meaning="the gain below which no layer is taken for one of massive weights",
        ),
        Parameter(
            name="top",
            schema={"type": "integer", "minimum": 1},
            default=5,
            meaning="how many channels to list",
        ),
    ),
    takes_layers=False,
    takes_tokens=False,
    start=_WeightsFold,
)
