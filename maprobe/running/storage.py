"""Where maprobe keeps what it may make again: fetched checkpoints and remembered digests."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the root of the cache: ``$MAPROBE_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("MAPROBE_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("maprobe")
