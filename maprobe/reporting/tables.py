"""The property table and the layer table, for terminals and for Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from maprobe.reporting.grids import Grid, draw, titled
from maprobe.reporting.profiles import layer_grid, levels
from maprobe.reporting.report import PropertyReport, ReadingUse
from maprobe.reporting.series import Row, compared, rows_of, spans
from maprobe.reporting.wording import expected, measured, percent, status
from maprobe.verdicts import Status

__all__ = ["circumstances", "layer_table", "property_table"]

_OWN_DEPTH = re.compile(r" of -?\d+\.\.-?\d+|, \d+ of \d+ do")


def property_table(report: PropertyReport, *, format: str = "simple", width: int | None = None) -> str:  # noqa: A002
    """Return one table for each suite, in the order of the report.

    One checkpoint: columns probe, status, measured, expected, margin. Several: columns probe, expected, and one for
    each checkpoint with status and numbers. A series has a table of its own, whose columns are named by its members
    and which takes one column for all where they do not fit. What was measured is told on a pass too.

    Args:
        report: the report.
        format: a format of tabulate; ``github`` and ``pipe`` give Markdown.
        width: columns of the terminal to keep within; None for as wide as it comes. Checkpoints that do not fit
            side by side continue in a further table. Within a terminal, probes that do not apply to any of the
            checkpoints stand below the table, those of one reason together, and suites of such probes alone come last.
    """
    series = spans(report)
    inside = {label for span in series for label in span.labels}
    labels = [label for label in report.labels() if label not in inside]
    sections: list[str] = []
    idle: list[str] = []  # suites of which nothing applies
    for suite, rows in rows_of(report.verdicts).items():
        below = ""
        if width is not None and not series:
            rows, below = _folded(rows, labels, width)  # noqa: PLW2901 - the others go on
        tables = [draw(grid, format=format, width=width) for grid in _apart(rows, labels, width)]
        tables += [below] if below else []
        for span in series:
            grid = compared(rows, span, width, alone=len(series) == 1)
            if grid:
                tables.append(draw(grid, format=format, width=width))
        (sections if rows else idle).append(titled(suite, "\n\n".join(tables), format))
    return "\n\n".join(sections + idle)


def _folded(rows: Sequence[Row], labels: Sequence[str], width: int) -> tuple[list[Row], str]:
    """Take out rows that apply to no checkpoint, for one reason; return the others, and a text that tells of these."""
    kept: list[Row] = []
    folded: dict[str, list[str]] = {}
    for row in rows:
        verdicts = [row[label] for label in labels if label in row]
        reasons = {verdict.reason for verdict in verdicts if verdict.status is Status.NOT_APPLICABLE}
        if len(reasons) == 1 and all(verdict.status is Status.NOT_APPLICABLE for verdict in verdicts):
            folded.setdefault(reasons.pop(), []).append(verdicts[0].probe)
        else:
            kept.append(row)
    lines = ["not applicable"] if folded else []
    for reason, probes in folded.items():
        told = f"{reason}: {', '.join(probes)}"
        lines += textwrap.wrap(told, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return kept, "\n".join(lines)


def _apart(rows: Sequence[Row], labels: Sequence[str], width: int | None) -> list[Grid]:
    """Return the tables of the checkpoints outside of any series."""
    own = [row for row in rows if any(label in row for label in labels)]
    if not own:
        return []
    return [_single(own, labels[0])] if len(labels) == 1 else _side_by_side(own, labels, width)


def _single(rows: Sequence[Row], label: str) -> Grid:
    verdicts = [row[label] for row in rows]
    return Grid(
        headers=("probe", "status", "measured", "expected", "margin"),
        rows=tuple(
            (verdict.probe, status(verdict), measured(verdict), expected(verdict), percent(verdict.margin))
            for verdict in verdicts
        ),
        numeric=frozenset({"margin"}),
    )


def _side_by_side(rows: Sequence[Row], labels: Sequence[str], width: int | None) -> list[Grid]:
    probe_columns, column = 36, 20  # what the first two columns and each checkpoint need to be read with ease
    together = len(labels) if width is None else max(1, (width - probe_columns) // column)
    return [_compared(rows, labels[start : start + together]) for start in range(0, len(labels), together)]


def _compared(rows: Sequence[Row], labels: Sequence[str]) -> Grid:
    def cell(row: Row, label: str) -> str:
        if label not in row:
            return ""
        numbers = measured(row[label])
        return status(row[label]) + (f": {numbers}" if numbers else "")

    return Grid(
        headers=("probe", "expected", *labels),
        rows=tuple(
            (next(iter(row.values())).probe, _agreed(row, labels), *(cell(row, label) for label in labels))
            for row in rows
        ),
    )


def _agreed(row: Row, labels: Sequence[str]) -> str:
    """Return what is expected of the checkpoints; where more than their depth makes them differ, of each."""
    wanted = {label: words for label in labels if label in row and (words := expected(row[label]))}
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
            same inputs, the one with most layers, shortened as :func:`maprobe.reporting.profiles.layer_grid` says,
            and of a series its last checkpoint only.
    """
    sections = []
    uses = [use for use in report.readings() if levels(use.reading)]
    # Of a series the last checkpoint is told; what came before it stands in the table of the series.
    before = {label for span in spans(report) for label in span.labels[:-1]}
    for use in uses if every else _widest([use for use in uses if use.checkpoint not in before]):
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
