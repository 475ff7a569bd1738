"""Attention over the edges of a graph, and the edge features that massive activations are looked for in."""

from __future__ import annotations

import math

import torch
from torch import nn

from maprobe.graphs.configs import GraphConfig

__all__ = ["EdgeAttention", "EdgeScores"]

_CLAMP = 5.0  # the sum of an edge's scores is kept within this, so that exp neither overflows nor vanishes
_LEAST = 1e-6  # is added to the sum of weights, for nodes that no edge leads to


class EdgeScores(nn.Module):
    """The score of every edge in every channel, before the sum over the channels of a head.

    Its output, edges x (heads * head size), is what arXiv:2409.03463 calls the edge features of an attention layer and
    looks for massive activations in: ``key[source] * query[target] / sqrt(head size) * edge``, channel by channel. With
    an explicit bias, ``(query[target] . k) / sqrt(head size) * e`` is added, with learned k and e of one head each.

    It is a module of its own so that a hook on it reads, or changes, exactly these numbers.

    Attributes:
        key_bias: k, heads x head size; None without an explicit bias.
        edge_bias: e, heads x head size; None without.
    """

    def __init__(self, heads: int, head_size: int, *, explicit_bias: bool) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self._scale = 1 / math.sqrt(head_size)
        self.key_bias: nn.Parameter | None = None
        self.edge_bias: nn.Parameter | None = None
        if explicit_bias:
            self.key_bias = nn.Parameter(torch.randn(heads, head_size))
            self.edge_bias = nn.Parameter(torch.randn(heads, head_size))

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, edges: torch.Tensor, edge_index: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores.

        Args:
            queries: nodes x (heads * head size).
            keys: the same.
            edges: projected edge features, edges x (heads * head size).
            edge_index: 2 x edges, the source and the target of each edge.

        Returns:
            edges x (heads * head size), in the order of ``edge_index``.
        """
        source, target = edge_index
        scores = keys.index_select(0, source) * queries.index_select(0, target) * self._scale * edges
        if self.edge_bias is None:
            return scores
        biased: torch.Tensor = scores + (self.bias_share(queries).index_select(0, target) * self.edge_bias).flatten(1)
        return biased

    def bias_share(self, queries: torch.Tensor) -> torch.Tensor:
        """Return how much of the bias e each query takes: nodes x heads x 1, for nodes x (heads * head size)."""
        assert self.key_bias is not None
        shares: torch.Tensor = queries.unflatten(1, (self.heads, self.head_size)) * self.key_bias
        return shares.sum(2, keepdim=True) * self._scale


class EdgeAttention(nn.Module):
    """Multi-head attention of each node to the nodes that an edge leads from.

    The weight of an edge is ``exp(clamp(sum of its scores, -5, 5))`` for each head; a node takes in the mean of its
    neighbours' values by these weights. With an explicit bias a learned v is added to every value.

    In the published code of GraphiT and SAN the explicit bias overwrites the weights by those of the bias alone,
    ``exp(clamp((query[target] . k) / sqrt(head size), -5, 5))``, which all edges into a node share: the scores then
    have no part in what comes out. ``bias_weights="bias"`` does the same.
    """

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        width, bias = config.width, config.use_bias
        self.heads, self.head_size = config.heads, config.head_size
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.edge = nn.Linear(width, width, bias=bias)
        self.scores = EdgeScores(config.heads, config.head_size, explicit_bias=config.explicit_bias)
        self.by_bias = config.bias_weights == "bias"
        self.value_bias: nn.Parameter | None = None
        if config.explicit_bias:
            self.value_bias = nn.Parameter(torch.randn(config.heads, config.head_size))

    def forward(
        self, nodes: torch.Tensor, edges: torch.Tensor, edge_index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the nodes take in, and the scores of the edges.

        Args:
            nodes: nodes x width.
            edges: edges x width.
            edge_index: 2 x edges, the source and the target of each edge.

        Returns:
            nodes x width, and edges x width.
        """
        queries = self.query(nodes)
        scores: torch.Tensor = self.scores(queries, self.key(nodes), self.edge(edges), edge_index)
        source, target = edge_index
        parts = (self.heads, self.head_size)
        sums = scores.unflatten(1, parts).sum(2, keepdim=True)
        if self.by_bias:
            sums = self.scores.bias_share(queries).index_select(0, target)
        weights = sums.clamp(-_CLAMP, _CLAMP).exp()
        values = self.value(nodes).unflatten(1, parts)
        if self.value_bias is not None:
            values = values + self.value_bias
        taken = values.new_zeros(values.shape).index_add(0, target, weights * values.index_select(0, source))
        total = weights.new_zeros(len(nodes), self.heads, 1).index_add(0, target, weights)
        return (taken / (total + _LEAST)).flatten(1), scores
