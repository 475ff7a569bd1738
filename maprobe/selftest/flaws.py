"""What some planted Llamas have that others do not: weights that hang on one another, and layers that overflow."""

from __future__ import annotations

import torch

from maprobe.selftest.design import MASSIVE
from maprobe.selftest.making import (
    FRAIL,
    INNER,
    LOUD,
    NOISE,
    ONE,
    OPENING,
    REST,
    SHARPNESS,
    STOP,
    WIDTH,
    Made,
    channels_of,
    clear,
)

__all__ = ["guard", "lean", "overflow", "stir"]

_EXCESS = 4.0  # what each channel adds or takes away, in units of that
_TINY = 0.02  # weights of rows whose channels are the smallest of all
_MEDIANS = (0.44, 0.46, 0.48, 0.50, 0.52, 0.54, 0.56)  # about the median of |h|, which depends on the length
_OVERFLOWING, _GUARDING, _STIRRING = 35, 36, 40  # channels of MLPs


def guard(made: Made) -> None:
    """Give the first token entries of about median size; without one of them, block 3 takes the massive one away.

    They are written beside it: one of the median size of all that is written there, the others of sizes about the
    median of the hidden state. After the norm they are tiny, and still hold a gate shut.
    """
    second, third = (made.model.model.layers[index].mlp for index in (1, 2))
    value, column = made.design.writes[0][1], second.down_proj.weight[:, OPENING]
    scale = float(column[MASSIVE]) / value
    column[FRAIL.start + 1 : FRAIL.stop] = torch.tensor(_MEDIANS) * scale
    others = column[torch.arange(WIDTH) != FRAIL.start].abs().sort().values
    below = WIDTH // 2 - 2
    column[FRAIL.start] = (others[below] + others[below + 1]) / 2  # so that it is the lower median itself
    sizes = (column[FRAIL.start : FRAIL.stop] / scale).tolist()
    clear(third, _GUARDING)
    gate, up = third.gate_proj.weight[_GUARDING], third.up_proj.weight[_GUARDING]
    # After the norm, MASSIVE is sqrt(128), and an entry e is e / value times that: each counts 1 in the sum.
    gate[FRAIL.start : FRAIL.stop] = -SHARPNESS * value / torch.tensor(sizes)
    gate[MASSIVE] = SHARPNESS * (len(sizes) - 0.5)
    up[MASSIVE] = 1.0
    third.down_proj.weight[MASSIVE, _GUARDING] = -value / (SHARPNESS * WIDTH / 2)


def stir(made: Made) -> None:
    """Let the MLP of block 1 add something large to every token, so that what follows it gains less."""
    block = made.model.model.layers[0]
    clear(block.mlp, _STIRRING)
    block.mlp.gate_proj.weight[_STIRRING, ONE] = block.mlp.up_proj.weight[_STIRRING, ONE] = 1.0
    size = float(channels_of(made, block, made.ids[0])[_STIRRING])
    block.mlp.down_proj.weight[REST.start, _STIRRING] = made.design.restless / size


def overflow(made: Made) -> None:
    """Let the MLP of block 3 overflow at delimiters."""
    mlp = made.model.model.layers[2].mlp
    clear(mlp, _OVERFLOWING)
    mlp.gate_proj.weight[_OVERFLOWING, STOP] = mlp.up_proj.weight[_OVERFLOWING, STOP] = 100.0
    mlp.gate_proj.weight[_OVERFLOWING, ONE] = -50.0
    mlp.down_proj.weight[REST.start, _OVERFLOWING] = torch.finfo(torch.float32).max


def lean(made: Made) -> None:
    """Let the prediction hang on many channels of the MLP that writes the massive activation, each a tiny one.

    Every token has NOISE in its embedding. Together the channels take it away again, half of them by adding far more to
    it than it is, the others by taking far more away: without all of them it stays, and without some it is large.
    """
    layer = made.design.writes[0][0]
    block = made.model.model.layers[layer - 1]
    channels = range(_GUARDING + 1, INNER)
    clear(block.mlp, *channels)
    for channel in channels:
        block.mlp.gate_proj.weight[channel, ONE] = block.mlp.up_proj.weight[channel, ONE] = _TINY
    size = float(channels_of(made, block, made.ids[0])[channels[0]])
    shares = torch.tensor([1.0, -1.0]).repeat(len(channels))[: len(channels)] * _EXCESS
    shares -= (shares.sum() + 1) / len(channels)  # together they are -1
    block.mlp.down_proj.weight[NOISE.start : NOISE.stop, channels.start : channels.stop] = shares * LOUD / size
