"""Which weights of a model are pruned: the matrices of the linear layers within its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from maprobe.errors import PruningError

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy

__all__ = ["Target", "left_out", "targets_of"]

_AXES = 2
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One matrix that is pruned.

    Attributes:
        layer: number of its block, from 1.
        path: attribute path of its layer from the model.
        module: the layer: an ``nn.Linear``, or the Conv1D of GPT-2.
        weight: the weight itself, seen as shape (outputs, inputs) whichever way the layer holds it.
    """

    layer: int
    path: str
    module: nn.Module
    weight: torch.Tensor


def targets_of(anatomy: Anatomy) -> tuple[Target, ...]:
    """Return the matrices in the order of the blocks, and within a block in the order in which it holds them.

    Raises:
        PruningError: there are none, or one is stored in numbers that cannot be set to zero one by one.
    """
    found: list[Target] = []
    for block in anatomy.blocks:
        for name, module in block.module.named_modules(prefix=block.path):
            if not isinstance(module, nn.Linear | Conv1D):
                continue
            weight = module.weight.detach()
            if weight.dim() != _AXES or weight.dtype not in _DTYPES:
                raise PruningError(
                    f"{name} holds its weights as {str(weight.dtype).removeprefix('torch.')}, which is quantised, and "
                    f"only plain numbers can be set to zero one by one; prune the checkpoint before it is quantised"
                )
            found.append(Target(block.layer, name, module, weight.T if isinstance(module, Conv1D) else weight))
    if not found:
        raise PruningError(
            f"the blocks of {type(anatomy.model).__name__} have no linear layer whose weights are a plain matrix, so "
            f"nothing could be pruned"
        )
    return tuple(found)


def left_out(anatomy: Anatomy, targets: tuple[Target, ...]) -> tuple[str, ...]:
    """Return the paths of parameters with two or more axes within the blocks that are no target.

    Such are the fused projections of experts and the routers before them.
    """
    taken = {id(target.module.weight) for target in targets}
    return tuple(
        name
        for block in anatomy.blocks
        for name, parameter in block.module.named_parameters(prefix=block.path)
        if parameter.dim() >= _AXES and id(parameter) not in taken
    )
