"""Features of the edges of small graphs, written by hand, for testing the folds of ``edge.attn``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hidden_states import context

from maprobe.readings import Reading
from maprobe.recipes import MeasurementRecipe, Tap
from maprobe.sites import ALL_LAYERS, LayerRange

KINDS = ("single", "single", "double", "triple", "single", "other")
Layers = dict[int, list[torch.Tensor]]


@dataclass
class EdgeBatch:
    """One graph: its number, and a word for each edge."""

    sequence: int
    words: Sequence[str]

    @property
    def sequences(self) -> tuple[int, ...]:
        return (self.sequence,)

    @property
    def shape(self) -> tuple[int, int]:
        return 1, len(self.words)

    def text(self, row: int, position: int) -> str:
        assert 0 == row
        return self.words[position]


def graphs(*sizes: int, layers: int = 2, channels: int = 8, seed: int = 0) -> Layers:
    """Normal numbers: by layer, for each graph a tensor of shape (edges, channels)."""
    random = torch.Generator().manual_seed(seed)
    return {layer: [torch.randn(size, channels, generator=random) for size in sizes] for layer in range(1, layers + 1)}


def words(count: int) -> list[str]:
    return [KINDS[edge % len(KINDS)] for edge in range(count)]


def measure(
    recipe: MeasurementRecipe,
    features: Layers,
    *,
    named: Sequence[Sequence[str]] | None = None,
    asked: LayerRange = ALL_LAYERS,
    **options: object,
) -> Reading:
    count = len(features[1])
    fold = recipe.start(context(recipe, layers=asked, depth=len(features), sequences=count, **options))
    for number in range(count):
        told = named[number] if named else words(len(features[1][number]))
        for tap in fold.taps:
            fold.observe(tap, features[tap.layer][number][None], EdgeBatch(number, told))
    assert all(isinstance(tap, Tap) for tap in fold.taps)
    return fold.finish({})


def flat(features: Layers, layer: int) -> np.ndarray:
    """|a| of all edges of a layer, shape (edges, channels)."""
    return np.abs(np.concatenate([graph.double().numpy() for graph in features[layer]]))


def lower_median(values: np.ndarray) -> float:
    return float(np.sort(values.ravel())[(values.size - 1) // 2])


def ratios(features: Layers, layer: int, per: str) -> np.ndarray:
    """|a| over its median, shape (edges, channels)."""
    values = flat(features, layer)
    if per == "layer":
        return values / lower_median(values)
    return values / np.array([[lower_median(edge)] for edge in values])
