"""The facts of a checkpoint, told by its config and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import transformers

from maprobe.facts import CheckpointFacts
from maprobe.running.placement import DTYPES

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

__all__ = ["CLASSIFIER", "facts_of", "image_tower", "is_causal", "is_classifier", "loaded_dtype", "stated_dtype"]

_HEADS = ("ForCausalLM", "LMHeadModel")  # how class names of causal language models end
CLASSIFIER = "ForImageClassification"  # how those of models that classify images do
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_WIDTHS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "encoder_ffn_dim", "d_inner")
_RATIOS = ("mlp_ratio", "expansion_ratio")
_USUAL_RATIO = 4  # of the MLP's width to the model's, in architectures whose config leaves it out
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
_EXPLICIT_BIAS = "_explicit_bias"  # how model types of maprobe's own variants with that bias end
_SAMPLE = "The quick brown fox"


def facts_of(
    config: PretrainedConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    label: str,
    reference: str,
    causal: bool,
    dtype: str,
    gguf: bool = False,
    classifier: bool = False,
) -> CheckpointFacts:
    """Return a value for each fact; a number that the config does not state is 0.

    Args:
        config: None for a module that is not from transformers.
        tokenizer: None where there is none.
        label: the checkpoint's label.
        reference: as the user wrote it.
        causal: whether it is a causal language model.
        dtype: dtype of the weights in memory.
        gguf: whether the weights come from a GGUF file.
        classifier: whether it has a head that classifies images.
    """
    has_bos, adds_bos = _bos(tokenizer)
    values: dict[str, Any] = {
        "model_type": "",
        "architectures": [],
        **dict.fromkeys(("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"), 0),
        **dict.fromkeys(("intermediate_size", "num_experts", "vocab_size", "max_position_embeddings"), 0),
        "dtype": dtype,
        "quantization": "none",
        "has_bos": has_bos,
        "adds_bos": adds_bos,
        "modality": "other",
        "num_register_tokens": 0,
        "num_classes": 0,
        "causal": causal,
        "training_steps": -1,
        "explicit_bias": False,
    }
    if config is not None:
        values.update(
            _sizes(config.get_text_config()),
            model_type=str(config.model_type),
            architectures=list(config.architectures or ()),
            quantization="gguf" if gguf else _quantization(config),
            modality=_modality(config),
            num_register_tokens=_first(config, ("num_register_tokens",)),
            num_classes=_first(config, ("num_labels",)) if classifier else 0,
            explicit_bias=str(config.model_type).endswith(_EXPLICIT_BIAS),
        )
    return CheckpointFacts(label=label, reference=reference, values=values)


def is_causal(config: PretrainedConfig, *, with_code: bool = False) -> bool:
    """Whether a config is that of a causal language model.

    transformers offers a causal head for encoders such as BERT too, hence the look at what the checkpoint was
    saved from and at whether it is set to be a decoder.

    Args:
        config: of a checkpoint.
        with_code: whether code that came with the checkpoint may define its classes.
    """
    if getattr(config, "is_encoder_decoder", False):
        return False
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return with_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    encoder = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    if encoder and not getattr(config, "is_decoder", False):
        return False
    head: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    heads = {entry.__name__ for entry in (head if isinstance(head, tuple) else (head,))}
    names = config.architectures or heads
    return any(name in heads or name.endswith(_HEADS) for name in names)


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether a config is that of a checkpoint with a head that classifies images."""
    known = type(config) in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return known and any(name.endswith(CLASSIFIER) for name in config.architectures or ())


def image_tower(config: PretrainedConfig) -> PretrainedConfig:
    """Return the config of the image encoder if this is a pair of encoders, such as CLIP; otherwise the config.

    A pair wants a text and an image at once; of the two the image encoder is the one with blocks worth probing.
    """
    vision = getattr(config, "vision_config", None)
    model = _model_class(config)
    if vision is None or not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
        return config
    return vision if type(vision) in transformers.MODEL_MAPPING else config


def loaded_dtype(model: nn.Module) -> str:
    """Return the dtype that most weights of a model in memory are in."""
    counts: dict[str, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            name = str(parameter.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + parameter.numel()
    return max(counts, key=counts.__getitem__, default="float32")


def stated_dtype(config: PretrainedConfig) -> str:
    """Return the dtype that a config says its weights are stored in, or the empty string."""
    for entry in (config, config.get_text_config()):
        name = str(getattr(entry, "dtype", None)).removeprefix("torch.")
        if name in DTYPES:
            return name
    return ""


def _sizes(config: PretrainedConfig) -> dict[str, int]:
    width = _first(config, ("hidden_size", "d_model", "n_embd"))
    heads = _first(config, ("num_attention_heads", "n_head", "encoder_attention_heads"))
    return {
        "num_hidden_layers": _first(config, ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers")),
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": _key_value_heads(config, heads),
        "intermediate_size": _first(config, _WIDTHS) or int(width * _ratio(config)),
        "num_experts": _first(config, _EXPERTS) or _first(getattr(config, "ffn_config", None), _EXPERTS),
        "vocab_size": _first(config, ("vocab_size",)),
        "max_position_embeddings": _first(config, _POSITIONS),
    }


def _first(config: object, names: tuple[str, ...]) -> int:
    """Return the first of these attributes that is a number above zero."""
    for name in names:
        value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _key_value_heads(config: PretrainedConfig, heads: int) -> int:
    grouped = getattr(config, "new_decoder_architecture", True)  # Falcon states a number and ignores it otherwise
    if getattr(config, "multi_query", False) and (not hasattr(config, "new_decoder_architecture") or not grouped):
        return 1
    return (_first(config, ("num_key_value_heads", "num_kv_heads")) if grouped else 0) or heads


def _ratio(config: PretrainedConfig) -> float:
    stated = [getattr(config, name, None) for name in _RATIOS]
    return next((float(value) for value in stated if isinstance(value, int | float)), _USUAL_RATIO)


def _quantization(config: PretrainedConfig) -> str:
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return "none"
    method = stored.get("quant_method") if isinstance(stored, Mapping) else getattr(stored, "quant_method", None)
    return str(getattr(method, "value", method) or "other")


def _modality(config: PretrainedConfig) -> str:
    model = _model_class(config)
    if model is None:
        return "text" if _first(config.get_text_config(), ("vocab_size",)) else "other"
    taken = {"input_ids": "text", "pixel_values": "image"}
    return taken.get(str(getattr(model, "main_input_name", "")), "other")


def _model_class(config: PretrainedConfig) -> Any:  # noqa: ANN401 - a class of transformers
    if type(config) not in transformers.MODEL_MAPPING:
        return None
    model = transformers.MODEL_MAPPING[type(config)]
    return model[0] if isinstance(model, tuple) else model


def _bos(tokenizer: PreTrainedTokenizerBase | None) -> tuple[bool, bool]:
    """Return whether there is a beginning-of-sequence token, and whether the tokenizer prepends it in fact."""
    if tokenizer is None or tokenizer.bos_token_id is None:
        return False, False
    plain = list(tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(_SAMPLE)["input_ids"])
    first = tokenizer.bos_token_id
    return True, whole[:1] == [first] and plain[:1] != [first]
