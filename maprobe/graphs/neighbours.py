"""Nodes of one large graph to be predicted, each batch with a drawn part of its neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from maprobe.graphs.batches import GraphBatch

__all__ = ["LargeGraph", "NodePart"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LargeGraph:
    """A graph whose edges are sorted by their target.

    Attributes:
        nodes: integer types, nodes x columns.
        targets: nodes x outputs.
        sources: source of each edge.
        edges: numbers or types of each edge, edges x columns.
        first: where the edges that lead to a node begin, for each node; one entry more for the end.
    """

    nodes: torch.Tensor
    targets: torch.Tensor
    sources: torch.Tensor
    edges: torch.Tensor
    first: torch.Tensor

    @classmethod
    def of(
        cls, nodes: torch.Tensor, targets: torch.Tensor, edge_index: torch.Tensor, edges: torch.Tensor
    ) -> LargeGraph:
        """Return the graph of edges in any order."""
        order = edge_index[1].argsort(stable=True)
        counts = torch.bincount(edge_index[1], minlength=len(nodes))
        first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(nodes=nodes, targets=targets, sources=edge_index[0][order], edges=edges[order], first=first)


class NodePart:
    """Some of the nodes of a large graph.

    Args:
        graph: the graph.
        members: the nodes that are to be predicted.
        fan_out: how many edges into each node are drawn at the first, second, ... step away from what is predicted.
    """

    def __init__(self, graph: LargeGraph, members: torch.Tensor, fan_out: Sequence[int]) -> None:
        self.graph, self.members, self.fan_out = graph, members, tuple(fan_out)

    def __len__(self) -> int:
        return len(self.members)

    def batch(self, chosen: Sequence[int]) -> GraphBatch:
        """Return the chosen nodes with drawn neighbours, by torch's random state; the others' targets are NaN.

        Edges are drawn with replacement and then taken once each.
        """
        graph = self.graph
        seeds = self.members[torch.as_tensor(chosen, dtype=torch.long)]
        known, front, drawn = seeds, seeds, []
        for count in self.fan_out:
            starts, sizes = graph.first[front], graph.first[front + 1] - graph.first[front]
            some = sizes > 0
            picks = (torch.rand(int(some.sum()), count) * sizes[some].unsqueeze(1)).long()
            edges = (starts[some].unsqueeze(1) + picks).flatten()
            drawn.append(edges)
            reached = graph.sources[edges].unique()
            front = reached[~torch.isin(reached, known)]
            known = torch.cat([known, front])
        edges = torch.cat(drawn).unique()
        into = torch.searchsorted(graph.first, edges, right=True) - 1
        place = torch.full((len(graph.nodes),), -1)
        place[known] = torch.arange(len(known))
        targets = torch.full((len(known), graph.targets.shape[1]), torch.nan)
        targets[: len(seeds)] = graph.targets[seeds]
        return GraphBatch(
            nodes=graph.nodes[known],
            edge_index=torch.stack([place[graph.sources[edges]], place[into]]),
            edges=graph.edges[edges],
            graph=torch.zeros(len(known), dtype=torch.long),
            count=1,
            targets=targets,
        )
