"""Blocks that are called one by one give what the model gives as a whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_models import FAMILIES, tiny

from maprobe.errors import DiscoveryError
from maprobe.running.anatomy import Anatomy
from maprobe.running.calling import call, outgoing
from maprobe.running.discovery import discover
from maprobe.running.replay import record, require_replay

IDS = torch.tensor([[5, 9, 17, 33, 21, 40, 8, 77, 12, 3], [44, 8, 9, 100, 3, 66, 21, 5, 5, 90]])


def changed(anatomy: Anatomy, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let the second block hand on something else than it computes."""
    anatomy.blocks[1].module.register_forward_hook(lambda module, args, output: forward(output))


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
    require_replay(anatomy, IDS[:1])


def test_no_hook_is_left_and_no_stream_but_the_first_is_kept() -> None:
    anatomy = discover(tiny("gpt2"), {})
    calls = record(anatomy, IDS)
    assert all(not block.module._forward_pre_hooks for block in anatomy.blocks)
    assert (2, 10, 32) == tuple(calls.stream.shape)
    kept = [value for one in calls.calls for value in (*one.args, *one.kwargs.values())]
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


def test_a_block_that_remembers_its_calls_is_told() -> None:
    anatomy = discover(tiny(), {})
    calls: list[int] = []

    def drifting(output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * (1 + 0.01 * len(calls))

    changed(anatomy, drifting)
    with pytest.raises(DiscoveryError, match=r"^the blocks of LlamaForCausalLM give something else one by one"):
        require_replay(anatomy, IDS)


def test_a_block_that_cannot_be_called_by_itself_is_told() -> None:
    anatomy = discover(tiny(), {})
    calls: list[int] = []

    def once(output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("only once")
        return output

    changed(anatomy, once)
    with pytest.raises(DiscoveryError, match=r"^block model\.layers\.1 cannot be called by itself: only once$"):
        require_replay(anatomy, IDS)
