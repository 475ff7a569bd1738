"""``attention.sink``: in how many heads a token draws far more attention than its share (arXiv:2410.10781)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.readings import Axis, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["SINK"]


@dataclass
class _SinkFold:
    context: FoldContext
    # By layer: attention to the token summed over the queries seen so far of the sequences under way, shape
    # (sequences, heads), and what became of the sequences that are complete.
    running: dict[int, torch.Tensor] = field(default_factory=dict)
    scores: dict[int, torch.Tensor] = field(default_factory=dict)
    sinks: dict[int, torch.Tensor] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.attn.probs", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        position = int(self.context.request.option("position"))  # type: ignore[arg-type]
        length, stop = value.shape[3], offset + value.shape[2]
        if position >= length:
            raise MeasurementError(
                f"`position` {position} is out of range: sequence {batch.sequences[0]} has {length} tokens; allowed: "
                f"0..{length - 1}"
            )
        # Only the queries from the token on can attend to it in a causal model; in others it is the same mean.
        start = max(0, position - offset)
        if start < value.shape[2]:
            part = value[:, :, start:, position].double().sum(dim=2)
            self.running[tap.layer] = self.running.get(tap.layer, 0.0) + part
        if stop == length:
            self._complete(tap.layer, self.running.pop(tap.layer) / (length - position))

    def _complete(self, layer: int, importance: torch.Tensor) -> None:
        """Take in alpha of finished sequences, shape (sequences, heads)."""
        above = (importance > float(self.context.request.option("epsilon"))).double()  # type: ignore[arg-type]
        above = above.masked_fill(importance.isnan(), float("nan"))
        self.scores[layer] = self.scores.get(layer, 0.0) + importance.sum(dim=0)
        self.sinks[layer] = self.sinks.get(layer, 0.0) + above.sum(dim=0)
        self.sequences[layer] = self.sequences.get(layer, 0) + len(importance)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        layers = tuple(sorted(self.scores))
        axis = Axis("layer", layers)
        shares = {layer: (self.sinks[layer] / self.sequences[layer]).tolist() for layer in layers}
        importance = {layer: (self.scores[layer] / self.sequences[layer]).tolist() for layer in layers}
        by_layer = [sum(share) / len(share) for share in shares.values()]
        quantities = [
            self._by_head("importance", importance, axis),
            self._by_head("share", shares, axis),
            Quantity(name="layer_sinks", values=tuple(by_layer), axes=(axis,)),
            Quantity(name="sinks", values=(sum(by_layer) / len(by_layer),)),
        ]
        epsilon, position = (self.context.request.option(name) for name in ("epsilon", "position"))
        return Reading(
            kind="attention.sink",
            quantities={quantity.name: quantity for quantity in quantities},
            notes=(f"a head sinks into token {position} of a sequence where its mean attention exceeds {epsilon}",),
        )

    @staticmethod
    def _by_head(name: str, values: Mapping[int, list[float]], axis: Axis) -> Quantity:
        counts = {len(heads) for heads in values.values()}
        if len(counts) > 1:
            return Quantity(name=name, absent="the layers differ in their number of heads; name the layers of one kind")
        flat = tuple(value for heads in values.values() for value in heads)
        return Quantity(name=name, values=flat, axes=(axis, Axis("head", tuple(range(counts.pop())))))


SINK = MeasurementRecipe(
    name="attention.sink",
    summary="The share of heads in which one token draws more attention than a threshold: the attention sink.",
    sites=("block.attn.probs",),
    quantities=(
        QuantitySpec(
            name="importance",
            axes=("layer", "head"),
            meaning="alpha: mean attention that the token draws from the queries at its position or later",
        ),
        QuantitySpec(name="share", axes=("layer", "head"), meaning="share of the sequences in which alpha > epsilon"),
        QuantitySpec(name="layer_sinks", axes=("layer",), meaning="mean of share over the heads of a layer"),
        QuantitySpec(name="sinks", meaning="the sink metric: mean of share over all heads of all layers"),
    ),
    parameters=(
        Parameter(
            name="epsilon",
            schema={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            default=0.3,
            meaning="how much attention makes a sink",
        ),
        Parameter(
            name="position",
            schema={"type": "integer", "minimum": 0},
            default=0,
            meaning="position of the token, from 0",
        ),
    ),
    takes_tokens=False,
    start=_SinkFold,
)
