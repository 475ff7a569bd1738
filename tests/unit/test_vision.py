"""Models of images: their parts are found and proven, and their tokens are what they are said to be."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_vision import BLOCKS, FAMILIES, PATCH, REGISTERS, SIDE, blocks_of, dinov2_registers, vit, vit_mae
from torch import nn

from maprobe.errors import DiscoveryError, InputError
from maprobe.running.calling import call, sample
from maprobe.running.discovery import discover
from maprobe.running.proofs import prove, require
from maprobe.running.vision import Layout, layout_of, sides

GRID = SIDE // PATCH
families = pytest.mark.parametrize("name", FAMILIES)


def pixels(count: int = 1, side: int = SIDE) -> torch.Tensor:
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(1))


@families
def test_the_parts_of_a_model_of_images_are_found_and_proven(name: str) -> None:
    model = FAMILIES[name]()
    anatomy = discover(model, {})
    proofs = prove(anatomy)
    require(proofs)
    assert [block.module for block in anatomy.blocks] == blocks_of(model)
    assert ("sequential", tuple(range(1, BLOCKS + 1))) == (anatomy.residual, anatomy.attention_layers)
    assert all(block.down for block in anatomy.blocks)
    assert anatomy.final_norm is not None
    assert [True] * len(proofs) == [proof.holds for proof in proofs]


@families
def test_a_proof_shows_which_token_a_patch_becomes(name: str) -> None:
    (proof,) = [proof for proof in prove(discover(FAMILIES[name](), {})) if "patches" in proof.name]
    registers = REGISTERS if name == "registers" else 0
    last = 1 + registers + 3 * 4 + 2
    assert f"1 + {registers} + 4 x 4 tokens; a change of one patch moves tokens [{last}]" == proof.detail


def test_a_layout_that_the_model_does_not_have_is_refused() -> None:
    model = dinov2_registers()
    anatomy = discover(model, {})
    model.config.num_register_tokens = REGISTERS - 1
    with pytest.raises(DiscoveryError, match="20 tokens, where its config tells 19"):
        require(prove(anatomy))


class Turned(nn.Module):
    """Embeddings that put the patches in another order."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.patch_embeddings = inner.patch_embeddings

    def forward(self, *args: object, **options: object) -> torch.Tensor:
        found = self.inner(*args, **options)
        return torch.cat([found[:, :1], found[:, 1:].flip(1)], dim=1)


def test_patches_in_another_order_are_refused() -> None:
    model = vit()
    model.embeddings = Turned(model.embeddings)
    with pytest.raises(DiscoveryError, match="an image becomes its class token, registers and patches, row by row"):
        require(prove(discover(model, {})))


class TestLayout:
    layout = Layout(classes=1, registers=3, rows=2, columns=5)

    @pytest.mark.parametrize(
        ("position", "text"),
        [
            (0, "class"),
            (1, "register 1"),
            (3, "register 3"),
            (4, "patch (0, 0)"),
            (9, "patch (1, 0)"),
            (13, "patch (1, 4)"),
        ],
    )
    def test_a_token_is_told_in_words(self, position: int, text: str) -> None:
        assert text == self.layout.text(position)

    def test_the_kinds_follow_one_another_without_a_gap(self) -> None:
        kinds = ["class"] + 3 * ["registers"] + 10 * ["patches"]
        assert (14, kinds) == (self.layout.tokens, [self.layout.kind(position) for position in range(14)])

    def test_a_model_without_a_class_token_starts_with_its_patches(self) -> None:
        class Config:
            model_type, patch_size = "siglip_vision_model", 16

        assert ("patch (0, 0)", 4) == (layout_of(Config, 32, 32).text(0), layout_of(Config, 32, 32).tokens)

    def test_a_config_without_a_patch_size_is_refused(self) -> None:
        with pytest.raises(InputError, match="states no `patch_size`, so that its tokens cannot be told"):
            layout_of(object(), 32, 32)

    def test_an_image_smaller_than_a_patch_is_refused(self) -> None:
        with pytest.raises(InputError, match="an image of 32 x 4 pixels is smaller than a patch of 8 x 8"):
            layout_of(vit().config, 4, 32)

    @pytest.mark.parametrize(("stated", "expected"), [(8, (8, 8)), ([4, 6], (4, 6)), (None, None), (True, None)])
    def test_a_size_is_one_number_or_two(self, stated: object, expected: tuple[int, int] | None) -> None:
        assert expected == sides(stated)


class TestCalling:
    def test_the_sample_of_a_model_that_interpolates_is_small(self) -> None:
        assert (1, 3, 4 * PATCH, 4 * PATCH) == tuple(sample(vit(), 0).shape)

    @families
    def test_an_image_of_another_size_is_run_with_positions_interpolated(self, name: str) -> None:
        model = FAMILIES[name]()
        found = call(model, pixels(side=48), logits=False).last_hidden_state
        registers = REGISTERS if name == "registers" else 0
        assert 1 + registers + 36 == found.shape[1]

    def test_pixels_are_cast_to_the_dtype_of_the_model(self) -> None:
        model = vit().to(torch.bfloat16)
        assert torch.bfloat16 == call(model, pixels(), logits=False).last_hidden_state.dtype

    def test_a_masked_autoencoder_sees_the_whole_image_in_order_twice_the_same(self) -> None:
        model = vit_mae()
        first, second = (call(model, pixels(), logits=False).last_hidden_state for _ in range(2))
        assert torch.equal(first, second)
        # By hand: its own parts one after another, with no masking among them.
        embeddings = model.embeddings
        with torch.inference_mode():
            patches = embeddings.patch_embeddings(pixels()) + embeddings.position_embeddings[:, 1:]
            stream = torch.cat([embeddings.cls_token + embeddings.position_embeddings[:, :1], patches], dim=1)
            for block in blocks_of(model):
                stream = block(stream)
            assert torch.allclose(model.layernorm(stream), first, atol=1e-5)

    def test_the_masking_of_the_config_is_given_back(self) -> None:
        model = vit_mae()
        call(model, pixels(), logits=False)
        assert 0.75 == model.config.mask_ratio
        assert 1 + math.floor(GRID * GRID * 0.25) == model(pixels()).last_hidden_state.shape[1]
