"""A graph transformer on disk: config.json, model.safetensors, and what its data were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from maprobe.errors import CheckpointError, InputError, TrainingError
from maprobe.graphs.configs import GraphConfig
from maprobe.graphs.models import GraphModel, build
from maprobe.training.folders import RunFolder

__all__ = ["FORMAT", "load_model", "read_config", "save_model", "write_model"]

FORMAT = "maprobe_graph_model"
_VERSION = 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


def save_model(folder: str | Path, model: GraphModel, data: Mapping[str, Any]) -> None:
    """Write a model into a folder of its own, whole or not at all; what was in the folder is replaced.

    Args:
        folder: where to.
        model: the model.
        data: what it was trained on, as plain data: whatever is needed to make such graphs again.

    Raises:
        TrainingError: the folder cannot be written.
    """
    place = Path(folder).absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written ({error.strerror or error}); make room there") from None
    RunFolder(place.parent).save(place.name, lambda path: write_model(path, model, data))


def write_model(folder: Path, model: GraphModel, data: Mapping[str, Any]) -> None:
    """Write the files of a model into a new folder."""
    folder.mkdir(parents=True)
    about = {FORMAT: _VERSION, "config": model.config.to_dict(), "data": dict(data)}
    (folder / _CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, folder / _WEIGHTS
    )


def read_config(folder: str | Path) -> tuple[GraphConfig, dict[str, Any]]:
    """Return a saved model's config and what its data were.

    Raises:
        CheckpointError: the folder holds no graph transformer of maprobe, or one of another version.
    """
    path = Path(folder) / _CONFIG
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}); name a folder that maprobe.graphs.train wrote"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); train the model again") from None
    if not isinstance(about, dict) or FORMAT not in about:
        raise CheckpointError(
            f"{path} is not of a graph transformer (no {FORMAT!r} in it); name a folder that maprobe.graphs.train wrote"
        )
    if about[FORMAT] != _VERSION:
        raise CheckpointError(
            f"{path} is of version {about[FORMAT]!r}, and this maprobe reads version {_VERSION}; update maprobe, or "
            f"train the model again"
        )
    try:
        return GraphConfig.from_dict(about.get("config", {})), dict(about.get("data", {}))
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None


def load_model(folder: str | Path) -> tuple[GraphModel, dict[str, Any]]:
    """Return a saved model in eval mode, on the CPU, and what its data were.

    Raises:
        CheckpointError: the folder holds none, or its weights do not fit its config.
    """
    config, data = read_config(folder)
    path = Path(folder) / _WEIGHTS
    with torch.random.fork_rng(devices=[]):
        model = build(config)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train the model again") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit {_CONFIG} beside it ({reason}); train the model again") from None
    return model.eval(), data
