from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, tiny
from torch import nn

from maprobe.errors import DiscoveryError
from maprobe.recipes import Architecture
from maprobe.reporting.doctor import render
from maprobe.running.anatomy import Anatomy
from maprobe.running.discovery import discover
from maprobe.running.proofs import prove, require

PARALLEL = {"phi", "gptj", "gpt_neox", "falcon", "falcon-40b"}
POST_NORM = {"bert", "roberta", "distilbert", "opt-350m"}
OWN_ATTENTION = {"gptj", "mpt", "bloom", "falcon", "falcon-40b"}
ADDED = {
    "llama": ("self_attn", "mlp"),
    # The norm after a sub-layer is what is added, not the sub-layer.
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    # One dropout serves both sub-layers, so it cannot stand for either.
    "phi": ("self_attn", "mlp"),
    # These add the residual inside the sub-layer.
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "bert": ("attention.output.dropout", "output.dropout"),
}
DOWN = {
    "llama": "mlp.down_proj",
    "gpt2": "mlp.c_proj",
    "opt": "fc2",
    "falcon": "mlp.dense_4h_to_h",
    "mixtral": "mlp.experts.down_proj",
    "bert": "output.dense",
}


@pytest.fixture(scope="module", params=FAMILIES)
def found(request: pytest.FixtureRequest) -> tuple[str, Anatomy]:
    return request.param, discover(tiny(request.param), {})


def within(anatomy: Anatomy, part: object) -> str:
    return str(part).removeprefix(f"{anatomy.blocks[1].path}.")


class TestEveryFamily:
    def test_all_blocks_are_found_in_order(self, found: tuple[str, Anatomy]) -> None:
        _, anatomy = found
        assert (3, 32) == (anatomy.depth, anatomy.width)
        assert [1, 2, 3] == [block.layer for block in anatomy.blocks]
        assert all(block.path.rpartition(".")[2] == str(block.layer - 1) for block in anatomy.blocks)

    def test_every_proof_holds(self, found: tuple[str, Anatomy]) -> None:
        _, anatomy = found
        proofs = prove(anatomy)
        assert [] == [proof for proof in proofs if proof.holds is not True]
        require(proofs)

    def test_the_residual_is_told(self, found: tuple[str, Anatomy]) -> None:
        family, anatomy = found
        expected = "parallel" if family in PARALLEL else "post-norm" if family in POST_NORM else "sequential"
        assert expected == anatomy.residual

    def test_attention_and_mlp_add_up_by_the_right_modules(self, found: tuple[str, Anatomy]) -> None:
        family, anatomy = found
        block = anatomy.blocks[1]
        assert block.attention_added is not None
        assert block.mlp_added is not None
        if family in ADDED:
            assert ADDED[family] == (within(anatomy, block.attention_added), within(anatomy, block.mlp_added))

    def test_the_down_projection_gives_the_width_of_the_stream(self, found: tuple[str, Anatomy]) -> None:
        family, anatomy = found
        (down,) = anatomy.blocks[1].down
        if family in DOWN:
            assert DOWN[family] == within(anatomy, down)
        assert ("experts" in down.path) == down.routed

    def test_attention_is_read_through_the_interface_where_the_model_uses_it(self, found: tuple[str, Anatomy]) -> None:
        family, anatomy = found
        assert ("eager maps" if family in OWN_ATTENTION else "interface") == anatomy.attention_route
        assert (1, 2, 3) == anatomy.attention_layers

    def test_the_norm_after_the_last_block_is_found_where_there_is_one(self, found: tuple[str, Anatomy]) -> None:
        family, anatomy = found
        assert (anatomy.final_norm is None) == (family in POST_NORM)

    def test_nothing_of_the_model_is_changed(self, found: tuple[str, Anatomy]) -> None:
        _, anatomy = found
        prove(anatomy)
        hooks = [
            path
            for path, module in anatomy.model.named_modules()
            if module._forward_hooks or module._forward_pre_hooks or module.training
        ]
        assert [] == hooks
        assert not str(anatomy.model.config._attn_implementation).startswith("maprobe")

    def test_the_doctor_tells_all_of_it(self, found: tuple[str, Anatomy]) -> None:
        family, anatomy = found
        text = render(anatomy, prove(anatomy), family)
        assert f"{anatomy.blocks[0].path} .. {anatomy.blocks[-1].path}" in text
        assert "BROKEN" not in text
        assert "layers 1-3" in text


def test_bfloat16_and_float16_stand_the_proofs_too() -> None:
    for family in ("llama", "gemma2", "phi", "bert"):
        for dtype in (torch.bfloat16, torch.float16):
            proofs = prove(discover(tiny(family, dtype=dtype), {}))
            assert [] == [proof for proof in proofs if proof.holds is not True], (family, dtype)


