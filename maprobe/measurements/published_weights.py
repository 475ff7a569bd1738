"""``published.weights``: where the massive weights are, beside where a model card says that others found them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.measurements.published import CARD, own_card
from maprobe.measurements.traces import HIDDEN, Trace, weight_taps
from maprobe.readings import Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap
from maprobe.sites import TokenSet

if TYPE_CHECKING:
    import torch

    from maprobe.reading.cards import Figure

__all__ = ["PUBLISHED_WEIGHTS"]

_LAYER, _CHANNELS = "weights.layer", "weights.channels"


@dataclass
class _PublishedWeightsFold:
    context: FoldContext
    trace: Trace = field(default_factory=Trace)
    bos: set[bool] = field(default_factory=set)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return weight_taps(self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        self.bos.update(batch.mask(TokenSet("bos"))[:, 0].tolist())
        self.trace.observe(tap, value, batch, offset)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        card, reason = own_card(self.context)
        if card is None:
            return Reading(kind="published.weights", absent=reason)
        bos = self.bos.pop() if len(self.bos) == 1 else None
        layer, channels = (card.fitting(name, bos=bos) for name in (_LAYER, _CHANNELS))
        if layer is None or channels is None:
            return Reading(
                kind="published.weights", absent=f"{card.file} has no published layer and channels of massive weights"
            )
        depth = self.context.depth
        if layer.value > depth:
            raise MeasurementError(
                f"{layer.mark}: {_LAYER} is {layer.value}, and this model has {depth} blocks, so {card.file} is the "
                f"card of another model; name the right one with `card`"
            )
        gains = self.trace.gains(self.context.layers)
        largest = max(gains, key=lambda one: gains[one][0])
        order = self.trace.order(layer.value, gains[layer.value][1])
        published = tuple(channels.value)
        if max(published) >= len(order):
            raise MeasurementError(
                f"{channels.mark}: {_CHANNELS} has {max(published)}, and the MLP of this model has {len(order)} "
                f"channels, so {card.file} is the card of another model; name the right one with `card`"
            )
        found = order[: len(published)]
        values: dict[str, float] = {
            "layer_offset": largest - layer.value,
            "channel": float(found[0] == published[0]),
            "channels_jaccard": len({*found} & {*published}) / len({*found} | {*published}),
        }
        return Reading(
            kind="published.weights",
            quantities={name: Quantity(name=name, values=(float(value),)) for name, value in values.items()},
            records=(_record(layer, layer.value, largest), _record(channels, _told(published), _told(found))),
            notes=(f"held to {card.file}; channels are those of layer {layer.value}",),
        )


def _record(figure: Figure, published: Scalar, measured: Scalar) -> dict[str, Scalar]:
    return {
        "figure": figure.quantity,
        "published": published,
        "measured": measured,
        "source": figure.source,
        "sure": figure.sure,
        "line": figure.mark.line,
    }


def _told(channels: tuple[int, ...]) -> str:
    return ", ".join(map(str, channels))


PUBLISHED_WEIGHTS = MeasurementRecipe(
    name="published.weights",
    summary="Where the massive weights are, beside the published layer and channels of the checkpoint's model card.",
    sites=(HIDDEN,),
    quantities=(
        QuantitySpec(name="layer_offset", meaning="layer of the largest gain - the published layer"),
        QuantitySpec(name="channel", meaning="1 where the largest channel of the published layer is the one published"),
        QuantitySpec(
            name="channels_jaccard",
            meaning="channels both published and among as many largest ones, over those that are either",
        ),
    ),
    parameters=(CARD,),
    takes_layers=False,
    takes_tokens=False,
    start=_PublishedWeightsFold,
)
