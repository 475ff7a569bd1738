"""The variants by name: model types for transformers, and fresh models whose shared weights begin the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from maprobe.training.explicit_bias import (
    GPT2ExplicitBiasConfig,
    GPT2ExplicitBiasLMHeadModel,
    GPT2ExplicitBiasModel,
    LlamaExplicitBiasConfig,
    LlamaExplicitBiasForCausalLM,
    LlamaExplicitBiasModel,
)
from maprobe.training.sink_token import (
    GPT2SinkTokenConfig,
    GPT2SinkTokenLMHeadModel,
    GPT2SinkTokenModel,
    LlamaSinkTokenConfig,
    LlamaSinkTokenForCausalLM,
    LlamaSinkTokenModel,
)

__all__ = ["ARCHITECTURES", "VARIANTS", "fresh_model", "register"]

VARIANTS = ("default", "sink-token", "explicit-bias")
ARCHITECTURES = ("gpt2", "llama")

_OWN: tuple[tuple[Any, Any, Any], ...] = (
    (LlamaExplicitBiasConfig, LlamaExplicitBiasModel, LlamaExplicitBiasForCausalLM),
    (GPT2ExplicitBiasConfig, GPT2ExplicitBiasModel, GPT2ExplicitBiasLMHeadModel),
    (LlamaSinkTokenConfig, LlamaSinkTokenModel, LlamaSinkTokenForCausalLM),
    (GPT2SinkTokenConfig, GPT2SinkTokenModel, GPT2SinkTokenLMHeadModel),
)
_CLASSES: dict[tuple[str, str], tuple[Any, Any]] = {
    ("default", "llama"): (LlamaConfig, LlamaForCausalLM),
    ("default", "gpt2"): (GPT2Config, GPT2LMHeadModel),
    ("sink-token", "llama"): (LlamaSinkTokenConfig, LlamaSinkTokenForCausalLM),
    ("sink-token", "gpt2"): (GPT2SinkTokenConfig, GPT2SinkTokenLMHeadModel),
    ("explicit-bias", "llama"): (LlamaExplicitBiasConfig, LlamaExplicitBiasForCausalLM),
    ("explicit-bias", "gpt2"): (GPT2ExplicitBiasConfig, GPT2ExplicitBiasLMHeadModel),
}


def register() -> None:
    """Make the variants' model types known to transformers' Auto classes; doing so twice does no harm."""
    for config, base, causal in _OWN:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, base, exist_ok=True)
        AutoModelForCausalLM.register(config, causal, exist_ok=True)


def fresh_model(variant: str, architecture: str, settings: Mapping[str, Any], *, seed: int) -> PreTrainedModel:
    """Return a model in float32 with random weights; those that all variants have are the same in each.

    Args:
        variant: one of ``VARIANTS``.
        architecture: one of ``ARCHITECTURES``.
        settings: the default variant's config, under transformers' names. ``sink-token`` has one entry of the
            vocabulary more, its last, and one place more in a sequence.
        seed: of the random weights.
    """
    config_class, model_class = _CLASSES["default", architecture]
    torch.manual_seed(seed)
    default: PreTrainedModel = model_class(config_class(**settings))
    if variant == "default":
        return default
    changed = dict(settings)
    if variant == "sink-token":
        places = "n_positions" if architecture == "gpt2" else "max_position_embeddings"
        changed |= {"vocab_size": settings["vocab_size"] + 1, places: settings[places] + 1}
        changed |= {"bos_token_id": settings["vocab_size"]}
    config_class, model_class = _CLASSES[variant, architecture]
    torch.manual_seed(seed + 1)
    model: PreTrainedModel = model_class(config_class(**changed))
    shared = default.state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if name in shared:  # the sink's row is the last of the embedding
                weight[: len(shared[name])] = shared[name]
    return model
