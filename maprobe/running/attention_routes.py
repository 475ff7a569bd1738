"""How the attention of a model can be read, and from which module of each block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from maprobe.running.anatomy import AttentionRoute, Block, Part
from maprobe.running.attention import Observer, map_in, watched_attention
from maprobe.running.calling import Arguments, call

__all__ = ["with_attention"]


def with_attention(
    model: nn.Module, blocks: tuple[Block, ...], given: torch.Tensor | Arguments
) -> tuple[AttentionRoute, tuple[Block, ...]]:
    """Find out how attention can be read, and from which module of each block."""
    routes: tuple[AttentionRoute, ...] = ("interface", "eager maps")
    for route in routes:
        find = _interface_callers if route == "interface" else _map_givers
        callers = find(model, blocks, given)
        if callers:
            words = "it calls a registered attention function" if route == "interface" else "it returns its map"
            return route, tuple(
                replace(block, attention_maps=replace(callers[block.layer], route=words))
                if block.layer in callers
                else block
                for block in blocks
            )
    return "none", blocks


def _interface_callers(model: nn.Module, blocks: Sequence[Block], given: torch.Tensor | Arguments) -> dict[int, Part]:
    callers: dict[int, Part] = {}
    observers = {}
    for block in blocks:
        for path, module in block.module.named_modules(prefix=block.path):
            part = Part(path=path, module=module, route="")
            observers[module] = _noting(callers, block.layer, part)
    try:
        with watched_attention(model, observers):
            call(model, given, logits=False)
    except Exception:  # noqa: BLE001 - whatever a model does under a name it does not know: this is not its route
        return {}
    return callers


def _map_givers(model: nn.Module, blocks: Sequence[Block], given: torch.Tensor | Arguments) -> dict[int, Part]:
    callers: dict[int, Part] = {}

    def hook(layer: int, part: Part) -> Callable[..., None]:
        def seen(module: nn.Module, args: object, output: object) -> None:
            del module, args
            if map_in(output) is not None:
                callers.setdefault(layer, part)  # the innermost ends first

        return seen

    handles = [
        module.register_forward_hook(hook(block.layer, Part(path=path, module=module, route="")))
        for block in blocks
        for path, module in block.module.named_modules(prefix=block.path)
        if module is not block.module
    ]
    try:
        call(model, given, logits=False, attentions=True)
    except Exception:  # noqa: BLE001 - a model that takes no `output_attentions`
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return callers


def _noting(callers: dict[int, Part], layer: int, part: Part) -> Observer:
    def note(probabilities: torch.Tensor, query: int) -> None:
        del probabilities, query
        callers.setdefault(layer, part)

    return Observer(probabilities=note)
