"""maprobe: assertions about the inside of a model, from declarative probe files.

Importing this package imports neither torch nor transformers; :func:`check` does so when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maprobe.edits import AnyEdit, AttentionWindow, Edit, NoiseEdit, RowsEdit, TokenEdit, UntrainedEdit, WeightEdit
from maprobe.errors import MaprobeError
from maprobe.python_models import ModelInput, PythonModel
from maprobe.readings import Axis, Place, Quantity, Reading
from maprobe.recipes import (
    Architecture,
    Batch,
    Choice,
    Corpus,
    Fold,
    FoldContext,
    GradedPair,
    InterventionRecipe,
    MeasurementRecipe,
    Operator,
    Parameter,
    Picture,
    QuantitySpec,
    Renderer,
    Tap,
)
from maprobe.registry import Registry
from maprobe.verdicts import Finding, Status, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from transformers import ImageProcessingMixin, PreTrainedTokenizerBase

    from maprobe.reporting.report import PropertyReport

__version__ = "0.1.0"

__all__ = [
    "AnyEdit",
    "Architecture",
    "AttentionWindow",
    "Axis",
    "Batch",
    "Choice",
    "Corpus",
    "Edit",
    "Finding",
    "Fold",
    "FoldContext",
    "GradedPair",
    "InterventionRecipe",
    "MaprobeError",
    "MeasurementRecipe",
    "ModelInput",
    "NoiseEdit",
    "Operator",
    "Parameter",
    "Picture",
    "Place",
    "PythonModel",
    "Quantity",
    "QuantitySpec",
    "Reading",
    "Registry",
    "Renderer",
    "RowsEdit",
    "Status",
    "Tap",
    "TokenEdit",
    "UntrainedEdit",
    "Verdict",
    "WeightEdit",
    "check",
]


def check(
    model: nn.Module | PythonModel,
    tokenizer: PreTrainedTokenizerBase | ImageProcessingMixin | None,
    probes: str | Path,
    *,
    label: str = "model",
    batch: int = 1,
    registry: Registry | None = None,
) -> PropertyReport:
    """Run probe files against a model in memory, from a notebook or a training callback, without pytest.

    Args:
        model: a transformers model, or a model with inputs of its own (docs/python-models.md). It is put into eval mode
            for the time of the call; nothing else changes.
        tokenizer: its tokenizer; for a model of images its image processor, or None for the usual processing.
        probes: a probe file, or a folder of them.
        label: how the model is called in the report.
        batch: sequences in one forward call, at most.
        registry: recipes to use; None for maprobe's own.

    Raises:
        MaprobeError: a probe file is faulty. Where the model's parts cannot be found, every case is ``unmeasured`` and
            says so.
    """
    from maprobe.checking import check as run

    return run(model, tokenizer, probes, label=label, batch=batch, registry=registry)
