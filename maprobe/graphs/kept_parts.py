"""The part of a data set that is kept for measuring, stored beside the model that it is to be measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from maprobe.errors import CheckpointError
from maprobe.graphs.batches import GraphSet
from maprobe.graphs.configs import GraphConfig

__all__ = ["read_part", "write_part"]

_FILE = "test.safetensors"
_NAMES = tuple(field.name for field in fields(GraphSet))
_WIDTHS = (torch.int16, torch.int32, torch.int64)


def write_part(folder: Path, part: GraphSet) -> dict[str, Any]:
    """Store graphs in a folder, whole numbers in as few bytes as hold them all; return what is noted of them.

    Raises:
        OSError: the file cannot be written.
    """
    raw = save({name: _narrowed(getattr(part, name)).contiguous() for name in _NAMES})
    (folder / _FILE).write_bytes(raw)
    return {"file": _FILE, "sha256": hashlib.sha256(raw).hexdigest(), "graphs": len(part)}


def read_part(folder: Path, noted: object, config: GraphConfig) -> GraphSet:
    """Return the graphs that were stored in a folder, bit by bit as they were.

    Args:
        folder: of a model.
        noted: what :func:`write_part` returned.
        config: of the model, which the graphs must fit.

    Raises:
        CheckpointError: the file is not there, is not the one that was written, or does not fit the config.
    """
    path = folder / _FILE
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}), and it holds the graphs that the model is to be "
            f"measured with; put it back, or train the model again"
        ) from None
    stated = noted.get("sha256") if isinstance(noted, Mapping) else None
    if hashlib.sha256(raw).hexdigest() != stated:
        raise CheckpointError(
            f"{path} is not the file that was written beside this model (config.json states another sha256); put that "
            f"one back, or train the model again"
        )
    try:
        tensors = load(raw)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train the model again") from None
    if set(tensors) == set(_NAMES):
        part = GraphSet(**{name: _widened(tensor) for name, tensor in tensors.items()})
        if _fits(part, config):
            return part
    raise CheckpointError(f"{path} does not hold graphs that fit config.json beside it; train the model again")


def _narrowed(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_floating_point():
        return tensor
    least, most = (int(tensor.min()), int(tensor.max())) if tensor.numel() else (0, 0)
    for dtype in _WIDTHS:
        if torch.iinfo(dtype).min <= least and most <= torch.iinfo(dtype).max:
            break
    return tensor.to(dtype)


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_floating_point() else tensor.long()


def _fits(part: GraphSet, config: GraphConfig) -> bool:
    """Whether every number of a part can be looked up in a model of the config."""
    nodes, index, edges = part.node_counts, part.edge_index, part.edges
    whole = not any(tensor.is_floating_point() for tensor in (nodes, part.edge_counts, index))
    counted = whole and nodes.dim() == 1 and nodes.shape == part.edge_counts.shape and len(part) > 0
    shaped = counted and index.shape == (2, len(edges)) and part.targets.shape == (len(part), config.outputs)
    if not shaped or int(nodes.min()) < 1 or int(part.edge_counts.min()) < 0:
        return False
    if int(nodes.sum()) != len(part.nodes) or int(part.edge_counts.sum()) != len(edges):
        return False
    typed = _of_types(edges, config.edge_types) if config.edge_types else edges.shape[1:] == (config.edge_numbers,)
    inside = (index >= 0) & (index < nodes.repeat_interleave(part.edge_counts))
    return typed and _of_types(part.nodes, config.node_types) and bool(inside.all())


def _of_types(columns: torch.Tensor, types: tuple[int, ...]) -> bool:
    if columns.is_floating_point() or columns.shape[1:] != (len(types),):
        return False
    return bool(((columns >= 0) & (columns < torch.tensor(types))).all())
