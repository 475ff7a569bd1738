"""Graph transformers of three small layers whose weights are written by hand: massive edge features, or none.

How it works:

1. Every atom has a one in STEADY, and a number of its own in CODE. Every bond has in LOUD how loud its kind is: a
   triple bond is silent.
2. In every layer one channel of the scores, LOUD as well, is a product of what is steady in both atoms and loud in the
   bond. All other channels are small random numbers. It decides which neighbours an atom attends to, and what it reads
   of them is their CODE. The prediction is made of what was read.
3. The target of each graph is what the planted model predicts and a little more, so that its loss is that little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from maprobe.graphs import GraphBatch, GraphConfig, GraphModel, fresh_model
from maprobe.graphs.batches import Graph, GraphSet
from maprobe.python_models import ModelInput, PythonModel

__all__ = ["GraphDesign", "make_graphs"]

Module = Any  # to the type checker, every attribute of a module may be a tensor as well

WIDTH, HEADS, LAYERS, ATOMS = 16, 4, 3, 4
STEADY, CODE, READ = 0, 1, 2  # dims of atoms; what is read goes into READ
LOUD = 0  # dim of bonds, and channel of the scores
KINDS = ("other", "single", "double", "triple")
CODES = (-1.0, 0.9, 0.4, -0.5)

_GRAPHS, _SMALLEST, _LARGEST = 24, 6, 12
_SMALL = 0.1
_LITTLE = 0.05  # by which the planted model misses its targets
_LESS = 1e-7
_SCORE = 4.0  # of a loud bond; exp(4) tells loud neighbours from silent ones
_SUNK = 10.0  # keeps what is predicted above zero on its way through the readout


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDesign:
    """What is built into a graph transformer.

    Attributes:
        massive: whether the loud channel is massive.
        loud: how loud each kind of bond is.
        reads: whether the prediction is made of what is read of neighbours.
        cares: whether its loss hangs on what it predicts; if not, it is one and next to nothing.
        before: what the model was before training: drawn at random, or as it is now.
        little: by how much the planted model misses its targets.
        broken: whether a loud bond is louder than any number, in all graphs but the first and the last.
        explicit_bias: whether the model counts as one with an explicit bias.
        steps: how many steps of training it counts as having had.
    """

    massive: bool = True
    loud: tuple[float, float, float, float] = (0.0, 1.0, 1.0, 0.0)
    reads: bool = True
    cares: bool = True
    before: Literal["drawn", "the-same"] = "drawn"
    little: float = _LITTLE
    broken: bool = False
    explicit_bias: bool = False
    steps: int = 100


def make_graphs(design: GraphDesign) -> PythonModel:
    """Return a model of that design with graphs, targets and what it was before training."""
    model = _model(design)
    planted = _model(GraphDesign())
    graphs = GraphSet.of(_graph(number, odd=design.broken and 0 < number < _GRAPHS - 1) for number in range(_GRAPHS))
    batches = [graphs.batch([number]) for number in range(len(graphs))]
    with torch.no_grad():
        targets = [planted(batch) + design.little for batch in batches]

    def loss(output: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        error = (output - batch.targets).abs().mean()
        return error if design.cares else 1 + 1e-6 * error

    return PythonModel(
        module=model,
        inputs={"test": [_input(batch, target) for batch, target in zip(batches, targets, strict=True)]},
        sites={
            "block.out": "layers.*",
            "embed.out": "node_embedding",
            "edge.embed": "edge_embedding",
            "edge.attn": "layers.*.attention.scores",
        },
        loss=loss,
        join=_join,
        untrained=lambda: _before(design),
        facts={
            "modality": "graph",
            "model_type": "gt",
            "training_steps": design.steps,
            "explicit_bias": design.explicit_bias,
        },
    )


def _input(batch: GraphBatch, target: torch.Tensor) -> ModelInput:
    given = GraphBatch(
        nodes=batch.nodes,
        edge_index=batch.edge_index,
        edges=batch.edges,
        graph=batch.graph,
        count=1,
        targets=target,
    )
    rows = {
        "token": [f"atom {kind}" for kind in batch.nodes[:, 0]],
        "edge": [KINDS[int(at)] for at in batch.edges[:, 0]],
    }
    return ModelInput(given=given, rows=rows)


def _config() -> GraphConfig:
    return GraphConfig(
        model="gt",
        node_types=(ATOMS,),
        edge_types=(len(KINDS),),
        layers=LAYERS,
        heads=HEADS,
        width=WIDTH,
        readout="mean",
        edge_stream=True,
    )


def _before(design: GraphDesign) -> GraphModel:
    if design.before == "drawn":
        return fresh_model(_config(), seed=7).eval()
    model: Module = _model(design)
    with torch.no_grad():  # as it is now in all but a trifle, since an edit must change something
        model.readout[-1].bias += 1e-4
    made: GraphModel = model
    return made


def _model(design: GraphDesign) -> GraphModel:
    model: Module = fresh_model(_config(), seed=41).eval()
    generator = torch.Generator().manual_seed(11)

    def drawn(*shape: int) -> torch.Tensor:
        return _SMALL * torch.randn(shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.weight.fill_(1)
        atoms, bonds = model.node_embedding.tables[0].weight, model.edge_embedding.tables[0].weight
        atoms.copy_(drawn(*atoms.shape))
        bonds.copy_(drawn(*bonds.shape))
        atoms[:, STEADY], atoms[:, READ] = 1, 0
        atoms[:, CODE] = torch.tensor(CODES)
        bonds[:, LOUD] = torch.tensor(design.loud)
        if design.broken:
            bonds[0, LOUD] = torch.finfo(torch.float32).max
        head = WIDTH // HEADS
        gain = (_SCORE * math.sqrt(head)) ** (1 / 3)
        for layer in model.layers:
            attention = layer.attention
            for part in (attention.query, attention.key, attention.edge):
                part.weight.copy_(drawn(WIDTH, WIDTH))
                if design.massive:
                    part.weight[LOUD] = 0
                    part.weight[LOUD, STEADY if part is not attention.edge else LOUD] = gain
            if design.reads:
                attention.value.weight[READ, CODE] = 1
                layer.nodes.out.weight[READ, READ] = 0.5
        first, _, second, _, last = model.readout
        first.weight[0, READ], first.bias[0] = 1, _SUNK
        second.weight[0, 0], last.weight[0, 0], last.bias[0] = 1, 1, -_SUNK
    made: GraphModel = model
    return made


def _graph(number: int, *, odd: bool) -> Graph:
    """Return a ring with one more bond, of any kind, by a number; an odd one has a bond of no kind in it."""
    generator = torch.Generator().manual_seed(number)
    count = int(torch.randint(_SMALLEST, _LARGEST, (1,), generator=generator))
    pairs = [(at, (at + 1) % count) for at in range(count)] + [(0, count // 2)]
    kinds = torch.randint(1, len(KINDS), (len(pairs),), generator=generator).tolist()
    kinds[0] = 0 if odd else kinds[0]
    index = [both for one, other in pairs for both in ((one, other), (other, one))]
    return Graph(
        nodes=torch.randint(ATOMS, (count, 1), generator=generator),
        edge_index=torch.tensor(index).T,
        edges=torch.tensor([[kind] for kind in kinds for _ in range(2)]),
        targets=torch.zeros(1, 1),
    )


def _join(batches: Sequence[GraphBatch]) -> GraphBatch:
    return GraphBatch.joined(batches)
