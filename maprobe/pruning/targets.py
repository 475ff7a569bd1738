"""Which weights of a model are pruned: the matrices of the linear layers within its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maprobe.errors import PruningError
from maprobe.running.matrices import Matrix, matrices_of

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy

__all__ = ["targets_of"]


def targets_of(anatomy: Anatomy) -> tuple[Matrix, ...]:
    """Return the matrices in the order of the blocks, and within a block in the order in which it holds them.

    Raises:
        PruningError: there are none, or one is stored in numbers that cannot be set to zero one by one.
    """
    found = tuple(matrix for block in anatomy.blocks for matrix in matrices_of(block))
    for matrix in found:
        if not matrix.plain:
            raise PruningError(
                f"{matrix.path} holds its weights as {matrix.dtype}, which is quantised, and only plain numbers can be "
                f"set to zero one by one; prune the checkpoint before it is quantised"
            )
    if not found:
        raise PruningError(
            f"the blocks of {type(anatomy.model).__name__} have no linear layer whose weights are a plain matrix, so "
            f"nothing could be pruned"
        )
    return found
