"""Writing files whole or not at all: what was there before stays until the new text is complete."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from maprobe.errors import ReportError, allowed_names, did_you_mean
from maprobe.recipes import Renderer
from maprobe.reporting.report import PropertyReport

__all__ = ["check_target", "replace_bytes", "replace_file", "write_report"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_report(path: Path, report: PropertyReport, renderers: Mapping[str, Renderer]) -> None:
    """Write a report in the format that the path's suffix asks for.

    Raises:
        ReportError: the path cannot be written; a report that was there before is unchanged.
    """
    check_target(path, renderers)
    replace_file(path, renderers[path.suffix.lower()].render(report.to_dict()))


def check_target(path: Path, renderers: Mapping[str, Renderer]) -> None:
    """Find what is wrong with a report's path, as far as it can be known before anything is measured.

    Raises:
        ReportError: unknown suffix, a folder that is missing or may not be written to, a path that is a folder.
    """
    suffix = path.suffix.lower()
    if suffix not in renderers:
        fault = f"the suffix {suffix!r} is no report format" if suffix else "its name has no suffix"
        raise ReportError(
            f"cannot write {path}: {fault}{did_you_mean(suffix, renderers)}; allowed: {allowed_names(renderers)}"
        )
    _check_place(path)


def replace_file(path: Path, text: str) -> None:
    """Write text as UTF-8 in one step.

    Raises:
        ReportError: the file could not be written; what was there before is unchanged.
    """
    # Half a surrogate pair, which a byte-level tokenizer can hand out, has no UTF-8: its escape is written.
    replace_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Write data to a temporary file beside the path, then put it in the path's place in one step.

    A symbolic link stays one: the file it points at is replaced. An existing file's mode is kept.

    Raises:
        ReportError: the file could not be written; what was there before is unchanged.
    """
    _check_place(path)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".maprobe-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)  # noqa: PTH105 - the call whose atomicity this module rests on
    except OSError as error:
        raise ReportError(_fault(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _check_place(path: Path) -> None:
    folder = path.parent
    if path.is_dir():
        raise ReportError(f"cannot write {path}: this is a folder; name a file, such as {path / 'report.md'}")
    if not folder.is_dir():
        fault = "is not a folder" if folder.exists() else "does not exist"
        raise ReportError(f"cannot write {path}: the folder {folder} {fault}; create it, or choose another path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ReportError(_forbidden(path))


def _fault(path: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return (
            f"cannot write {path}: no space is left in {path.parent}, so nothing was written and what was there is "
            f"unchanged; free some space, or choose another path"
        )
    if error.errno in _FORBIDDEN:
        return _forbidden(path)
    return f"cannot write {path}: {error.strerror or error}, so nothing was written; choose another path"


def _forbidden(path: Path) -> str:
    return (
        f"cannot write {path}: the folder {path.parent} may not be written to, so what was there is unchanged; "
        f"change its permissions, or choose another path"
    )
