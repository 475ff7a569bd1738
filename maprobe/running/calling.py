"""Calling a model and its modules: what goes in, what comes out, in every shape that libraries use."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn

from maprobe.errors import DiscoveryError, InputError
from maprobe.running.vision import PIXELS, pixel_options, sample_pixels, takes_images, unmasked

__all__ = [
    "Arguments",
    "call",
    "incoming",
    "logits_of",
    "moved",
    "outgoing",
    "resting",
    "sample",
    "stream_of",
    "token_embedding",
    "with_incoming",
    "with_outgoing",
]

Gradients = Literal["never", "later", "now"]

_STREAM_KEYWORDS = ("hidden_states", "x", "hidden_state", "inputs")


@dataclass(frozen=True, slots=True, eq=False)
class Arguments:
    """What a model from Python code is called on.

    Attributes:
        positional: its positional arguments.
        keywords: its keyword arguments.
    """

    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object) -> Arguments:
        """Return a tuple as positional arguments, a mapping as keyword arguments, anything else as one argument."""
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return cls(value)
        return cls(keywords=dict(value)) if isinstance(value, Mapping) else cls((value,))


def moved(value: Any, device: torch.device) -> Any:  # noqa: ANN401 - whatever a model is called on
    """Return a value with its tensors, and whatever else has a method ``to``, on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(entry, device) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        entries = [moved(entry, device) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value.to(device) if hasattr(value, "to") else value


def call(
    model: nn.Module,
    given: torch.Tensor | Arguments,
    *,
    logits: bool,
    attentions: bool = False,
    gradients: Gradients = "never",
) -> Any:  # noqa: ANN401
    """Call a model on token ids or on images, without a cache, and without gradients unless they are asked for.

    Args:
        model: a transformers model, or any module that takes token ids first.
        given: token ids, shape (sequences, tokens), or pixels, shape (images, channels, height, width); or the
            arguments of a model from Python code, which is asked for nothing besides.
        logits: whether all logits are wanted; if not, those of the last token alone are computed where possible.
        attentions: whether the modules shall return their attention maps.
        gradients: ``now`` makes a graph of what asks for a gradient, ``later`` makes none, and ``never`` is torch's
            inference mode, through whose tensors no gradient can go afterwards either.
    """
    mode = {"never": torch.inference_mode, "later": torch.no_grad, "now": torch.enable_grad}[gradients]
    if isinstance(given, Arguments):
        with mode():
            return model(*given.positional, **given.keywords)
    accepted = inspect.signature(model.forward).parameters
    wanted: dict[str, Any] = {"use_cache": False}
    if not logits:
        wanted["logits_to_keep"] = 1
    if attentions:
        wanted["output_attentions"] = True
    options = {name: value for name, value in wanted.items() if name in accepted}
    if attentions:
        options["output_attentions"] = True
    with mode():
        if given.is_floating_point():
            with unmasked(model):
                pixels = given.to(_dtype(model))
                return model(**{PIXELS: pixels}, **pixel_options(model, pixels), **options)
        return model(input_ids=given, **options) if "input_ids" in accepted else model(given, **options)


def _dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype in which a model of images computes: that of its first weights."""
    return next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for the time of the context; every module gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def sample(model: nn.Module, seed: int, length: int = 8) -> torch.Tensor:
    """Return what a model can be called on, made from random numbers, on the device that its inputs go to.

    Either one sequence of valid token ids, shape (1, length), or one image, shape (1, channels, height, width).

    Raises:
        DiscoveryError: the model has no token embedding, and takes no images that could be made up.
    """
    if takes_images(model):
        try:
            return sample_pixels(model, seed)
        except InputError as error:
            raise DiscoveryError(str(error)) from None
    embedding = token_embedding(model)
    if embedding is None:
        raise DiscoveryError(
            f"{type(model).__name__} has no token embedding, so no token ids can be fed to it; maprobe measures models "
            f"of text, and models of images that are called on {PIXELS}"
        )
    weight = next(embedding.parameters())
    generator = torch.Generator().manual_seed(seed)
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    allowed = torch.tensor([number for number in range(min(weight.shape[0], 50_000)) if number != padding])
    drawn = allowed[torch.randint(len(allowed), (1, length), generator=generator)]
    return drawn.to(weight.device)


def token_embedding(model: nn.Module) -> nn.Module | None:
    """Return the module that turns token ids into vectors, or None where there is none."""
    getter: Any = getattr(model, "get_input_embeddings", None)
    try:
        given = getter() if getter else None
    except NotImplementedError:
        given = None
    if isinstance(given, nn.Module) and next(given.parameters(), None) is not None:
        return given
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)


def incoming(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the tensor that a module was called on: its first positional tensor, else its stream keyword."""
    for value in args:
        if isinstance(value, torch.Tensor):
            return value
    for name in _STREAM_KEYWORDS:
        if isinstance(kwargs.get(name), torch.Tensor):
            return cast("torch.Tensor", kwargs[name])
    return None


def with_incoming(
    args: tuple[Any, ...], kwargs: dict[str, Any], new: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with the tensor of :func:`incoming` replaced."""
    for index, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            return (*args[:index], new, *args[index + 1 :]), kwargs
    name = next(name for name in _STREAM_KEYWORDS if isinstance(kwargs.get(name), torch.Tensor))
    return args, {**kwargs, name: new}


def outgoing(output: object) -> torch.Tensor | None:
    """Return what a module handed on: its output if that is a tensor, else the first tensor of a tuple."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, tuple) and output and isinstance(output[0], torch.Tensor):
        return output[0]
    return None


def with_outgoing(output: object, new: torch.Tensor) -> object:
    """Return a module's output with the tensor of :func:`outgoing` replaced."""
    if isinstance(output, tuple):
        rest = (new, *output[1:])
        return type(output)(*rest) if hasattr(output, "_fields") else rest
    return new


def stream_of(output: object, path: str) -> torch.Tensor:
    """Return a block's residual stream from its output.

    Raises:
        DiscoveryError: the output is neither a tensor nor a tuple that starts with one.
    """
    found = outgoing(output)
    if found is None:
        raise DiscoveryError(
            f"block {path} returns {type(output).__name__}; maprobe reads blocks that return a tensor, or a tuple that "
            f"starts with one"
        )
    return found


def logits_of(output: object) -> torch.Tensor | None:
    """Return a model's logits from its output, or None."""
    found = getattr(output, "logits", None)
    if found is None and not hasattr(output, "keys"):
        found = outgoing(output)
    return found if isinstance(found, torch.Tensor) else None
