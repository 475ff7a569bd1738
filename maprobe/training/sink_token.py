"""Models trained with a sink token: one learned token at the head of every sequence (arXiv:2402.17762, section 4).

The paper prepends one learned vector to the embeddings of every sequence, after the positions were added, and drops
what the model says at its place. Here that vector is an entry of the vocabulary, which the tokenizer puts before every
text, so that whatever is counted or found by token can be found on the sink.

A GPT-2 gives the sink no position, and the token after it has the first one, as in the paper's code. In a Llama the
sink comes first, and rotary embeddings know distances only.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, LlamaConfig, LlamaForCausalLM, LlamaModel

__all__ = [
    "GPT2SinkTokenConfig",
    "GPT2SinkTokenLMHeadModel",
    "GPT2SinkTokenModel",
    "LlamaSinkTokenConfig",
    "LlamaSinkTokenForCausalLM",
    "LlamaSinkTokenModel",
    "SinkPositions",
]


class LlamaSinkTokenConfig(LlamaConfig):
    """The config of a Llama that was trained with a sink token, which is its BOS token."""

    model_type = "llama_sink_token"


class LlamaSinkTokenModel(LlamaModel):
    """The stack of blocks; the same as Llama's."""

    config_class = LlamaSinkTokenConfig
    config: LlamaSinkTokenConfig


class LlamaSinkTokenForCausalLM(LlamaForCausalLM):
    """A Llama language model whose sequences begin with a sink token."""

    config_class = LlamaSinkTokenConfig
    config: LlamaSinkTokenConfig


class GPT2SinkTokenConfig(GPT2Config):
    """The config of a GPT-2 that was trained with a sink token, which is its BOS token.

    ``n_positions`` counts the sink, so that there is one position embedding less.
    """

    model_type = "gpt2_sink_token"


class SinkPositions(nn.Embedding):
    """Position embeddings for sequences that begin with a sink: none at place 0, the first of them at place 1."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """Return the embeddings of places counted from the sink, shape (..., width)."""
        found = super().forward((input - 1).clamp(min=0))
        return found * (input > 0).unsqueeze(-1).to(found.dtype)


class GPT2SinkTokenModel(GPT2Model):
    """The stack of blocks of a GPT-2 whose sink token has no position."""

    config_class = GPT2SinkTokenConfig
    config: GPT2SinkTokenConfig

    def __init__(self, config: GPT2SinkTokenConfig) -> None:
        super().__init__(config)
        self.wpe = SinkPositions(config.n_positions - 1, config.n_embd)
        self.post_init()


class GPT2SinkTokenLMHeadModel(GPT2LMHeadModel):
    """A GPT-2 language model whose sequences begin with a sink token, which has no position."""

    config_class = GPT2SinkTokenConfig
    config: GPT2SinkTokenConfig

    def __init__(self, config: GPT2SinkTokenConfig) -> None:
        super().__init__(config)
        self.transformer = GPT2SinkTokenModel(config)
        self.post_init()
