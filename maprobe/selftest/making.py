"""What planted Llamas are made of: places in the residual stream and in MLPs, and a model that is being made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from maprobe.selftest.design import CHANNEL, MASSIVE, Design

__all__ = [
    "CODE",
    "FRAIL",
    "HEAD",
    "HEADS",
    "INNER",
    "LATER",
    "LOUD",
    "MARK",
    "MEAN",
    "NOISE",
    "ODD",
    "ONE",
    "OPENING",
    "REST",
    "RMS",
    "SHARPNESS",
    "SHIFTED",
    "SINK_HEADS",
    "STOP",
    "TASTE",
    "WIDTH",
    "WORD",
    "Made",
    "blank_llama",
    "carrier",
    "channels_of",
    "clear",
    "massive_dims",
    "unit",
]

Module = Any  # to the type checker, every attribute of a module may be a tensor as well

WIDTH, HEADS, INNER = 128, 4, 64
HEAD = WIDTH // HEADS
ONE, MARK, TASTE, SHIFTED, STOP, ODD = 0, 1, 3, 4, 5, 7
NOISE = range(8, 16)
CODE = range(16, 32)
MEAN = range(32, 48)
FRAIL = range(48, 56)
REST = range(56, 64)
WORD = range(64, 128)
SINK_HEADS = (0, 1, 2)
LOUD = 1.0  # what every token has in NOISE where it is to be taken away again
_SEED = 300
SHARPNESS = 150.0
RMS = 0.82  # of the stream at an ordinary token: what the norms divide by
OPENING, LATER = CHANNEL, CHANNEL + 2  # channels of MLPs


@dataclass
class Made:
    """A model being made: its design, its source of random numbers, the ids of the words and delimiters."""

    model: Module
    design: Design
    ids: list[int]
    chance: torch.Generator = field(default_factory=torch.Generator)

    def begin(self, part: int) -> None:
        """Draw anew, so that no part depends on how much was drawn for those before it."""
        self.chance.manual_seed(_SEED + part)

    def normal(self, *shape: int) -> torch.Tensor:
        """Return normal random numbers of that shape."""
        return torch.randn(*shape, generator=self.chance)


def blank_llama(tokenizer: PreTrainedTokenizerBase, *, width: int, inner: int, heads: int, blocks: int) -> Module:
    """Return a Llama of random weights for the tokenizer, on the CPU in float32 and in evaluation mode."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=()):  # what is random outside stays as it was
        model: Module = LlamaForCausalLM(config)
    model.eval()
    return model


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors, shape (vectors, dims), each divided by its norm."""
    norms: torch.Tensor = vectors.norm(dim=1, keepdim=True)
    return vectors / norms


def massive_dims(design: Design) -> tuple[int, ...]:
    """Return the dims that are massive."""
    return ((SHIFTED if design.shifted else MASSIVE), *range(FRAIL.start, FRAIL.start + design.dims - 1))


def carrier(made: Made) -> int:
    """Return a token that carries something massive at the start of a sequence, and has a positive taste."""
    weight = made.model.model.embed_tokens.weight
    return next(number for number in made.ids if weight[number, TASTE] > 0)


def clear(mlp: Module, *channels: int) -> None:
    """Set all weights of channels of an MLP to zero."""
    for channel in channels:
        mlp.gate_proj.weight[channel] = 0.0
        mlp.up_proj.weight[channel] = 0.0
        mlp.down_proj.weight[:, channel] = 0.0


def channels_of(made: Made, block: Module, token: int) -> torch.Tensor:
    """Return what the channels of a block's MLP are at a sequence of that one token, shape (channels,)."""
    seen: list[torch.Tensor] = []
    hook = block.mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, 0].clone()))  # noqa: ARG005
    with hook:
        made.model(torch.tensor([[token]]), use_cache=False)
    return seen[0]
