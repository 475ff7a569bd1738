"""The matrices of the linear layers within the blocks: what attributions are of, and what is pruned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy, Block

__all__ = ["Matrix", "left_out", "matrices_of"]

_AXES = 2
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """The weight of one linear layer.

    Attributes:
        layer: number of its block, from 1.
        path: the linear layer's attribute path from the model.
        module: the linear layer: an ``nn.Linear``, or the Conv1D of GPT-2.
        weight: the weight itself, seen as shape (outputs, inputs) whichever way the layer holds it.
        offset: number of its first entry within those of its block.
    """

    layer: int
    path: str
    module: nn.Module
    weight: torch.Tensor
    offset: int

    @property
    def plain(self) -> bool:
        """Whether it is a matrix of floating-point numbers, which quantised weights are not."""
        return self.weight.dim() == _AXES and self.weight.dtype in _DTYPES

    @property
    def dtype(self) -> str:
        """Name of the dtype of its weights."""
        return str(self.weight.dtype).removeprefix("torch.")


def matrices_of(block: Block) -> Iterator[Matrix]:
    """Yield the matrices of a block's linear layers, in the order in which the block holds them."""
    offset = 0
    for path, module in block.module.named_modules(prefix=block.path):
        if isinstance(module, nn.Linear | Conv1D) and isinstance(module.weight, torch.Tensor):
            weight = module.weight.detach()
            turned = weight.T if isinstance(module, Conv1D) else weight
            yield Matrix(block.layer, path, module, turned, offset)
            offset += weight.numel()


def left_out(anatomy: Anatomy, matrices: Iterable[Matrix]) -> tuple[str, ...]:
    """Return the paths of parameters with two or more axes within the blocks that are none of some matrices.

    Such are the fused projections of experts and the routers before them.
    """
    taken = {id(matrix.module.weight) for matrix in matrices}
    return tuple(
        path
        for block in anatomy.blocks
        for path, parameter in block.module.named_parameters(prefix=block.path)
        if parameter.dim() >= _AXES and id(parameter) not in taken
    )
