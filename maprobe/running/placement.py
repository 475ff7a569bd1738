"""How weights are to be loaded: dtype, device and attention implementation, checked before anything is."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import AttentionInterface

from maprobe.errors import OptionError, allowed_names, did_you_mean
from maprobe.references import LoadOptions
from maprobe.running.attention import OVER

__all__ = ["DTYPES", "check_options", "device_of", "loading_arguments", "require_accelerate"]

DTYPES = ("bfloat16", "float16", "float32", "float64")
_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_ACCELERATE = "needs the package accelerate; run `pip install accelerate`"


def check_options(options: LoadOptions) -> None:
    """Refuse options that could not be honoured, before anything is fetched.

    Raises:
        OptionError: a name is unknown, a device is not there, or two options exclude each other.
    """
    _check_name("--maprobe-dtype", options.dtype, ("auto", *DTYPES))
    if options.attention:
        # Names only: transformers also takes org/name here, which fetches code from the hub and runs it.
        registered: Any = AttentionInterface
        names = tuple(name for name in registered().valid_keys() if not name.startswith(OVER))
        _check_name("--maprobe-attn", options.attention, ("eager", *names))
    if options.device_map:
        _check_device_map(options)
    else:
        device_of(options.device)


def device_of(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the accelerator if there is one, otherwise the CPU.

    Raises:
        OptionError: there is no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"--maprobe-device {name}: {_why_not(name, error)}; allowed: {_devices()}") from None
    if device.type == "meta":
        raise OptionError(f"--maprobe-device meta holds no weights to measure; allowed: {_devices()}")
    return device


def loading_arguments(options: LoadOptions, *, gguf: bool) -> dict[str, Any]:
    """Return the keyword arguments of ``from_pretrained`` that carry the options.

    Weights of a GGUF file are unpacked, into float32 unless another dtype is asked for: what a kernel computes on
    packed weights depends on the machine, and the kernel would be fetched from the hub.
    """
    dtype = "float32" if gguf and options.dtype == "auto" else options.dtype
    arguments: dict[str, Any] = {"dtype": dtype, "trust_remote_code": options.trust_remote_code}
    if gguf:
        arguments.update(_unpacked())
    if options.device_map:
        arguments["device_map"] = options.device_map
    if options.attention:
        arguments["attn_implementation"] = options.attention
    return arguments


def require_accelerate(what: str) -> None:
    """Refuse what transformers can do only with the package accelerate, where that is not installed.

    Raises:
        OptionError: it is not.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise OptionError(f"{what} {_ACCELERATE}")


def _unpacked() -> dict[str, Any]:
    try:
        from transformers import GgufConfig
    except ImportError:  # releases before 5.20 or so always unpack
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _check_name(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(
            f"{option} {value!r} is unknown{did_you_mean(value, allowed)}; allowed: {allowed_names(allowed)}"
        )


def _check_device_map(options: LoadOptions) -> None:
    if options.device != "auto":
        raise OptionError(
            f"--maprobe-device {options.device} and --maprobe-device-map {options.device_map} exclude each other; "
            f"give one of them"
        )
    _check_name("--maprobe-device-map", options.device_map, _DEVICE_MAPS)
    require_accelerate(f"--maprobe-device-map {options.device_map}")


def _why_not(name: str, error: BaseException) -> str:
    kind = name.split(":", maxsplit=1)[0]
    if kind == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device on this machine"
    if kind == "cuda" and "Invalid device string" not in str(error):
        return f"torch finds {torch.cuda.device_count()} CUDA device(s) on this machine, numbered from 0"
    if kind == "mps" and not torch.backends.mps.is_available():
        return "torch finds no Metal device on this machine"
    return "there is no such device on this machine"


def _devices() -> str:
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ", ".join(["auto", "cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])])
