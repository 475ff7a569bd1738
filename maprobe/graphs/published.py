"""The published data sets: ZINC and TOX21 through torch_geometric, OGBN-PROTEINS through ogb."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from maprobe.errors import InputError, MaprobeError
from maprobe.graphs.batches import Graph, GraphSet
from maprobe.graphs.datasets import GraphData, in_parts
from maprobe.graphs.extras import needed
from maprobe.graphs.neighbours import LargeGraph, NodePart

__all__ = ["load"]

_ZINC_TYPES, _ZINC_BONDS = 28, 4
_FAN_OUT = (15, 10, 5)
_INSTEAD = "train on molecules by --data molsets, or on a file of SMILES by --data FILE"


def load(name: str, cache: Path) -> GraphData:
    """Return one of the published data sets, downloaded unless it is in the cache.

    Args:
        name: ``zinc``, ``tox21`` or ``ogbn-proteins``.
        cache: the cache's root.

    Raises:
        InputError: it cannot be had, or the package that fetches it is missing.
    """
    folder = cache / "graphs" / name
    loaders = {"zinc": _zinc, "tox21": _tox21, "ogbn-proteins": _proteins}
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            needed("ogb" if name == "ogbn-proteins" else "torch_geometric", f"--data {name}")
            return loaders[name](folder)
    except MaprobeError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise InputError(
            f"--data {name} cannot be had: {type(error).__name__}: {first}; it takes network, to be kept in {folder}; "
            f"{_INSTEAD}"
        ) from error


def _zinc(folder: Path) -> GraphData:
    """ZINC's subset of 12,000 molecules, in the benchmark's own parts (arXiv:2003.00982)."""
    datasets = needed("torch_geometric.datasets", "--data zinc")
    parts: dict[str, Any] = {
        part: GraphSet.of(_graphs(datasets.ZINC(str(folder), subset=True, split=split)))
        for part, split in (("train", "train"), ("valid", "val"), ("test", "test"))
    }
    return GraphData(
        **parts,
        task="regression",
        outputs=1,
        node_types=(_ZINC_TYPES,),
        edge_types=(_ZINC_BONDS,),
        about={
            "name": "zinc",
            "graphs": {part: len(graphs) for part, graphs in parts.items()},
            "task": "regression",
            "targets": ["penalised logP, standardised over ZINC"],
        },
    )


def _tox21(folder: Path) -> GraphData:
    """TOX21 of MoleculeNet: twelve labels, of which each molecule has some; in parts drawn by a fixed seed."""
    datasets = needed("torch_geometric.datasets", "--data tox21")
    maps = needed("torch_geometric.utils.smiles", "--data tox21")
    graphs = GraphSet.of(_graphs(datasets.MoleculeNet(str(folder), "Tox21")))
    train, valid, test = in_parts(graphs)
    return GraphData(
        train=train,
        valid=valid,
        test=test,
        task="multi-label",
        outputs=graphs.targets.shape[1],
        node_types=tuple(len(values) for values in maps.x_map.values()),
        edge_types=tuple(len(values) for values in maps.e_map.values()),
        about={
            "name": "tox21",
            "graphs": {"train": len(train), "valid": len(valid), "test": len(test)},
            "task": "multi-label",
            "node_types": list(maps.x_map),
            "edge_types": list(maps.e_map),
        },
    )


def _graphs(data: Iterable[Any]) -> Iterable[Graph]:
    """Turn torch_geometric's graphs into ours; those without an edge are left out, as in the paper's code."""
    for item in data:
        if item.edge_index.shape[1]:
            yield Graph(
                nodes=item.x.long(),
                edge_index=item.edge_index,
                edges=item.edge_attr.long().reshape(item.edge_index.shape[1], -1),
                targets=item.y.float().reshape(1, -1),
            )


def _proteins(folder: Path) -> GraphData:
    """OGBN-PROTEINS: 132,534 proteins of eight species, 112 labels each, and eight numbers on every edge."""
    stored = folder / "graph.safetensors"
    if not stored.exists():
        _store_proteins(folder, stored)
    tensors = load_file(stored)
    graph = LargeGraph.of(tensors["nodes"], tensors["targets"], tensors["edge_index"], tensors["edges"])
    parts: dict[str, Any] = {part: NodePart(graph, tensors[part], _FAN_OUT) for part in ("train", "valid", "test")}
    return GraphData(
        **parts,
        task="multi-label",
        outputs=graph.targets.shape[1],
        node_types=(int(graph.nodes.max()) + 1,),
        edge_types=(),
        edge_numbers=graph.edges.shape[1],
        about={
            "name": "ogbn-proteins",
            "nodes": {part: len(nodes) for part, nodes in parts.items()},
            "task": "multi-label",
            "fan_out": list(_FAN_OUT),
        },
    )


def _store_proteins(folder: Path, stored: Path) -> None:
    """Have ogb download the graph, and keep it in a file that is read without pickle."""
    module = needed("ogb.nodeproppred", "--data ogbn-proteins")
    dataset = module.NodePropPredDataset(name="ogbn-proteins", root=str(folder))
    graph, labels = dataset[0]
    split = dataset.get_idx_split()
    species = torch.as_tensor(graph["node_species"]).flatten()
    tensors = {
        "nodes": species.unique(return_inverse=True)[1].reshape(-1, 1),
        "targets": torch.as_tensor(labels).float(),
        "edge_index": torch.as_tensor(graph["edge_index"]).long(),
        "edges": torch.as_tensor(graph["edge_feat"]).float(),
        **{part: torch.as_tensor(split[part]).long() for part in ("train", "valid", "test")},
    }
    beside = stored.with_suffix(".writing")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside)
    beside.replace(stored)
