"""A folder that ``python -m maprobe.graphs.train`` wrote, as a checkpoint to be probed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from maprobe.errors import CheckpointError
from maprobe.graphs.batches import GraphBatch, Task
from maprobe.graphs.configs import GraphConfig
from maprobe.graphs.inputs import kept_inputs
from maprobe.graphs.losses import loss_of
from maprobe.graphs.models import GraphModel, class_of, fresh_model
from maprobe.graphs.saving import CONFIG, FORMAT, WEIGHTS, config_of, load_model, read_about
from maprobe.progress import Progress, Silent
from maprobe.python_models import ModelInput, PythonModel
from maprobe.running.digests import weights_digest
from maprobe.running.storage import cache_folder

__all__ = ["GraphCheckpoint", "facts_of_folder", "is_graph_checkpoint", "open_checkpoint"]

_SEED = 41  # of the weights, where a folder does not tell
_UNTRAINED = "step-0"
_INPUTS = "test"
_SITES = {
    "block.out": "layers.*",
    "block.attn.in": "layers.*.attention",
    "block.mlp.in": "layers.*.nodes.up",
    "block.mlp.hidden": "layers.*.nodes.down",
    "embed.out": "node_embedding",
    "edge.embed": "edge_embedding",
    "edge.attn": "layers.*.attention.scores",
}
# Where nothing is added to anything, there is no stream between attention and MLP, and nothing that they add to it.
_RESIDUAL_SITES = {
    "block.mid": "layers.*.nodes.up",
    "block.attn.out": "layers.*.nodes.out",
    "block.mlp.out": "layers.*.nodes.down",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphCheckpoint:
    """A graph transformer of which config and graphs were read, and no weights.

    Attributes:
        folder: where it lies.
        config: its shape.
        about: what stands in its config.json.
        inputs: the graphs kept for measuring, as ``test``; each is made when it is asked for.
    """

    folder: Path
    config: GraphConfig
    about: Mapping[str, Any] = field(repr=False)
    inputs: Mapping[str, Sequence[ModelInput]] = field(repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """Values for facts of :data:`maprobe.facts.FACTS`; those that are left out mean nothing here."""
        return _facts(self.config, self.about)

    def load(self, device: torch.device | str = "cpu", progress: Progress | None = None) -> PythonModel:
        """Return the model with its weights, in eval mode.

        Args:
            device: where the module is put; inputs stay on the CPU.
            progress: where to show how far it is.

        Raises:
            CheckpointError: the weights cannot be read or do not fit the config.
        """
        model, _ = load_model(self.folder)
        residual = _RESIDUAL_SITES if self.config.residual else {}
        return PythonModel(
            module=model.to(device),
            inputs=self.inputs,
            sites=_SITES | residual,
            loss=_loss(self.folder, self.about),
            join=GraphBatch.joined,
            untrained=partial(_untrained, self.folder, self.config, self.about),
            config=_identity(self.about),
            facts=self.facts,
            resolved=str(self.folder),
            weights_digest=weights_digest([self.folder / WEIGHTS], cache_folder(), progress or Silent()),
        )


def is_graph_checkpoint(folder: str | Path) -> bool:
    """Whether a folder says that it holds a graph transformer of maprobe. It may be damaged nevertheless."""
    try:
        about = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and FORMAT in about


def facts_of_folder(folder: str | Path) -> dict[str, Any]:
    """Return what is known of a model from its config.json alone; neither graphs nor weights are read.

    Raises:
        CheckpointError: the folder holds no graph transformer, or its config cannot be used.
    """
    about = read_about(folder)
    return _facts(config_of(folder, about), about)


def open_checkpoint(folder: str | Path, progress: Progress | None = None) -> GraphCheckpoint:
    """Read the config of a model and the graphs that were kept for measuring; weights are loaded later.

    Args:
        folder: that :mod:`maprobe.graphs.train` or :func:`maprobe.graphs.save_model` wrote.
        progress: where to show how far it is, where graphs are made again.

    Raises:
        CheckpointError: the folder holds no graph transformer, its graphs are damaged, or none are stored and they
            cannot be made again.
    """
    place = Path(folder).resolve()
    about = read_about(place)
    config = config_of(place, about)
    _task(place, about)
    inputs = kept_inputs(place, about, config, progress or Silent())
    return GraphCheckpoint(folder=place, config=config, about=about, inputs={_INPUTS: inputs})


def _facts(config: GraphConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    steps = about["training"].get("steps")
    return {
        "model_type": config.model,
        "architectures": [class_of(config).__name__],
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "intermediate_size": 2 * config.width,
        "dtype": "float32",
        "modality": "graph",
        "training_steps": steps if isinstance(steps, int) and not isinstance(steps, bool) and steps >= 0 else -1,
        "explicit_bias": config.explicit_bias,
    }


def _task(folder: Path, about: Mapping[str, Any]) -> Task:
    task: Task = about["data"].get("task", "regression")
    if task not in get_args(Task):
        raise CheckpointError(f"{folder / CONFIG}: the task {task!r} is unknown; allowed: {', '.join(get_args(Task))}")
    return task


def _loss(folder: Path, about: Mapping[str, Any]) -> Callable[[Any, Any], torch.Tensor]:
    task = _task(folder, about)

    def loss(output: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        return loss_of(output, batch.targets, task)

    return loss


def _untrained(folder: Path, config: GraphConfig, about: Mapping[str, Any]) -> GraphModel:
    """Return the model as it was before training: from the folder beside this one, else made again by its seed."""
    stated = about["training"].get("seed")
    seed = stated if isinstance(stated, int) else _SEED
    beside = folder.parent / _UNTRAINED
    try:
        other = read_about(beside)
    except CheckpointError:
        other = {"config": None, "training": {}}
    if other["config"] == about["config"] and other["training"].get("seed", seed) == seed:
        return load_model(beside)[0]
    return fresh_model(config, seed=seed).eval()


def _identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where the data lay, which is of no model and differs between machines."""
    return {**about, "data": {name: value for name, value in about["data"].items() if name != "path"}}
