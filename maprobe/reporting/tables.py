"""The property table and the layer table, for terminals and for Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from maprobe.reporting.grids import Grid, draw, titled
from maprobe.reporting.profiles import layer_grid, levels
from maprobe.reporting.report import PropertyReport, ReadingUse
from maprobe.reporting.wording import expected, measured, percent, status
from maprobe.verdicts import Verdict

__all__ = ["circumstances", "layer_table", "property_table"]

_Row = dict[str, Verdict]  # the verdicts on one probe, by checkpoint
_OWN_DEPTH = re.compile(r" of -?\d+\.\.-?\d+|, \d+ of \d+ do")


def property_table(report: PropertyReport, *, format: str = "simple", width: int | None = None) -> str:  # noqa: A002
    """Return one table for each suite, in the order of the report.

    One checkpoint: columns probe, status, measured, expected, margin. Several: columns probe, expected, and one for
    each checkpoint with status and numbers. What was measured is told on a pass too.

    Args:
        report: the report.
        format: a format of tabulate; ``github`` and ``pipe`` give Markdown.
        width: columns of the terminal to keep within; None for as wide as it comes. Checkpoints that do not fit
            side by side continue in a further table.
    """
    labels = report.labels()
    sections = []
    for suite, rows in _suites(report.verdicts).items():
        grids = [_single(rows, labels[0])] if len(labels) == 1 else _side_by_side(rows, labels, width)
        tables = "\n\n".join(draw(grid, format=format, width=width) for grid in grids)
        sections.append(titled(suite, tables, format))
    return "\n\n".join(sections)


def _suites(verdicts: Sequence[Verdict]) -> dict[str, list[_Row]]:
    """Group verdicts by suite, then by probe; the case id without its checkpoint tells files apart."""
    suites: dict[str, dict[str, _Row]] = {}
    for verdict in verdicts:
        probe = verdict.case.removesuffix(f"[{verdict.checkpoint}]")
        suites.setdefault(verdict.suite, {}).setdefault(probe, {})[verdict.checkpoint] = verdict
    return {suite: list(rows.values()) for suite, rows in suites.items()}


def _single(rows: Sequence[_Row], label: str) -> Grid:
    verdicts = [row[label] for row in rows]
    return Grid(
        headers=("probe", "status", "measured", "expected", "margin"),
        rows=tuple(
            (verdict.probe, status(verdict), measured(verdict), expected(verdict), percent(verdict.margin))
            for verdict in verdicts
        ),
        numeric=frozenset({"margin"}),
    )


def _side_by_side(rows: Sequence[_Row], labels: Sequence[str], width: int | None) -> list[Grid]:
    probe_columns, column = 36, 20  # what the first two columns and each checkpoint need to be read with ease
    together = len(labels) if width is None else max(1, (width - probe_columns) // column)
    return [_compared(rows, labels[start : start + together]) for start in range(0, len(labels), together)]


def _compared(rows: Sequence[_Row], labels: Sequence[str]) -> Grid:
    def cell(row: _Row, label: str) -> str:
        if label not in row:
            return ""
        numbers = measured(row[label])
        return status(row[label]) + (f": {numbers}" if numbers else "")

    return Grid(
        headers=("probe", "expected", *labels),
        rows=tuple(
            (next(iter(row.values())).probe, _agreed(row), *(cell(row, label) for label in labels)) for row in rows
        ),
    )


def _agreed(row: _Row) -> str:
    """Return what is expected of the checkpoints; where more than their depth makes them differ, of each."""
    wanted = {label: words for label, verdict in row.items() if (words := expected(verdict))}
    depthless = [_OWN_DEPTH.sub("", words) for words in wanted.values()]
    for variants in (list(wanted.values()), depthless):
        if len(set(variants)) <= 1:
            return "".join(variants[:1])
    return "; ".join(f"{label}: {words}" for label, words in wanted.items())


def layer_table(report: PropertyReport, *, format: str, every: bool) -> str:  # noqa: A002
    """Return the magnitude profile of each checkpoint by layer, each distinct Reading once.

    Args:
        report: the report.
        format: a format of tabulate.
        every: whether all Readings and all their layers are shown; otherwise, of the Readings of one checkpoint on the
            same inputs, the one with most layers, shortened as :func:`maprobe.reporting.profiles.layer_grid` says.
    """
    sections = []
    uses = [use for use in report.readings() if levels(use.reading)]
    for use in uses if every else _widest(uses):
        table = draw(layer_grid(use.reading, every=every), format=format)
        sections.append(titled(circumstances(use), table, format))
    return "\n\n".join(sections)


def _widest(uses: Sequence[ReadingUse]) -> Iterable[ReadingUse]:
    """Return of the Readings of each checkpoint on the same inputs the one with most layers, the first of equals."""
    widest: dict[tuple[str, str], ReadingUse] = {}
    for use in uses:
        taken = use.reading.circumstances
        key = (use.checkpoint, f"{taken.digest} {taken.edit}" if taken else "")
        if key not in widest or len(levels(use.reading)) > len(levels(widest[key].reading)):
            widest[key] = use
    return widest.values()


def circumstances(use: ReadingUse) -> str:
    """Return one line that tells a Reading from the others: checkpoint, kind, probes, inputs, edit."""
    taken = use.reading.circumstances
    what = (taken.measure if taken else "") or use.reading.kind
    told = [f"{use.checkpoint}: {what} ({', '.join(dict.fromkeys(use.probes))})"]
    if taken:
        told.append(str(taken))
    if taken and taken.edit:
        told.append(f"edited: {taken.edit}")
    return "; ".join(told)
