"""Graphs as tensors: many of them one behind another, and batches taken out of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

__all__ = ["Graph", "GraphBatch", "GraphSet", "Task"]

Task = Literal["regression", "multi-label"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """One graph.

    Attributes:
        nodes: integer types, nodes x columns.
        edge_index: 2 x edges, source and target of each edge; an undirected edge stands there twice.
        edges: integer types or numbers, edges x columns.
        targets: what is to be predicted, 1 x outputs (nodes x outputs for nodes); NaN where it is not known.
    """

    nodes: torch.Tensor
    edge_index: torch.Tensor
    edges: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphBatch:
    """Graphs that go through a model together, as one graph of many parts.

    Attributes:
        nodes: integer types, nodes x columns.
        edge_index: 2 x edges, source and target of each edge among the nodes of the batch.
        edges: integer types or numbers, edges x columns.
        graph: which graph a node belongs to, from 0.
        count: number of graphs.
        targets: graphs x outputs, or nodes x outputs; NaN where it is not known.
    """

    nodes: torch.Tensor
    edge_index: torch.Tensor
    edges: torch.Tensor
    graph: torch.Tensor
    count: int
    targets: torch.Tensor

    @classmethod
    def joined(cls, batches: Sequence[GraphBatch]) -> GraphBatch:
        """Return the graphs of several batches, at least one, as one batch, in their order."""
        nodes, graphs = 0, 0
        edge_index, graph = [], []
        for batch in batches:
            edge_index.append(batch.edge_index + nodes)
            graph.append(batch.graph + graphs)
            nodes, graphs = nodes + len(batch.nodes), graphs + batch.count
        return cls(
            nodes=torch.cat([batch.nodes for batch in batches]),
            edge_index=torch.cat(edge_index, dim=1),
            edges=torch.cat([batch.edges for batch in batches]),
            graph=torch.cat(graph),
            count=graphs,
            targets=torch.cat([batch.targets for batch in batches]),
        )

    def to(self, device: torch.device) -> GraphBatch:
        """Return it on a device."""
        moved: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return GraphBatch(**{n: v if n == "count" else v.to(device) for n, v in moved.items()})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphSet:
    """Graphs one behind another, with one row of targets each.

    Attributes:
        nodes: integer types of all nodes, nodes x columns.
        edge_index: 2 x edges; nodes are counted within their own graph.
        edges: integer types or numbers, edges x columns.
        targets: graphs x outputs; NaN where it is not known.
        node_counts: nodes of each graph.
        edge_counts: edges of each graph.
    """

    nodes: torch.Tensor
    edge_index: torch.Tensor
    edges: torch.Tensor
    targets: torch.Tensor
    node_counts: torch.Tensor
    edge_counts: torch.Tensor

    @classmethod
    def of(cls, graphs: Iterable[Graph]) -> GraphSet:
        """Return the graphs, at least one, in their order."""
        listed = list(graphs)
        return cls(
            nodes=torch.cat([graph.nodes for graph in listed]),
            edge_index=torch.cat([graph.edge_index for graph in listed], dim=1),
            edges=torch.cat([graph.edges for graph in listed]),
            targets=torch.cat([graph.targets for graph in listed]),
            node_counts=torch.tensor([len(graph.nodes) for graph in listed]),
            edge_counts=torch.tensor([len(graph.edges) for graph in listed]),
        )

    def __len__(self) -> int:
        return len(self.node_counts)

    def subset(self, chosen: Sequence[int]) -> GraphSet:
        """Return the graphs of these numbers, from 0, in that order."""
        which = torch.as_tensor(chosen, dtype=torch.long)
        nodes, edges = self.node_counts[which], self.edge_counts[which]
        edge_rows = _rows(self.edge_counts.cumsum(0)[which] - edges, edges)
        return GraphSet(
            nodes=self.nodes[_rows(self.node_counts.cumsum(0)[which] - nodes, nodes)],
            edge_index=self.edge_index[:, edge_rows],
            edges=self.edges[edge_rows],
            targets=self.targets[which],
            node_counts=nodes,
            edge_counts=edges,
        )

    def batch(self, chosen: Sequence[int]) -> GraphBatch:
        """Return the graphs of these numbers, from 0, as a batch, in that order."""
        part = self.subset(chosen)
        before = part.node_counts.cumsum(0) - part.node_counts
        return GraphBatch(
            nodes=part.nodes,
            edge_index=part.edge_index + before.repeat_interleave(part.edge_counts),
            edges=part.edges,
            graph=torch.arange(len(part)).repeat_interleave(part.node_counts),
            count=len(part),
            targets=part.targets,
        )


def _rows(starts: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return start, start + 1, ... for each start, as many as it counts."""
    before = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return starts.repeat_interleave(counts) + torch.arange(int(counts.sum())) - before
