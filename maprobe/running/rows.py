"""Which lines of which parameters make given channels of a block's MLP hidden state, found by gradients.

The hidden state is the input of the down projection. What is multiplied on the way to it is watched in one short pass;
a product belongs to it channel by channel if the gradient of some channels, drawn at random, with respect to the
product is zero everywhere but in lines of these channels. That holds of a gate and of an up projection, of both of them
in one matrix, half by half or interleaved, of matrices stored the other way round, and of experts in one tensor; it
does not hold of attention, whose every output reaches every channel. Names decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.errors import InterventionError
from maprobe.running.anatomy import Part
from maprobe.running.calling import call, incoming, resting, sample, with_incoming
from maprobe.running.experts import Product, Products
from maprobe.running.tracing import wraps

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy, Block

__all__ = ["Lines", "feeding", "taking_in"]

_SEED = 20241002
_MATRIX = 2
_FUSED = 3
_EXPERT = re.compile(r"^(?P<owner>.*\bexperts)\.(?P<number>\d+)(?P<rest>\..*)?$")
_DOCTOR = "`maprobe doctor --model ...` shows what was found in this model"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """Lines of one parameter: rows of a matrix, columns of one stored the other way round, entries of a bias.

    Attributes:
        path: the parameter's attribute path from the model.
        parameter: the parameter.
        axis: the axis of the parameter that lines are counted along.
        indices: numbers of the lines along it, in the order of the channels asked for.
        expert: number of the expert along the parameter's first axis, where it holds those of all experts.
    """

    path: str
    parameter: nn.Parameter
    axis: int
    indices: tuple[int, ...]
    expert: int | None = None

    def take(self) -> torch.Tensor:
        """Return a copy of the lines, along the axis that they are counted along, and of nothing else."""
        place, axis, index = self._place()
        return place.index_select(axis, index)

    def put(self, values: torch.Tensor) -> None:
        """Set the lines, bit for bit, to values of the shape and dtype that :meth:`take` returns."""
        place, axis, index = self._place()
        with torch.no_grad():
            place.index_copy_(axis, index, values)

    def zero(self) -> None:
        """Set the lines to zero."""
        place, axis, index = self._place()
        with torch.no_grad():
            place.index_fill_(axis, index, 0)

    def _place(self) -> tuple[torch.Tensor, int, torch.Tensor]:
        place = self.parameter.detach()
        index = torch.tensor(self.indices, dtype=torch.long, device=place.device)
        return (place, self.axis, index) if self.expert is None else (place[self.expert], self.axis - 1, index)


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """How lines of a parameter follow channels: ``first + step * channel`` for each of ``first``."""

    path: str
    parameter: nn.Parameter
    axis: int
    first: tuple[int, ...]
    step: int

    def lines(self, channels: Sequence[int]) -> tuple[int, ...]:
        return tuple(start + self.step * channel for start in self.first for channel in channels)


@dataclass
class _Seen:
    """What one pass shows of a block: the hidden states of its MLP, and the products on the way to them."""

    hidden: list[torch.Tensor] = field(default_factory=list)
    products: dict[int, list[Product]] = field(default_factory=dict)


def feeding(
    anatomy: Anatomy, layer: int, channels: Sequence[int], *, expert: int | None = None, others: bool = False
) -> tuple[Lines, ...]:
    """Return the lines that make channels of a block's MLP hidden state, and no others.

    These are rows of the gate and of the up projection, or of the up projection where there is no gate, and with each
    matrix the entries of its bias, so that channels whose lines are all zero are zero; the models of the paper
    (arXiv:2410.01866) have no bias. Where an adapter wraps a matrix, the lines are those of the matrix itself.

    Args:
        anatomy: the model's parts.
        layer: number of the block, from 1.
        channels: the channels, from 0, in any order, each once.
        expert: number of the expert, from 0, where the MLP consists of experts; None where it does not.
        others: whether the lines of all other channels are wanted instead.

    Raises:
        InterventionError: the block has no MLP of this form, a channel lies outside of it, its weights are quantised or
            kept off the device, or an expert is needed, unknown, or given where there are none.
    """
    block = anatomy.blocks[layer - 1]
    place = f"the MLP of layer {layer}"
    if not block.down:
        raise InterventionError(f"{place}: no down projection was found, so its rows cannot be told; {_DOCTOR}")
    _require_expert(place, block, expert)
    parameters = _parameters(block)
    if any(parameter.device.type == "meta" for parameter in parameters.values()):
        raise InterventionError(
            f"{place} is kept off the device, so its rows cannot be edited; load the whole model, without "
            f"--maprobe-device-map"
        )
    seen = _passed(anatomy, block, parameters)
    width = seen.hidden[0].shape[-1] if seen.hidden else 0
    layouts = list(_layouts(seen, parameters, width)) if seen.hidden else []
    if not layouts:
        raise InterventionError(f"{place} {_without(block)}; {_DOCTOR}")
    wrong = [channel for channel in channels if not 0 <= channel < width]
    if wrong:
        raise InterventionError(
            f"{place} has {width} channels, and channel {wrong[0]} was asked for; allowed: 0..{width - 1}"
        )
    if others:
        channels = sorted(set(range(width)).difference(channels))
    number = expert if block.down[0].parameter else None
    return tuple(
        Lines(path=one.path, parameter=one.parameter, axis=one.axis, indices=one.lines(channels), expert=number)
        for layout in _of_expert(anatomy, layouts, expert)
        for one in (layout, *_biases(anatomy, layout))
    )


def taking_in(anatomy: Anatomy, layer: int) -> Part | None:
    """Return the module that is called on what the MLP of a block takes in; None where there is none.

    That is the MLP, or, where the block holds its matrices without a module around them (OPT, BERT), the first of them.
    """
    block = anatomy.blocks[layer - 1]
    if block.mlp is None or not any(part.path == block.mlp.path for part in block.down):
        return block.mlp
    try:
        first = feeding(anatomy, layer, [0])[0]
    except InterventionError:
        return None
    path = first.path.rpartition(".")[0].removesuffix(".base_layer")
    return Part(path=path, module=anatomy.model.get_submodule(path), route="it makes the MLP's hidden state")


def _require_expert(place: str, block: Block, expert: int | None) -> None:
    part = block.down[0]
    if not part.routed:
        if expert is not None:
            raise InterventionError(f"{place} has no experts, and expert {expert} was asked for; leave it out")
        return
    count = getattr(part.module, part.parameter).shape[0] if part.parameter else len(block.down)
    if expert is None or not 0 <= expert < count:
        asked = "none was named" if expert is None else f"expert {expert} was asked for"
        raise InterventionError(f"{place} consists of {count} experts, and {asked}; allowed: 0..{count - 1}")


def _parameters(block: Block) -> dict[str, nn.Parameter]:
    """Return the block's matrices by path, without those that an adapter adds to one."""
    named = dict(block.module.named_modules(prefix=block.path))
    adapters = [path for path, module in named.items() if wraps(module)]
    beside = tuple(f"{path}." for path in adapters)
    inside = tuple(f"{path}.base_layer" for path in adapters)
    return {
        f"{path}.{name}": parameter
        for path, module in named.items()
        if not path.startswith(beside) or path.startswith(inside)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() in (_MATRIX, _FUSED) and parameter.is_floating_point()
    }


