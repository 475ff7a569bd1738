"""What a model is called on when it is looked at, before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from maprobe.errors import DiscoveryError
from maprobe.running.calling import Arguments, moved, sample

if TYPE_CHECKING:
    from maprobe.python_models import PythonModel

__all__ = ["trial"]


def trial(model: nn.Module, own: PythonModel | None, seed: int, *, last: bool = False) -> torch.Tensor | Arguments:
    """Return what a model is called on to look at it: random token ids or pixels, or an input of its own.

    Args:
        model: the model.
        own: what its own code brings, if it brings inputs.
        seed: of the random numbers.
        last: whether the last of its own inputs is wanted and not the first.
    """
    if own is None:
        return sample(model, seed)
    inputs = next(iter(own.input_sets.values()))
    if not len(inputs):
        raise DiscoveryError("the model's code brings inputs of which there are none, so it cannot be tried; bring one")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return Arguments.of(moved(inputs[len(inputs) - 1 if last else 0].given, device))
