"""Hidden states written by hand, and batches without a tokenizer, for testing folds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from maprobe.cases import MeasureRequest
from maprobe.facts import FACTS, CheckpointFacts
from maprobe.recipes import FoldContext, MeasurementRecipe
from maprobe.sites import ALL_LAYERS, ALL_TOKENS, LayerRange, TokenSet


@dataclass
class PlainBatch:
    """Token ids as they are; the text of a token is its id in brackets; id 1 is BOS and id 2 a full stop."""

    ids: torch.Tensor
    sequences: tuple[int, ...]

    @property
    def given(self) -> torch.Tensor:
        return self.ids

    @property
    def shape(self) -> tuple[int, int]:
        return self.ids.shape[0], self.ids.shape[1]

    def mask(self, tokens: TokenSet) -> torch.Tensor:
        positions = torch.arange(self.ids.shape[1]).expand_as(self.ids)
        if tokens.kind == "first":
            return positions == 0
        if tokens.kind == "index":
            return torch.isin(positions, torch.tensor(tokens.positions))
        if tokens.kind in ("bos", "delimiter"):
            return self.ids == (1 if tokens.kind == "bos" else 2)
        return torch.ones_like(self.ids, dtype=torch.bool)

    def text(self, row: int, position: int) -> str:
        return f"<{int(self.ids[row, position])}>"


def batch(rows: int = 1, length: int = 6, first: int = 0) -> PlainBatch:
    ids = torch.arange(3, 3 + rows * length).reshape(rows, length)
    return PlainBatch(ids, tuple(range(first, first + rows)))


def noise(rows: int = 1, length: int = 6, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed))


def facts(**values: object) -> CheckpointFacts:
    plain = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 64,
        "num_experts": 0,
        "vocab_size": 100,
        "max_position_embeddings": 512,
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
    assert set(FACTS) == set(plain)
    return CheckpointFacts(label="tiny", reference="tiny", values={**plain, **values})


def context(
    recipe: MeasurementRecipe,
    *,
    layers: LayerRange = ALL_LAYERS,
    tokens: TokenSet = ALL_TOKENS,
    depth: int = 4,
    sequences: int = 1,
    site: str = "",
    **options: object,
) -> FoldContext:
    defaults = {parameter.name: parameter.default for parameter in recipe.parameters}
    request = MeasureRequest(
        kind=recipe.name,
        site=site or recipe.sites[0],
        layers=layers,
        tokens=tokens,
        options=tuple(sorted({**defaults, **options}.items())),
    )
    resolved = layers.resolve(depth, site=request.site) if recipe.takes_layers else ()
    return FoldContext(request=request, layers=resolved, depth=depth, facts=facts(), sequences=sequences)
