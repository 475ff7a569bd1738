"""A(s, w) = |w * dD/dw| by the walk through the blocks, against autograd's own gradients of every weight."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_models import tiny
from torch import nn

from maprobe.running.anatomy import Anatomy
from maprobe.running.attributions import AllSequences, show_attributions
from maprobe.running.discovery import discover

FAMILIES = ["llama", "gpt2", "phi3", "gpt_neox", "falcon", "opt", "opt-350m", "gemma2", "gemma3", "mpt", "bloom", "phi"]
# Of unequal length, and two of one length that are no neighbours.
SEQUENCES = ((5, 9, 40, 77, 3), (8, 8, 100), (64, 2, 31, 90, 17), (12, 50, 60, 70, 80, 90, 7))


def anatomy_of(model: nn.Module) -> Anatomy:
    return discover(model, {})


def naive(model: nn.Module, anatomy: Anatomy, sequences: Sequence[Sequence[int]]) -> dict[int, torch.Tensor]:
    """A by autograd's gradients of every matrix, one sequence at a time; shape (sequences, weights) for each layer."""
    found = {}
    for block in anatomy.blocks:
        weights = [
            module.weight
            for module in block.module.modules()
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        ]
        rows = []
        for sequence in sequences:
            largest = model(torch.tensor([sequence]), use_cache=False).logits[0, -1].max()
            gradients = torch.autograd.grad(largest, weights)
            products = [(weight * gradient).abs().detach() for weight, gradient in zip(weights, gradients, strict=True)]
            conv = type(next(iter(block.module.modules()))).__name__ == "GPT2Block"
            rows.append(torch.cat([(product.T if conv else product).flatten() for product in products]))
        found[block.layer] = torch.stack(rows)
    return found


def walked(anatomy: Anatomy, sequences: Sequence[Sequence[int]]) -> dict[int, torch.Tensor]:
    """A as it is shown, put together again; rows in the order of the sequences."""
    parts: dict[int, list[tuple[int, torch.Tensor]]] = {}

    def keep(layer: int, value: torch.Tensor, batch: AllSequences, offset: int) -> None:
        back = torch.argsort(torch.tensor(batch.sequences))
        parts.setdefault(layer, []).append((offset, value[back].clone()))

    show_attributions(anatomy, sequences, range(1, anatomy.depth + 1), keep)
    whole = {}
    for layer, found in parts.items():
        end = 0
        for offset, value in found:
            assert end == offset
            end += value.shape[1]
        whole[layer] = torch.cat([value for _, value in found], dim=1)
    return whole


@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_is_that_of_autograd(family: str) -> None:
    model = tiny(family, dtype=torch.float64)
    anatomy = anatomy_of(model)
    expected, found = naive(model, anatomy, SEQUENCES), walked(anatomy, SEQUENCES)
    assert [3, 2, 1] == list(found)
    for layer in found:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-9, atol=1e-18)
