"""The three graph transformers of arXiv:2409.03463, on sparse graphs and without positional encodings."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from maprobe.errors import InputError
from maprobe.graphs.batches import GraphBatch
from maprobe.graphs.configs import GraphConfig, Kind
from maprobe.graphs.layers import Layer

__all__ = ["SAN", "GraphModel", "GraphTransformer", "GraphiT", "fresh_model"]


class TypeEmbedding(nn.Module):
    """The sum of one learned vector for each integer column."""

    def __init__(self, types: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in types)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """Return rows x width for rows x columns of integers."""
        vectors: list[torch.Tensor] = [table(columns[:, at]) for at, table in enumerate(self.tables)]
        return torch.stack(vectors).sum(0) if len(vectors) > 1 else vectors[0]


class GraphModel(nn.Module):
    """A graph transformer: embeddings of nodes and edges, layers, pooling, and a small network that predicts.

    Attributes:
        config: its shape.
        layers: the layers, in order; ``layers[i].attention.scores`` gives out the edge features of attention.
    """

    kind: ClassVar[Kind]

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        if config.model != self.kind:
            raise InputError(f"the config is of the model {config.model}, and a {self.kind} is to be built with it")
        self.config = config
        width = config.width
        self.node_embedding = TypeEmbedding(config.node_types, width)
        self.edge_embedding: nn.Module = (
            TypeEmbedding(config.edge_types, width) if config.edge_types else nn.Linear(config.edge_numbers, width)
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        # Halved twice, then the outputs, with ReLU between, as in the published code.
        self.readout = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.ReLU(),
            nn.Linear(width // 2, width // 4),
            nn.ReLU(),
            nn.Linear(width // 4, config.outputs),
        )

    def forward(self, batch: GraphBatch) -> torch.Tensor:
        """Return what is predicted: graphs x outputs, or nodes x outputs where the readout is ``nodes``."""
        nodes, edges = self.node_embedding(batch.nodes), self.edge_embedding(batch.edges)
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, batch.edge_index)
        predicted: torch.Tensor = self.readout(self._pooled(nodes, batch))
        return predicted

    def _pooled(self, nodes: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        if self.config.readout == "nodes":
            return nodes
        summed = nodes.new_zeros(batch.count, nodes.shape[1]).index_add(0, batch.graph, nodes)
        if self.config.readout == "sum":
            return summed
        sizes = torch.bincount(batch.graph, minlength=batch.count).clamp(min=1)
        return summed / sizes.unsqueeze(1)


class GraphTransformer(GraphModel):
    """The graph transformer with edge features of Dwivedi and Bresson (arXiv:2012.09699).

    Its edge features go from layer to layer: the scores of attention are their update.
    """

    kind = "gt"


class GraphiT(GraphModel):
    """GraphiT (arXiv:2106.05667) in the form of arXiv:2110.07875, whose code the paper builds on.

    Edge features are embedded once and read by every layer. Its diffusion kernel, with the factor gamma, weighs pairs
    of nodes in a fully connected graph; on sparse graphs the published code leaves it out, and so does this.
    """

    kind = "graphit"


class SAN(GraphModel):
    """The spectral attention network (arXiv:2106.03893) on sparse graphs and without its positional encodings.

    Edge features are embedded once and read by every layer. SAN has a second set of queries, keys and edge maps for
    pairs that no edge joins, weighed by gamma against those of real edges; a sparse graph has no such pairs. What is
    left are the equations of :class:`GraphiT`.
    """

    kind = "san"


_CLASSES: dict[Kind, type[GraphModel]] = {"gt": GraphTransformer, "graphit": GraphiT, "san": SAN}


def class_of(config: GraphConfig) -> type[GraphModel]:
    """Return the class of a config's model."""
    return _CLASSES[config.model]


def build(config: GraphConfig) -> GraphModel:
    """Return a model of the config, with weights from torch's random state."""
    return class_of(config)(config)


def fresh_model(config: GraphConfig, *, seed: int) -> GraphModel:
    """Return an untrained model. Torch's own random state is left as it was.

    With one seed, models with and without biases begin with the same weights wherever they have the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config)
        if config.use_bias:
            torch.manual_seed(seed)
            plain = build(replace(config, use_bias=False, explicit_bias=False, bias_weights="scores"))
            model.load_state_dict(plain.state_dict(), strict=False)
    return model
