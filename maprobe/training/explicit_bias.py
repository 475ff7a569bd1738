"""Attention with an explicit bias: a learned key and value that every query sees (arXiv:2402.17762, section 4).

Equation 3 there, for one head:

    Attention(Q, K, V; k', v') = softmax(Q [k'; K]^T / sqrt(d)) [v'; V]

k' and v' are parameters, one pair for each head; with grouped queries, one pair for each head of keys and values, which
the queries of a group share as they share its keys. They stand before the first token, have no position (no rotary
embedding is applied to them) and are visible to every query. With k' = v' = 0 this is softmax with 1 added to the
denominator.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.llama import modeling_llama

try:
    from transformers.initialization import normal_
except ImportError:  # transformers 4
    from torch.nn.init import normal_

__all__ = [
    "GPT2ExplicitBiasConfig",
    "GPT2ExplicitBiasLMHeadModel",
    "GPT2ExplicitBiasModel",
    "LlamaExplicitBiasConfig",
    "LlamaExplicitBiasForCausalLM",
    "LlamaExplicitBiasModel",
]

_STD = 0.02  # of k' and v' at the start, as in the paper's code


class _Biased:
    """What both families share: the parameters k' and v' of an attention module, and the call of attention with them.

    Attributes:
        keys_of_no_token: how many keys, at the front, stand for no token. Whoever reads attention counts on it.
        explicit_key: k', shape (1, heads of keys, 1, head_dim).
        explicit_value: v', of the same shape.
    """

    keys_of_no_token: ClassVar[int] = 1
    explicit_key: nn.Parameter
    explicit_value: nn.Parameter

    def _add_bias(self, heads: int | None, width: int) -> None:
        assert heads is not None, "a config settles how many heads there are"
        self.explicit_key = nn.Parameter(torch.empty(1, heads, 1, width))
        self.explicit_value = nn.Parameter(torch.empty(1, heads, 1, width))

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        eager: Any,  # noqa: ANN401 - the family's own attention function
        **options: Any,  # noqa: ANN401 - passed on as they come
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the output, (sequences, queries, heads, head_dim), and the map where the function gives one."""
        config = cast("Any", self).config
        widened = _widened(mask, query, key)
        batch = key.shape[0]
        key = torch.cat((self.explicit_key.to(key.dtype).expand(batch, -1, -1, -1), key), dim=2)
        value = torch.cat((self.explicit_value.to(value.dtype).expand(batch, -1, -1, -1), value), dim=2)
        functions = cast("Any", ALL_ATTENTION_FUNCTIONS)
        name = config._attn_implementation or "eager"
        function = eager if name == "eager" else functions[name]
        output: tuple[torch.Tensor, torch.Tensor | None] = function(self, query, key, value, widened, **options)
        return output


