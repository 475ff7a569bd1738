"""What is known of a checkpoint from its config and tokenizer, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FACTS", "CheckpointFacts", "Provenance"]

FACTS: dict[str, str] = {
    "model_type": "the config's model_type, such as llama",
    "architectures": "the config's list of architectures; a condition holds if any of them satisfies it",
    "num_hidden_layers": "number of blocks",
    "hidden_size": "width of the residual stream",
    "num_attention_heads": "query heads of a block",
    "num_key_value_heads": "key/value heads of a block",
    "intermediate_size": "width of the MLP's hidden state",
    "num_experts": "experts of an MoE block; 0 for a dense model",
    "vocab_size": "rows of the embedding",
    "max_position_embeddings": "longest sequence the checkpoint was made for; 0 where it states none",
    "dtype": "dtype the weights are loaded in, such as float32",
    "quantization": "none, or the method the weights are stored in, such as gguf, awq, gptq, bitsandbytes",
    "has_bos": "whether the tokenizer has a beginning-of-sequence token",
    "adds_bos": "whether the tokenizer prepends it by itself",
    "modality": "text, image, graph, own (other inputs, which the model brings itself), or other",
    "num_register_tokens": "register tokens that a model of images adds to its patches; 0 without any",
    "num_classes": "classes of the image-classification head that is loaded; 0 without one",
    "causal": "whether the model is a causal language model, so that it has a perplexity",
    "training_steps": "steps of training that the checkpoint states; -1 where it states none",
    "explicit_bias": "whether attention has an explicit bias (docs/training.md, docs/graphs.md)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """The facts that ``when`` and ``overrides`` are matched against.

    Attributes:
        label: the checkpoint's label in case ids and tables.
        reference: the reference as the user wrote it.
        values: a value for each key of :data:`FACTS`.
    """

    label: str
    reference: str
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a config value may be of any plain type
        return self.values[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Which checkpoint exactly was measured, and how it was loaded.

    Attributes:
        label: as in case ids.
        reference: as the user wrote it.
        resolved: what it resolved to (commit hash, path, wheel and member).
        weights_digest: sha256 over the weight files; see docs/checkpoints.md for how files are combined.
        config_digest: sha256 over the config as canonical JSON.
        tokenizer_digest: sha256 over the tokenizer's serialised state; empty without a tokenizer.
        dtype: dtype of the loaded weights.
        device: device or device map of the loaded weights.
        attention: attention implementation.
        parameters: number of parameters.
        versions: versions of the libraries that decide the numbers.
    """

    label: str
    reference: str
    resolved: str
    weights_digest: str
    config_digest: str
    tokenizer_digest: str
    dtype: str
    device: str
    attention: str
    parameters: int
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**data, "versions": dict(self.versions)}
