"""The planted models of images have their massive activations where they are said to have them, by plain torch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

pytest.importorskip("PIL")

from maprobe.drawings import TEST_IMAGES
from maprobe.selftest.vision import BLOCKS, MASSIVE, REGISTER, REGISTERS, SIDE, VisionDesign, make_vision


@cache
def pixels() -> torch.Tensor:
    """The drawings made small, normed roughly as ImageNet is: (images, 3, side, side)."""
    drawn = torch.stack([torch.as_tensor(picture.pixels) for picture in TEST_IMAGES.load()]).float()
    small = torch.nn.functional.interpolate(drawn.permute(0, 3, 1, 2) / 255, size=(SIDE, SIDE), mode="area")
    return (small - 0.45) / 0.225


def run(design: VisionDesign, *, without: bool = False) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The outputs of the blocks and the class token; on demand with the massive dim set to 0 where it is written."""
    model: Any = make_vision(design)
    seen: list[torch.Tensor] = []

    def note(module: object, args: object, output: Any) -> Any:
        stream = output if isinstance(output, torch.Tensor) else output[0]
        if without and len(seen) == 1:
            stream[..., MASSIVE] = 0.0
        seen.append(stream.clone())
        return output

    for block in model.encoder.layer:
        block.register_forward_hook(note)
    with torch.no_grad():
        return seen, model(pixels()).last_hidden_state[:, 0]


def massive(stream: torch.Tensor) -> torch.Tensor:
    """Which tokens have an entry above 100, of all images: (images, tokens)."""
    return stream.abs().amax(dim=-1) > 100


def test_without_registers_bright_patches_carry_it_in_places_that_differ() -> None:
    streams, _ = run(VisionDesign())
    assert not massive(streams[0]).any()
    for stream in streams[1:]:
        where = massive(stream)
        assert where.any(dim=1).all()
        assert not where[:, 0].any()
        assert not where.all(dim=0).any()
        assert {MASSIVE} == set(stream.abs().argmax(dim=-1)[where].tolist())


def test_with_registers_one_register_carries_it_and_nothing_else() -> None:
    streams, _ = run(VisionDesign(registers=True, carriers="register"))
    assert BLOCKS == len(streams)
    expected = torch.zeros(REGISTERS, dtype=torch.bool)
    expected[REGISTER] = True
    for stream in streams[1:]:
        where = massive(stream)
        assert [expected.tolist()] * 8 == where[:, 1 : 1 + REGISTERS].tolist()
        assert 8 == int(where.sum())


@pytest.mark.parametrize("design", [VisionDesign(), VisionDesign(registers=True, carriers="register")])
def test_without_it_the_class_token_is_another(design: VisionDesign) -> None:
    assert float(cosine_similarity(run(design)[1], run(design, without=True)[1]).mean()) < 0.9


def test_a_harmless_one_is_not_missed() -> None:
    design = VisionDesign(noise=0.0)
    assert float(cosine_similarity(run(design)[1], run(design, without=True)[1]).mean()) > 0.99


@pytest.mark.parametrize(
    ("design", "count"), [(VisionDesign(value=0.5), 0), (VisionDesign(carriers="places"), 16), (VisionDesign(), None)]
)
def test_how_many_tokens_carry_it(design: VisionDesign, count: int | None) -> None:
    found = int(massive(run(design)[0][2]).sum())
    assert found > 16 if count is None else count == found


def test_fickle_ones_have_both_signs() -> None:
    stream = run(VisionDesign(fickle=True))[0][2][..., MASSIVE]
    assert float(stream.max()) > 100
    assert float(stream.min()) < -100
