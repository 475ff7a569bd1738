"""The files that hold a checkpoint's weights: which they are, and whether they are sound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from maprobe.errors import CheckpointError
from maprobe.running.hub import fetch_files, has_file
from maprobe.running.placement import DTYPES
from maprobe.running.wording import one_line

if TYPE_CHECKING:
    from maprobe.progress import Progress
    from maprobe.running.locations import Location

__all__ = ["WeightFiles", "check_gguf", "needed_memory", "safetensors_dtype", "weight_files"]

_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_OTHER = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
_INDEX = ".index.json"
_LFS = b"version https://git-lfs"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The files, in the order of their names.

    Attributes:
        paths: all of them, each there and sound as far as its header tells.
        pickled: whether they are pickle files.
    """

    paths: tuple[Path, ...]
    pickled: bool = False


def weight_files(location: Location, *, stated: str, allow_pickle: bool, progress: Progress) -> WeightFiles:
    """Return the files that transformers will read the weights from; those of a hub repository are fetched.

    Args:
        location: where the checkpoint is.
        stated: the file that the config names as ``transformers_weights``; usually empty.
        allow_pickle: whether pickle files will do where there is no safetensors file.
        progress: where to show downloads.

    Raises:
        CheckpointError: there are none, only pickle files, one is missing, or one is damaged.
    """
    if location.gguf:
        path = location.folder / location.gguf
        check_gguf(path)
        return WeightFiles(paths=(path,))
    names = _names(location, (stated, stated) if stated else _SAFE)
    pickled = not names
    if pickled:
        names = _names(location, _PICKLED)
        if not names:
            raise CheckpointError(_none(location, stated))
        if not allow_pickle:
            raise CheckpointError(
                f"{location} holds its weights as pickle only ({names[0]}), and reading a pickle file may run code; "
                f"convert it to safetensors, or pass --maprobe-allow-pickle if you trust whoever made it"
            )
    if location.repository:
        fetch_files(location.repository, location.commit, names, progress)
    paths = tuple(location.folder / name for name in sorted(names))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{location} lacks {len(missing)} of the {len(paths)} weight files that its index names, such as "
            f"{missing[0]}; fetch it again, whole"
        )
    for path in paths:
        _check_whole(path, _check_pickle if pickled else _check_safetensors)
    return WeightFiles(paths=paths, pickled=pickled)


def safetensors_dtype(folder: Path) -> str:
    """Return the dtype of the first floating tensor in a folder's weights, or the empty string."""
    paths = sorted(folder.glob("model*.safetensors"))
    try:
        return next((dtype for path in paths for dtype, _ in _tensors(path) if dtype in DTYPES), "")
    except (SafetensorError, OSError):
        return ""  # told where the weights are loaded


def _tensors(path: Path) -> Iterator[tuple[str, int]]:
    """Yield dtype and number of entries of each tensor of a safetensors file, from its header."""
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_slice(key)
            name = tensor.get_dtype()
            yield _DTYPES.get(name, name), math.prod(tensor.get_shape())


def needed_memory(files: WeightFiles, dtype: str) -> int:
    """Return the bytes that the weights take in memory at least: floating tensors in ``dtype``, others as stored.

    0 where the files do not tell without being read.
    """
    if files.pickled or files.paths[0].suffix != ".safetensors":
        return 0
    width = getattr(torch, dtype).itemsize
    return sum(count * (width if name in DTYPES else 1) for path in files.paths for name, count in _tensors(path))


def check_gguf(path: Path) -> None:
    """See whether a file begins as a GGUF file does.

    Raises:
        CheckpointError: it does not.
    """
    _check_whole(path, _check_gguf)


def _names(location: Location, form: tuple[str, str]) -> list[str]:
    """Return the names of the files of one form: a single file, or else what its index names; or nothing."""
    single, index = form
    suffix = Path(single.removesuffix(_INDEX)).suffix
    _check_names(location, [single.removesuffix(_INDEX)], suffix if form == _PICKLED else ".safetensors")
    if (location.folder / single).is_file() and not single.endswith(_INDEX):
        return [single]
    path = location.folder / index
    if not path.is_file():  # an index is among the files that were fetched with the config
        return [single] if location.repository and has_file(location.repository, location.commit, single) else []
    try:
        shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        names = sorted(str(name) for name in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = []
    if not names:
        raise CheckpointError(
            f"{path} is not an index of weights: a JSON object with a `weight_map` of tensor names to file names is "
            f"expected; fetch the file again"
        )
    _check_names(location, names, suffix)
    return names


def _check_names(location: Location, names: list[str], suffix: str) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or path.suffix != suffix:
            raise CheckpointError(
                f"{location} names {name!r} as a file of its weights; allowed: {suffix} files inside its own folder"
            )


def _none(location: Location, stated: str) -> str:
    if location.repository and has_file(location.repository, location.commit, "config.json") is None:
        return (
            f"{location}: its weights are not in the hub's cache, and the hub cannot be asked for them now; check the "
            f"network (and HF_HUB_OFFLINE), or give a local folder or .gguf file"
        )
    found = sorted({path.name for pattern in _OTHER for path in location.folder.glob(pattern)})
    have = f" (it has {', '.join(found[:4])})" if found else ""
    gguf = next((name for name in found if name.endswith(".gguf")), "")
    hint = f"; name the file itself: {location.folder / gguf}" if gguf else ""
    return f"{location} holds no weights that can be read{have}; allowed: {stated or ' or '.join(_SAFE)}{hint}"


def _check_whole(path: Path, check: Callable[[Path], str]) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS))
        fault = "is a pointer of Git LFS and not the file itself; run `git lfs pull`" if start == _LFS else check(path)
    except OSError as error:
        fault = f"cannot be read: {error.strerror or error}"
    if fault:
        raise CheckpointError(f"{path} {fault}")


def _check_safetensors(path: Path) -> str:
    try:
        with safe_open(path, framework="pt"):
            return ""
    except SafetensorError as error:
        return f"is damaged or cut off ({one_line(error)}); fetch it again"


def _check_pickle(path: Path) -> str:
    return "" if path.stat().st_size else "is empty; fetch it again"


def _check_gguf(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    return "" if start == b"GGUF" else f"is not a GGUF file: it begins with {start!r}, not with b'GGUF'"
