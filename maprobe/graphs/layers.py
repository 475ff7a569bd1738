"""One layer of a graph transformer: attention over edges, then a feed-forward network, with batch norms."""

from __future__ import annotations

import torch
from torch import nn

from maprobe.graphs.configs import GraphConfig
from maprobe.graphs.scores import EdgeAttention

__all__ = ["Layer"]


class Stream(nn.Module):
    """What is done with the output of attention, for nodes or for edges.

    ``a = norm1(x + O(dropout(attention)))``, then ``norm2(a + W2 dropout(relu(W1 a)))``; without ``residual`` the two
    summands on the left are left out. The norms are batch norms over all nodes (edges) of the batch.
    """

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        width = config.width
        self.residual = config.residual
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.BatchNorm1d(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.norm2 = nn.BatchNorm1d(width)

    def forward(self, before: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Return the features after the layer; all three are rows x width."""
        added = self.out(self.dropout(attended))
        middle = self.norm1(before + added if self.residual else added)
        added = self.down(self.dropout(torch.relu(self.up(middle))))
        after: torch.Tensor = self.norm2(middle + added if self.residual else added)
        return after


class Layer(nn.Module):
    """Attention over edges, and what follows it for nodes and, where the config has an edge stream, for edges."""

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        self.attention = EdgeAttention(config)
        self.nodes = Stream(config)
        self.edges = Stream(config) if config.edge_stream else None

    def forward(
        self, nodes: torch.Tensor, edges: torch.Tensor, edge_index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features of nodes and edges after the layer.

        Args:
            nodes: nodes x width.
            edges: edges x width.
            edge_index: 2 x edges, the source and the target of each edge.
        """
        taken, scores = self.attention(nodes, edges, edge_index)
        if self.edges is not None:
            edges = self.edges(edges, scores)
        return self.nodes(nodes, taken), edges
