"""Lines that make channels of the MLP's hidden state, held to the same told by hand, and to what zeroing them does."""

from __future__ import annotations

import pytest
import torch
import transformers as t
from test_recorder import Keep, anatomy_of, no_hooks, shown
from tiny_models import _GROUPED, _HEADS, FAMILIES, tiny
from torch import nn

from maprobe.errors import InterventionError
from maprobe.recipes import Tap
from maprobe.running.anatomy import Anatomy
from maprobe.running.digests import parameters_digest
from maprobe.running.discovery import discover
from maprobe.running.rows import Lines, feeding

HIDDEN = Tap("block.mlp.hidden", 2)
EXPERTS = {
    "mixtral": FAMILIES["mixtral"],
    "qwen2_moe": lambda: t.Qwen2MoeForCausalLM(
        t.Qwen2MoeConfig(
            **_GROUPED,
            moe_intermediate_size=48,
            shared_expert_intermediate_size=40,
            num_experts=4,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
        )
    ),
    "gpt_oss": lambda: t.GptOssForCausalLM(
        t.GptOssConfig(**_HEADS, num_local_experts=4, num_experts_per_tok=2, sliding_window=4, rope_parameters=None)
    ),
    "llama4": lambda: t.Llama4ForCausalLM(
        t.Llama4TextConfig(
            **_HEADS, intermediate_size_mlp=64, num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=1
        )
    ),
}


def experts(family: str, implementation: str = "eager") -> Anatomy:
    torch.manual_seed(0)
    model = EXPERTS[family]().eval()
    model.config._experts_implementation = implementation
    return discover(model, {})


def named(lines: tuple[Lines, ...]) -> list[tuple[str, int, tuple[int, ...], int | None]]:
    return [(line.path, line.axis, line.indices, line.expert) for line in lines]


