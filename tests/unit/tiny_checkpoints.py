"""Tiny checkpoints with random weights, saved to a folder as transformers or llama.cpp would save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MixtralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
)

from maprobe.progress import Silent
from maprobe.references import LoadOptions, parse_reference
from maprobe.running.checkpoints import Inspected, LoadedCheckpoint, inspect, load

WORDS = (
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "The",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "a",
    ".",
)
VOCABULARY = 32


def llama_config(**changes: object) -> LlamaConfig:
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaConfig(**{**settings, **changes})


def bert_config(**changes: object) -> BertConfig:
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    return BertConfig(**{**settings, **changes})


def vit_config(**changes: object) -> ViTConfig:
    settings: dict[str, object] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 8,
    }
    return ViTConfig(**{**settings, **changes})


def clip_config() -> CLIPConfig:
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    return CLIPConfig(
        text_config={**tower, "vocab_size": VOCABULARY, "max_position_embeddings": 16},
        vision_config={**tower, "num_hidden_layers": 3, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )


def mixtral_config() -> MixtralConfig:
    return MixtralConfig(**{**llama_config().to_dict(), "num_local_experts": 4, "num_experts_per_tok": 2})


def tokenizer(*, prepends_bos: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if prepends_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def save(model: PreTrainedModel, folder: Path, *, with_tokenizer: bool = False, **arguments: object) -> Path:
    model.save_pretrained(folder, **arguments)
    if with_tokenizer:
        tokenizer().save_pretrained(folder)
    return folder


def save_llama(folder: Path, *, with_tokenizer: bool = False, seed: int = 0, **changes: object) -> Path:
    torch.manual_seed(seed)
    return save(LlamaForCausalLM(llama_config(**changes)), folder, with_tokenizer=with_tokenizer)


def save_sharded_llama(folder: Path) -> Path:
    torch.manual_seed(0)
    return save(LlamaForCausalLM(llama_config()), folder, max_shard_size="6KB")


def save_llama_base(folder: Path) -> Path:
    return save(LlamaModel(llama_config()), folder)


def save_pickled_llama(folder: Path) -> Path:
    """As transformers before 5 saved it on request."""
    save_llama(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def save_bert(folder: Path) -> Path:
    return save(BertModel(bert_config()), folder)


def save_masked_bert(folder: Path) -> Path:
    """Without the pooler that the base model has."""
    return save(BertForMaskedLM(bert_config()), folder)


def save_vit(folder: Path) -> Path:
    return save(ViTModel(vit_config()), folder)


def save_clip(folder: Path) -> Path:
    return save(CLIPModel(clip_config()), folder)


def save_gguf(path: Path, *, architecture: str = "llama", with_tokenizer: bool = True) -> Path:
    """A Llama of two blocks in float32, under llama.cpp's names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(4)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    if with_tokenizer:
        words = [*WORDS, "T", "h", "Th"]
        words += [f"w{index}" for index in range(VOCABULARY - len(words))]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(words)
        writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
        writer.add_token_merges(["T h"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
    random = numpy.random.default_rng(0)
    shapes = {"token_embd": (VOCABULARY, 16), "output_norm": (16,), "output": (VOCABULARY, 16)}
    for block in range(2):
        shapes |= {
            f"blk.{block}.attn_norm": (16,),
            f"blk.{block}.attn_q": (16, 16),
            f"blk.{block}.attn_k": (8, 16),
            f"blk.{block}.attn_v": (8, 16),
            f"blk.{block}.attn_output": (16, 16),
            f"blk.{block}.ffn_norm": (16,),
            f"blk.{block}.ffn_gate": (32, 16),
            f"blk.{block}.ffn_up": (32, 16),
            f"blk.{block}.ffn_down": (16, 32),
        }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, dtype=numpy.float32) * 0.02)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def look(path: Path, **options: Any) -> Inspected:
    return inspect(parse_reference(str(path), {}), LoadOptions(**options), Silent())


def loaded(path: Path, **options: Any) -> LoadedCheckpoint:
    return load(look(path, **options), LoadOptions(**options), Silent())


def reconfigure(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def drop_weight(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