def _passed(anatomy: Anatomy, block: Block, parameters: dict[str, nn.Parameter]) -> _Seen:
    """Call the model on a few random tokens and return what is seen of one block, ready for gradients."""
    seen = _Seen()
    fused = {id(getattr(part.module, part.parameter)) for part in block.down if part.parameter}

    def note(product: Product) -> None:
        if id(product.parameter) in fused:
            seen.hidden.append(product.factor)
        elif product.result.requires_grad:
            seen.products.setdefault(id(product.parameter), []).append(product)

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        value = incoming(args, kwargs)
        if value is not None and value.requires_grad and value.numel():
            seen.hidden.append(value)

    model = anatomy.model
    given = sample(model, _SEED)
    with resting(model), ExitStack() as stack:
        stack.enter_context(_differentiable(block.module, parameters.values(), note))
        for part in block.down:
            if not part.parameter:
                stack.callback(part.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        call(model, given, logits=False, gradients="later")
    return seen


@contextmanager
def _differentiable(module: nn.Module, parameters: Any, note: Any) -> Iterator[None]:  # noqa: ANN401 - see Products
    """Let gradients go through one block of a model, and watch its products, for the time of the context."""
    modes: list[tuple[Products, bool]] = []

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        del module
        value = incoming(args, kwargs)
        assert value is not None, "blocks are called on the residual stream"
        modes.append((Products(parameters, note), torch.is_grad_enabled()))
        torch.set_grad_enabled(True)
        modes[-1][0].__enter__()  # type: ignore[no-untyped-call]
        return with_incoming(args, kwargs, value.detach().clone().requires_grad_())

    def leave(module: nn.Module, args: object, output: object) -> None:
        del module, args, output
        mode, before = modes.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        torch.set_grad_enabled(before)

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield


def _layouts(seen: _Seen, parameters: dict[str, nn.Parameter], width: int) -> Iterator[_Layout]:
    """Yield how lines follow channels in each parameter of which gradients show that they do."""
    generator = torch.Generator().manual_seed(_SEED)
    chosen = torch.randperm(width, generator=generator)[: max(1, width // 2)].tolist()
    total = torch.stack([hidden[..., chosen].float().sum() for hidden in seen.hidden]).sum()
    watched = [
        (path, seen.products[id(parameter)]) for path, parameter in parameters.items() if id(parameter) in seen.products
    ]
    results = [product.result for _, products in watched for product in products]
    gradients = iter(torch.autograd.grad(total, results, allow_unused=True) if results else ())
    for path, products in watched:
        parameter = parameters[path]
        axes, moved = set(), set()
        for product in products:
            gradient = next(gradients)
            if gradient is not None:
                lines = gradient.mT if product.first else gradient
                moved |= set(lines.reshape(-1, lines.shape[-1]).ne(0).any(0).nonzero().flatten().tolist())
                axes.add(_axis(parameter, product))
        if not moved or len(axes) > 1 or None in axes:
            continue
        axis = axes.pop()
        assert axis is not None, "left out above"
        for first, step in _patterns(parameter.shape[axis], width):
            layout = _Layout(path, parameter, axis, first, step)
            if moved <= set(layout.lines(chosen)):
                yield layout
                break


def _axis(parameter: torch.Tensor, product: Product) -> int | None:
    """Return the axis of a parameter that the outputs of a product lie along; None if it cannot be told."""
    weight = product.weight
    at = -2 if product.first or product.transposed else -1
    axes = [axis for axis in (parameter.dim() - 2, parameter.dim() - 1) if parameter.shape[axis] == weight.shape[at]]
    if len(axes) > 1:
        axes = [axis for axis in axes if parameter.stride(axis) == weight.stride(at)]
    return axes[0] if len(axes) == 1 else None


def _patterns(lines: int, width: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield in what orders so many lines may follow so many channels."""
    if lines == width:
        yield (0,), 1
    elif lines == 2 * width:
        yield (0, width), 1  # one matrix above the other
        yield (0, 1), 2  # interleaved


def _of_expert(anatomy: Anatomy, layouts: Sequence[_Layout], expert: int | None) -> Iterator[_Layout]:
    """Yield the layouts of one expert: experts are alike, and not every one of them need have seen a token."""
    matched = {layout: _EXPERT.match(layout.path) for layout in layouts}
    if expert is None or not any(matched.values()):
        yield from layouts
        return
    told: set[str] = set()
    for layout, match in matched.items():
        rest = match["rest"] if match else None
        if match is None or rest is None or rest in told:
            continue
        told.add(rest)
        path = f"{match['owner']}.{expert}{rest}"
        yield _Layout(path, anatomy.model.get_parameter(path), layout.axis, layout.first, layout.step)


def _biases(anatomy: Anatomy, layout: _Layout) -> Iterator[_Layout]:
    """Yield the layout of the bias that goes with a matrix, by its name beside it."""
    owner, _, name = layout.path.rpartition(".")
    for candidate in ("bias" if name == "weight" else f"{name}_bias",):
        bias = getattr(anatomy.model.get_submodule(owner), candidate, None)
        if isinstance(bias, nn.Parameter) and bias.shape[-1] == layout.parameter.shape[layout.axis]:
            yield _Layout(f"{owner}.{candidate}", bias, bias.dim() - 1, layout.first, layout.step)


def _without(block: Block) -> str:
    """Say why no lines were found."""
    parts: list[Part] = [part for part in (block.mlp, *block.down) if part is not None]
    numbers = [
        value
        for part in parts
        for value in (*part.module.parameters(), *part.module.buffers())
        if value.dim() > 1 or not value.is_floating_point()
    ]
    if any(not value.is_floating_point() for value in numbers):
        return (
            "holds no plain matrices of weights, as in a quantised model, so no rows of them can be edited: load the "
            "checkpoint with --maprobe-dtype float32 from weights that are not quantised"
        )
    return "has no matrix of which each row makes one channel of its hidden state, so no rows can be told"
