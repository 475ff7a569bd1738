"""Checkpoints: looked at by config and tokenizer, then loaded with their weights, their identity on record."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import transformers

import maprobe
from maprobe.facts import CheckpointFacts, Provenance
from maprobe.running.configs import read_config, read_tokenizer
from maprobe.running.digests import config_digest, parameters_digest, tokenizer_digest, weights_digest
from maprobe.running.images import ImageReader
from maprobe.running.locations import locate
from maprobe.running.placement import check_options
from maprobe.running.pretrained import load_model
from maprobe.running.storage import cache_folder
from maprobe.running.traits import (
    CLASSIFIER,
    facts_of,
    image_tower,
    is_causal,
    is_classifier,
    loaded_dtype,
    stated_dtype,
)
from maprobe.running.weights import safetensors_dtype, weight_files

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from maprobe.progress import Progress
    from maprobe.python_models import PythonModel
    from maprobe.references import CheckpointReference, LoadOptions
    from maprobe.running.locations import Location

__all__ = ["Inspected", "LoadedCheckpoint", "facts_held", "held", "inspect", "load", "provenance_of", "reader_held"]

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inspected:
    """A checkpoint known by its config and tokenizer; its weights were not touched.

    Attributes:
        reference: what the user wrote.
        location: where its files are.
        config: of the model that will be loaded.
        tokenizer: None where it has none.
        facts: what both tell.
        reader: its way with images; None for a model of texts.
    """

    reference: CheckpointReference
    location: Location
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase | None
    facts: CheckpointFacts
    reader: ImageReader | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedCheckpoint:
    """A checkpoint with its weights.

    Attributes:
        model: in eval mode, on its device.
        tokenizer: None where it has none.
        facts: what config and tokenizer tell.
        provenance: which checkpoint exactly this is, and how it was loaded.
        reader: its way with images; None for a model of texts.
        own: what the Python code that made it brings, where it brings inputs; else None.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    facts: CheckpointFacts
    provenance: Provenance
    reader: ImageReader | None = None
    own: PythonModel | None = None


def inspect(reference: CheckpointReference, options: LoadOptions, progress: Progress) -> Inspected:
    """Fetch and read a checkpoint's config and tokenizer.

    Raises:
        OptionError: an option cannot be honoured.
        CheckpointError: the checkpoint cannot be had, or its config or tokenizer cannot be read.
    """
    check_options(options)
    trusted = options.trust_remote_code
    location = locate(reference, progress, with_code=trusted)
    whole = read_config(location, trust_remote_code=trusted, progress=progress)
    tokenizer = read_tokenizer(location, trust_remote_code=trusted, progress=progress)
    config = image_tower(whole)
    facts = facts_of(
        config,
        tokenizer,
        label=reference.label,
        reference=reference.text,
        causal=is_causal(config, with_code=trusted),
        dtype=_dtype(options, whole, location),
        gguf=bool(location.gguf),
        classifier=is_classifier(config),
    )
    return Inspected(
        reference=reference,
        location=location,
        config=config,
        tokenizer=tokenizer,
        facts=facts,
        reader=_reader(config, facts, location.folder),
    )


def load(inspected: Inspected, options: LoadOptions, progress: Progress) -> LoadedCheckpoint:
    """Load the weights of an inspected checkpoint; those of a hub repository are fetched first.

    Raises:
        CheckpointError: they cannot be had, are damaged, do not fit the config, or do not fit into memory.
    """
    location, facts = inspected.location, inspected.facts
    stated = str(getattr(inspected.config, "transformers_weights", None) or "")
    files = weight_files(location, stated=stated, allow_pickle=options.allow_pickle, progress=progress)
    model = load_model(
        location,
        inspected.config,
        files,
        replace(options, dtype=facts["dtype"]),
        causal=facts["causal"],
        classifier=facts["num_classes"] > 0,
        progress=progress,
    )
    provenance = provenance_of(
        model,
        inspected.tokenizer,
        facts,
        config_digest=config_digest(inspected.config.to_dict()),  # loading writes the dtype asked for into the model's
        resolved=location.resolved,
        weights=weights_digest(files.paths, cache_folder(), progress),
        device=options.device_map,
        gguf=bool(location.gguf),
    )
    return LoadedCheckpoint(
        model=model, tokenizer=inspected.tokenizer, facts=facts, provenance=provenance, reader=inspected.reader
    )


