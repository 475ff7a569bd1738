"""What a graph transformer is trained to make small."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

from maprobe.graphs.batches import Task

__all__ = ["loss_of"]


def loss_of(predicted: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
    """Return the mean loss over the targets that are known (not NaN).

    Args:
        predicted: rows x outputs.
        targets: the same.
        task: ``regression`` (absolute error) or ``multi-label`` (binary cross-entropy of logits).
    """
    known = ~targets.isnan()
    if task == "regression":
        return l1_loss(predicted[known], targets[known])
    return binary_cross_entropy_with_logits(predicted[known], targets[known])
