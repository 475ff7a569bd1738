"""Digests of what was measured: weights, config, tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from maprobe.errors import CheckpointError
from maprobe.progress import Bar, Progress

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["config_digest", "parameters_digest", "tokenizer_digest", "weights_digest"]

_CHUNK = 1 << 20
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_NOT_IDENTITY = ("_name_or_path", "transformers_version")


def weights_digest(files: Sequence[Path], cache: Path, progress: Progress) -> str:
    """Return the sha256 over weight files.

    One file has its own sha256. Several have that of the list that ``sha256sum`` writes of them, sorted by name,
    so that ``sha256sum *.safetensors | sha256sum`` gives the same.
    """
    known = {file: _without_reading(file, cache) for file in files}
    unknown = [file for file, digest in known.items() if not digest]
    if unknown:
        total = sum(file.stat().st_size for file in unknown)
        with progress.bar("digest of the weights", total, "B") as bar:
            for file in unknown:
                known[file] = _read(file, bar)
                _remember(file, known[file], cache)
    if len(files) == 1:
        return known[files[0]]
    lines = [f"{digest}  {file.name}\n" for file, digest in sorted(known.items(), key=lambda item: item[0].name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def parameters_digest(model: nn.Module) -> str:
    """Return the sha256 over the tensors of a model in memory.

    Of each tensor of the state dict, in the order of the names: the line ``NAME DTYPE SHAPE``, the shape as numbers
    with commas between them, then the tensor's bytes, row-major and little-endian.

    Raises:
        CheckpointError: a tensor is not in memory.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue  # what quantised layers keep beside their weights
        if tensor.is_meta:
            raise CheckpointError(
                f"{name} of {type(model).__name__} is not in memory, so it has no digest; load it first"
            )
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {shape}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the sha256 over a config as JSON with sorted keys, without the keys that name a path or a version."""
    return _of_json(_identity(config))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Return the sha256 over a tokenizer's serialised state and its special tokens; empty without a tokenizer."""
    if tokenizer is None:
        return ""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state: dict[str, Any] = {"vocabulary": tokenizer.get_vocab()}
    else:
        state = json.loads(backend.to_str())
        for setting in ("truncation", "padding"):  # left behind by the last call, not part of the tokenizer
            state.pop(setting, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _of_json({"state": state, "special_tokens": special})


def _identity(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    if isinstance(value, Mapping):
        return {key: _identity(entry) for key, entry in value.items() if key not in _NOT_IDENTITY}
    return [_identity(entry) for entry in value] if isinstance(value, list) else value


def _of_json(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(file: Path, bar: Bar) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            bar.advance(len(chunk))
    return digest.hexdigest()


def _without_reading(file: Path, cache: Path) -> str:
    blob = file.resolve()
    if file.is_symlink() and blob.parent.name == "blobs" and _SHA256.match(blob.name):
        return blob.name  # the hub's cache names large files by their sha256, checked when they were downloaded
    try:
        remembered = _memory(file, cache).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return remembered if _SHA256.match(remembered) else ""


def _remember(file: Path, digest: str, cache: Path) -> None:
    place = _memory(file, cache)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(handle, "w", encoding="ascii") as temporary:
            temporary.write(digest)
        Path(name).replace(place)
    except OSError:
        return  # a cache that cannot be written costs time only


def _memory(file: Path, cache: Path) -> Path:
    status = file.stat()
    key = f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return cache / "digests" / hashlib.sha256(key.encode()).hexdigest()