def held(model: nn.Module, tokenizer: Any, label: str) -> LoadedCheckpoint:  # noqa: ANN401
    """Return what the caller has in memory as a checkpoint; the model itself is not changed.

    Its weights digest is that of :func:`maprobe.running.digests.parameters_digest`.

    Args:
        model: the model.
        tokenizer: its tokenizer, or its image processor; None where there is none.
        label: what it is called.
    """
    config = _config(model)
    facts, reader = facts_held(model, tokenizer, label), reader_held(model, tokenizer, label)
    tokenizer = None if isinstance(tokenizer, transformers.ImageProcessingMixin) else tokenizer
    provenance = provenance_of(
        model,
        tokenizer,
        facts,
        config_digest=config_digest(config.to_dict()) if config else "",
        resolved=f"in memory ({type(model).__name__})",
        weights=parameters_digest(model),
    )
    return LoadedCheckpoint(model=model, tokenizer=tokenizer, facts=facts, provenance=provenance, reader=reader)


def facts_held(model: nn.Module, tokenizer: Any, label: str) -> CheckpointFacts:  # noqa: ANN401
    """Return the facts of a model in memory, as its config and its tokenizer tell them."""
    config = _config(model)
    return facts_of(
        config,
        None if isinstance(tokenizer, transformers.ImageProcessingMixin) else tokenizer,
        label=label,
        reference=label,
        causal=config is not None and _has_causal_head(model, config),
        dtype=loaded_dtype(model),
        classifier=type(model).__name__.endswith(CLASSIFIER),
    )


def reader_held(model: nn.Module, processor: Any, label: str) -> ImageReader | None:  # noqa: ANN401
    """Return the way with images of a model in memory, which may be said by a processor; None for any other model."""
    config, given = _config(model), isinstance(processor, transformers.ImageProcessingMixin)
    facts = facts_held(model, processor, label)
    return None if config is None else _reader(config, facts, None, processor if given else None)


def _reader(
    config: PretrainedConfig,
    facts: CheckpointFacts,
    folder: Path | None,
    processor: Any = None,  # noqa: ANN401
) -> ImageReader | None:
    if facts["modality"] != "image":
        return None
    return ImageReader(config, folder=folder, label=facts.label, processor=processor)


def _config(model: nn.Module) -> PretrainedConfig | None:
    config = getattr(model, "config", None)  # other libraries may call something else by this name
    return config if isinstance(config, transformers.PretrainedConfig) else None


def _dtype(options: LoadOptions, config: PretrainedConfig, location: Location) -> str:
    """Settle ``auto`` here and not in transformers, so that the fact and the loaded weights cannot differ."""
    if options.dtype != "auto":
        return options.dtype
    if location.gguf:
        return "float32"
    return stated_dtype(config) or safetensors_dtype(location.folder) or "float32"


def _has_causal_head(model: nn.Module, config: PretrainedConfig) -> bool:
    saved = config.architectures
    try:
        config.architectures = [type(model).__name__]
        return is_causal(config)
    finally:
        config.architectures = saved


def provenance_of(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    facts: CheckpointFacts,
    *,
    config_digest: str,
    resolved: str,
    weights: str,
    device: str = "",
    gguf: bool = False,
) -> Provenance:
    """Return which checkpoint exactly a loaded model is, with what its caller knows of it."""
    devices = sorted({str(parameter.device) for parameter in model.parameters()}) or ["cpu"]
    return Provenance(
        label=facts.label,
        reference=facts.reference,
        resolved=resolved,
        weights_digest=weights,
        config_digest=config_digest,
        tokenizer_digest=tokenizer_digest(tokenizer),
        dtype=loaded_dtype(model),
        device=f"{device}: {', '.join(devices)}" if device else ", ".join(devices),
        attention=str(getattr(_config(model), "_attn_implementation", None) or ""),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        versions=_versions(gguf=gguf),
    )


def _versions(*, gguf: bool) -> dict[str, str]:
    names = (*_LIBRARIES, "gguf") if gguf else _LIBRARIES
    libraries = {name: importlib.metadata.version(name) for name in names}
    return {"maprobe": maprobe.__version__, **libraries, "python": platform.python_version()}
