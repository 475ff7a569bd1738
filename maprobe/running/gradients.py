"""The gradient of a model's largest next-token logit, block by block from the last to the first, at bounded memory.

One forward pass keeps what each block was called on. Then block after block is called again by itself, this time with a
graph, and the gradient is handed down through it. No graph ever spans more than one block, and no gradient of a weight
is made: what a matrix took in and the gradient of what it gave out are enough for that (:mod:`.attributions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.errors import MeasurementError
from maprobe.running.calling import call, incoming, logits_of, stream_of, with_outgoing
from maprobe.running.replay import BlockCall, recording, within_rounding

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy, Block

__all__ = ["Flow", "frozen", "gradient_walk"]


@dataclass(slots=True, eq=False)
class Flow:
    """What went through one linear layer for the sequences of one forward call.

    Attributes:
        taken: what the layer was called on, once for each call: shape (sequences, tokens, inputs).
        gradients: the gradient of what it gave out, call by call: shape (sequences, tokens, outputs).
    """

    taken: list[torch.Tensor] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no weight of a model ask for a gradient for the time of the context; each gets its own flag back."""
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in asking:
            weight.requires_grad = False
        yield
    finally:
        for weight in asking:
            weight.requires_grad = True


def gradient_walk(
    anatomy: Anatomy,
    groups: Sequence[torch.Tensor],
    modules: Mapping[int, Sequence[nn.Module]],
) -> Iterator[tuple[int, list[dict[nn.Module, Flow]]]]:
    """Yield, from the last block to the first that is asked about, what went through its linear layers.

    The differentiated number is D, the largest logit at the last position, sequence by sequence.

    Args:
        anatomy: the model's parts. The model must be at rest, and frozen; see :func:`frozen`.
        groups: token ids, shape (sequences, tokens), of one forward call each.
        modules: the linear layers to watch, by layer.

    Yields:
        The layer, and for each group a Flow by module; modules that were not called are left out.

    Raises:
        MeasurementError: the model gives no logits, or no finite ones; or a block that is called again gives something
            else, so that the gradient would be of another function.
    """
    calls: list[list[BlockCall]] = []
    upstream: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    for ids in groups:
        recorded, output, gradient = _tail(anatomy, ids)
        calls.append(recorded)
        outputs.append(output)
        upstream.append(gradient)
    lowest = min(modules)
    for block in reversed(anatomy.blocks):
        if block.layer < lowest:
            return
        flows = []
        for number in range(len(groups)):
            # Popped, so that the memory of a block that is done with is free for those before it.
            again = calls[number].pop()
            watched = modules.get(block.layer, ())
            flow, upstream[number] = _replayed(block, again, outputs[number], upstream[number], watched)
            outputs[number] = again.stream.detach()
            flows.append(flow)
        yield block.layer, flows


def _tail(anatomy: Anatomy, ids: torch.Tensor) -> tuple[list[BlockCall], torch.Tensor, torch.Tensor]:
    """Call the model, and differentiate what comes after the blocks.

    Returns:
        What each block was called on, the last block's output, and the gradient of D by it.
    """
    leaf: list[torch.Tensor] = []
    last = anatomy.blocks[-1]

    def part(module: nn.Module, args: object, output: object) -> object:
        del module, args
        leaf.append(stream_of(output, last.path).detach().requires_grad_())
        return with_outgoing(output, leaf[-1])

    with ExitStack() as hooks, torch.enable_grad():
        calls = hooks.enter_context(recording(anatomy, streams=True))
        hooks.callback(last.module.register_forward_hook(part).remove)
        logits = logits_of(call(anatomy.model, ids, logits=False, gradients="now"))
        if logits is None:
            raise MeasurementError(
                "this model returns no logits, so no next-token logit can be differentiated; measure one with a "
                "language-model head"
            )
        if len(calls) != anatomy.depth:
            raise MeasurementError(
                f"the {anatomy.depth} blocks of this model were called {len(calls)} times in one forward pass, so "
                f"their gradients cannot be told apart; leave such measurements out for it with `when`"
            )
        largest = logits[:, -1].max(dim=-1).values
        if not bool(largest.isfinite().all()):
            raise MeasurementError(
                "the largest next-token logit is not a finite number, so it has no gradient; measure `finite`, or load "
                "with --maprobe-dtype float32"
            )
        (gradient,) = torch.autograd.grad(largest.sum(), leaf[-1])
    return calls, leaf[-1].detach(), gradient


def _replayed(
    block: Block, recorded: BlockCall, expected: torch.Tensor, upstream: torch.Tensor, watched: Sequence[nn.Module]
) -> tuple[dict[nn.Module, Flow], torch.Tensor]:
    """Call a block again, with a graph; return what went through its linear layers, and the gradient by its input."""
    flows: dict[nn.Module, Flow] = {}
    sequences = len(expected)

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        taken = incoming(args, kwargs)
        assert taken is not None, "linear layers are called on a tensor"
        if output.requires_grad:
            flow, kept, version = flows.setdefault(module, Flow()), taken.detach(), taken._version

            def keep(gradient: torch.Tensor) -> None:
                if kept._version != version:
                    raise MeasurementError(
                        f"block {block.path} overwrites what one of its linear layers was called on, so the gradient "
                        f"of its weights cannot be made; leave measurements of block.attribution out with `when`"
                    )
                _keep(flow, kept, gradient, sequences)

            output.register_hook(keep)  # type: ignore[no-untyped-call]

    with ExitStack() as hooks, torch.enable_grad():
        for module in watched:
            hooks.callback(module.register_forward_hook(see, with_kwargs=True).remove)
        stream = recorded.stream.requires_grad_()
        args, kwargs = recorded.on(stream.clone())
        output = stream_of(block.module(*args, **kwargs), block.path)
        if not within_rounding(output.detach(), expected):
            raise MeasurementError(
                f"block {block.path} gives something else when it is called again by itself, so its gradient would be "
                f"that of another function; leave measurements of block.attribution out for this model with `when`"
            )
        (gradient,) = torch.autograd.grad(output, stream, upstream)
    return flows, gradient


def _keep(flow: Flow, taken: torch.Tensor, gradient: torch.Tensor, sequences: int) -> None:
    """Give back the sequence axis to what a layer sees flattened to rows, and keep both."""
    flow.taken.append(taken.reshape(sequences, -1, taken.shape[-1]))
    flow.gradients.append(gradient.reshape(sequences, -1, gradient.shape[-1]))
