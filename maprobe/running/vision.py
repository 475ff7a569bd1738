"""Models of images: how one is called on pixels, and which of its tokens stands for what."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from maprobe.errors import InputError

__all__ = ["PIXELS", "Layout", "layout_of", "pixel_options", "sample_pixels", "sides", "takes_images", "unmasked"]

PIXELS = "pixel_values"
_SAMPLE_PATCHES = 4  # patches along a side of the image that discovery and the proofs look at
_PAIR = 2
# Model types whose sequence has no class token; every other one has it at position 0.
_WITHOUT_CLASS = ("siglip_vision_model", "siglip2_vision_model", "siglip", "siglip2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the tokens of one image follow one another: the class token, the registers, the patches row by row.

    Attributes:
        classes: number of class tokens, 0 or 1.
        registers: number of register tokens.
        rows, columns: patches along the height and along the width.
    """

    classes: int
    registers: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.classes + self.registers + self.rows * self.columns

    def positions(self, kind: str) -> range:
        """Return the positions of the tokens of one kind: ``class``, ``registers`` or ``patches``."""
        first = {"class": 0, "registers": self.classes, "patches": self.classes + self.registers}[kind]
        count = {"class": self.classes, "registers": self.registers, "patches": self.rows * self.columns}[kind]
        return range(first, first + count)

    def kind(self, position: int) -> str:
        """Return the kind of the token at a position."""
        return next(kind for kind in ("class", "registers", "patches") if position in self.positions(kind))

    def text(self, position: int) -> str:
        """Return a token in words: registers are counted from 1, rows and columns of patches from 0."""
        kind = self.kind(position)
        number = position - self.positions(kind).start
        if kind == "class":
            return "class"
        if kind == "registers":
            return f"register {number + 1}"
        return f"patch ({number // self.columns}, {number % self.columns})"


def takes_images(model: nn.Module) -> bool:
    """Whether a model is called on pixels."""
    return getattr(model, "main_input_name", "") == PIXELS


def layout_of(config: Any, height: int, width: int) -> Layout:  # noqa: ANN401 - configs of every kind
    """Return the layout of an image of so many pixels; a proof on the loaded model holds it to what is the case.

    Raises:
        InputError: the config states no patch size, or the image is smaller than a patch.
    """
    patch = sides(getattr(config, "patch_size", None))
    model_type = str(getattr(config, "model_type", ""))
    if patch is None:
        raise InputError(
            f"a model of type {model_type or 'unknown'} states no `patch_size`, so that its tokens cannot be told; "
            f"maprobe measures models of images that cut them into patches of one size"
        )
    rows, columns = height // patch[0], width // patch[1]
    if not rows * columns:
        raise InputError(
            f"an image of {width} x {height} pixels is smaller than a patch of {patch[1]} x {patch[0]}; name a larger "
            f"image, or correct the size in preprocessor_config.json"
        )
    return Layout(
        classes=0 if model_type in _WITHOUT_CLASS else 1,
        registers=int(getattr(config, "num_register_tokens", 0) or 0),
        rows=rows,
        columns=columns,
    )


def sides(value: object) -> tuple[int, int] | None:
    """Return height and width, stated as one number or as two; None where neither is stated."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, list | tuple) and len(value) == _PAIR and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    return None


def sample_pixels(model: nn.Module, seed: int) -> torch.Tensor:
    """Return one image of random pixels, shape (1, channels, height, width), of few patches where that is allowed.

    Raises:
        InputError: the config states no patch size.
    """
    config = getattr(model, "config", None)
    patch = sides(getattr(config, "patch_size", None))
    whole = sides(getattr(config, "image_size", None))
    small = None if patch is None else (patch[0] * _SAMPLE_PATCHES, patch[1] * _SAMPLE_PATCHES)
    height, width = (small if _interpolates(model) else whole) or whole or small or (0, 0)
    layout_of(config, height, width)
    channels = int(getattr(config, "num_channels", 3) or 3)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn((1, channels, height, width), generator=generator)
    return pixels.to(next(model.parameters()).device)


def _interpolates(model: nn.Module) -> bool:
    """Whether a model takes images of a size that it was not made for."""
    return any(
        hasattr(module, "interpolate_pos_encoding") or hasattr(module, "rope_embeddings") for module in model.modules()
    )


def pixel_options(model: nn.Module, pixels: torch.Tensor) -> dict[str, Any]:
    """Return what a model is called with beside the pixels.

    Position embeddings are interpolated for an image of another size than the model's. A masked autoencoder gets its
    patches in their order; see :func:`unmasked`.
    """
    accepted = inspect.signature(model.forward).parameters
    config = getattr(model, "config", None)
    height, width = pixels.shape[-2:]
    options: dict[str, Any] = {}
    if "interpolate_pos_encoding" in accepted and sides(getattr(config, "image_size", None)) != (height, width):
        options["interpolate_pos_encoding"] = True
    if "noise" in accepted and hasattr(config, "mask_ratio"):
        layout = layout_of(config, height, width)
        order = torch.arange(layout.rows * layout.columns, dtype=torch.float32, device=pixels.device)
        options["noise"] = order.expand(len(pixels), -1)
    return options


@contextmanager
def unmasked(model: nn.Module) -> Iterator[None]:
    """Let a masked autoencoder see the whole image for the time of the context; other models are left alone.

    In training such a model drops most patches and shuffles the rest, by random numbers that it draws anew each time.
    With nothing masked and the patches in their order its encoder is a plain ViT, as arXiv:2402.17762 measures it.
    """
    found = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    masking = [(config, config.mask_ratio) for config in found.values() if hasattr(config, "mask_ratio")]
    try:
        for config, _ in masking:
            config.mask_ratio = 0.0
        yield
    finally:
        for config, ratio in masking:
            config.mask_ratio = ratio
