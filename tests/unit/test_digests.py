"""Digests that anyone can recompute, and that change with what they identify."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import llama_config, tokenizer
from torch import nn
from transformers import LlamaForCausalLM

from maprobe.errors import CheckpointError
from maprobe.progress import Silent
from maprobe.running import digests
from maprobe.running.digests import config_digest, parameters_digest, tokenizer_digest, weights_digest


def write(folder: Path, **contents: bytes) -> list[Path]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def digest(files: list[Path], cache: Path) -> str:
    return weights_digest(files, cache, Silent())


def test_one_file_has_its_own_sha256(tmp_path: Path) -> None:
    assert digest(write(tmp_path, a=b"weights"), tmp_path) == hashlib.sha256(b"weights").hexdigest()


def test_several_files_have_that_of_the_list_sha256sum_writes(tmp_path: Path) -> None:
    files = write(tmp_path, b=b"2", a=b"1")
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in (("a", b"1"), ("b", b"2")))
    assert digest(files, tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    assert digest(files[::-1], tmp_path) == digest(files, tmp_path)


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    plain = digests._read
    monkeypatch.setattr(digests, "_read", lambda file, bar: (read.append(file), plain(file, bar))[1])
    files = write(tmp_path, a=b"1")
    first = digest(files, tmp_path / "cache")
    assert (digest(files, tmp_path / "cache"), len(read)) == (first, 1)
    write(tmp_path, a=b"2")
    os.utime(files[0], ns=(1, 1))
    assert digest(files, tmp_path / "cache") != first
    assert len(read) == 2


def test_a_memory_that_is_damaged_or_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    files = write(tmp_path, a=b"1")
    expected = hashlib.sha256(b"1").hexdigest()
    assert digest(files, tmp_path / "a") == expected  # a file where the cache should be
    digest(files, tmp_path / "cache")
    for memory in (tmp_path / "cache" / "digests").iterdir():
        memory.write_bytes(b"\xff half")
    assert digest(files, tmp_path / "cache") == expected


def test_the_name_of_a_blob_in_the_hubs_cache_is_believed(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / ("ab" * 32)).write_bytes(b"1")
    (blobs / ("ab" * 20)).write_bytes(b"1")  # small files are named by their git hash
    (tmp_path / "large").symlink_to(blobs / ("ab" * 32))
    (tmp_path / "small").symlink_to(blobs / ("ab" * 20))
    assert digest([tmp_path / "large"], tmp_path / "cache") == "ab" * 32
    assert digest([tmp_path / "small"], tmp_path / "cache") == hashlib.sha256(b"1").hexdigest()


def test_a_config_is_identified_by_what_it_says_not_by_where_it_was_saved() -> None:
    config = {"hidden_size": 8, "sub": {"_name_or_path": "x", "a": [1]}, "transformers_version": "4"}
    assert config_digest(config) == config_digest({"sub": {"a": [1]}, "_name_or_path": "y", "hidden_size": 8})
    assert config_digest(config) != config_digest({**config, "hidden_size": 9})
    assert config_digest({"b": 1, "a": "ü"}) == hashlib.sha256('{"a":"ü","b":1}'.encode()).hexdigest()


def test_a_tokenizer_is_identified_by_its_state_not_by_its_last_call() -> None:
    fresh, used = tokenizer(), tokenizer()
    used("The quick brown fox", truncation=True, max_length=2, padding="max_length")
    assert tokenizer_digest(fresh) == tokenizer_digest(used)
    assert tokenizer_digest(fresh) != tokenizer_digest(tokenizer(prepends_bos=True))
    changed = tokenizer()
    changed.bos_token = "</s>"
    assert tokenizer_digest(changed) != tokenizer_digest(fresh)


def test_no_tokenizer_has_no_digest() -> None:
    assert tokenizer_digest(None) == ""


def test_tensors_in_memory_are_digested_by_name_dtype_shape_and_bytes() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.fill_(0.5)
    expected = hashlib.sha256(
        b"bias float32 1\n" + model.bias.detach().numpy().tobytes()
        + b"weight float32 1,2\n" + model.weight.detach().numpy().tobytes()
    )  # fmt: skip
    assert parameters_digest(model) == expected.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_changed_number_changes_the_digest_of_a_model(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config()).to(dtype)
    before = parameters_digest(model)
    assert parameters_digest(model) == before
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    assert parameters_digest(model) != before


def test_a_tensor_of_one_number_and_one_of_none_are_digested() -> None:
    model = nn.Module()
    model.register_buffer("scale", torch.tensor(2.0))
    model.register_buffer("nothing", torch.empty(0))
    assert len(parameters_digest(model)) == 64


def test_a_model_that_is_not_in_memory_has_no_digest() -> None:
    with pytest.raises(CheckpointError, match="weight of Linear is not in memory"):
        parameters_digest(nn.Linear(2, 2, bias=False, device="meta"))
