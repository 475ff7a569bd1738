"""The report as GitHub-flavoured Markdown, without raw HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from maprobe.expectations import number
from maprobe.readings import Reading
from maprobe.reporting.escaping import fenced, markdown, one_line
from maprobe.reporting.failures import explain
from maprobe.reporting.grids import Grid, draw, titled
from maprobe.reporting.plans import plan_table
from maprobe.reporting.profiles import has_layers, layer_grid, scalars, top_entries
from maprobe.reporting.report import PropertyReport, ReadingUse
from maprobe.reporting.series import series_table
from maprobe.reporting.tables import circumstances, property_table
from maprobe.reporting.wording import summary
from maprobe.verdicts import Status

__all__ = ["measured_sections", "render"]

_FORMAT = "pipe"


def render(data: Mapping[str, Any]) -> str:
    """Return the whole report as Markdown."""
    report = PropertyReport.from_dict(data)
    started = f" Started {report.started}." if report.started else ""
    parts = ["# Property report", markdown(f"{summary(report)}.{started}")]
    if report.checkpoints:
        parts.append("## Checkpoints")
        parts.extend(_provenance(checkpoint) for checkpoint in report.checkpoints)
    parts.extend(measured_sections(report))
    if report.plan.get("runs"):
        parts.extend(["## Plan", plan_table(report.plan, format=_FORMAT)])
    if report.command:
        parts.extend(["## Repeat", fenced(one_line(report.command), "sh")])
    return "\n\n".join(parts) + "\n"


def measured_sections(report: PropertyReport) -> Iterator[str]:
    """Yield what was measured: the property table, what did not hold, and the Readings in full."""
    if report.verdicts:
        yield "## Properties"
        yield property_table(report, format=_FORMAT)
        if report.series:
            yield "## Along the series"
            yield series_table(report, format=_FORMAT)
    yield from _failures(report)
    uses = report.readings()
    if uses:
        yield "## Readings"
        for use in uses:
            parts = [*_pictures(report, use), *_reading(use.reading)]
            yield titled(circumstances(use), "\n\n".join(parts), _FORMAT)


def _pictures(report: PropertyReport, use: ReadingUse) -> Iterator[str]:
    """Yield the pictures of a Reading that were drawn in the same run."""
    for picture in report.pictures:
        if (picture.checkpoint, picture.reading) == (use.checkpoint, use.reading):
            yield f"![{markdown(picture.title)}]({quote(picture.path)})"


def _provenance(checkpoint: Mapping[str, Any]) -> str:
    facts = {key: value for key, value in checkpoint.items() if key not in ("label", "versions")}
    facts.update(checkpoint.get("versions", {}))
    rows = tuple((key.replace("_", " "), str(value)) for key, value in facts.items() if value not in ("", None))
    grid = Grid(headers=("fact", "value"), rows=rows)
    return titled(str(checkpoint["label"]), draw(grid, format=_FORMAT), _FORMAT)


def _failures(report: PropertyReport) -> Iterator[str]:
    told = [verdict for verdict in report.verdicts if verdict.status in (Status.FAILED, Status.UNMEASURED)]
    if told:
        yield "## What failed"
    for verdict in told:
        yield titled(verdict.case, fenced(explain(verdict)), _FORMAT)


def _reading(reading: Reading) -> Iterator[str]:
    """Yield a Reading in full: its notes, its single numbers, its layers, its largest entries."""
    notes = [note for note in (reading.absent, *reading.notes) if note]
    if notes:
        yield "\n".join(f"- {markdown(note)}" for note in notes)
    if scalars(reading):
        rows = tuple(
            (quantity.name, number(quantity.value), quantity.unit, " ".join(map(str, quantity.places)))
            for quantity in scalars(reading)
        )
        grid = Grid(headers=("quantity", "value", "unit", "at"), rows=rows, numeric=frozenset({"value"}))
        yield draw(grid, format=_FORMAT)
    if has_layers(reading):
        yield draw(layer_grid(reading, every=True), format=_FORMAT)
    entries = top_entries(reading)
    if entries:
        yield "Largest entries of the massive layers:"
        yield draw(entries, format=_FORMAT)
