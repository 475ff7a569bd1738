"""The words that every format shares: statuses, margins, what was expected and what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from maprobe.expectations import number, together
from maprobe.reporting.report import PropertyReport
from maprobe.verdicts import Finding, Status, Verdict

__all__ = ["deciding", "expected", "measured", "percent", "status", "summary"]

_WORDS = {
    Status.PASSED: "passed",
    Status.FAILED: "FAILED",
    Status.ABSENT: "absent",
    Status.NOT_APPLICABLE: "n/a",
    Status.UNMEASURED: "UNMEASURED",
}


def status(verdict: Verdict) -> str:
    """Return the status as one word; capitals for what fails the session, ``xfail`` for a waived failure."""
    if verdict.waived:
        return "xfail"
    if verdict.status is Status.FAILED and verdict.severity != "error":
        return verdict.severity
    return _WORDS[verdict.status]


def percent(margin: float | None) -> str:
    """Return a margin as a signed percentage such as ``-59 %``; empty where there is none."""
    if margin is None or math.isnan(margin):
        return ""
    if math.isinf(margin) or margin == 0:
        return "0 %" if margin == 0 else f"{margin:+}"
    share = 100 * margin
    plain = 10 <= abs(share) < 1e5  # noqa: PLR2004 - whole percents, where neither too coarse nor too long
    return f"{share:+.0f} %" if plain else f"{share:+.2g} %"


def deciding(verdict: Verdict) -> Finding | None:
    """Return the finding that decided a case: the farthest from holding among those that do not."""
    failed = [finding for finding in verdict.findings if finding.holds is False]
    unknown = [finding for finding in verdict.findings if finding.holds is None]
    return min(failed or unknown or list(verdict.findings), key=_room, default=None)


def _room(finding: Finding) -> float:
    return math.inf if finding.margin is None else finding.margin


def expected(verdict: Verdict) -> str:
    """Return the whole expectation in words, a quantifier shared by all clauses said once."""
    if verdict.expected or not verdict.findings:
        return verdict.expected
    return together(finding.expected for finding in verdict.findings)


def measured(verdict: Verdict) -> str:
    """Return the deciding numbers, each cell said once: ``top 23147, ratio 14004 (layer 12)``.

    Under an intervention what it turned into what follows. Where no number could be had the reason stands in their
    place; a reason beside numbers follows them, and so does that of a waiver.
    """
    cells: dict[str, list[str]] = {}
    for finding in verdict.findings:
        if finding.observed is not None:
            figure = f"{finding.quantity} {number(finding.observed)}"
            figures = cells.setdefault(_cell(finding.labels), [])
            if figure not in figures:
                figures.append(figure)
    numbers = ", ".join(f"{', '.join(figures)}{cell}" for cell, figures in cells.items())
    parts = (
        numbers or verdict.measured,
        _before_and_after(verdict) if numbers else "",
        verdict.reason,
        verdict.waived and f"waived: {verdict.waived}",
    )
    return "; ".join(part for part in parts if part)


def _before_and_after(verdict: Verdict) -> str:
    """Return what an intervention turned into what, such as ``13.91 -> 1.7e+07``; empty without one."""
    quantities = verdict.reading.quantities if verdict.reading else {}
    arms = [quantities.get(name) for name in ("untouched", "edited")]
    values = [number(arm.value) for arm in arms if arm is not None and arm.values and not arm.axes]
    return " -> ".join(values) if len(values) == len(arms) else ""


def _cell(labels: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{axis} {label}' for axis, label in labels.items())})" if labels else ""


def summary(report: PropertyReport) -> str:
    """Return the report in one sentence: how many cases came out how, on what, and for how long."""
    found = report.counts()
    told = [f"{count} {name}" for name, count in found.items() if count] or ["nothing was measured"]
    cases, checkpoints = len(report.verdicts), len(report.labels())
    counted = f"{_several(cases, 'case')} on {_several(checkpoints, 'checkpoint')}: {', '.join(told)}"
    return f"{counted}, in {report.seconds:.1f} s" + (" (interrupted)" if report.interrupted else "")


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
