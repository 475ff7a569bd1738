"""Variants of attention that a model can be built with, training them from scratch, and fine-tuning with MacDrop.

To import this package makes the variants' model types known to transformers: its Auto classes then build, save and load
them. maprobe imports it by itself when it meets a checkpoint of such a type.
"""

from __future__ import annotations

from maprobe.training.explicit_bias import (
    GPT2ExplicitBiasConfig,
    GPT2ExplicitBiasLMHeadModel,
    LlamaExplicitBiasConfig,
    LlamaExplicitBiasForCausalLM,
)
from maprobe.training.sink_token import (
    GPT2SinkTokenConfig,
    GPT2SinkTokenLMHeadModel,
    LlamaSinkTokenConfig,
    LlamaSinkTokenForCausalLM,
)
from maprobe.training.variants import register

__all__ = [
    "GPT2ExplicitBiasConfig",
    "GPT2ExplicitBiasLMHeadModel",
    "GPT2SinkTokenConfig",
    "GPT2SinkTokenLMHeadModel",
    "LlamaExplicitBiasConfig",
    "LlamaExplicitBiasForCausalLM",
    "LlamaSinkTokenConfig",
    "LlamaSinkTokenForCausalLM",
]

register()
