"""A graph transformer on disk: its config, its weights, what its data were, and the graphs kept for measuring."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from maprobe.errors import CheckpointError, InputError, TrainingError
from maprobe.graphs.batches import GraphSet
from maprobe.graphs.configs import GraphConfig
from maprobe.graphs.kept_parts import write_part
from maprobe.graphs.models import GraphModel, build

__all__ = ["CONFIG", "FORMAT", "WEIGHTS", "config_of", "load_model", "read_about", "save_model", "write_model"]

FORMAT = "maprobe_graph_model"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_VERSION = 1  # what was added later (training, test) may be missing


def save_model(
    folder: str | Path,
    model: GraphModel,
    data: Mapping[str, Any],
    *,
    training: Mapping[str, int] | None = None,
    test: GraphSet | None = None,
) -> None:
    """Write a model into a folder of its own, whole or not at all; what was in the folder is replaced.

    Args:
        folder: where to.
        model: the model.
        data: what it was trained on, as plain data: whatever is needed to make such graphs again.
        training: ``steps`` and ``epochs`` that were made, and the ``seed`` that it began with; None leaves it open.
        test: graphs that it is to be measured with; they are stored beside it.

    Raises:
        TrainingError: the folder cannot be written.
    """
    from maprobe.training.folders import RunFolder  # what only reads a folder does without all that training takes

    place = Path(folder).absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written ({error.strerror or error}); make room there") from None
    RunFolder(place.parent).save(place.name, lambda path: write_model(path, model, data, training=training, test=test))


def write_model(
    folder: Path,
    model: GraphModel,
    data: Mapping[str, Any],
    *,
    training: Mapping[str, int] | None = None,
    test: GraphSet | None = None,
) -> None:
    """Write the files of a model into a new folder; the arguments are those of :func:`save_model`."""
    folder.mkdir(parents=True)
    about: dict[str, Any] = {FORMAT: _VERSION, "config": model.config.to_dict(), "data": dict(data)}
    if training is not None:
        about["training"] = dict(training)
    if test is not None:
        about["test"] = write_part(folder, test)
    (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS
    )


def read_about(folder: str | Path) -> dict[str, Any]:
    """Return what stands in a saved model's config.json: ``config``, ``data``, and maybe ``training`` and ``test``.

    Raises:
        CheckpointError: the folder holds no graph transformer of maprobe, or one of another version.
    """
    path = Path(folder) / CONFIG
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}); name a folder that maprobe.graphs.train wrote"
        ) from None
    except (ValueError, RecursionError) as error:
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
    for name in ("config", "data", "training"):
        if not isinstance(about.setdefault(name, {}), dict):
            raise CheckpointError(f"{path}: {name!r} is no mapping; train the model again")
    return about


def config_of(folder: str | Path, about: Mapping[str, Any]) -> GraphConfig:
    """Return the config among what :func:`read_about` has read in a folder.

    Raises:
        CheckpointError: it has a field or a value that it cannot have.
    """
    try:
        return GraphConfig.from_dict(about["config"])
    except InputError as error:
        raise CheckpointError(f"{Path(folder) / CONFIG}: {error}") from None


def load_model(folder: str | Path) -> tuple[GraphModel, dict[str, Any]]:
    """Return a saved model in eval mode, on the CPU, and what its data were.

    Raises:
        CheckpointError: the folder holds none, or its weights do not fit its config.
    """
    about = read_about(folder)
    config = config_of(folder, about)
    path = Path(folder) / WEIGHTS
    with torch.random.fork_rng(devices=[]):
        model = build(config)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train the model again") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit {CONFIG} beside it ({reason}); train the model again") from None
    return model.eval(), dict(about["data"])
