"""The channels that MacDrop drops the rows of: found on the BOS token alone, or given by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch

from maprobe.errors import TrainingError
from maprobe.readings import Reading
from maprobe.recipes import Tap
from maprobe.running.calling import resting
from maprobe.running.inputs import TokenBatch
from maprobe.running.recorder import Recorder
from maprobe.running.rows import feeding
from maprobe.running.tokens import Vocabulary

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from maprobe.running.anatomy import Anatomy
    from maprobe.running.rows import Lines

__all__ = ["Channels", "bos_of", "find_channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Channels of the MLP's hidden state of one block.

    Attributes:
        layer: number of the block, from 1.
        channels: numbers of the channels, from 0, the largest first where they were found.
        expert: number of the expert, from 0; None where the MLP has none.
    """

    layer: int
    channels: tuple[int, ...]
    expert: int | None = None

    @classmethod
    def given(cls, layer: int | None, channels: Sequence[int] | None, expert: int | None = None) -> Channels | None:
        """Return channels named by hand, or None where they are to be found.

        Raises:
            TrainingError: there are channels without a layer, an expert without channels, or a number is impossible.
        """
        if layer is not None and layer < 1:
            raise TrainingError(f"layer {layer} does not exist; layers are counted from 1")
        if channels is None:
            if expert is not None:
                raise TrainingError(f"expert {expert} is for channels that are given; name channels, or leave it out")
            return None
        if layer is None:
            raise TrainingError("channels are given without the layer that they are in; name the layer, from 1")
        named = tuple(channels)
        if not named or len(set(named)) < len(named) or min(named) < 0:
            raise TrainingError(
                f"channels {[*named]} cannot be dropped; allowed: different numbers from 0, at least one"
            )
        return cls(layer=layer, channels=named, expert=expert)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Channels:
        """Return channels from what :meth:`to_dict` returned."""
        return cls(layer=data["layer"], channels=tuple(data["channels"]), expert=data["expert"])

    def to_dict(self) -> dict[str, Any]:
        """Return them as plain data."""
        return {"layer": self.layer, "channels": [*self.channels], "expert": self.expert}

    def lines(self, anatomy: Anatomy) -> tuple[Lines, ...]:
        """Return the lines of weights that make them.

        Raises:
            TrainingError: the model has no such layer.
            InterventionError: its MLP has no such channels, or is of another form.
        """
        if self.layer > anatomy.depth:
            raise TrainingError(f"the model has {anatomy.depth} layers, and layer {self.layer} was named; name another")
        return feeding(anatomy, self.layer, self.channels, expert=self.expert)


def bos_of(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Return the id of the token that massive weights show on.

    Raises:
        TrainingError: neither the tokenizer nor the config names one.
    """
    found = None if tokenizer is None else Vocabulary(tokenizer, "the model").bos
    if found is None:
        found = getattr(getattr(model, "config", None), "bos_token_id", None)
    if isinstance(found, list | tuple):
        found = found[0] if found else None
    if found is None:
        raise TrainingError(
            "neither tokenizer nor config names a BOS token to find massive weights on; give `bos`, or layer and "
            "channels"
        )
    return int(found)


@dataclass
class _Watch:
    """What one token shows of each layer: how large the MLP's output is beside the block's input, and the channels."""

    layers: Sequence[int]
    sizes: dict[tuple[str, int], float] = field(default_factory=dict)
    hidden: dict[int, tuple[int, torch.Tensor]] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(
            tap
            for layer in self.layers
            for tap in (Tap("block.out", layer - 1), Tap("block.mlp.out", layer), Tap("block.mlp.hidden", layer))
        )

    def observe(self, tap: Tap, value: torch.Tensor, batch: object, *, offset: int = 0) -> None:
        del batch
        row = value.reshape(-1, value.shape[-1])[0].float()
        if tap.site != "block.mlp.hidden":
            self.sizes[tap.site, tap.layer] = float(row.norm())
        elif tap.layer not in self.hidden or row.abs().max() > self.hidden[tap.layer][1].abs().max():
            self.hidden[tap.layer] = (offset, row.clone())

    def finish(self, companions: object) -> Reading:
        """Return nothing: what was seen is read from here."""
        del companions
        return Reading(kind="massive rows")


def find_channels(anatomy: Anatomy, bos: int, k: int, layer: int | None = None) -> Channels:
    """Return the k largest channels that the token alone has in the layer whose MLP adds most, beside its input."""
    if layer is not None and layer > anatomy.depth:
        raise TrainingError(f"the model has {anatomy.depth} layers, and layer {layer} was named; name another")
    watch = _Watch(range(1, anatomy.depth + 1) if layer is None else (layer,))
    device = next(anatomy.model.parameters()).device
    batch = TokenBatch(
        sequences=(0,), ids=torch.tensor([[bos]], device=device), rows=((bos,),), vocabulary=cast("Any", None)
    )
    with resting(anatomy.model), Recorder(anatomy, [watch]) as recorder:
        recorder.run(batch)
    if (failure := recorder.failure(watch)) is not None:
        raise failure
    at = max(watch.layers, key=lambda n: watch.sizes["block.mlp.out", n] / watch.sizes["block.out", n - 1])
    expert, hidden = watch.hidden[at]
    routed = bool(anatomy.blocks[at - 1].down[0].routed)
    largest = hidden.abs().argsort(descending=True, stable=True)[:k]
    return Channels(layer=at, channels=tuple(largest.tolist()), expert=expert if routed else None)
