"""The report as CSV in long form: one row for each clause of each verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from maprobe.readings import Circumstances, Reading
from maprobe.reporting.escaping import csv_text
from maprobe.reporting.profiles import scalars
from maprobe.reporting.report import PropertyReport
from maprobe.verdicts import Verdict

__all__ = ["COLUMNS", "render"]

_CASE = ("checkpoint", "suite", "probe", "case", "status", "severity")
_FINDING = ("quantity", "expected", "observed", "holds", "margin", "layer", "head", "where", "mark")
_CIRCUMSTANCES = tuple(field.name for field in fields(Circumstances))
COLUMNS = (*_CASE, *_FINDING, "reason", "waived", "claim", *_CIRCUMSTANCES, "repeat")

_Row = dict[str, Any]


def render(data: Mapping[str, Any]) -> str:
    """Return the report as CSV with the columns of :data:`COLUMNS`.

    Numbers are written in full. Text cells are made safe for spreadsheets. A verdict without clauses has one row
    for each single number of its Reading, or one row without numbers.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for verdict in PropertyReport.from_dict(data).verdicts:
        shared = _shared(verdict)
        writer.writerows({name: _cell(value) for name, value in {**shared, **row}.items()} for row in _rows(verdict))
    return file.getvalue()


def _shared(verdict: Verdict) -> _Row:
    names = ("checkpoint", "suite", "probe", "case", "severity", "reason", "waived", "claim", "mark", "repeat")
    row = {name: getattr(verdict, name) for name in names}
    taken = verdict.reading.circumstances if verdict.reading else None
    if taken:
        row.update({name: getattr(taken, name) for name in _CIRCUMSTANCES})
    return {**row, "status": verdict.status.value}


def _rows(verdict: Verdict) -> Iterator[_Row]:
    for finding in verdict.findings:
        yield {
            "quantity": finding.quantity,
            "expected": finding.expected,
            "observed": finding.observed,
            "holds": finding.holds,
            "margin": finding.margin,
            "layer": finding.labels.get("layer"),
            "head": finding.labels.get("head"),
            "where": finding.where,
            "mark": finding.mark or verdict.mark,
        }
    if not verdict.findings:
        yield from _unasked(verdict.reading) if verdict.reading and scalars(verdict.reading) else iter([{}])


def _unasked(reading: Reading) -> Iterator[_Row]:
    """Yield the single numbers of a Reading of which nothing was expected."""
    for quantity in scalars(reading):
        where = str(quantity.places[0]) if quantity.places else ""
        yield {"quantity": quantity.name, "observed": quantity.value, "where": where}


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return csv_text(value) if isinstance(value, str) else value
