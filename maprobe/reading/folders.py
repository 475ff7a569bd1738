"""The probe files of a folder."""

from __future__ import annotations

from pathlib import Path

from maprobe.errors import OptionError

__all__ = ["PATTERNS", "probe_files"]

PATTERNS = ("*.probe.yaml", "*.probe.yml")


def probe_files(path: Path) -> list[Path]:
    """Return a probe file, or those of a folder and the folders within it, sorted.

    Raises:
        OptionError: there is no such file or folder, or the folder holds no probe file.
    """
    if not path.exists():
        raise OptionError(f"{path} does not exist; name a probe file, or a folder of them")
    if not path.is_dir():
        return [path]
    found = sorted(file for pattern in PATTERNS for file in path.rglob(pattern))
    if not found:
        raise OptionError(f"{path} holds no probe file; they are named {' or '.join(PATTERNS)}")
    return found
