"""The channels that MacDrop drops the rows of: found on the BOS token alone, or given by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any

import torch

from maprobe.errors import TrainingError
from maprobe.measurements.massive_weights import MASSIVE_WEIGHTS
from maprobe.running.calling import token_embedding
from maprobe.running.measuring import measured
from maprobe.running.rows import feeding
from maprobe.running.tokens import Vocabulary

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from maprobe.readings import Reading
    from maprobe.running.anatomy import Anatomy
    from maprobe.running.rows import Lines
    from maprobe.sites import TokenSet

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
        try:
            named = tuple(index(channel) for channel in channels)  # as JSON has them, and numpy has not
        except TypeError:
            named = ()
        if not named or len(set(named)) < len(named) or min(named) < 0:
            raise TrainingError(f"channels {[*channels]} cannot be dropped; allowed: different whole numbers from 0")
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


def find_channels(anatomy: Anatomy, bos: int, k: int, layer: int | None = None) -> Channels:
    """Return the k largest channels that a token alone has in the layer whose MLP makes it massive.

    The layer is that of the measurement ``massive.weights``: the one in which the MLP adds the largest entry, beside
    the largest that enters the block.

    Args:
        anatomy: the model's parts.
        bos: id of the token.
        k: how many channels.
        layer: number of the block, from 1, where it is not to be found.

    Raises:
        TrainingError: the model has no massive weights, no such layer, or no such token, or fewer channels.
        MeasurementError: the states of its MLPs cannot be read.
    """
    if layer is not None and layer > anatomy.depth:
        raise TrainingError(f"the model has {anatomy.depth} layers, and layer {layer} was named; name another")
    embedding = token_embedding(anatomy.model)
    rows = 0 if embedding is None else next(embedding.parameters()).shape[0]
    if not 0 <= bos < rows:
        raise TrainingError(f"the model has no token {bos} to find massive weights on; allowed as `bos`: 0..{rows - 1}")
    device = next(anatomy.model.parameters()).device
    token = _OneToken(torch.tensor([[bos]], device=device))
    reading = measured(anatomy, MASSIVE_WEIGHTS, [token], {} if layer is None else {"at": layer})
    if reading.absent:
        raise TrainingError(f"{reading.absent}; name a layer to drop its rows all the same, or train without MacDrop")
    order = reading.kept["order"]
    found = int(_number(reading, "layer"))
    if k > len(order):
        raise TrainingError(f"layer {found} has {len(order)} channels, and the {k} largest were asked for; lower k")
    expert = None if reading.quantities["expert"].absent else int(_number(reading, "expert"))
    return Channels(layer=found, channels=tuple(order[:k]), expert=expert)


@dataclass(frozen=True, slots=True)
class _OneToken:
    """The batch of one sequence of one token, as folds are shown it."""

    ids: torch.Tensor
    sequences: tuple[int, ...] = (0,)

    @property
    def given(self) -> torch.Tensor:
        return self.ids

    @property
    def shape(self) -> tuple[int, int]:
        return 1, 1

    def mask(self, tokens: TokenSet) -> torch.Tensor:
        del tokens
        return torch.ones_like(self.ids, dtype=torch.bool)

    def text(self, row: int, position: int) -> str:
        del row, position
        return ""


def _number(reading: Reading, name: str) -> float:
    return reading.quantities[name].values[0]
