"""Rows that make channels of the MLP's hidden state, switched off for the time of a pass and put back after it."""

from __future__ import annotations

import pytest
import torch
from test_recorder import BATCH, IDS, Keep, anatomy_of, no_hooks, shown
from test_rows import EXPERTS, experts
from tiny_models import tiny
from torch import nn

from maprobe.edits import RowsEdit
from maprobe.errors import InterventionError
from maprobe.recipes import Tap
from maprobe.running.digests import parameters_digest
from maprobe.running.discovery import discover
from maprobe.running.recorder import Recorder

HIDDEN = Tap("block.mlp.hidden", 2)
TOP, REST = RowsEdit(layer=2, channels=(5, 40)), RowsEdit(layer=2, channels=(5, 40), keep=True)


class TestWhatTheModelThenDoes:
    @pytest.mark.parametrize("edit", [TOP, REST, RowsEdit(layer=2, channels=(), keep=True)])
    def test_it_is_what_it_does_with_the_rows_set_to_zero_by_hand(self, edit: RowsEdit) -> None:
        found = shown(anatomy_of(), Tap("logits"), edits=(edit,)).seen[Tap("logits")][0]
        model = tiny()
        off = [row for row in range(64) if (row in edit.channels) is not edit.keep]
        with torch.inference_mode():
            model.model.layers[1].mlp.gate_proj.weight[off] = 0
            model.model.layers[1].mlp.up_proj.weight[off] = 0
            expected = model(IDS).logits
        assert torch.equal(expected, found)

    @pytest.mark.parametrize("family", ["gpt2", "phi3", "opt", "gemma2", "bert", "mpt"])
    def test_the_channels_are_off_and_nothing_else_is(self, family: str) -> None:
        anatomy = anatomy_of(family)
        before = shown(anatomy, HIDDEN).seen[HIDDEN][0]
        off = shown(anatomy, HIDDEN, edits=(TOP,)).seen[HIDDEN][0]
        kept = shown(anatomy, HIDDEN, edits=(REST,)).seen[HIDDEN][0]
        rest = [channel for channel in range(64) if channel not in (5, 40)]
        assert torch.equal(before[..., rest], off[..., rest])
        assert torch.equal(before[..., [5, 40]], kept[..., [5, 40]])
        assert not off[..., [5, 40]].any()
        assert not kept[..., rest].any()

    @pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
    @pytest.mark.parametrize("family", EXPERTS)
    def test_only_the_expert_that_is_named_is_edited(self, family: str, implementation: str) -> None:
        anatomy = experts(family, implementation)
        before = shown(anatomy, HIDDEN)
        expert = before.queries[0]
        after = shown(anatomy, HIDDEN, edits=(RowsEdit(layer=2, channels=(5,), keep=True, expert=expert),))
        for number, old, new in zip(before.queries, before.seen[HIDDEN], after.seen[HIDDEN], strict=True):
            if number == expert:
                assert torch.equal(old[:, 5], new[:, 5])
                assert not new[:, torch.arange(new.shape[1]) != 5].any()
            else:
                assert torch.equal(old, new)


class TestPuttingBack:
    @pytest.mark.parametrize("edit", [TOP, REST])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt", "bert"])
    def test_every_weight_is_as_it_was_afterwards_bit_for_bit(
        self, family: str, dtype: torch.dtype, edit: RowsEdit
    ) -> None:
        anatomy = discover(tiny(family, dtype=dtype), {})
        before = parameters_digest(anatomy.model)
        shown(anatomy, HIDDEN, edits=(edit, RowsEdit(layer=2, channels=(7, 5))))
        assert before == parameters_digest(anatomy.model)
        assert no_hooks(anatomy)

    @pytest.mark.parametrize("family", EXPERTS)
    def test_so_is_every_weight_of_experts(self, family: str) -> None:
        anatomy = experts(family)
        before = parameters_digest(anatomy.model)
        shown(anatomy, HIDDEN, edits=(RowsEdit(layer=2, channels=(5, 7), keep=True, expert=1),))
        assert before == parameters_digest(anatomy.model)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_so_it_is_after_a_pass_that_broke_off(self, error: type[BaseException]) -> None:
        class Break(Keep):
            def observe(self, *args: object, **options: object) -> None:
                raise error

        anatomy = anatomy_of()
        before = parameters_digest(anatomy.model)
        with pytest.raises(error), Recorder(anatomy, [Break((HIDDEN,))], (TOP,)) as recorder:
            recorder.run(BATCH)
        assert before == parameters_digest(anatomy.model)
        assert no_hooks(anatomy)

    def test_an_edit_that_cannot_be_made_leaves_those_made_before_undone(self) -> None:
        anatomy = anatomy_of()
        before = parameters_digest(anatomy.model)
        with pytest.raises(InterventionError, match="channel 64 was asked for"):
            shown(anatomy, HIDDEN, edits=(TOP, RowsEdit(layer=1, channels=(64,))))
        assert before == parameters_digest(anatomy.model)
        assert no_hooks(anatomy)


class TestErrors:
    def test_rows_that_are_zero_already_are_told(self) -> None:
        anatomy = anatomy_of()
        with torch.no_grad():
            anatomy.model.model.layers[1].mlp.gate_proj.weight[5] = 0
            anatomy.model.model.layers[1].mlp.up_proj.weight[5] = 0
        with pytest.raises(InterventionError, match="changed nothing"):
            shown(anatomy, HIDDEN, edits=(RowsEdit(layer=2, channels=(5,)),))

    def test_a_channel_that_does_not_go_off_is_told(self) -> None:
        class Raised(nn.Module):
            def __init__(self, act: nn.Module) -> None:
                super().__init__()
                self.act = act

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.act(x) + 1

        model = tiny("gpt2")
        for block in model.transformer.h:
            block.mlp.act = Raised(block.mlp.act)
        anatomy = discover(model, {})
        before = parameters_digest(model)
        with pytest.raises(
            InterventionError, match="rows of channel 5 in the MLP of layer 2 are zero, and the channel"
        ):
            shown(anatomy, HIDDEN, edits=(TOP,))
        assert before == parameters_digest(model)

    def test_experts_need_a_number(self) -> None:
        with pytest.raises(InterventionError, match="consists of 4 experts, and none was named"):
            shown(experts("mixtral"), HIDDEN, edits=(TOP,))
