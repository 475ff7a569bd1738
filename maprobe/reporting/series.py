"""Tables of what changes along the checkpoints of a series."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maprobe.courses import follow
from maprobe.expectations import number
from maprobe.reporting.grids import Grid, draw, titled
from maprobe.reporting.profiles import scalars
from maprobe.reporting.report import PropertyReport
from maprobe.reporting.sparks import sparkline
from maprobe.reporting.wording import expected, measured, status
from maprobe.verdicts import Status, Verdict

__all__ = ["Row", "Span", "compared", "rows_of", "series_table", "spans"]

Row = dict[str, Verdict]  # the verdicts on one probe, by checkpoint; that of a trend by its series
_ANSWERS = {Status.PASSED: True, Status.FAILED: False, Status.ABSENT: False, Status.UNMEASURED: None}
_MOST = 40  # characters of a line that shows how a quantity goes, in a terminal
_PROBE, _CELL = 36, 20  # columns that the first two cells, and each checkpoint, need to be read with ease


@dataclass(frozen=True, slots=True)
class Span:
    """A series as a report shows it: its own label, and labels and names of the members that verdicts speak of."""

    label: str
    labels: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def extent(self) -> str:
        """Its first and last member."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} .. {self.names[-1]}"

    @property
    def titled(self) -> str:
        """Its label, with its first and last member."""
        return f"{self.label}: {self.extent}"


def spans(report: PropertyReport) -> list[Span]:
    """Return the series of a report, as far as verdicts speak of them."""
    there = {verdict.checkpoint for verdict in report.verdicts}
    found = []
    for series in report.series:
        members = [member for member in series["members"] if member["checkpoint"] in there]
        if members:
            labels = tuple(str(member["checkpoint"]) for member in members)
            found.append(Span(str(series["label"]), labels, tuple(str(member["name"]) for member in members)))
    return found


def rows_of(verdicts: Sequence[Verdict]) -> dict[str, list[Row]]:
    """Group verdicts by suite, then by probe; the case id without its checkpoint tells files apart."""
    suites: dict[str, dict[str, Row]] = {}
    for verdict in verdicts:
        probe = verdict.case.removesuffix(f"[{verdict.checkpoint}]")
        suites.setdefault(verdict.suite, {}).setdefault(probe, {})[verdict.checkpoint] = verdict
    return {suite: list(rows.values()) for suite, rows in suites.items()}


def compared(rows: Sequence[Row], span: Span, width: int | None, *, alone: bool) -> Grid | None:
    """Return the property table of one series; None where no probe speaks of it.

    A column for each checkpoint where they fit side by side, by its short name if the series stands ``alone``; else one
    for all of them. What came of the trends stands in the last column.
    """
    own = [row for row in rows if any(label in row for label in (*span.labels, span.label))]
    if not own:
        return None
    trends = any(span.label in row for row in own)
    room = None if width is None else (width - _PROBE) // _CELL - trends
    whole = room is None or len(span.labels) <= room
    # Where there are several series, it must be seen which one the table is of.
    columns = (span.names if alone else span.labels) if whole else (span.extent if alone else span.titled,)
    headers = ("probe", "expected", *columns, *(["trend"] if trends else []))
    return Grid(headers=headers, rows=tuple(_row(row, span, whole=whole, trends=trends) for row in own))


def _row(row: Row, span: Span, *, whole: bool, trends: bool) -> tuple[str, ...]:
    trend = row.get(span.label)
    cells = [_cell(row, label, trend) for label in span.labels] if whole else [_collapsed(row, span)]
    last = [_told(trend) if trend else ""] if trends else []
    return (next(iter(row.values())).probe, _wanted(row, span), *cells, *last)


def _told(verdict: Verdict) -> str:
    numbers = measured(verdict)
    return status(verdict) + (f": {numbers}" if numbers else "")


def _cell(row: Row, label: str, trend: Verdict | None) -> str:
    """Return status and numbers; where nothing is expected of a checkpoint by itself, what the trend looks at."""
    if label not in row:
        return ""
    verdict = row[label]
    if verdict.status is Status.PASSED and not verdict.findings and trend and trend.reading:
        record = _records(trend).get(label, {})
        names = [name for name in trend.reading.quantities if name != "holds"]
        return ", ".join(f"{name} {_number(_recorded(record, name, verdict))}" for name in names)
    return _told(verdict)


def _wanted(row: Row, span: Span) -> str:
    """Return what is expected of the checkpoints, as the last of them words it, and of their trend."""
    words = [expected(row[label]) for label in span.labels if label in row]
    told = next((each for each in reversed(words) if each), "")
    trend = expected(row[span.label]) if span.label in row else ""
    return "; trend: ".join(part for part in (told, trend) if part)


def _collapsed(row: Row, span: Span) -> str:
    """Return how many checkpoints came out how, and from which on they pass."""
    there = [(row[label], name) for label, name in zip(span.labels, span.names, strict=True) if label in row]
    if all(verdict.status is Status.PASSED and not verdict.findings for verdict, _ in there):
        return f"{len(there)} measured"
    words = [status(verdict) for verdict, _ in there]
    told = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    asked = [(_ANSWERS[verdict.status], name) for verdict, name in there if verdict.status in _ANSWERS]
    along = follow([answer for answer, _ in asked], [name for _, name in asked])
    return f"{told}; {along}" if len({*words}) > 1 else told


