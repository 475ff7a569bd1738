"""Facts, told by config and tokenizer alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_checkpoints import bert_config, clip_config, llama_config, mixtral_config, tokenizer, vit_config
from transformers import (
    BloomConfig,
    DeepseekV3Config,
    Dinov2Config,
    FalconConfig,
    Gemma3Config,
    GPT2Config,
    MptConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    T5Config,
)

from maprobe.facts import FACTS
from maprobe.running.traits import facts_of, image_tower, is_causal, stated_dtype
from maprobe.training.variants import _CLASSES


def values(config: PretrainedConfig | None, words: Any = None, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"label": "tiny", "reference": "./tiny", "causal": True, "dtype": "float32", **changes}
    return dict(facts_of(config, words, **settings).values)


def test_every_fact_has_a_value_and_no_other_has() -> None:
    assert set(values(llama_config(), tokenizer())) == set(FACTS)
    assert set(values(None)) == set(FACTS)


def test_the_facts_of_a_llama() -> None:
    assert values(llama_config(architectures=["LlamaForCausalLM"]), tokenizer()) == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 3,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "num_experts": 0,
        "vocab_size": 32,
        "max_position_embeddings": 64,
        "dtype": "float32",
        "quantization": "none",
        "has_bos": True,
        "adds_bos": False,
        "modality": "text",
        "num_register_tokens": 0,
        "num_classes": 0,
        "causal": True,
        "training_steps": -1,
        "explicit_bias": False,
    }


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_variants_with_an_explicit_bias_are_known_by_their_model_type(architecture: str) -> None:
    told = {
        variant: values(config_class())["explicit_bias"]
        for (variant, family), (config_class, _) in _CLASSES.items()
        if family == architecture
    }
    assert {"default": False, "sink-token": False, "explicit-bias": True} == told


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2Config(n_embd=16, n_layer=3, n_head=4, n_positions=64), (3, 16, 4, 4, 64, 64)),
        (GPT2Config(n_embd=16, n_layer=3, n_head=4, n_positions=64, n_inner=20), (3, 16, 4, 4, 20, 64)),
        (BloomConfig(hidden_size=16, n_layer=3, n_head=4), (3, 16, 4, 4, 64, 0)),
        (OPTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=4, ffn_dim=24), (3, 16, 4, 4, 24, 2048)),
        (MptConfig(d_model=16, n_layers=3, n_heads=4, expansion_ratio=3, max_seq_len=64), (3, 16, 4, 4, 48, 64)),
        (
            FalconConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64),
            (3, 16, 4, 1, 64, 64),
        ),
        (
            FalconConfig(
                hidden_size=16,
                num_hidden_layers=3,
                num_attention_heads=4,
                new_decoder_architecture=True,
                num_kv_heads=2,
                max_position_embeddings=64,
            ),
            (3, 16, 4, 2, 64, 64),
        ),
        (T5Config(d_model=16, num_layers=3, num_heads=4, d_ff=24), (3, 16, 4, 4, 24, 0)),
        (Dinov2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=2), (3, 16, 4, 4, 32, 0)),
        (vit_config(), (2, 16, 4, 4, 24, 0)),
        (
            Gemma3Config(
                text_config={
                    "hidden_size": 16,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "intermediate_size": 24,
                    "max_position_embeddings": 64,
                }
            ),
            (3, 16, 4, 2, 24, 64),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PretrainedConfig) else "",
)
def test_sizes_are_found_under_each_name(config: PretrainedConfig, expected: tuple[int, ...]) -> None:
    found = values(config)
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    assert tuple(found[name] for name in (*names, "max_position_embeddings")) == expected


@pytest.mark.parametrize(
    ("config", "experts"),
    [
        (mixtral_config(), 4),
        (Qwen2MoeConfig(num_experts=6), 6),
        (DeepseekV3Config(n_routed_experts=8), 8),
        (llama_config(), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_experts_are_counted(config: PretrainedConfig, experts: int) -> None:
    assert values(config)["num_experts"] == experts


@pytest.mark.parametrize(
    ("config", "causal"),
    [
        (llama_config(), True),
        (llama_config(architectures=["LlamaForCausalLM"]), True),
        (llama_config(architectures=["LlamaModel"]), False),
        (llama_config(architectures=["LlamaForSequenceClassification"]), False),
        (GPT2Config(architectures=["GPT2LMHeadModel"]), True),
        (bert_config(), False),
        (bert_config(architectures=["BertLMHeadModel"]), False),
        (bert_config(architectures=["BertLMHeadModel"], is_decoder=True), True),
        (vit_config(), False),
        (T5Config(), False),
        (Gemma3Config(architectures=["Gemma3ForConditionalGeneration"]), True),
    ],
)
def test_only_what_has_a_causal_head_is_causal(config: PretrainedConfig, *, causal: bool) -> None:
    assert is_causal(config) is causal


def test_code_of_the_checkpoint_may_bring_a_causal_head() -> None:
    config = PretrainedConfig(auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    assert is_causal(config, with_code=True)
    assert not is_causal(config)


@pytest.mark.parametrize(
    ("config", "modality"),
    [(llama_config(), "text"), (bert_config(), "text"), (vit_config(), "image"), (None, "other")],
)
def test_the_modality_is_what_the_model_takes(config: PretrainedConfig | None, modality: str) -> None:
    assert values(config)["modality"] == modality


def test_of_a_pair_of_encoders_the_image_encoder_is_probed() -> None:
    tower = image_tower(clip_config())
    assert (tower.model_type, values(tower)["modality"], values(tower)["num_hidden_layers"]) == (
        "clip_vision_model",
        "image",
        3,
    )
    assert image_tower(llama_config()).model_type == "llama"
    assert image_tower(Gemma3Config()).model_type == "gemma3"


@pytest.mark.parametrize("prepends", [True, False])
def test_whether_a_bos_is_added_is_seen_from_what_the_tokenizer_does(*, prepends: bool) -> None:
    found = values(llama_config(), tokenizer(prepends_bos=prepends))
    assert (found["has_bos"], found["adds_bos"]) == (True, prepends)


def test_without_a_bos_token_none_is_added() -> None:
    words = tokenizer(prepends_bos=True)
    words.bos_token = None
    assert (values(llama_config(), words)["has_bos"], values(llama_config(), words)["adds_bos"]) == (False, False)
    assert (values(llama_config())["has_bos"], values(llama_config())["adds_bos"]) == (False, False)


@pytest.mark.parametrize(
    ("stored", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"load_in_8bit": True}, "other"),
    ],
)
def test_the_method_of_quantization_is_told(stored: dict[str, Any], method: str) -> None:
    config = llama_config()
    config.quantization_config = stored
    assert values(config)["quantization"] == method


def test_weights_of_a_gguf_file_count_as_quantized() -> None:
    assert values(llama_config(), gguf=True)["quantization"] == "gguf"


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_the_stated_dtype_is_read_as_a_name_or_as_torchs(dtype: Any) -> None:
    assert stated_dtype(llama_config(dtype=dtype)) == "bfloat16"
    assert stated_dtype(llama_config()) == ""
