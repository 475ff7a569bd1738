"""From probes and checkpoints to cases, each with the id that reports are keyed by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from maprobe.cases import Case, Probe

__all__ = ["expand"]


def expand(
    probes: Sequence[Probe],
    *,
    file: str,
    checkpoints: Sequence[str],
    series: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Case, ...]:
    """Return every probe on every checkpoint: probes in the order of the file, under each the checkpoints as given.

    A trend is one case more, behind those of the members of its series. A probe that has a trend and expects nothing
    else asks nothing of a checkpoint outside of any series, so it has no case there.

    Args:
        probes: the probes of one file.
        file: how the file is called in ids: its path from the root of the session.
        checkpoints: labels of the checkpoints.
        series: labels of the members of each series, by its own label.
    """
    return tuple(case for probe in probes for case in _cases(probe, file, checkpoints, series or {}))


def _cases(probe: Probe, file: str, checkpoints: Sequence[str], series: Mapping[str, Sequence[str]]) -> Iterator[Case]:
    inside = {member: label for label, members in series.items() for member in members}
    for checkpoint in checkpoints:
        if checkpoint in inside or not probe.of_series_only:
            yield Case(id=f"{file}::{probe.id}[{checkpoint}]", probe=probe, checkpoint=checkpoint)
        label = inside.get(checkpoint)
        if label is not None and probe.trend is not None and checkpoint == series[label][-1]:
            members = tuple(series[label])
            yield Case(id=f"{file}::{probe.id}[{label}]", probe=probe, checkpoint=label, members=members)