def series_table(
    report: PropertyReport,
    *,
    format: str = "simple",  # noqa: A002 - tabulate's word for it
    width: int | None = None,
    plain: bool = False,
) -> str:
    """Return one table for each series: how each quantity of each probe goes along it; empty without a series.

    A quantity with a value for each layer or head is followed by the value that decided on each checkpoint.

    Args:
        report: the report.
        format: a format of tabulate; ``github`` and ``pipe`` give Markdown, with the value on every checkpoint.
        width: columns of the terminal to keep within; None for as wide as it comes.
        plain: whether lines are drawn in ASCII only.
    """
    sections = []
    for span in spans(report):
        lines = [line for rows in rows_of(report.verdicts).values() for row in rows for line in _lines(row, span)]
        if not lines:
            continue
        grid = _full(lines, span) if width is None else _short(lines, span, plain=plain)
        title = f"{span.label}: {len(span.labels)} checkpoint{'s' if len(span.labels) > 1 else ''}, {span.extent}"
        sections.append(titled(title, draw(grid, format=format, width=width), format))
    return "\n\n".join(sections)


@dataclass(frozen=True, slots=True)
class _Line:
    """One quantity of one probe along a series, and where what is asked of it holds."""

    probe: str
    quantity: str
    values: tuple[float | None, ...]
    holds: str


def _lines(row: Row, span: Span) -> Iterator[_Line]:
    verdicts = [row.get(label) for label in span.labels]
    there = next((verdict for verdict in verdicts if verdict and not _absent(verdict)), row.get(span.label))
    if there is None:
        return  # there is nothing to follow where the property is absent throughout
    for index, (name, values) in enumerate(_followed(verdicts, row.get(span.label), span).items()):
        holds = "" if index else _holding(verdicts, row.get(span.label), span)
        yield _Line("" if index else there.probe, name, values, holds)


def _followed(
    verdicts: Sequence[Verdict | None], trend: Verdict | None, span: Span
) -> dict[str, tuple[float | None, ...]]:
    """Return what was compared on each checkpoint, for the trend or by itself; else the single numbers measured."""
    found: dict[str, tuple[float | None, ...]] = {}
    records = _records(trend)
    names = [name for name in trend.reading.quantities if name != "holds"] if trend and trend.reading else []
    for name in names:
        found[name] = tuple(
            _recorded(records.get(label, {}), name, verdict)
            for label, verdict in zip(span.labels, verdicts, strict=True)
        )
    compared_by = dict.fromkeys(finding.quantity for verdict in verdicts if verdict for finding in verdict.findings)
    for name in compared_by:
        found.setdefault(name, tuple(_observed(verdict, name) for verdict in verdicts))
    if not found:
        singles = dict.fromkeys(
            quantity.name
            for verdict in verdicts
            if verdict and verdict.reading and not verdict.reading.absent
            for quantity in scalars(verdict.reading)
        )
        found = {name: tuple(_single(verdict, name) for verdict in verdicts) for name in singles}
    return found


def _records(trend: Verdict | None) -> dict[str, Mapping[str, Any]]:
    """Return what a trend was judged by, by checkpoint."""
    return {str(record["checkpoint"]): record for record in trend.reading.records} if trend and trend.reading else {}


def _recorded(record: Mapping[str, Any], name: str, verdict: Verdict | None) -> float | None:
    value = float(record.get(name, math.nan))  # NaN may have become a text on the way
    absent = record.get("holds") == 0 or _absent(verdict)
    return None if math.isnan(value) and absent else value


def _observed(verdict: Verdict | None, name: str) -> float | None:
    found = [finding.observed for finding in verdict.findings if finding.quantity == name] if verdict else []
    if found and found[0] is not None:
        return found[0]
    return None if _absent(verdict) else math.nan


def _single(verdict: Verdict | None, name: str) -> float | None:
    quantity = verdict.reading.quantities.get(name) if verdict and verdict.reading else None
    if quantity is None or not quantity.values or quantity.axes:
        return None if _absent(verdict) or quantity is not None else math.nan
    return quantity.value


def _absent(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.status in (Status.ABSENT, Status.NOT_APPLICABLE)


def _holding(verdicts: Sequence[Verdict | None], trend: Verdict | None, span: Span) -> str:
    """Say from which checkpoint on the condition of the trend holds, or else what is expected by itself."""
    holds = trend.reading.quantities.get("holds") if trend and trend.reading else None
    if holds is not None:
        records = _records(trend)
        names = dict(zip(span.labels, span.names, strict=True))
        known = {names[label]: float(record["holds"]) for label, record in records.items() if label in names}
        return follow([None if math.isnan(value) else bool(value) for value in known.values()], list(known))
    asked = [
        (verdict, name)
        for verdict, name in zip(verdicts, span.names, strict=True)
        if verdict and verdict.status in _ANSWERS
    ]
    if not any(verdict.findings for verdict, _ in asked):
        return ""
    return follow([_ANSWERS[verdict.status] for verdict, _ in asked], [name for _, name in asked])


def _short(lines: Sequence[_Line], span: Span, *, plain: bool) -> Grid:
    return Grid(
        headers=("probe", "quantity", span.extent, "first", "last", "holds"),
        rows=tuple(
            (
                line.probe,
                line.quantity,
                sparkline(line.values, plain=plain, most=_MOST),
                _number(line.values[0]),
                _number(line.values[-1]),
                line.holds,
            )
            for line in lines
        ),
        numeric=frozenset({"first", "last"}),
    )


def _full(lines: Sequence[_Line], span: Span) -> Grid:
    return Grid(
        headers=("probe", "quantity", "course", *span.names, "holds"),
        rows=tuple(
            (line.probe, line.quantity, sparkline(line.values), *map(_number, line.values), line.holds)
            for line in lines
        ),
        numeric=frozenset(span.names),
    )


def _number(value: float | None) -> str:
    return "absent" if value is None else number(value)
