"""Finding the parts of a model: no code for any one family, one short forward pass to see what is called on what.

Names and metadata only suggest; the pass decides. What was found is then proven (:mod:`maprobe.running.proofs`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from maprobe.errors import DiscoveryError
from maprobe.recipes import Architecture
from maprobe.running.anatomy import Anatomy, AttentionRoute, Block, Part
from maprobe.running.attention import Observer, map_in, watched_attention
from maprobe.running.calling import call, resting, sample, token_embedding
from maprobe.running.residuals import SubLayers, find_sub_layers
from maprobe.running.tracing import Event, is_norm, same, traced

__all__ = ["discover"]

_SEED = 20240227
_FUSED = 3  # dimensions of a parameter that holds the matrices of all experts
_DOWN = re.compile(r"down|w2|wo|output", re.IGNORECASE)
_EXPERT = re.compile(r"^(?P<owner>.*\bexperts)\.(?P<number>\d+)(?P<rest>\..*)?$")


def discover(model: nn.Module, rows: Mapping[str, Architecture]) -> Anatomy:
    """Find the parts of a loaded model.

    Args:
        model: a transformers model, or a module that takes token ids.
        rows: rows of the architecture table by model type.

    Raises:
        DiscoveryError: the model cannot be called on token ids, or it has no stack of blocks that can be told.
    """
    row = rows.get(getattr(getattr(model, "config", None), "model_type", ""))
    with resting(model):
        events = _traced_call(model)
        stack, route = _stack(model, events, row)
        blocks = tuple(
            _block(layer, event, events, row, model) for layer, event in enumerate(_in_order(stack, events), start=1)
        )
        attention_route, blocks = _with_attention(model, blocks)
    last = events[_position(blocks[-1].path, events)]
    tail, final_norm = _tail(model, events, blocks, last, row)
    residuals = {block.residual for block in blocks}
    return Anatomy(
        model=model,
        blocks=blocks,
        embedding=_embedding(model, row),
        final_norm=final_norm,
        tail=tail,
        head=_head(model),
        route=route,
        residual=residuals.pop() if len(residuals) == 1 else "unknown",
        attention_route=attention_route,
        attention_layers=tuple(block.layer for block in blocks if block.attention_maps is not None),
        width=int(last.after.shape[-1]),
        row=row is not None,
    )


def _traced_call(model: nn.Module) -> list[Event]:
    events: list[Event] = []
    given = sample(model, _SEED)
    named = [(path, module) for path, module in model.named_modules() if path]
    try:
        with traced(named, events.append):
            call(model, given, logits=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        image = given.is_floating_point()
        what = f"an image of {tuple(given.shape[1:])}" if image else f"{given.shape[1]} token ids"
        raise DiscoveryError(
            f"{type(model).__name__} could not be called on {what} ({type(error).__name__}: {first}); maprobe measures "
            f"models that take `{'pixel_values' if image else 'input_ids'}` alone"
        ) from error
    return events


def _stack(model: nn.Module, events: Sequence[Event], row: Architecture | None) -> tuple[list[str], str]:
    """Return the paths of the blocks, in any order, and how they were found."""
    called = {event.path: event for event in events}
    for candidates, route in _candidates(model, row):
        stacks: dict[str, list[str]] = {}
        for path in candidates:
            if path in called:
                stacks.setdefault(path.rpartition(".")[0], []).append(path)
        if stacks:
            return max(stacks.values(), key=len), route
    raise DiscoveryError(
        f"{type(model).__name__} has no stack of blocks that maprobe can tell; name it in a row of the architecture "
        f"table (hook pytest_maprobe_architectures: `blocks`)"
    )


def _candidates(model: nn.Module, row: Architecture | None) -> Iterator[tuple[list[str], str]]:
    """Yield what may be the blocks, likeliest first, each with the route in words."""
    named = [(path, module) for path, module in model.named_modules() if path]
    if row is not None and row.blocks:
        children = [path for path, _ in named if path.rpartition(".")[0] == row.blocks]
        yield children, f"the architecture table's row for {row.model_type}"
        if not children:
            raise DiscoveryError(
                f"the architecture table's row for {row.model_type} names blocks at {row.blocks!r}, and "
                f"{type(model).__name__} has no modules there; correct `blocks` in the row"
            )
    yield from ((_instances(named, kind), "transformers' _can_record_outputs") for kind in _recorded(model))
    checkpointing = _checkpointing_layer()
    if checkpointing is not None:
        yield _instances(named, checkpointing), "transformers' GradientCheckpointingLayer"
    whole = set(getattr(model, "_no_split_modules", None) or ())
    yield [path for path, module in named if type(module).__name__ in whole], "transformers' _no_split_modules"
    yield _longest_run(model), "the longest run of equal modules"


def _instances(named: Sequence[tuple[str, nn.Module]], kind: type) -> list[str]:
    return [path for path, module in named if isinstance(module, kind)]


def _recorded(model: nn.Module) -> Iterator[type]:
    """Yield the classes whose outputs transformers itself records as hidden states, of the model and its parts."""
    for module in model.modules():
        entry = (getattr(module, "_can_record_outputs", None) or {}).get("hidden_states")
        for recorder in entry if isinstance(entry, list | tuple) else (entry,):
            kind = getattr(recorder, "target_class", recorder)
            if isinstance(kind, type):
                yield kind


def _checkpointing_layer() -> type | None:
    try:
        from transformers.modeling_layers import GradientCheckpointingLayer
    except ImportError:
        return None
    return GradientCheckpointingLayer


def _longest_run(model: nn.Module) -> list[str]:
    best: list[str] = []
    for path, module in model.named_modules():
        children = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
        for kind in {type(child) for _, child in children if next(child.parameters(), None) is not None}:
            run = [name for name, child in children if type(child) is kind]
            if len(run) > max(1, len(best)):
                best = run
    return best


def _in_order(paths: Sequence[str], events: Sequence[Event]) -> list[Event]:
    """Return one event for each block in the order of execution.

    Raises:
        DiscoveryError: a block is called more than once, or does not return what it was given the shape of.
    """
    wanted = set(paths)
    ordered = [event for event in events if event.path in wanted]
    if len({event.path for event in ordered}) < len(ordered):
        raise DiscoveryError(
            f"block {ordered[0].path} is called more than once in a forward pass; layers cannot be numbered then"
        )
    for event in ordered:
        if event.before.shape != event.after.shape or event.after.dim() != _FUSED:
            raise DiscoveryError(
                f"block {event.path} takes {tuple(event.before.shape)} and returns {tuple(event.after.shape)}; maprobe "
                f"reads blocks that map a residual stream, shape (sequences, tokens, width), to one of the same shape"
            )
    return ordered


def _position(path: str, events: Sequence[Event]) -> int:
    return next(index for index, event in enumerate(events) if event.path == path)


def _block(layer: int, event: Event, events: Sequence[Event], row: Architecture | None, model: nn.Module) -> Block:
    prefix = f"{event.path}."
    inner = [replace(other, path=other.path.removeprefix(prefix)) for other in events if other.path.startswith(prefix)]
    named = {"attention": row.attention, "mlp": row.mlp} if row else {}
    found = find_sub_layers(event, inner, **named)
    stated = f"the architecture table's row for {row.model_type}" if row else ""

    def part(role: Event | None, route: str) -> Part | None:
        return None if role is None else Part(path=prefix + role.path, module=role.module, route=route)

    added = f"what arithmetic says is added ({found.residual})" if found.residual != "unknown" else stated
    return Block(
        layer=layer,
        path=event.path,
        module=event.module,
        attention=part(found.attention, stated if named.get("attention") else "its name within the block"),
        attention_added=part(found.attention_added, added),
        attention_maps=None,
        between=part(found.between, "it is called on the sum of the block's input and what attention adds"),
        mlp=part(found.mlp, stated if named.get("mlp") else "its name within the block, or its last matrix"),
        mlp_added=part(found.mlp_added, added),
        down=_down(found, prefix, row, model),
        residual=found.residual,
    )


def _down(found: SubLayers, prefix: str, row: Architecture | None, model: nn.Module) -> tuple[Part, ...]:
    """Return the down projections of a block: one, one for each expert, or the fused parameter of all experts."""
    if row is not None and row.down and found.mlp is not None:
        return (_stated(model, f"{prefix}{found.mlp.path}.{row.down}", "down", row),)
    if found.down is None:
        return ()
    path, module = prefix + found.down.path, found.down.module
    fused = [name for name, weight in module.named_parameters(recurse=False) if weight.dim() == _FUSED]
    if fused:
        name = next((name for name in fused if _DOWN.search(name)), fused[-1])
        return (
            Part(path=path, module=module, route="the experts' fused down projection", parameter=name, routed=True),
        )
    expert = _EXPERT.match(path)
    if expert:
        rest = expert["rest"] or ""
        count = len(list(model.get_submodule(expert["owner"]).children()))
        paths = [f"{expert['owner']}.{number}{rest}" for number in range(count)]
        route = "the last matrix of each expert"
        return tuple(Part(path=path, module=model.get_submodule(path), route=route, routed=True) for path in paths)
    return (Part(path=path, module=module, route="the last matrix of the MLP"),)


def _with_attention(model: nn.Module, blocks: tuple[Block, ...]) -> tuple[AttentionRoute, tuple[Block, ...]]:
    """Find out how attention can be read, and from which module of each block."""
    routes: tuple[AttentionRoute, ...] = ("interface", "eager maps")
    for route in routes:
        callers = _interface_callers(model, blocks) if route == "interface" else _map_givers(model, blocks)
        if callers:
            words = "it calls a registered attention function" if route == "interface" else "it returns its map"
            return route, tuple(
                replace(block, attention_maps=replace(callers[block.layer], route=words))
                if block.layer in callers
                else block
                for block in blocks
            )
    return "none", blocks


def _interface_callers(model: nn.Module, blocks: Sequence[Block]) -> dict[int, Part]:
    callers: dict[int, Part] = {}
    observers = {}
    for block in blocks:
        for path, module in block.module.named_modules(prefix=block.path):
            part = Part(path=path, module=module, route="")
            observers[module] = _noting(callers, block.layer, part)
    given = sample(model, _SEED)
    try:
        with watched_attention(model, observers):
            call(model, given, logits=False)
    except Exception:  # noqa: BLE001 - whatever a model does under a name it does not know: this is not its route
        return {}
    return callers


def _map_givers(model: nn.Module, blocks: Sequence[Block]) -> dict[int, Part]:
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
    given = sample(model, _SEED)
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


def _tail(
    model: nn.Module, events: Sequence[Event], blocks: Sequence[Block], last: Event, row: Architecture | None
) -> tuple[Part | None, Part | None]:
    """Return what takes in the last block's output, and the final norm if that is what it is."""
    inside = tuple(f"{block.path}." for block in blocks)
    later = events[events.index(last) + 1 :]
    taking = [event for event in later if not event.path.startswith(inside) and same(event.source, last.result)]
    leaves = [event for event in taking if event.is_leaf] or taking
    tail = None
    if leaves:
        tail = Part(path=leaves[0].path, module=leaves[0].module, route="it takes in the last block's output")
    else:
        # CLIP's image encoder norms the class token alone, a view of the block's output that starts where it does.
        pooled = [event for event in later if is_norm(event.module) and _first_token(event.source, last.result)]
        if pooled and not (row and row.final_norm):
            route = "it takes in the class token of the last block's output"
            return None, Part(path=pooled[0].path, module=pooled[0].module, route=route, pooling=True)
    if row is not None and row.final_norm:
        return tail, _stated(model, row.final_norm, "final_norm", row)
    return tail, tail if tail is not None and is_norm(tail.module) else None


