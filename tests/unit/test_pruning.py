"""Wanda on small random models, beside a few lines of plain torch that share no code with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from maprobe.errors import PruningError
from maprobe.progress import Silent
from maprobe.pruning.targets import targets_of
from maprobe.pruning.wanda import PrunedMatrix, lowest, prune, row_counts
from maprobe.running.anatomy import Anatomy
from maprobe.running.attributions import matrices
from maprobe.running.discovery import discover
from maprobe.running.inputs import Inputs, digest_of
from maprobe.running.matrices import left_out

SEQUENCES = tuple(tuple((7 * row + 5 * column) % 120 + 3 for column in range(12 + row)) for row in range(3))
INPUTS = Inputs(
    sequences=SEQUENCES,
    description="",
    digest=digest_of(SEQUENCES),
    bos="never",
    vocabulary=None,  # type: ignore[arg-type]
)


def pruned(anatomy: Anatomy, shares: tuple[float, ...], inputs: Inputs = INPUTS) -> tuple[PrunedMatrix, ...]:
    return prune(anatomy, targets_of(anatomy), inputs, shares, device=torch.device("cpu"), progress=Silent())


def by_hand(model: Any, blocks: Any, shares: tuple[float, ...]) -> None:
    """Wanda as its paper has it: whole forward passes, with the blocks before already pruned."""
    for block, share in zip(blocks, shares, strict=True):
        layers = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)}
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

        def keep(kept: list[torch.Tensor]) -> Any:
            return lambda module, args, output: kept.append(args[0].reshape(-1, args[0].shape[-1]))

        handles = [module.register_forward_hook(keep(seen[name])) for name, module in layers.items()]
        with torch.no_grad():
            for sequence in SEQUENCES:
                model(torch.tensor([sequence]), use_cache=False)
        for handle in handles:
            handle.remove()
        for name, module in layers.items():
            weight = module.weight.data.T if isinstance(module, Conv1D) else module.weight.data
            score = weight.abs() * torch.cat(seen[name]).norm(dim=0)
            for row in range(len(weight)):
                weight[row, score[row].sort(stable=True).indices[: int(share * weight.shape[1])]] = 0


@pytest.mark.parametrize(
    ("family", "path"), [("llama", "model.layers"), ("gpt2", "transformer.h"), ("gemma3", "model.layers")]
)
@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (0.25, 0.75, 0.5)])
def test_the_same_weights_go_as_by_plain_torch(family: str, path: str, shares: tuple[float, ...]) -> None:
    model, other = tiny(family), tiny(family)
    done = pruned(discover(model, {}), shares)
    by_hand(other, other.get_submodule(path), shares)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(theirs, ours), name
    assert [matrix.asked for matrix in done] == [matrix.zeros / matrix.weights for matrix in done]


def test_what_a_block_takes_in_comes_from_the_pruned_blocks_before_it() -> None:
    """Otherwise a model whose first block was emptied would be pruned as the dense one is."""
    one, other = tiny(), tiny()
    pruned(discover(one, {}), (0.0, 0.5, 0.5))
    pruned(discover(other, {}), (1.0, 0.5, 0.5))
    weights = [model.model.layers[1].mlp.down_proj.weight for model in (one, other)]
    assert not torch.equal(weights[0] == 0, weights[1] == 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_the_share_is_met_to_half_a_weight_and_nothing_else_is_touched(family: str) -> None:
    model, dense = tiny(family), tiny(family)
    anatomy = discover(model, {})
    done = pruned(anatomy, (0.437, 0.5, 0.563))
    # Active parameters are counted over the same matrices.
    assert [matrix.path for block in anatomy.blocks for matrix in matrices(block)] == [matrix.path for matrix in done]
    for matrix in done:
        assert abs(matrix.zeros - matrix.asked * matrix.weights) <= 0.5
    paths = {f"{matrix.path}.weight" for matrix in done}
    for (name, ours), (_, before) in zip(model.named_parameters(), dense.named_parameters(), strict=True):
        assert (name not in paths) == torch.equal(before, ours), name
        assert torch.equal(ours[ours != 0], before[ours != 0]), name


def test_fused_experts_and_their_router_are_left_as_they_are() -> None:
    anatomy = discover(tiny("mixtral"), {})
    targets = targets_of(anatomy)
    assert ["k_proj", "o_proj", "q_proj", "v_proj"] == sorted({target.path.rpartition(".")[2] for target in targets})
    left = left_out(anatomy, targets)
    assert ["down_proj", "gate_up_proj", "weight"] == sorted({name.rpartition(".")[2] for name in left})
    assert 9 == len(left)


def test_a_matrix_that_calibration_does_not_reach_is_scored_by_its_size_alone() -> None:
    model = tiny()
    model.model.layers[1].spare = nn.Linear(8, 2, bias=False)
    before = model.model.layers[1].spare.weight.detach().clone()
    done = {matrix.path: matrix for matrix in pruned(discover(model, {}), (0.5, 0.5, 0.5))}
    assert [False] == [matrix.seen for path, matrix in done.items() if path.endswith("spare")]
    assert all(matrix.seen for path, matrix in done.items() if not path.endswith("spare"))
    expected = before.abs() >= before.abs().sort(dim=1).values[:, 4:5]
    assert torch.equal(expected, model.model.layers[1].spare.weight != 0)


def test_the_model_gets_its_mode_back_and_no_hook_is_left() -> None:
    model = tiny()
    anatomy = discover(model, {})
    model.train()
    pruned(anatomy, (0.5, 0.5, 0.5))
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


def test_inputs_that_are_not_finite_are_refused() -> None:
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight.fill_(torch.inf)
    with pytest.raises(PruningError, match=r"^what model\.layers\.1\.self_attn\.q_proj takes in is not finite"):
        pruned(discover(model, {}), (0.5, 0.5, 0.5))


def test_packed_weights_are_refused() -> None:
    model = tiny()
    anatomy = discover(model, {})
    packed = nn.Parameter(torch.ones(32, 64, dtype=torch.int8), requires_grad=False)
    model.model.layers[2].mlp.down_proj.weight = packed
    with pytest.raises(PruningError, match=r"^model\.layers\.2\.mlp\.down_proj holds its weights as int8"):
        targets_of(anatomy)


def test_a_model_without_linear_layers_is_refused() -> None:
    model = tiny()
    anatomy = discover(model, {})
    for block in model.model.layers:
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.Linear):
                block.set_submodule(name, nn.Identity())
    with pytest.raises(PruningError, match=r"^the blocks of LlamaForCausalLM have no linear layer"):
        targets_of(anatomy)


@pytest.mark.parametrize(
    ("rows", "columns", "share"), [(7, 13, 0.3), (1, 5, 0.5), (64, 32, 0.4999), (3, 4, 0.0), (3, 4, 1)]
)
def test_the_weights_that_go_are_spread_over_the_rows(rows: int, columns: int, share: float) -> None:
    counts = row_counts(rows, columns, share)
    assert (rows, round(rows * columns * share)) == (len(counts), sum(counts))
    assert max(counts) - min(counts) <= 1
    halves = sum(counts[: rows // 2]), sum(counts[rows - rows // 2 :])
    assert abs(halves[0] - halves[1]) <= 1


def test_of_equal_scores_the_first_go() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 0.0], [2.0, 1.0, 1.0, 1.0], [3.0, 2.0, 1.0, 0.0]])
    expected = [[True, False, False, True], [False, True, True, True], [False, False, False, False]]
    assert expected == lowest(scores, torch.tensor([2, 3, 0])).tolist()