def _widened(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    """Return a mask with a column for k', visible to every query, before those of the tokens.

    No mask stands for the causal one. It is written out, since SDPA's own assumes as many keys as queries and would
    drop the last key instead.
    """
    if mask is not None:
        return pad(mask, (1, 0), value=True) if mask.dtype == torch.bool else pad(mask, (1, 0), value=0.0)
    queries, keys = query.shape[2], key.shape[2]
    if queries == 1:
        return None
    visible = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    closed = torch.zeros(queries, keys, dtype=query.dtype, device=query.device).masked_fill(~visible, -torch.inf)
    return pad(closed, (1, 0), value=0.0)[None, None]


def _start(module: nn.Module) -> None:
    if isinstance(module, _Biased):
        normal_(module.explicit_key, mean=0.0, std=_STD)
        normal_(module.explicit_value, mean=0.0, std=_STD)


class LlamaExplicitBiasConfig(LlamaConfig):
    """The config of a Llama with an explicit attention bias."""

    model_type = "llama_explicit_bias"


class LlamaExplicitBiasAttention(_Biased, modeling_llama.LlamaAttention):
    """Llama's attention with k' and v' for each head of keys and values."""

    def __init__(self, config: LlamaExplicitBiasConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self._add_bias(config.num_key_value_heads, self.head_dim)

    def forward(  # type: ignore[override]  # the block calls it in one way
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,  # noqa: ANN401 - a cache of transformers
        **options: Any,  # noqa: ANN401 - passed on as they come
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend as Llama does, with k' and v' before the tokens; the arguments are Llama's own."""
        sequences, tokens, _ = hidden_states.shape

        def heads(projected: torch.Tensor) -> torch.Tensor:
            return projected.view(sequences, tokens, -1, self.head_dim).transpose(1, 2)

        query, key = modeling_llama.apply_rotary_pos_emb(
            heads(self.q_proj(hidden_states)), heads(self.k_proj(hidden_states)), *position_embeddings
        )
        value = heads(self.v_proj(hidden_states))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        dropout = self.attention_dropout if self.training else 0.0
        eager = modeling_llama.eager_attention_forward
        output, probabilities = self._attend(
            query, key, value, attention_mask, eager, dropout=dropout, scaling=self.scaling, **options
        )
        return self.o_proj(output.reshape(sequences, tokens, -1)), probabilities


class LlamaExplicitBiasModel(LlamaModel):
    """The stack of blocks of a Llama with an explicit attention bias."""

    config_class = LlamaExplicitBiasConfig
    config: LlamaExplicitBiasConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: LlamaExplicitBiasConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.layers):
            layer.self_attn = LlamaExplicitBiasAttention(config, number)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _start(module)


class LlamaExplicitBiasForCausalLM(LlamaForCausalLM):
    """A Llama language model with an explicit attention bias in every block."""

    config_class = LlamaExplicitBiasConfig
    config: LlamaExplicitBiasConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: LlamaExplicitBiasConfig) -> None:
        super().__init__(config)
        self.model = LlamaExplicitBiasModel(config)
        self.post_init()


class GPT2ExplicitBiasConfig(GPT2Config):
    """The config of a GPT-2 with an explicit attention bias."""

    model_type = "gpt2_explicit_bias"


class GPT2ExplicitBiasAttention(_Biased, modeling_gpt2.GPT2Attention):
    """GPT-2's attention with k' and v' for each head."""

    def __init__(self, config: GPT2ExplicitBiasConfig, layer_idx: int) -> None:
        if config.add_cross_attention or config.reorder_and_upcast_attn:
            raise ValueError(
                "a GPT-2 with an explicit attention bias has neither cross-attention nor reordered attention; "
                "leave add_cross_attention and reorder_and_upcast_attn at False"
            )
        super().__init__(config, layer_idx=layer_idx)
        self._add_bias(self.num_heads, self.head_dim)

    def forward(  # type: ignore[override]  # the block calls it in one way
        self,
        hidden_states: torch.Tensor,
        past_key_values: Any = None,  # noqa: ANN401 - a cache of transformers
        attention_mask: torch.Tensor | None = None,
        **options: Any,  # noqa: ANN401 - passed on as they come
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend as GPT-2 does, with k' and v' before the tokens; the arguments are GPT-2's own."""
        sequences, tokens, _ = hidden_states.shape
        for name in ("encoder_hidden_states", "encoder_attention_mask", "output_attentions"):
            options.pop(name, None)
        query, key, value = (
            part.view(sequences, tokens, self.num_heads, self.head_dim).transpose(1, 2)
            for part in self.c_attn(hidden_states).split(self.split_size, dim=2)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        dropout = self.attn_dropout.p if self.training else 0.0
        eager = modeling_gpt2.eager_attention_forward
        output, probabilities = self._attend(
            query, key, value, attention_mask, eager, dropout=dropout, scaling=self.scaling, **options
        )
        return self.resid_dropout(self.c_proj(output.reshape(sequences, tokens, -1))), probabilities


class GPT2ExplicitBiasModel(GPT2Model):
    """The stack of blocks of a GPT-2 with an explicit attention bias."""

    config_class = GPT2ExplicitBiasConfig
    config: GPT2ExplicitBiasConfig
    _supports_flash_attn = False

    def __init__(self, config: GPT2ExplicitBiasConfig) -> None:
        super().__init__(config)
        for number, block in enumerate(self.h):
            block.attn = GPT2ExplicitBiasAttention(config, number)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _start(module)


class GPT2ExplicitBiasLMHeadModel(GPT2LMHeadModel):
    """A GPT-2 language model with an explicit attention bias in every block."""

    config_class = GPT2ExplicitBiasConfig
    config: GPT2ExplicitBiasConfig
    _supports_flash_attn = False

    def __init__(self, config: GPT2ExplicitBiasConfig) -> None:
        super().__init__(config)
        self.transformer = GPT2ExplicitBiasModel(config)
        self.post_init()
