"""Random-weight models of every supported family, of three blocks and a few thousand weights, made from configs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as t
from torch import nn

_COMMON = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 8}
_GPT = {"vocab_size": 128, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_OPT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "max_position_embeddings": 64,
    **_IDS,
}
_FALCON = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, **_IDS}

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_GROUPED)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_GROUPED, sliding_window=4)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**_GROUPED)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**_HEADS)),
    "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**_HEADS, sliding_window=4)),
    "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**_HEADS, sliding_window=4)),
    "phi": lambda: t.PhiForCausalLM(t.PhiConfig(**_COMMON)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**_COMMON)),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**_GPT, **_IDS)),
    "gptj": lambda: t.GPTJForCausalLM(t.GPTJConfig(**_GPT, rotary_dim=4, **_IDS)),
    "gpt_neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**_COMMON)),
    "gpt_neox-sequential": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**_COMMON, use_parallel_residual=False)),
    "opt": lambda: t.OPTForCausalLM(t.OPTConfig(**_OPT, word_embed_proj_dim=32)),
    "opt-350m": lambda: t.OPTForCausalLM(t.OPTConfig(**_OPT, word_embed_proj_dim=16, do_layer_norm_before=False)),
    "mpt": lambda: t.MptForCausalLM(t.MptConfig(vocab_size=128, d_model=32, n_layers=3, n_heads=4, max_seq_len=64)),
    "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(vocab_size=128, hidden_size=32, n_layer=3, n_head=4, **_IDS)),
    "falcon": lambda: t.FalconForCausalLM(t.FalconConfig(**_FALCON)),
    "falcon-40b": lambda: t.FalconForCausalLM(t.FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**_GROUPED, num_local_experts=4)),
    "olmo2": lambda: t.Olmo2ForCausalLM(t.Olmo2Config(**_COMMON)),
    "bert": lambda: t.BertModel(t.BertConfig(**_COMMON)),
    "roberta": lambda: t.RobertaModel(t.RobertaConfig(**_COMMON)),
    "distilbert": lambda: t.DistilBertModel(
        t.DistilBertConfig(
            vocab_size=128, dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=64, pad_token_id=0
        )
    ),
}


def tiny(family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a model of that family with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return FAMILIES[family]().eval().to(dtype)
