"""Tiny models of images with random weights, images for them, and a register with a massive activation built in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_checkpoints import clip_config, vit_config
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

SIDE, PATCH, WIDTH, BLOCKS, REGISTERS = 32, 8, 16, 4, 3
MARK, MASSIVE, HANDED_ON = 3, 7, 9
REGISTER = 2  # counted from 1: it stands at position 2, after the class token and register 1
LAYER = 2
_CHANNEL = 0
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}


def vit() -> nn.Module:
    torch.manual_seed(0)
    return ViTModel(vit_config(**SIZES)).eval()


def vit_classifier(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return ViTForImageClassification(vit_config(**SIZES, num_labels=classes)).eval()


def clip_vision() -> nn.Module:
    torch.manual_seed(0)
    config = CLIPVisionConfig(**{**clip_config().vision_config.to_dict(), **SIZES, "intermediate_size": 24})
    return CLIPVisionModel(config).eval()


def dinov2() -> nn.Module:
    torch.manual_seed(0)
    return _varied(Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2)))


def dinov2_classifier(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return Dinov2ForImageClassification(Dinov2Config(**SIZES, mlp_ratio=2, num_labels=classes)).eval()


def dinov2_registers() -> nn.Module:
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=REGISTERS)
    return _varied(Dinov2WithRegistersModel(config))


def vit_mae() -> nn.Module:
    torch.manual_seed(0)
    return ViTMAEModel(ViTMAEConfig(**SIZES, intermediate_size=24)).eval()


FAMILIES = {
    "vit": vit,
    "clip": clip_vision,
    "dinov2": dinov2,
    "registers": dinov2_registers,
    "mae": vit_mae,
}


def _varied(model: nn.Module) -> nn.Module:
    """Give registers, which transformers starts at zero, values of their own."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "register_tokens" in name or "cls_token" in name:
                weight.normal_(std=0.5)
    return model.eval()


def planted_register(*, value: float = 4000.0) -> nn.Module:
    """Return a DINOv2 with registers whose register has an entry of about that value from layer 2 on; 0 for the twin.

    The register alone carries a mark in the dim ``MARK``, into which nothing else is written. A channel of the MLP of
    block 2 reads that dim; its bias keeps it shut for all other tokens. It writes into the dim ``MASSIVE``. A channel
    of the attention of block 3 reads that dim and hands it to every token, so that the features depend on it.
    """
    model = dinov2_registers()
    position = REGISTER - 1
    with torch.no_grad():
        embeddings = model.embeddings
        for weight in (embeddings.cls_token, embeddings.position_embeddings, embeddings.register_tokens):
            weight[..., (MARK, MASSIVE)] = 0.0
        embeddings.patch_embeddings.projection.weight[(MARK, MASSIVE), ...] = 0.0
        embeddings.patch_embeddings.projection.bias[[MARK, MASSIVE]] = 0.0
        embeddings.register_tokens[0, position, MARK] = 20.0
        blocks = blocks_of(model)
        for block in blocks:
            for scale in (block.layer_scale1, block.layer_scale2):
                scale.lambda1[[MARK, MASSIVE]] = 0.0
        mlp = blocks[LAYER - 1].mlp
        mlp.fc1.weight[_CHANNEL] = 0.0
        mlp.fc1.weight[_CHANNEL, MARK] = 4.0
        mlp.fc1.bias[_CHANNEL] = -10.0
        mlp.fc2.weight[:, _CHANNEL] = 0.0
        mlp.fc2.weight[MASSIVE, _CHANNEL] = value / 5.4
        blocks[LAYER - 1].layer_scale2.lambda1[MASSIVE] = 1.0
        mlp.fc2.weight[MASSIVE, 1:] = 0.0
        mlp.fc2.bias[MASSIVE] = 0.0
        reads, writes = (_within(blocks[LAYER], *names) for names in (("v_proj", "value"), ("o_proj", "output.dense")))
        reads.weight[0, MASSIVE] = 5.0
        writes.weight[HANDED_ON, 0] = 5.0
    return model


def _within(block: nn.Module, *names: str) -> nn.Module:
    """Return the module of a block whose path ends so; releases of transformers call it differently."""
    return next(module for path, module in block.named_modules() if path.endswith(names))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    for path in ("encoder.layer", "encoder.layers", "layers", "vit.layers", "dinov2.encoder.layer", "dinov2.layers"):
        try:
            return list(model.get_submodule(path))
        except AttributeError:
            continue
    raise AssertionError("no blocks")


def picture(seed: int, *, height: int = 40, width: int = 48) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def save_pictures(folder: Path, count: int = 3, suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"{number}.{suffix}")
    return folder


def save_vision(model: nn.Module, folder: Path, *, processor: bool = True) -> Path:
    model.save_pretrained(folder)
    if processor:
        stated = {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": SIDE, "width": SIDE},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder
