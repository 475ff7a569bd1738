"""Options of loading, checked before anything is fetched."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from maprobe.errors import OptionError
from maprobe.references import LoadOptions
from maprobe.running.placement import check_options, device_of, loading_arguments


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(),
        LoadOptions(dtype="bfloat16", device="cpu", attention="eager"),
        LoadOptions(attention="sdpa"),
        LoadOptions(device_map="auto"),
    ],
)
def test_what_can_be_honoured_passes(options: LoadOptions) -> None:
    check_options(options)


@pytest.mark.parametrize(
    ("options", "wording"),
    [
        (LoadOptions(dtype="float8"), r"--maprobe-dtype 'float8' is unknown \(did you mean .*allowed: auto, bfloat16"),
        (LoadOptions(dtype="fp32"), r"--maprobe-dtype 'fp32' is unknown"),
        (LoadOptions(attention="spda"), r"--maprobe-attn 'spda' is unknown \(did you mean 'sdpa'\?\); allowed: "),
        (LoadOptions(attention="kernels-community/flash"), r"--maprobe-attn 'kernels-community/flash' is unknown"),
        (
            LoadOptions(device="gpu"),
            r"--maprobe-device gpu: there is no such device on this machine; allowed: auto, cpu",
        ),
        (LoadOptions(device="meta"), r"--maprobe-device meta holds no weights to measure"),
        (LoadOptions(device_map="all"), r"--maprobe-device-map 'all' is unknown; allowed: auto, balanced"),
        (LoadOptions(device_map="auto", device="cpu"), r"exclude each other; give one of them"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(options: LoadOptions, wording: str) -> None:
    with pytest.raises(OptionError, match=wording):
        check_options(options)


def test_a_device_that_is_not_there_is_told_with_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match="--maprobe-device cuda:99: torch finds no CUDA device on this machine"):
        device_of("cuda:99")


def test_without_an_accelerator_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == torch.device("cuda")


def test_a_device_map_without_accelerate_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"needs the package accelerate; run `pip install accelerate`"):
        check_options(LoadOptions(device_map="auto"))


def test_a_gguf_file_is_unpacked_into_float32_unless_another_dtype_is_asked_for() -> None:
    assert loading_arguments(LoadOptions(), gguf=True)["dtype"] == "float32"
    assert loading_arguments(LoadOptions(dtype="bfloat16"), gguf=True)["dtype"] == "bfloat16"
    assert loading_arguments(LoadOptions(), gguf=False)["dtype"] == "auto"


def test_nothing_is_set_that_was_not_asked_for() -> None:
    assert loading_arguments(LoadOptions(), gguf=False) == {"dtype": "auto", "trust_remote_code": False}
    asked = loading_arguments(LoadOptions(attention="eager", device_map="auto", trust_remote_code=True), gguf=False)
    assert asked == {
        "dtype": "auto",
        "trust_remote_code": True,
        "device_map": "auto",
        "attn_implementation": "eager",
    }
