"""Loading the weights with transformers, and refusing a model whose weights are not all its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageClassification

from maprobe.errors import CheckpointError, allowed_names
from maprobe.running.memory import free_memory
from maprobe.running.placement import device_of, loading_arguments
from maprobe.running.quiet import hushed
from maprobe.running.weights import needed_memory
from maprobe.running.wording import one_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from maprobe.progress import Progress
    from maprobe.references import LoadOptions
    from maprobe.running.locations import Location
    from maprobe.running.weights import WeightFiles

__all__ = ["load_model"]

# Weights that come after everything a probe can read, or that only training uses; many checkpoints lack them.
_UNREAD = ("pooler", "mask_token")
_SHOWN = 3
_GIGABYTE = 1e9


def load_model(
    location: Location,
    config: PretrainedConfig,
    files: WeightFiles,
    options: LoadOptions,
    *,
    causal: bool,
    classifier: bool = False,
    progress: Progress,
) -> nn.Module:
    """Return the model with its weights, with its head where it is one for text or classes, in eval mode on its device.

    Raises:
        CheckpointError: the weights do not fit the config or the memory, or an option does not suit this model.
    """
    device = None if options.device_map else device_of(options.device)
    stored_packed = getattr(config, "quantization_config", None) is not None
    if device is not None and not stored_packed:
        _check_memory(location, files, options, device)
    arguments = {
        **loading_arguments(options, gguf=bool(location.gguf)),
        "config": config,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are told below, by name
        "local_files_only": not options.trust_remote_code,
    }
    if location.gguf:
        arguments["gguf_file"] = location.gguf
    else:
        arguments["use_safetensors"] = not files.pickled
        if stored_packed and device is not None and device.type != "cpu":
            arguments["device_map"] = {"": str(device)}  # packed weights cannot be moved afterwards
            device = None
    loader: Any = AutoModelForCausalLM if causal else AutoModelForImageClassification if classifier else AutoModel
    try:
        with hushed(progress):
            model, outcome = loader.from_pretrained(location.folder, **arguments)
            _check_outcome(location, model, outcome)
            if device is not None:
                model.to(device)
            module: nn.Module = model.eval()
    except CheckpointError:
        raise
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        raise CheckpointError(_no_room(location, options)) from error
    except Exception as error:  # transformers raises whatever it meets
        raise CheckpointError(_reason(location, files, options, error)) from error
    return module


def _check_memory(location: Location, files: WeightFiles, options: LoadOptions, device: torch.device) -> None:
    needed, free = needed_memory(files, options.dtype), free_memory(device)
    if free is not None and needed > free:
        sizes = f" ({needed / _GIGABYTE:.1f} GB of weights, {free / _GIGABYTE:.1f} GB free)"
        raise CheckpointError(_no_room(location, options, sizes))


def _check_outcome(location: Location, model: nn.Module, outcome: Mapping[str, Any]) -> None:
    name = type(model).__name__
    # Before transformers 5 a mismatch is told by its name alone.
    mismatched = sorted((entry,) if isinstance(entry, str) else entry for entry in outcome["mismatched_keys"])
    if mismatched:
        key, *shapes = mismatched[0]
        told = f": {_shape(shapes[0])} in the file, {_shape(shapes[1])} by the config" if shapes else ""
        raise CheckpointError(
            f"{location}: {len(mismatched)} weights do not have the shape that the config gives {name}, such as {key}"
            f"{told}; config and weights do not belong together, so fetch the checkpoint again, whole"
        )
    missing = sorted(key for key in outcome["missing_keys"] if not any(part in key.split(".") for part in _UNREAD))
    if missing:
        raise CheckpointError(
            f"{location} lacks {len(missing)} of the weights of {name}, which would be random numbers: "
            f"{_some(missing)}; fetch it whole, or check `architectures` and `tie_word_embeddings` in its config"
        )
    left = _blocks_left(model, outcome["unexpected_keys"])
    if left:
        raise CheckpointError(
            f"{location} holds weights of more blocks than its config counts, and they would be left out: "
            f"{_some(left)}; config and weights do not belong together, so fetch the checkpoint again, whole"
        )


def _blocks_left(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Return the weights whose name is one of the model's but for a number in it."""
    patterns = {_without_numbers(key) for key in model.state_dict()}
    return sorted(key for key in unexpected if _without_numbers(key) in patterns)


def _without_numbers(key: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", key)


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _no_room(location: Location, options: LoadOptions, sizes: str = "") -> str:
    smaller = "" if options.dtype in ("bfloat16", "float16") else "a smaller dtype (--maprobe-dtype bfloat16), "
    return (
        f"{location} does not fit into the memory of {options.device_map or device_of(options.device)} in "
        f"{options.dtype}{sizes}; choose {smaller}another device (--maprobe-device) or --maprobe-device-map auto"
    )


def _reason(location: Location, files: WeightFiles, options: LoadOptions, error: Exception) -> str:
    said = str(error)
    if "allocate memory" in said or "out of memory" in said:
        return _no_room(location, options)
    if options.attention and re.search(r"attention|attn", said, re.IGNORECASE):
        others = {"eager", "sdpa"} - {options.attention}
        return (
            f"{location}: the model refuses --maprobe-attn {options.attention} ({one_line(error)}); allowed: "
            f"{allowed_names(others)}, or leave the option out"
        )
    if isinstance(error, ImportError):
        return f"{location} needs a package that is not installed: {one_line(error)}"
    if location.gguf:
        return f"{location} cannot be loaded, so it is probably damaged or cut off ({one_line(error)}); fetch it again"
    if files.pickled:
        return (
            f"{files.paths[0]} cannot be loaded: it is damaged, or holds more than tensors, which is never read "
            f"({type(error).__name__}); fetch it again, or convert it to safetensors"
        )
    return f"{location} cannot be loaded: {one_line(error)}"