class TestWhichTheyAre:
    def test_of_a_gated_mlp_they_are_rows_of_gate_and_up(self) -> None:
        expected = [
            ("model.layers.1.mlp.gate_proj.weight", 0, (5, 3), None),
            ("model.layers.1.mlp.up_proj.weight", 0, (5, 3), None),
        ]
        assert expected == named(feeding(anatomy_of("llama"), 2, [5, 3]))

    def test_of_both_in_one_matrix_they_lie_half_a_matrix_apart(self) -> None:
        found = feeding(anatomy_of("phi3"), 2, [5, 3])
        assert [("model.layers.1.mlp.gate_up_proj.weight", 0, (5, 3, 69, 67), None)] == named(found)

    def test_of_a_matrix_stored_the_other_way_round_they_are_columns_and_entries_of_the_bias(self) -> None:
        expected = [
            ("transformer.h.1.mlp.c_fc.weight", 1, (5, 3), None),
            ("transformer.h.1.mlp.c_fc.bias", 0, (5, 3), None),
        ]
        assert expected == named(feeding(anatomy_of("gpt2"), 2, [5, 3]))

    def test_without_a_gate_and_without_a_module_of_the_mlp_they_are_rows_of_the_up_projection(self) -> None:
        expected = [
            ("model.decoder.layers.1.fc1.weight", 0, (5,), None),
            ("model.decoder.layers.1.fc1.bias", 0, (5,), None),
        ]
        assert expected == named(feeding(anatomy_of("opt"), 2, [5]))

    @pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
    def test_of_experts_in_one_tensor_they_are_those_of_the_expert(self, implementation: str) -> None:
        path = "model.layers.1.mlp.experts.gate_up_proj"
        assert [(path, 1, (5, 69), 3)] == named(feeding(experts("mixtral", implementation), 2, [5], expert=3))
        assert [(path, 1, (5, 53), 3)] == named(feeding(experts("qwen2_moe", implementation), 2, [5], expert=3))
        interleaved = [(path, 2, (10, 11), 3), (f"{path}_bias", 1, (10, 11), 3)]
        assert interleaved == named(feeding(experts("gpt_oss", implementation), 2, [5], expert=3))

    @pytest.mark.parametrize("family", [name for name in FAMILIES if name != "mixtral"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_zeroing_them_makes_these_channels_zero_and_leaves_the_others_as_they_were(
        self, family: str, dtype: torch.dtype
    ) -> None:
        anatomy = discover(tiny(family, dtype=dtype), {})
        before = shown(anatomy, HIDDEN).seen[HIDDEN][0]
        for line in feeding(anatomy, 2, [5, 40, 3]):
            line.zero()
        after = shown(anatomy, HIDDEN).seen[HIDDEN][0]
        others = [channel for channel in range(after.shape[-1]) if channel not in (3, 5, 40)]
        assert before[..., [5, 40, 3]].any()
        assert not after[..., [5, 40, 3]].any()
        assert torch.equal(before[..., others], after[..., others])

    @pytest.mark.parametrize("family", EXPERTS)
    def test_zeroing_those_of_an_expert_leaves_the_other_experts_as_they_were(self, family: str) -> None:
        anatomy = experts(family)

        def rows() -> dict[int, torch.Tensor]:
            keep = shown(anatomy, HIDDEN)
            return dict(zip(keep.queries, keep.seen[HIDDEN], strict=True))

        before = rows()
        expert = next(iter(before))
        for line in feeding(anatomy, 2, [5, 3], expert=expert):
            line.zero()
        after = rows()
        assert before[expert][:, [3, 5]].any()
        assert not after[expert][:, [3, 5]].any()
        assert all(torch.equal(before[other], after[other]) for other in before if other != expert)

    def test_a_matrix_that_an_adapter_wraps_is_meant_itself(self) -> None:
        class Adapter(nn.Module):
            def __init__(self, base: nn.Linear) -> None:
                super().__init__()
                self.base_layer = base
                self.a, self.b = nn.Linear(base.in_features, 4), nn.Linear(4, base.out_features)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.base_layer(x) + self.b(self.a(x))

        model = tiny()
        model.requires_grad_(requires_grad=False)
        for layer in model.model.layers:
            for name in ("gate_proj", "up_proj", "down_proj"):
                setattr(layer.mlp, name, Adapter(getattr(layer.mlp, name)))
        anatomy = discover(model, {})
        assert "model.layers.1.mlp.down_proj" == anatomy.blocks[1].down[0].path
        expected = [
            ("model.layers.1.mlp.gate_proj.base_layer.weight", 0, (5,), None),
            ("model.layers.1.mlp.up_proj.base_layer.weight", 0, (5,), None),
        ]
        assert expected == named(feeding(anatomy, 2, [5]))

    def test_finding_them_leaves_no_trace(self) -> None:
        anatomy = anatomy_of()
        before = parameters_digest(anatomy.model)
        anatomy.model.train()
        feeding(anatomy, 2, [5])
        assert anatomy.model.training
        assert no_hooks(anatomy)
        assert before == parameters_digest(anatomy.model)
        assert all(parameter.grad is None for parameter in anatomy.model.parameters())
        assert torch.is_grad_enabled()


class TestTakingAndPutting:
    @pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_lines_are_put_back_bit_for_bit(self, family: str, dtype: torch.dtype) -> None:
        anatomy = discover(tiny(family, dtype=dtype), {})
        before = parameters_digest(anatomy.model)
        lines = feeding(anatomy, 2, [5, 3])
        kept = [line.take() for line in lines]
        for line, values in zip(lines, kept, strict=True):
            line.put(values * torch.rand_like(values))
        assert before != parameters_digest(anatomy.model)
        for line, values in zip(lines, kept, strict=True):
            line.put(values)
        assert before == parameters_digest(anatomy.model)

    def test_only_the_lines_are_copied(self) -> None:
        taken = feeding(experts("gpt_oss"), 2, [5, 3], expert=1)[0].take()
        assert (32, 4) == tuple(taken.shape)
        assert 32 * 4 * 4 == taken.untyped_storage().nbytes()


class TestErrors:
    def test_a_channel_outside_the_mlp_is_told(self) -> None:
        with pytest.raises(InterventionError, match=r"has 64 channels, and channel 64 was asked for; allowed: 0\.\.63"):
            feeding(anatomy_of(), 2, [64])

    @pytest.mark.parametrize("expert", [None, 4, -1])
    def test_an_expert_must_be_named_where_there_are_some(self, expert: int | None) -> None:
        with pytest.raises(InterventionError, match=r"consists of 4 experts.*allowed: 0\.\.3"):
            feeding(experts("mixtral"), 2, [5], expert=expert)

    def test_an_expert_must_not_be_named_where_there_are_none(self) -> None:
        with pytest.raises(InterventionError, match="has no experts, and expert 0 was asked for"):
            feeding(anatomy_of(), 2, [5], expert=0)

    def test_weights_off_the_device_are_told(self) -> None:
        anatomy = anatomy_of()
        up = anatomy.model.model.layers[1].mlp.up_proj
        up.weight = nn.Parameter(up.weight.to("meta"))
        with pytest.raises(InterventionError, match="kept off the device.*without --maprobe-device-map"):
            feeding(anatomy, 2, [5])

    def test_quantised_weights_are_told(self) -> None:
        class Quantised(nn.Module):
            def __init__(self, linear: nn.Linear) -> None:
                super().__init__()
                self.scale = float(linear.weight.detach().abs().max()) / 127
                self.register_buffer("weight", (linear.weight.detach() / self.scale).round().to(torch.int8))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x @ (self.weight.to(x.dtype) * self.scale).mT

        model = tiny()
        for layer in model.model.layers:
            for name in ("gate_proj", "up_proj", "down_proj"):
                setattr(layer.mlp, name, Quantised(getattr(layer.mlp, name)))
        with pytest.raises(InterventionError, match="no plain matrices of weights, as in a quantised model"):
            feeding(discover(model, {}), 2, [5])

    def test_an_mlp_whose_rows_do_not_make_channels_is_told(self) -> None:
        class Mixed(nn.Module):
            def __init__(self, mlp: nn.Module) -> None:
                super().__init__()
                self.up_proj, self.down_proj, self.act_fn = mlp.up_proj, mlp.down_proj, mlp.act_fn

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                hidden = self.act_fn(self.up_proj(x))
                return self.down_proj(hidden - hidden.mean(-1, keepdim=True))

        model = tiny()
        for layer in model.model.layers:
            layer.mlp = Mixed(layer.mlp)
        with pytest.raises(InterventionError, match="no matrix of which each row makes one channel"):
            feeding(discover(model, {}), 2, [5])


class TestRowsOfExperts:
    @pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
    @pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
    def test_each_expert_is_shown_with_its_number(self, family: str, implementation: str) -> None:
        reference = experts(family)
        expected = shown(reference, HIDDEN)
        keep: Keep = shown(experts(family, implementation), HIDDEN)
        assert sorted(expected.queries) == sorted(keep.queries)
        rows = dict(zip(keep.queries, keep.seen[HIDDEN], strict=True))
        for expert, value in zip(expected.queries, expected.seen[HIDDEN], strict=True):
            order, other = value[:, 0].argsort(), rows[expert][:, 0].argsort()
            torch.testing.assert_close(value[order], rows[expert][other], rtol=1e-4, atol=1e-6)
        # The numbers are those of the experts: the router's choice counts as many rows of each.
        counts = {expert: len(value) for expert, value in rows.items()}
        assert counts == _routed(reference)


def _routed(anatomy: Anatomy) -> dict[int, int]:
    from test_recorder import IDS

    caught: list[torch.Tensor] = []
    owner = anatomy.blocks[1].down[0].module
    handle = owner.register_forward_pre_hook(lambda module, args: caught.append(args[1]))
    with torch.inference_mode():
        anatomy.model(IDS, use_cache=False)
    handle.remove()
    numbers, counts = caught[0].flatten().unique(return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))
