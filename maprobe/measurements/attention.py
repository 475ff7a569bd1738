"""``attention.concentration``: how much attention goes to a set of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.readings import Axis, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["CONCENTRATION"]


@dataclass
class _ConcentrationFold:
    context: FoldContext
    # By layer: sums over queries of the shares on the set and on all tokens, shape (heads, 2).
    totals: dict[int, torch.Tensor] = field(default_factory=dict)
    queries: dict[int, int] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.attn.probs", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        start = max(0, int(self.context.request.option("burn_in")) - offset)  # type: ignore[arg-type]
        if start >= value.shape[2]:
            return
        keys = batch.mask(self.context.request.tokens)
        # One product sums over the keys of the set, and over all tokens; the queries follow in double precision.
        sets = keys.new_ones((*keys.shape, 2))
        sets[..., 0] = keys
        shares = value[:, :, start:] @ sets[:, None].to(value.dtype)
        total = shares.double().sum(dim=(0, 2))
        self.totals[tap.layer] = self.totals.get(tap.layer, 0.0) + total
        self.queries[tap.layer] = self.queries.get(tap.layer, 0) + value.shape[0] * (value.shape[2] - start)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        if not self.totals:
            raise MeasurementError(
                f"no query stands at position {self.context.request.option('burn_in')} or later; "
                f"lengthen the inputs or lower `burn_in`"
            )
        layers = tuple(sorted(self.totals))
        means = [(self.totals[layer] / self.queries[layer]).T.tolist() for layer in layers]
        shares = [share for share, _ in means]
        # What a row has for tokens falls short of 1 by what goes to keys that stand for no token.
        short = tuple(max(0.0, 1 - sum(tokens) / len(tokens)) for _, tokens in means)
        heads = {len(share) for share in shares}
        by_layer = {layer: sum(share) / len(share) for layer, share in zip(layers, shares, strict=True)}
        axis = Axis("layer", layers)
        quantities = [
            Quantity(name="layer_share", values=tuple(by_layer.values()), axes=(axis,)),
            Quantity(name="bias_share", values=short, axes=(axis,)),
            *_around_emergence(by_layer, companions["massive"]),
        ]
        if len(heads) == 1:
            values = tuple(value for share in shares for value in share)
            axes = (axis, Axis("head", tuple(range(heads.pop()))))
            quantities.insert(0, Quantity(name="share", values=values, axes=axes))
        else:
            reason = "the layers differ in their number of heads; use layer_share, or name the layers of one kind"
            quantities.insert(0, Quantity(name="share", absent=reason))
        return Reading(kind="attention.concentration", quantities={quantity.name: quantity for quantity in quantities})


def _around_emergence(by_layer: Mapping[int, float], massive: Reading) -> list[Quantity]:
    """Compare the layers that cannot yet attend to a massive activation with those that can.

    The attention of block l reads layer l-1, so the first block that can see what emerged at layer f is f+1.
    """
    names = ("before", "after", "rise")
    if massive.absent is not None:
        return [Quantity(name=name, absent=massive.absent) for name in names]
    first, last = int(massive["first_layer"].value), int(massive["last_layer"].value)
    before = [share for layer, share in by_layer.items() if layer <= first]
    after = [share for layer, share in by_layer.items() if first < layer <= last + 1]
    if not before or not after:
        side = "up to" if not before else "after"
        reason = f"none of the layers asked for lies {side} layer {first}, where massive activations emerge"
        return [Quantity(name=name, absent=reason) for name in names]
    means = sum(before) / len(before), sum(after) / len(after)
    values = (*means, means[1] - means[0])
    return [Quantity(name=name, values=(value,)) for name, value in zip(names, values, strict=True)]


CONCENTRATION = MeasurementRecipe(
    name="attention.concentration",
    summary="The share of attention that goes to a set of tokens, by layer and head.",
    sites=("block.attn.probs",),
    quantities=(
        QuantitySpec(name="share", axes=("layer", "head"), meaning="mean over queries of the share on the set"),
        QuantitySpec(name="layer_share", axes=("layer",), meaning="mean of share over the heads of a layer"),
        QuantitySpec(
            name="bias_share",
            axes=("layer",),
            meaning="mean over heads of the share on an explicit attention bias; 0 but for rounding without one",
        ),
        QuantitySpec(name="before", meaning="mean layer_share up to the first massive layer; absent without one"),
        QuantitySpec(
            name="after",
            meaning="mean layer_share of the blocks that read a massive layer; absent without one",
        ),
        QuantitySpec(name="rise", meaning="after - before"),
    ),
    parameters=(
        Parameter(
            name="burn_in",
            schema={"type": "integer", "minimum": 0},
            default=8,
            meaning="queries before this position are left out: early ones have few keys to choose from",
        ),
    ),
    companions=("massive",),
    start=_ConcentrationFold,
)
