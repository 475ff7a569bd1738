"""The graphs kept for measuring as inputs of a model: one graph, or one batch of nodes, in a forward call each."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy
import torch

from maprobe.errors import CheckpointError, InputError
from maprobe.graphs.batches import GraphBatch, GraphSet
from maprobe.graphs.configs import GraphConfig
from maprobe.graphs.kept_parts import read_part
from maprobe.progress import Progress
from maprobe.python_models import ModelInput
from maprobe.running.storage import cache_folder

__all__ = ["NODES", "GraphInputs", "NodeInputs", "kept_inputs"]

NODES = 64  # to be predicted in one input, where a graph is too large to be one
_DRAW = 41  # seed of which nodes are together, and of the neighbours that are drawn
_WHOLE = ("zinc", "tox21", "ogbn-proteins")


class _Inputs(Sequence[ModelInput]):
    """Inputs that are made when they are asked for."""

    @overload
    def __getitem__(self, index: int) -> ModelInput: ...

    @overload
    def __getitem__(self, index: slice) -> list[ModelInput]: ...

    def __getitem__(self, index: int | slice) -> ModelInput | list[ModelInput]:
        """Return an input, or several."""
        numbers = range(len(self))[index]
        return self._made(numbers) if isinstance(numbers, int) else [self._made(number) for number in numbers]

    @abstractmethod
    def _made(self, number: int) -> ModelInput:
        """Make an input, by its number from 0."""


class GraphInputs(_Inputs):
    """Graphs, one an input.

    Rows of nodes and edges are called by the type in their first column, where the types have names.

    Args:
        graphs: the graphs.
        nodes: names of the types of nodes; empty where they have none.
        edges: names of the types of edges; empty where they have none.
    """

    def __init__(self, graphs: GraphSet, nodes: Sequence[str] = (), edges: Sequence[str] = ()) -> None:
        self.graphs = graphs
        self._names = {"token": tuple(nodes), "edge": tuple(edges)}

    def __len__(self) -> int:
        return len(self.graphs)

    def _made(self, number: int) -> ModelInput:
        batch = self.graphs.batch([number])
        columns = {"token": batch.nodes, "edge": batch.edges}
        rows = {
            row: tuple(names[int(kind)] for kind in columns[row][:, 0]) for row, names in self._names.items() if names
        }
        return ModelInput(given=batch, rows=rows, name=f"graph {number}")


class NodeInputs(_Inputs):
    """Nodes of one large graph, so many an input, each with drawn neighbours. All is drawn by a fixed seed.

    Args:
        part: whose ``batch`` draws neighbours by torch's random state, which is left as it was.
    """

    def __init__(self, part: Any) -> None:  # noqa: ANN401 - a Part of data sets, which stays unimported here
        self.part = part
        self._order = numpy.random.default_rng(_DRAW).permutation(len(part)).tolist()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / NODES)

    def _made(self, number: int) -> ModelInput:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_DRAW + number)
            batch: GraphBatch = self.part.batch(self._order[number * NODES : (number + 1) * NODES])
        return ModelInput(given=batch, name=f"nodes {number}")


def kept_inputs(folder: Path, about: Mapping[str, Any], config: GraphConfig, progress: Progress) -> _Inputs:
    """Return the part that was kept for measuring: stored beside the model, else made again as it was for training.

    Args:
        folder: of the model.
        about: what stands in its config.json.
        config: of the model.
        progress: where to show how far it is, where it is made again.

    Raises:
        CheckpointError: it is damaged, or cannot be made again, or came out different.
    """
    data = about["data"]
    part = read_part(folder, about["test"], config) if "test" in about else _made_again(folder, data, progress)
    if not isinstance(part, GraphSet):
        return NodeInputs(part)
    nodes = _type_names(data.get("node_types"), config.node_types)
    return GraphInputs(part, nodes, _type_names(data.get("edge_types"), config.edge_types))


def _type_names(names: object, types: tuple[int, ...]) -> tuple[str, ...]:
    """Return names of the types in the first column; none where the list names something else, such as columns."""
    if isinstance(names, list) and types and len(names) == types[0]:
        return tuple(map(str, names))
    return ()


def _made_again(folder: Path, data: Mapping[str, Any], progress: Progress) -> Any:  # noqa: ANN401 - a Part
    from maprobe.graphs.datasets import LOGP, load_data  # only here: it takes RDKit, or more

    name, place = str(data.get("name", "")), folder / "config.json"
    source = name if name in (*_WHOLE, "molsets") else str(data.get("path", ""))
    if not source:
        raise CheckpointError(
            f"{place} names no file that the graphs of {name!r} could be made of again, and none are stored beside the "
            f"model; train the model again"
        )
    if source != name and not Path(source).is_file():
        raise CheckpointError(
            f"{place}: the graphs were made of {source}, which is not there, and none are stored beside the model; put "
            f"it back, or train the model again"
        )
    count = None if name in _WHOLE else data.get("molecules")
    targets = [] if data.get("targets") == [LOGP] or source == name else list(data.get("targets", ()))
    try:
        made = load_data(source, count, cache_folder(), progress, targets)
    except InputError as error:
        raise CheckpointError(f"{place}: the graphs cannot be made again: {error}") from error
    for what in ("smiles_sha256", "graphs", "nodes"):
        if what in data and data[what] != made.about.get(what):
            raise CheckpointError(
                f"{place}: the graphs that {source} gives today are not those that the model was trained beside "
                f"({what} differs); put the old file back, or train the model again"
            )
    return made.test
