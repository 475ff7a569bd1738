"""Wanda on the default checkpoint, beside plain torch: the first blocks, which take seconds."""

from __future__ import annotations

import torch
from ground_truth import Truth

from maprobe.progress import Silent
from maprobe.pruning.targets import targets_of
from maprobe.pruning.wanda import prune
from maprobe.running.checkpoints import LoadedCheckpoint
from maprobe.running.discovery import discover
from maprobe.running.inputs import Inputs, digest_of

BLOCKS, SEQUENCES, LENGTH = 3, 2, 64


def test_the_same_weights_of_the_first_blocks_go_as_by_plain_torch(smollm2: LoadedCheckpoint, truth: Truth) -> None:
    tokens = truth.tokens()
    sequences = tuple(tuple(tokens[LENGTH * row : LENGTH * (row + 1)]) for row in range(SEQUENCES))
    anatomy = discover(smollm2.model, {})
    targets = targets_of(anatomy)
    assert (210, 106_168_320) == (len(targets), sum(target.weight.numel() for target in targets))
    first = [target for target in targets if target.layer <= BLOCKS]
    copies = [target.weight.clone() for target in first]
    try:
        inputs = Inputs(sequences=sequences, description="", digest=digest_of(sequences), bos="", vocabulary=None)  # type: ignore[arg-type]
        done = prune(anatomy, first, inputs, [0.5] * 30, device=torch.device("cpu"), progress=Silent())
        ours = [target.weight.clone() for target in first]
        for target, copy in zip(first, copies, strict=True):
            target.weight.copy_(copy)
        for block in truth.model.model.layers[:BLOCKS]:
            _by_hand(truth.model, block, sequences)
        for matrix, target, weight in zip(done, first, ours, strict=True):
            # A handful of scores in a million lie so near to one another that the order of summing decides.
            differ = int(((weight == 0) != (target.weight == 0)).sum())
            assert differ <= 1e-5 * weight.numel(), (matrix.path, differ)
            assert matrix.zeros >= weight.numel() / 2
    finally:
        for target, copy in zip(first, copies, strict=True):
            target.weight.copy_(copy)


def _by_hand(model: torch.nn.Module, block: torch.nn.Module, sequences: tuple[tuple[int, ...], ...]) -> None:
    layers = [module for module in block.modules() if isinstance(module, torch.nn.Linear)]
    squares = dict.fromkeys(layers, torch.zeros(()))

    def add(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: object) -> None:
        squares[module] = squares[module] + args[0][0].square().sum(dim=0)

    handles = [module.register_forward_hook(add) for module in layers]
    with torch.inference_mode():
        for sequence in sequences:
            model(torch.tensor([sequence]), use_cache=False)
    for handle in handles:
        handle.remove()
    for module in layers:
        score = module.weight.detach().abs() * squares[module].sqrt()
        order = score.sort(dim=1, stable=True).indices[:, : score.shape[1] // 2]
        module.weight.data.scatter_(1, order, 0)
