"""Calling the blocks of a model one by one, each with the arguments that the model itself called it with.

One plain forward pass keeps what each block is called with beside the residual stream: masks, positions, whatever its
family hands to its blocks. After it, any residual stream can be sent through a block by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
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

__all__ = ["BlockCall", "BlockCalls", "record", "recording", "require_replay", "within_rounding"]

_ROUNDING = 16  # steps of the dtype


@dataclass(frozen=True, slots=True, eq=False)
class BlockCall:
    """What a block was called on: the stream apart, and all else as it was.

    Attributes:
        stream: what it took in, shape (sequences, tokens, width); empty where it was not kept.
        args: its positional arguments, with an empty tensor in place of the stream.
        kwargs: its keyword arguments, likewise.
    """

    stream: torch.Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def on(self, stream: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with another stream of the same shape."""
        return with_incoming(self.args, self.kwargs, stream)


@contextmanager
def recording(anatomy: Anatomy, *, streams: bool) -> Iterator[list[BlockCall]]:
    """Keep what the blocks are called on, in order, for the time of the context.

    Args:
        anatomy: the model's parts.
        streams: whether the stream is kept of every call. If not, it is that of the first alone: together they take as
            much memory as a cache of all layers.

    Raises:
        DiscoveryError: while running, if a block is called on no tensor.
    """
    calls: list[BlockCall] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = incoming(args, kwargs)
        if stream is None:
            raise DiscoveryError(f"{type(module).__name__} was called on no tensor, and one was expected")
        gone = stream.new_empty(0)
        # A copy, since some models change the stream in place once a block is done.
        calls.append(
            BlockCall(stream.clone() if streams or not calls else gone, *with_incoming(args, dict(kwargs), gone))
        )

    with ExitStack() as hooks:
        for block in anatomy.blocks:
            hooks.callback(block.module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        yield calls


def within_rounding(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether what a second call gave is that of the first, but for what other kernels make of it on some devices."""
    if torch.equal(found, expected):
        return True
    allowed = _ROUNDING * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    return float((found - expected).abs().max()) <= allowed


@dataclass(frozen=True, slots=True, eq=False)
class BlockCalls:
    """How the blocks were called in one forward pass.

    Attributes:
        stream: what the first block took in, shape (sequences, tokens, width).
        calls: what each block was called on beside the stream.
    """

    stream: torch.Tensor
    calls: tuple[BlockCall, ...]

    def through(self, block: Block, stream: torch.Tensor) -> torch.Tensor:
        """Return what a block makes of a residual stream of the shape of ``stream``.

        Raises:
            DiscoveryError: it cannot be called by itself.
        """
        args, kwargs = self.calls[block.layer - 1].on(stream)
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
    with recording(anatomy, streams=False) as calls:
        call(anatomy.model, given, logits=False)
    if len(calls) != anatomy.depth:
        raise DiscoveryError(
            f"the {anatomy.depth} blocks of this model were called {len(calls)} times in one forward pass, so that "
            f"they cannot be called one by one"
        )
    return BlockCalls(calls[0].stream, tuple(calls))


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
    # What is not finite is told where it is used.
    if bool(expected.isfinite().all()) and not within_rounding(stream, expected):
        raise DiscoveryError(
            f"the blocks of {type(anatomy.model).__name__} give something else one by one than in a pass of the whole "
            f"model, so that what each of them takes in is not known"
        )
