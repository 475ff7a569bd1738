"""From probes and checkpoints to cases, each with the id that reports are keyed by."""

from __future__ import annotations

from collections.abc import Sequence

from maprobe.cases import Case, Probe

__all__ = ["expand"]


def expand(probes: Sequence[Probe], *, file: str, checkpoints: Sequence[str]) -> tuple[Case, ...]:
    """Return every probe on every checkpoint: probes in the order of the file, under each the checkpoints as given.

    Args:
        probes: the probes of one file.
        file: how the file is called in ids: its path from the root of the session.
        checkpoints: labels of the checkpoints.
    """
    return tuple(
        Case(id=f"{file}::{probe.id}[{checkpoint}]", probe=probe, checkpoint=checkpoint)
        for probe in probes
        for checkpoint in checkpoints
    )
