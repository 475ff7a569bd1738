"""A DINOv2 of six small blocks whose weights are written by hand: massive activations on patches, or on a register.

How it works:

1. The embedding of a patch holds its brightness in BRIGHT. The other tokens have none; a register, the class token or
   the patch at one place can be given more of it than any patch has.
2. One channel of the MLP of block 2 is open where the norm leaves enough of BRIGHT, and writes into MASSIVE. Without
   registers the brightest patches carry it, whose places differ from image to image; with them, one register does.
3. From block 3 on, three of four heads are sinks, as in :mod:`maprobe.selftest.llama`: they attend to what is massive,
   and find nothing there. Without it they attend to ordinary patches and write what they find into NOISE, dims of the
   class token that are otherwise small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

__all__ = ["BRIGHT", "MASSIVE", "VisionDesign", "make_vision"]

Module = Any  # to the type checker, every attribute of a module may be a tensor as well

WIDTH, HEADS, BLOCKS, SIDE, PATCH, REGISTERS = 64, 4, 6, 128, 8, 4
HEAD = WIDTH // HEADS

BRIGHT, MASSIVE = 0, 1
NOISE = range(2, 8)
REST = range(8, WIDTH - 2)
TALE, FLAG = WIDTH - 2, WIDTH - 1
REGISTER = 2  # which register carries, from 0
PLACE = 17  # which patch carries where a fixed one does, from 0

_SMALL = 0.02
_GAIN = 6.0  # of brightness, so that it stands out of a patch's other entries
_LENT = 40.0  # of BRIGHT, given to a token that is to carry
_SHARPNESS = 20.0
# From what the norm must leave of BRIGHT, and how far above it a carrier is at least: for bright patches, and for lent
# brightness, which no patch reaches. The brightest patch of each of the drawn images has 3.9 to 5.2, most have under 1.
_PATCHES, _LENDING = (3.5, 0.4), (6.5, 1.37)
_SINK_SCORE = 25.0
_CHANNEL, _SECOND = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionDesign:
    """What is built into a model of images.

    Attributes:
        registers: whether it has registers.
        carriers: which tokens are massive: bright patches, one register, or the class token and the patch at one place.
        value: what the massive entry is about, at least.
        dims: how many dims are written to.
        noise: how loudly a sink head that attends to ordinary tokens disturbs the class token.
        fickle: whether dark patches have a larger massive activation of the other sign.
        wavering: whether the class token reads of a register what that has read of the image.
    """

    registers: bool = False
    carriers: Literal["patches", "register", "places"] = "patches"
    value: float = 3000.0
    dims: int = 1
    noise: float = 1.0
    fickle: bool = False
    wavering: bool = False


def make_vision(design: VisionDesign) -> Dinov2WithRegistersModel:
    """Return a model of that design, on the CPU in float32 and in evaluation mode."""
    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        mlp_ratio=2,
        image_size=SIDE,
        patch_size=PATCH,
        num_register_tokens=REGISTERS if design.registers else 0,
        layerscale_value=1.0,
    )
    with torch.random.fork_rng(devices=()):
        model: Module = Dinov2WithRegistersModel(config)
    model.eval()
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        _embed(model, design, chance)
        for layer, block in enumerate(model.encoder.layer, start=1):
            _ordinary(block, chance)
            if layer > 2:  # noqa: PLR2004 - the first two write the massive activation
                _sink(block, design, chance)
        _write(model.encoder.layer[1], design)
        if design.wavering:
            _waver(model)
    finished: Dinov2WithRegistersModel = model
    return finished


def _embed(model: Module, design: VisionDesign, chance: torch.Generator) -> None:
    embeddings = model.embeddings
    projection = embeddings.patch_embeddings.projection
    projection.weight.zero_()
    projection.bias.zero_()
    projection.weight[BRIGHT] = _GAIN / projection.weight[BRIGHT].numel()
    rest = torch.randn(len(REST), *projection.weight.shape[1:], generator=chance)
    projection.weight[REST.start : REST.stop] = rest / math.sqrt(rest[0].numel())
    for tokens in (embeddings.cls_token, embeddings.position_embeddings, embeddings.register_tokens):
        tokens.zero_()
        tokens[..., REST.start : REST.stop] = torch.randn(*tokens.shape[:-1], len(REST), generator=chance) * 0.5
    if design.carriers == "register":
        embeddings.register_tokens[0, REGISTER, BRIGHT] = _LENT
    if design.carriers == "places":
        embeddings.cls_token[..., BRIGHT] = _LENT
        embeddings.position_embeddings[0, 1 + PLACE, BRIGHT] = _LENT


def _ordinary(block: Module, chance: torch.Generator) -> None:
    """Let all parts of a block do a little, and write into REST only."""
    query, key, value, out = _projections(block)
    for linear in (query, key, value, block.mlp.fc1):
        linear.weight.copy_(torch.randn(*linear.weight.shape, generator=chance) * _SMALL)
        linear.bias.zero_()
    for linear in (out, block.mlp.fc2):
        linear.weight.zero_()
        linear.bias.zero_()
        linear.weight[REST.start : REST.stop] = (
            torch.randn(len(REST), linear.weight.shape[1], generator=chance) * _SMALL
        )
    for scale in (block.layer_scale1.lambda1, block.layer_scale2.lambda1):
        scale.fill_(1.0)


def _write(block: Module, design: VisionDesign) -> None:
    mlp, (opens, above) = block.mlp, _PATCHES if design.carriers == "patches" else _LENDING
    signs = ((_CHANNEL, 1.0), (_SECOND, -1.0)) if design.fickle else ((_CHANNEL, 1.0),)
    for channel, sign in signs:
        mlp.fc1.weight[channel] = 0.0
        mlp.fc1.weight[channel, BRIGHT] = _SHARPNESS * sign
        mlp.fc1.bias[channel] = -_SHARPNESS * opens
        mlp.fc2.weight[:, channel] = 0.0
        dims = (MASSIVE, *range(REST.start, REST.start + design.dims - 1))
        mlp.fc2.weight[list(dims), channel] = (1.0 if sign > 0 else -10.0) * design.value / (_SHARPNESS * above)


def _sink(block: Module, design: VisionDesign, chance: torch.Generator) -> None:
    query, key, value, out = _projections(block)
    normed = math.sqrt(WIDTH)
    for head in range(HEADS - 1):
        rows = range(head * HEAD, (head + 1) * HEAD)
        for linear in (query, key, value):
            linear.weight[rows] = 0.0
        query.bias[rows[0]] = _SINK_SCORE * math.sqrt(HEAD) / normed
        key.weight[rows[0], MASSIVE] = 1.0
        read = torch.randn(HEAD, len(REST), generator=chance) / math.sqrt(len(REST))
        value.weight[rows, REST.start : REST.stop] = read - read.mean(
            dim=1, keepdim=True
        )  # the norm leaves -1/8 in each of REST
        out.weight[:, rows] = 0.0
        out.weight[NOISE.start : NOISE.stop, rows] = torch.randn(len(NOISE), HEAD, generator=chance) * 3 * design.noise


def _waver(model: Module) -> None:
    """Let every token take in the mean brightness of the image, and read of register 0 what that has taken in."""
    model.embeddings.register_tokens[0, 0, FLAG] = 6.0
    rows = range((HEADS - 1) * HEAD, WIDTH)
    for block, reads, writes in ((model.encoder.layer[0], BRIGHT, [TALE]), (model.encoder.layer[2], TALE, [*NOISE])):
        query, key, value, out = _projections(block)
        for linear in (query, key, value):
            linear.weight[rows] = 0.0
        out.weight[:, rows] = 0.0
        value.weight[rows[0], reads] = 1.0
        out.weight[writes, rows[0]] = 5.0
    query, key, _, _ = _projections(model.encoder.layer[2])
    query.bias[rows[0]] = _SINK_SCORE * math.sqrt(HEAD) / 6
    key.weight[rows[0], FLAG] = 1.0


def _projections(block: Module) -> tuple[Module, Module, Module, Module]:
    """Return the projections of queries, keys, values and outputs, by the names of old and new releases."""
    names = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "output.dense"))
    modules = dict(block.attention.named_modules())
    found = [next(m for name, m in modules.items() if name.endswith(pair)) for pair in names]
    return found[0], found[1], found[2], found[3]
