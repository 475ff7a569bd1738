"""Finding the parts of a model: no code for any one family, one short forward pass to see what is called on what.

Names and metadata only suggest; the pass decides. What was found is then proven (:mod:`maprobe.running.proofs`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.errors import DiscoveryError
from maprobe.recipes import Architecture
from maprobe.running.anatomy import Anatomy, Block, Part
from maprobe.running.attention_routes import with_attention
from maprobe.running.calling import Arguments, call, resting, token_embedding
from maprobe.running.own_sites import named_paths, named_sites
from maprobe.running.residuals import SubLayers, find_sub_layers
from maprobe.running.tracing import Event, is_norm, same, traced
from maprobe.running.trials import trial

if TYPE_CHECKING:
    from maprobe.python_models import PythonModel

__all__ = ["discover", "longest_run"]

_SEED = 20240227
_STREAM = 3  # dimensions of a residual stream
_FUSED = 3  # dimensions of a parameter that holds the matrices of all experts
_DOWN = re.compile(r"down|w2|wo|output", re.IGNORECASE)
_EXPERT = re.compile(r"^(?P<owner>.*\bexperts)\.(?P<number>\d+)(?P<rest>\..*)?$")


def discover(model: nn.Module, rows: Mapping[str, Architecture], own: PythonModel | None = None) -> Anatomy:
    """Find the parts of a loaded model.

    Args:
        model: a transformers model, or a module that takes token ids.
        rows: rows of the architecture table by model type.
        own: what the model's own code brings, where it brings inputs.

    Raises:
        DiscoveryError: the model cannot be called on token ids, or it has no stack of blocks that can be told.
    """
    row = rows.get(getattr(getattr(model, "config", None), "model_type", ""))
    named = named_paths(own.sites, model) if own is not None else {}
    with resting(model):
        given = trial(model, own, _SEED)
        events = _traced_call(model, given)
        stack, route = _stack(model, events, row, named.get("block.out", ()))
        ordered = _in_order(stack, events, flat=own is not None)
        blocks = tuple(_block(layer, event, events, row, model) for layer, event in enumerate(ordered, start=1))
        attention_route, blocks = with_attention(model, blocks, given)
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
        sites=named_sites(named, model),
        own=own,
    )


def _traced_call(model: nn.Module, given: torch.Tensor | Arguments) -> list[Event]:
    events: list[Event] = []
    named = [(path, module) for path, module in model.named_modules() if path]
    try:
        with traced(named, events.append):
            call(model, given, logits=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        if isinstance(given, Arguments):
            raise DiscoveryError(
                f"{type(model).__name__} could not be called on the first input that its code brings "
                f"({type(error).__name__}: {first}); a tuple is taken for positional arguments, a mapping for keywords"
            ) from error
        image = given.is_floating_point()
        what = f"an image of {tuple(given.shape[1:])}" if image else f"{given.shape[1]} token ids"
        raise DiscoveryError(
            f"{type(model).__name__} could not be called on {what} ({type(error).__name__}: {first}); maprobe measures "
            f"models that take `{'pixel_values' if image else 'input_ids'}` alone"
        ) from error
    return events


def _stack(
    model: nn.Module, events: Sequence[Event], row: Architecture | None, stated: Sequence[str] = ()
) -> tuple[list[str], str]:
    """Return the paths of the blocks, in any order, and how they were found."""
    called = {event.path: event for event in events}
    if stated:
        lost = next((path for path in stated if path not in called), "")
        if lost:
            raise DiscoveryError(
                f"the model's code names {lost!r} for block.out, and it is not called on a tensor, or returns none; "
                f"name the modules that the model runs through one after the other"
            )
        return list(stated), "block.out, as the model's own code names it"
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
    yield longest_run(model), "the longest run of equal modules"


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


def longest_run(model: nn.Module) -> list[str]:
    """Return the paths of the most modules of one class that one module holds, where they have weights.

    A list of modules comes before modules that are attributes of another: these are rarely a stack.
    """
    best: list[str] = []
    listed = False
    for path, module in model.named_modules():
        in_list = isinstance(module, nn.ModuleList)
        if listed and not in_list:
            continue
        children = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
        for kind in {type(child) for _, child in children if next(child.parameters(), None) is not None}:
            run = [name for name, child in children if type(child) is kind]
            if len(run) > max(1, len(best) if in_list == listed else 0):
                best, listed = run, in_list
    return best


def _in_order(paths: Sequence[str], events: Sequence[Event], *, flat: bool = False) -> list[Event]:
    """Return one event for each block in the order of execution; a stream may be flat, rows x width, if that is said.

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
        ranks = (_STREAM, _STREAM - 1) if flat else (_STREAM,)
        if event.before.shape != event.after.shape or event.after.dim() not in ranks:
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