def _first_token(part: torch.Tensor, stream: torch.Tensor) -> bool:
    """Whether a live tensor is the first token of a live stream."""
    return part.data_ptr() == stream.data_ptr() and part.numel() == stream[:, 0].numel()


def _embedding(model: nn.Module, row: Architecture | None) -> Part | None:
    if row is not None and row.embedding:
        return _stated(model, row.embedding, "embedding", row)
    return _named(model, token_embedding(model), "transformers' get_input_embeddings, or its first nn.Embedding")


def _head(model: nn.Module) -> Part | None:
    getter: Any = getattr(model, "get_output_embeddings", lambda: None)
    return _named(model, getter(), "transformers' get_output_embeddings")


def _stated(model: nn.Module, path: str, field: str, row: Architecture) -> Part:
    """Return the part that a row of the architecture table names."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise DiscoveryError(
            f"the architecture table's row for {row.model_type} leads to {path!r}, and {type(model).__name__} has no "
            f"module there; correct `{field}` in the row"
        ) from None
    return Part(path=path, module=module, route=f"the architecture table's row for {row.model_type}")


def _named(model: nn.Module, module: nn.Module | None, route: str) -> Part | None:
    path = next((path for path, other in model.named_modules() if other is module), None)
    return None if module is None or path is None else Part(path=path, module=module, route=route)
