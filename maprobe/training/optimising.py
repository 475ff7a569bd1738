"""The optimiser and the learning rate, as nanoGPT has them, which the paper's models were trained with."""

from __future__ import annotations

import math

import torch
from torch import nn

from maprobe.training.presets import Settings

__all__ = ["optimizer_of", "rate_at"]

_BETAS = (0.9, 0.95)
_LOWEST = 0.1  # of the highest rate
_MATRIX = 2  # axes from which on a tensor's weights decay


def optimizer_of(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW over the parameters that are trained; tensors of two axes and more decay, k' and v' among them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= _MATRIX], "weight_decay": settings.decay},
        {"params": [p for p in trained if p.dim() < _MATRIX], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.rate, betas=_BETAS)


def rate_at(step: int, settings: Settings) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly over the warm-up, falls along a half cosine to a tenth at the horizon, and stays there.
    """
    if step < settings.warmup:
        return settings.rate * (step + 1) / settings.warmup
    if step >= settings.horizon:
        return settings.rate * _LOWEST
    done = (step - settings.warmup) / (settings.horizon - settings.warmup)
    return settings.rate * (_LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * done)) / 2)
