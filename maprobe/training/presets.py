"""What a training run is made of: sizes, steps and rates, and the presets that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["PRESETS", "Settings", "config_settings"]

Source = Literal["python-docs", "openwebtext"]
_LLAMA_MLP = 8 / 3  # of its width to the model's, so that three matrices have as many weights as GPT-2's two


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that decides what comes out of a training run, but for variant, architecture, text and seed.

    Attributes:
        source: where the text comes from, if none is named.
        vocabulary: entries of the vocabulary, without a sink token.
        layers: number of blocks.
        heads: heads of attention in each.
        key_value_heads: heads of keys and values, for Llama; a divisor of ``heads``.
        width: size of the residual stream, a multiple of ``heads``.
        block: tokens in a sequence, without a sink token.
        batch: sequences in a forward call.
        accumulate: forward calls whose gradients make one step.
        steps: steps in all.
        rate: the highest learning rate.
        warmup: steps over which it rises.
        horizon: the step at which it has fallen to a tenth.
        decay: weight decay of tensors with two axes or more, k' and v' included.
        clip: the largest norm of the gradient.
        save: steps between checkpoints.
        evaluate: steps between validation losses.
        windows: the most sequences of the held-out text that a validation loss is taken over.
    """

    source: Source
    vocabulary: int
    layers: int
    heads: int
    key_value_heads: int
    width: int
    block: int
    batch: int
    accumulate: int
    steps: int
    rate: float
    warmup: int
    horizon: int
    decay: float
    clip: float
    save: int
    evaluate: int
    windows: int

    @property
    def tokens(self) -> int:
        """Tokens that one step learns from."""
        return self.block * self.batch * self.accumulate


PRESETS: dict[str, Settings] = {
    "small": Settings(
        source="python-docs",
        vocabulary=512,
        layers=4,
        heads=2,
        key_value_heads=2,
        width=128,
        block=512,
        batch=1,
        accumulate=1,
        steps=3500,
        rate=2e-3,
        warmup=100,
        horizon=3500,
        decay=0.1,
        clip=1.0,
        save=500,
        evaluate=250,
        windows=32,
    ),
    # arXiv:2402.17762, section 4, after its code: nanoGPT's GPT-2 on OpenWebText; the released models are at 50k steps.
    "gpt2-124m": Settings(
        source="openwebtext",
        vocabulary=50304,
        layers=12,
        heads=12,
        key_value_heads=12,
        width=768,
        block=1024,
        batch=12,
        accumulate=40,
        steps=50_000,
        rate=6e-4,
        warmup=2000,
        horizon=600_000,
        decay=0.1,
        clip=1.0,
        save=5000,
        evaluate=1000,
        windows=512,
    ),
}


def config_settings(settings: Settings, architecture: str, end: int) -> dict[str, Any]:
    """Return the config of the default variant, under transformers' names.

    Args:
        settings: the sizes.
        architecture: ``gpt2`` or ``llama``.
        end: id of the token that ends a document.
    """
    ids = {"vocab_size": settings.vocabulary, "bos_token_id": None, "eos_token_id": end}
    if architecture == "gpt2":
        return {
            **ids,
            "n_embd": settings.width,
            "n_layer": settings.layers,
            "n_head": settings.heads,
            "n_positions": settings.block,
            **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        }
    return {
        **ids,
        "hidden_size": settings.width,
        "intermediate_size": int(_LLAMA_MLP * settings.width / 32) * 32 or 32,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.key_value_heads,
        "max_position_embeddings": settings.block,
        "tie_word_embeddings": True,
    }
