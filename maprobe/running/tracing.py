"""Following one forward call: which modules are called, in what order, on which tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from maprobe.running.calling import incoming, outgoing

__all__ = ["Event", "handing_on", "has_matrix", "is_leaf", "is_norm", "owns_matrix", "same", "traced", "wraps"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Event:
    """One call of one module.

    Attributes:
        path: the module's attribute path, from the root that was traced.
        module: the module.
        source, result: the tensors that went in and came out, kept so that their identity can be compared.
        before, after: their values at that time (models change tensors in place later on).
    """

    path: str
    module: nn.Module
    source: torch.Tensor
    result: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor

    @property
    def is_leaf(self) -> bool:
        """Whether the module has no submodules."""
        return is_leaf(self.module)


@dataclass
class _Tracer:
    modules: dict[str, nn.Module]
    done: Callable[[Event], None]
    pending: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)

    def hooks(self, path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del module
            source = incoming(args, kwargs)
            if source is not None:
                self.pending.setdefault(path, []).append((source, source.clone()))

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            result = outgoing(output)
            entered = self.pending.get(path)
            if result is None or not entered or incoming(args, kwargs) is None:
                return
            source, before = entered.pop()
            self.done(
                Event(path=path, module=module, source=source, result=result, before=before, after=result.clone())
            )

        return enter, leave


@contextmanager
def traced(modules: Iterable[tuple[str, nn.Module]], done: Callable[[Event], None]) -> Iterator[None]:
    """Report every call of the given modules, at its end, for the time of the context."""
    named = dict(modules)
    tracer = _Tracer(named, done)
    with ExitStack() as stack:
        for path, module in named.items():
            enter, leave = tracer.hooks(path)
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        yield


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two live tensors are the same memory, in whatever shape."""
    return left.data_ptr() == right.data_ptr() and left.numel() == right.numel()


def handing_on(events: Sequence[Event], start: Event) -> Iterator[Event]:
    """Yield the events that a tensor runs through one after another, each of the stream's own size, from ``start``."""
    current = start
    rest = list(events)
    while True:
        yield current
        following = (
            event
            for event in rest
            if event is not current
            and event.is_leaf
            and same(event.source, current.result)
            and event.after.numel() == start.after.numel()
        )
        found = next(following, None)
        if found is None:
            return
        rest.remove(found)
        current = found


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no submodules."""
    return next(module.children(), None) is None


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm by its build: no submodules, and weights of one dimension if any."""
    weights = list(module.parameters())
    named = "norm" in type(module).__name__.lower()
    return is_leaf(module) and all(weight.dim() <= 1 for weight in weights) and (named or bool(weights))


def has_matrix(module: nn.Module) -> bool:
    """Whether a module or one within it holds a weight matrix; norms, dropouts and rotary tables hold none."""
    return any(owns_matrix(part) for part in module.modules())


def wraps(module: nn.Module) -> bool:
    """Whether a module is an adapter around another one, which it holds as its base layer, as those of peft are."""
    return isinstance(getattr(module, "base_layer", None), nn.Module)


def owns_matrix(module: nn.Module) -> bool:
    """Whether a module itself holds a weight matrix, plain, quantised, of all experts in one tensor, or adapted."""
    if wraps(module):
        return owns_matrix(module.base_layer)  # type: ignore[arg-type]
    if any(weight.dim() > 1 for weight in module.parameters(recurse=False)):
        return True
    return any("weight" in name and buffer.dim() > 1 for name, buffer in module.named_buffers(recurse=False))
