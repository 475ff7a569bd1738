"""The data sets that a graph transformer is trained on, each in three parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy

from maprobe.errors import InputError, allowed_names
from maprobe.graphs.batches import GraphBatch, GraphSet, Task
from maprobe.graphs.molecules import ATOM_TYPES, BOND_TYPES, molecule_graphs
from maprobe.graphs.smiles import Lines, read_smiles
from maprobe.progress import Progress
from maprobe.running.wheels import fetch_member

__all__ = ["DATASETS", "LOGP", "GraphData", "Part", "load_data", "molecules_of"]

DATASETS = ("molsets", "zinc", "tox21", "ogbn-proteins")
LOGP = "penalised logP, standardised over ZINC"  # what is predicted of molecules where nothing else is named
_DRAW = 41  # seed of the draw of molecules and of the parts: the same for every model, whatever its own seed
_TENTH = 10  # of the graphs is for validation, and another for the test
_FEWEST = 10
_MOLSETS = ("molsets", "0.3.1", "moses/dataset/data")
_MOLSETS_SHA256 = "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34"
_MOLSETS_FILES = ("train.csv.gz", "test.csv.gz", "test_scaffolds.csv.gz")


class Part(Protocol):
    """A part of a data set: rows to be predicted, and batches of them."""

    def __len__(self) -> int: ...

    def batch(self, chosen: Sequence[int]) -> GraphBatch:
        """Return a batch in which the rows of these numbers, from 0, are to be predicted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphData:
    """A data set, ready to be learned from.

    Attributes:
        train: what is learned from.
        valid: what decides when the learning rate falls.
        test: what is kept for measuring.
        task: ``regression`` (mean absolute error) or ``multi-label`` (binary cross-entropy of each label).
        outputs: numbers to be predicted for each graph or node.
        node_types: number of types in each column of the nodes.
        edge_types: number of types in each column of the edges.
        edge_numbers: columns of numbers on the edges, where they have no types.
        about: what it is, as plain data; goes into ``config.json``.
        path: the file that it came from; empty for a data set with a name.
    """

    train: Part
    valid: Part
    test: Part
    task: Task
    outputs: int
    node_types: tuple[int, ...]
    edge_types: tuple[int, ...]
    edge_numbers: int = 0
    about: dict[str, Any]
    path: str = ""


def load_data(
    name: str, molecules: int | None, cache: Path, progress: Progress, targets: Sequence[str] = ()
) -> GraphData:
    """Return a data set by its name, or made of a file of SMILES.

    Args:
        name: one of :data:`DATASETS`, or the path of a file of SMILES.
        molecules: how many molecules are drawn, for ``molsets`` and files; None for all.
        cache: the cache's root, which downloads are kept in.
        progress: where to show how far it is.
        targets: columns of a .csv file that are predicted instead of penalised logP: labels where all their numbers
            are 0 or 1, else numbers as they are.

    Raises:
        InputError: it cannot be had, a package is missing, or a molecule cannot be read.
        CheckpointError: the wheel of ``molsets`` cannot be had.
    """
    if targets and name in DATASETS:
        raise InputError(f"--targets is for .csv files; {name} has targets of its own")
    if name in ("zinc", "tox21", "ogbn-proteins"):
        if molecules is not None:
            raise InputError(f"--molecules is for molsets and files of SMILES; {name} is taken whole")
        from maprobe.graphs import published

        return published.load(name, cache)
    if name != "molsets" and not Path(name).exists():
        raise InputError(
            f"--data {name} is neither a file nor a data set; allowed: {allowed_names(DATASETS)}, or a file of SMILES"
        )
    if name == "molsets":
        return molecules_of(molsets_lines(cache, progress), name, molecules, progress, targets)
    data = molecules_of(read_smiles(Path(name), targets), Path(name).name, molecules, progress, targets)
    return replace(data, path=str(Path(name).absolute()))


def molsets_lines(cache: Path, progress: Progress) -> Lines:
    """Return the 1,936,962 SMILES of the wheel molsets 0.3.1, which are drug-like molecules of ZINC.

    Raises:
        CheckpointError: the wheel cannot be had.
    """
    name, version, member = _MOLSETS
    folder = fetch_member(name, version, member, sha256=_MOLSETS_SHA256, cache=cache, progress=progress)
    train, test, scaffolds = (read_smiles(folder / file) for file in _MOLSETS_FILES)
    return train + test + scaffolds


def molecules_of(
    lines: Lines, name: str, count: int | None, progress: Progress, targets: Sequence[str] = ()
) -> GraphData:
    """Return molecules drawn from lines, eight tenths to learn from, one for validation, one for the test.

    Args:
        lines: the SMILES.
        name: what they are called.
        count: how many are drawn; None for all.
        progress: where to show how far it is.
        targets: names of the numbers that stand beside the SMILES and are predicted.

    Raises:
        InputError: there are fewer, or too few to be parted, or one cannot be read.
    """
    if count is not None and count > len(lines):
        raise InputError(f"{name} has {len(lines)} molecules, and {count} are asked for; lower --molecules")
    order = numpy.random.default_rng(_DRAW).permutation(len(lines))[:count]
    chosen = [lines[index] for index in sorted(order.tolist())]
    if len(chosen) < _FEWEST:
        raise InputError(f"{len(chosen)} molecules cannot be parted; at least {_FEWEST} are needed")
    graphs, left_out = molecule_graphs(chosen, progress)
    train, valid, test = in_parts(graphs)
    for number, column in enumerate(targets):
        if bool(train.targets[:, number].isnan().all()) or bool(valid.targets.isnan().all()):
            raise InputError(
                f"{name}: too few numbers are known in {column!r} to learn from; leave it out of --targets"
            )
    known = graphs.targets[~graphs.targets.isnan()]
    task: Task = "multi-label" if targets and bool(((known == 0) | (known == 1)).all()) else "regression"
    digest = hashlib.sha256("\n".join(line.smiles for line in chosen).encode()).hexdigest()
    return GraphData(
        train=train,
        valid=valid,
        test=test,
        task=task,
        outputs=graphs.targets.shape[1],
        node_types=(len(ATOM_TYPES),),
        edge_types=(len(BOND_TYPES),),
        about={
            "name": name,
            "molecules": len(chosen),
            "without_bonds": left_out,
            "smiles_sha256": digest,
            "graphs": {"train": len(train), "valid": len(valid), "test": len(test)},
            "task": task,
            "targets": list(targets) or [LOGP],
            "node_types": list(ATOM_TYPES),
            "edge_types": list(BOND_TYPES),
        },
    )


def in_parts(graphs: GraphSet) -> tuple[GraphSet, GraphSet, GraphSet]:
    """Return eight tenths, a tenth and a tenth of the graphs, drawn by a fixed seed."""
    if len(graphs) < _FEWEST:
        raise InputError(f"{len(graphs)} graphs cannot be parted; at least {_FEWEST} are needed")
    order = numpy.random.default_rng(_DRAW).permutation(len(graphs)).tolist()
    tenth = len(graphs) // _TENTH
    return graphs.subset(order[2 * tenth :]), graphs.subset(order[:tenth]), graphs.subset(order[tenth : 2 * tenth])
