"""Calling the blocks of a model one by one, each with the arguments that the model itself called it with.

One plain forward pass keeps what each block is called with beside the residual stream: masks, positions, whatever its
family hands to its blocks. After it, any residual stream can be sent through a block by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.errors import DiscoveryError
from maprobe.running.calling import call, incoming, stream_of, with_incoming
from maprobe.running.wording import one_line

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy, Block

__all__ = ["BlockCalls", "record", "require_replay"]

_ROUNDING = 16  # steps of the dtype by which the same kernel may differ from call to call on some devices


@dataclass(frozen=True, slots=True, eq=False)
class BlockCalls:
    """How the blocks were called in one forward pass.

    Attributes:
        stream: what the first block took in, shape (sequences, tokens, width).
        arguments: positional and keyword arguments of each block, with an empty tensor in place of the stream.
    """

    stream: torch.Tensor
    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]

    def through(self, block: Block, stream: torch.Tensor) -> torch.Tensor:
        """Return what a block makes of a residual stream of the shape of ``stream``.

        Raises:
            DiscoveryError: it cannot be called by itself.
        """
        args, kwargs = with_incoming(*self.arguments[block.layer - 1], stream)
        try:
            output = block.module(*args, **kwargs)
        except Exception as error:
            if isinstance(error, MemoryError) or "memory" in str(error):
                raise
            raise DiscoveryError(f"block {block.path} cannot be called by itself: {one_line(error)}") from error
        return stream_of(output, block.path)


def record(anatomy: Anatomy, given: torch.Tensor) -> BlockCalls:
    """Call the model once and keep how its blocks were called.

    Args:
        anatomy: the model's parts; the model must be in evaluation mode.
        given: what the model is called on: token ids, shape (sequences, tokens), or pixels.

    Raises:
        DiscoveryError: a block was called on no tensor, or the blocks were not called once each.
    """
    streams: list[torch.Tensor] = []
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = incoming(args, kwargs)
        if stream is None:
            raise DiscoveryError(f"{type(module).__name__} was called on no tensor, and one was expected")
        if not streams:
            streams.append(stream.clone())  # models change tensors in place later on
        # Of the later streams only the place is kept: together they would take as much memory as a cache of all layers.
        arguments.append(with_incoming(args, dict(kwargs), stream.new_empty(0)))

    with _hooked([block.module for block in anatomy.blocks], keep):
        call(anatomy.model, given, logits=False)
    if len(arguments) != anatomy.depth:
        raise DiscoveryError(
            f"the {anatomy.depth} blocks of this model were called {len(arguments)} times in one forward pass, so that "
            f"they cannot be called one by one"
        )
    return BlockCalls(streams[0], tuple(arguments))


def require_replay(anatomy: Anatomy, given: torch.Tensor) -> None:
    """See that blocks called one by one give what the model gives as a whole.

    A block that takes something from another behind the model's back, or remembers earlier calls, would not.

    Raises:
        DiscoveryError: they do not.
    """
    whole: list[torch.Tensor] = []
    last = anatomy.blocks[-1]

    def keep(module: nn.Module, args: object, output: object) -> None:
        del module, args
        whole.append(stream_of(output, last.path).clone())

    handle = last.module.register_forward_hook(keep)
    try:
        calls = record(anatomy, given)
    finally:
        handle.remove()
    stream = calls.stream
    with torch.inference_mode():
        for block in anatomy.blocks:
            stream = calls.through(block, stream)
    expected = whole[0]
    if torch.equal(stream, expected) or not bool(expected.isfinite().all()):
        return  # what is not finite is told where it is used
    allowed = _ROUNDING * torch.finfo(stream.dtype).eps * float(expected.abs().max())
    if not float((stream - expected).abs().max()) <= allowed:
        raise DiscoveryError(
            f"the blocks of {type(anatomy.model).__name__} give something else one by one than in a pass of the whole "
            f"model, so that what each of them takes in is not known"
        )


@contextmanager
def _hooked(modules: Sequence[nn.Module], keep: Any) -> Iterator[None]:  # noqa: ANN401 - a hook of torch
    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        yield
