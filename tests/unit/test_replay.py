"""Blocks that are called one by one give what the model gives as a whole."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, tiny

from maprobe.errors import DiscoveryError
from maprobe.running.calling import call, outgoing
from maprobe.running.discovery import discover
from maprobe.running.replay import record

IDS = torch.tensor([[5, 9, 17, 33, 21, 40, 8, 77, 12, 3], [44, 8, 9, 100, 3, 66, 21, 5, 5, 90]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replay_is_bit_equal_to_the_pass_in_every_family(family: str) -> None:
    anatomy = discover(tiny(family), {})
    expected: list[torch.Tensor] = []
    handles = [
        block.module.register_forward_hook(lambda module, args, output: expected.append(outgoing(output).clone()))
        for block in anatomy.blocks
    ]
    call(anatomy.model, IDS, logits=True)
    for handle in handles:
        handle.remove()
    calls = record(anatomy, IDS)
    stream = calls.stream
    with torch.inference_mode():
        for block, output in zip(anatomy.blocks, expected, strict=True):
            stream = calls.through(block, stream)
            assert torch.equal(output, stream), block.path


def test_no_hook_is_left_and_no_stream_but_the_first_is_kept() -> None:
    anatomy = discover(tiny("gpt2"), {})
    calls = record(anatomy, IDS)
    assert all(not block.module._forward_pre_hooks for block in anatomy.blocks)
    assert (2, 10, 32) == tuple(calls.stream.shape)
    kept = [value for args, kwargs in calls.arguments for value in (*args, *kwargs.values())]
    assert [] == [value for value in kept if isinstance(value, torch.Tensor) and value.shape == calls.stream.shape]


def test_another_stream_goes_its_own_way() -> None:
    anatomy = discover(tiny(), {})
    calls = record(anatomy, IDS)
    with torch.inference_mode():
        one, other = (calls.through(anatomy.blocks[1], stream) for stream in (calls.stream, 2 * calls.stream))
    assert not torch.equal(one, other)


def test_blocks_that_are_skipped_are_told() -> None:
    anatomy = discover(tiny(), {})
    anatomy.model.model.layers = anatomy.model.model.layers[:2]
    anatomy.model.config.num_hidden_layers = 2
    with pytest.raises(DiscoveryError, match=r"^the 3 blocks of this model were called 2 times in one forward pass"):
        record(anatomy, IDS)
