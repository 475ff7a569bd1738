"""What a reference leads to: a checkpoint in transformers' layout, or one that Python code makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maprobe.running.own_models import PythonSource
from maprobe.running.subjects import ReferencedSource, Source

if TYPE_CHECKING:
    from maprobe.progress import Progress
    from maprobe.references import CheckpointReference, LoadOptions

__all__ = ["open_source"]


def open_source(reference: CheckpointReference, options: LoadOptions, progress: Progress) -> Source:
    """Return where a checkpoint comes from, having looked at what is to be known before its weights are loaded.

    Raises:
        OptionError: an option cannot be honoured.
        CheckpointError: it cannot be had.
    """
    if reference.kind == "python":
        return PythonSource.open(reference, options)
    return ReferencedSource.open(reference, options, progress)
