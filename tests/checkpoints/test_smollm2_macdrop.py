"""MacDrop on SmolLM2-135M-Instruct: the channels of the massive weights, and two steps that leave the model as it was.

The literal figures were measured with torch 2.13.0 (CPU) and transformers 5.23.0 in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ground_truth import Truth
from tiny_adapters import adapted, learned, trainer

from maprobe.running.checkpoints import LoadedCheckpoint
from maprobe.running.digests import parameters_digest
from maprobe.running.discovery import discover
from maprobe.training.macdrop import MacDrop
from maprobe.training.massive_rows import bos_of, find_channels

LAYER, LARGEST = 12, (1229, 1487)


def test_the_channels_are_the_largest_of_bos_in_the_layer_that_makes_it_massive(
    truth: Truth, smollm2: LoadedCheckpoint
) -> None:
    into: list[float] = []
    added: list[float] = []
    hidden: list[torch.Tensor] = []
    handles = []
    for block in truth.model.model.layers:
        handles += [
            block.register_forward_pre_hook(lambda module, args: into.append(float(args[0].abs().max()))),
            block.mlp.register_forward_hook(lambda module, args, output: added.append(float(output.abs().max()))),
            block.mlp.down_proj.register_forward_pre_hook(lambda module, args: hidden.append(args[0].flatten())),
        ]
    with torch.inference_mode():
        truth.model(torch.tensor([[1]]), use_cache=False)
    for handle in handles:
        handle.remove()
    gains = [one / other for one, other in zip(added, into, strict=True)]
    layer = 1 + gains.index(max(gains))
    found = find_channels(discover(smollm2.model, {}), bos_of(smollm2.model, smollm2.tokenizer), 5)
    assert LAYER == layer == found.layer
    assert LARGEST == found.channels[:2]
    assert hidden[layer - 1].abs().topk(5).indices.tolist() == [*found.channels]


def test_two_steps_drop_rows_there_and_leave_the_model_as_it_was(smollm2: LoadedCheckpoint, tmp_path: Path) -> None:
    before = parameters_digest(smollm2.model)
    trained = [parameter for parameter in smollm2.model.parameters() if parameter.requires_grad]
    up: Any = smollm2.model.get_parameter(f"model.layers.{LAYER - 1}.mlp.up_proj.weight")
    zeros: list[int] = []
    model = adapted(base=smollm2.model, targets=["up_proj", "gate_proj"])
    handle = model.register_forward_pre_hook(lambda module, args: zeros.append(int((up[LARGEST[0]] == 0).sum())))
    try:
        first = learned(model)
        with MacDrop() as callback:
            trainer(model, tmp_path, [callback], max_steps=2, gradient_accumulation_steps=1).train()
        second = learned(model)
    finally:
        handle.remove()
        model.unload()
        for parameter in trained:
            parameter.requires_grad = True
        smollm2.model.eval()
    assert callback.found is not None
    assert (LAYER, LARGEST) == (callback.found.layer, callback.found.channels[:2])
    # p is 0.4 in the first of two steps and 0 in the last.
    assert [0.4 * 576, 0] == pytest.approx(zeros, abs=60)
    assert any(not first[name].equal(second[name]) for name in first)
    assert before == parameters_digest(smollm2.model)
