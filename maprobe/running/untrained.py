"""Giving a model, for the time of a context, the weights that it had before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from maprobe.errors import InterventionError

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy

__all__ = ["untrained"]


@contextmanager
def untrained(anatomy: Anatomy) -> Iterator[bool]:
    """Put the weights and buffers of the untrained model in place of the trained ones; yield whether they differ.

    Raises:
        InterventionError: the model brings none, or one of another shape.
    """
    if anatomy.own is None or anatomy.own.untrained is None:
        raise InterventionError(
            "what this model was before training is not known: its own code has to bring it (`untrained`)"
        )
    before = anatomy.own.untrained().state_dict()
    now = anatomy.model.state_dict()
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in now.items()}:
        odd = sorted({*before} ^ {*now}) or [name for name in now if before[name].shape != now[name].shape]
        raise InterventionError(
            f"the untrained model that the model's code brings has other weights than the trained one, such as {odd[0]}"
            f"; make it from the same config"
        )
    kept = {name: value.clone() for name, value in now.items()}
    try:
        with torch.no_grad():
            for name, value in now.items():
                value.copy_(before[name])
        yield any(not torch.equal(value, kept[name]) for name, value in now.items())
    finally:
        with torch.no_grad():
            for name, value in now.items():
                value.copy_(kept[name])