def test_a_model_in_training_mode_is_found_at_rest_and_goes_on_training() -> None:
    model = tiny("gpt2").train()
    anatomy = discover(model, {})
    assert all(proof.holds for proof in prove(anatomy))
    assert all(module.training for module in model.modules())


class TestRows:
    def row(self, **parts: str) -> dict[str, Architecture]:
        return {"llama": Architecture(model_type="llama", **parts)}

    def test_a_row_names_the_parts(self) -> None:
        anatomy = discover(tiny(), self.row(blocks="model.layers", attention="self_attn", mlp="mlp", down="down_proj"))
        assert "row for llama" in anatomy.route
        assert "model.layers.1.mlp.down_proj" == str(anatomy.blocks[1].down[0])
        assert all(proof.holds for proof in prove(anatomy))

    def test_a_row_that_names_the_wrong_sub_layer_does_not_stand_the_proof(self) -> None:
        anatomy = discover(tiny(), self.row(attention="input_layernorm"))
        with pytest.raises(DiscoveryError, match="did not stand the proof.*though the architecture table has a row"):
            require(prove(anatomy))

    def test_a_row_that_names_blocks_that_are_not_there_is_refused(self) -> None:
        with pytest.raises(DiscoveryError, match=r"names blocks at 'decoder\.layers'.*correct `blocks`"):
            discover(tiny(), self.row(blocks="decoder.layers"))


class Plain(nn.Module):
    """A model that is not from transformers: an embedding, two equal blocks, a head."""

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.steps = nn.ModuleList([block(), block()])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(ids)
        for step in self.steps:
            hidden = step(hidden)
        return self.head(self.norm(hidden))


class Additive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(hidden)
        return hidden + self.mlp(hidden)


class Scaled(Additive):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 0.5 * super().forward(hidden)


class Halving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mlp(hidden)[:, ::2]


class Careless(Additive):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) + torch.rand_like(hidden)


class TestModelsOfTheirOwn:
    def test_a_plain_module_is_found_by_its_run_of_equal_modules(self) -> None:
        anatomy = discover(Plain(Additive), {})
        assert ("the longest run of equal modules", "sequential") == (anatomy.route, anatomy.residual)
        assert "none" == anatomy.attention_route
        assert "norm" == str(anatomy.final_norm)
        require(prove(anatomy))

    def test_a_residual_that_does_not_add_up_is_not_told_and_its_sites_are_left_out(self) -> None:
        anatomy = discover(Plain(Scaled), {})
        assert ("unknown", None) == (anatomy.residual, anatomy.blocks[0].attention_added)
        additivity = next(proof for proof in prove(anatomy) if "block.in" in proof.name)
        assert additivity.holds is None
        assert "cannot be read" in additivity.detail

    def test_a_block_that_changes_the_shape_is_refused(self) -> None:
        with pytest.raises(DiscoveryError, match=r"block steps\.0 takes \(1, 8, 8\) and returns \(1, 4, 8\)"):
            discover(Plain(Halving), {})

    def test_a_model_that_gives_another_answer_each_time_does_not_stand_the_proof(self) -> None:
        with pytest.raises(DiscoveryError, match="hands a block's output on as a copy changes nothing"):
            require(prove(discover(Plain(Careless), {})))

    def test_a_model_without_blocks_is_refused_with_the_hook_that_helps(self) -> None:
        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
        with pytest.raises(DiscoveryError, match="no stack of blocks.*pytest_maprobe_architectures"):
            discover(model, {})

    def test_a_model_without_an_embedding_is_refused(self) -> None:
        with pytest.raises(DiscoveryError, match="no token embedding"):
            discover(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), {})

    def test_a_model_that_cannot_be_called_on_ids_is_refused_with_the_cause(self) -> None:
        class Needy(Plain):
            def forward(self, ids: torch.Tensor) -> torch.Tensor:
                raise ValueError("pixel_values are missing")

        with pytest.raises(DiscoveryError, match="ValueError: pixel_values are missing"):
            discover(Needy(Additive), {})

    def test_one_block_used_twice_cannot_be_numbered(self) -> None:
        class Shared(Plain):
            def forward(self, ids: torch.Tensor) -> torch.Tensor:
                hidden = self.embed(ids)
                for step in (self.steps[0], self.steps[0], self.steps[1]):
                    hidden = step(hidden)
                return self.head(hidden)

        with pytest.raises(DiscoveryError, match="called more than once"):
            discover(Shared(Additive), {})
