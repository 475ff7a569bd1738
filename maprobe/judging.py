"""From a planned case and its Readings to a Verdict. Pure: can be tested on Readings written by hand.

Unknown stays unknown: where a deciding value is NaN the case is unmeasured, in whichever direction its clause is
written.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from maprobe.cases import Clause, Expectation, Probe, Quantifier, Waiver
from maprobe.expectations import number
from maprobe.pairing import LEVEL, by_item, differences, mean_interval
from maprobe.planning import Arm, PlannedCase
from maprobe.readings import Quantity, Reading
from maprobe.recipes import Operator
from maprobe.registry import Registry
from maprobe.verdicts import Finding, Severity, Status, Verdict

__all__ = ["Outcome", "answered", "blank", "compare", "in_words", "judge", "unanswered", "weighed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """An expectation answered: whether it holds (None where unknown), why it has no object, and its findings."""

    holds: bool | None
    findings: tuple[Finding, ...]
    absent: str = ""


def compare(arms: Mapping[Arm, Reading], headline: str, *, items: str = "", level: float = LEVEL) -> Reading:
    """Set the arms of an intervention side by side, cell by cell of the recipe's headline quantity.

    Args:
        arms: what was measured in each pass.
        headline: the recipe's headline quantity.
        items: the number in its records that is compared item by item; empty if none.
        level: confidence level of the interval of that.

    Returns:
        A Reading with ``untouched``, ``edited``, ``ratio`` (edited / untouched), ``difference`` (edited - untouched)
        and, where the Readings have items, ``paired.mean``, ``paired.low`` and ``paired.high``. Where there is a
        control arm, the same of it, as ``control.edited`` and so on, and ``over_control`` (edited / control.edited).
    """
    base = arms["untouched"]
    for reading in arms.values():
        if reading.absent is not None:
            return reading
    untouched = base[headline]
    quantities = {"untouched": replace(untouched, name="untouched")}
    for arm, prefix in (("edited", ""), ("control", "control.")):
        if arm not in arms:
            continue
        other = arms[arm][headline]  # type: ignore[index]
        pairs = list(zip(other.values, untouched.values, strict=True))
        found = {
            "edited": other.values,
            "ratio": tuple(_over(after, before) for after, before in pairs),
            "difference": tuple(after - before for after, before in pairs),
        }
        for name, values in found.items():
            unit = "" if name == "ratio" else untouched.unit
            quantities[prefix + name] = Quantity(name=prefix + name, values=values, axes=untouched.axes, unit=unit)
        if items and (paired := differences(by_item(arms[arm], items), by_item(base, items))):  # type: ignore[index]
            for name, value in zip(("mean", "low", "high"), mean_interval(paired, level), strict=True):
                told = f"{prefix}paired.{name}"
                quantities[told] = Quantity(name=told, values=(value,))
    edited = arms["edited"]
    if "control" in arms:
        beside = arms["control"][headline].values
        over = tuple(_over(*pair) for pair in zip(edited[headline].values, beside, strict=True))
        quantities["over_control"] = Quantity(name="over_control", values=over, axes=untouched.axes)
    return Reading(
        kind=base.kind,
        quantities=quantities,
        records=edited.records,
        circumstances=edited.circumstances,
        notes=(f"comparison of {headline}", *dict.fromkeys([*base.notes, *edited.notes])),
    )


def _over(after: float, before: float) -> float:
    if math.isnan(after) or math.isnan(before) or (math.isinf(after) and math.isinf(before)):
        return math.nan
    return after / before if before else math.nan


def unanswered(planned: PlannedCase, status: Status, reason: str, *, repeat: str = "") -> Verdict:
    """Return the Verdict of a case that has no numbers, with the reason."""
    return replace(blank(planned), status=status, reason=reason, repeat=repeat)


def judge(
    planned: PlannedCase, reading: Reading, registry: Registry, today: datetime.date, *, repeat: str = ""
) -> Verdict:
    """Judge what was measured against what was expected.

    Args:
        planned: the case.
        reading: its Reading; under an intervention what :func:`compare` made of its arms.
        registry: for the operators.
        today: decides whether a waiver has run out.
        repeat: the command that repeats this case.
    """
    verdict = replace(blank(planned), reading=reading, repeat=repeat)
    if reading.absent is not None:
        return replace(verdict, status=Status.ABSENT, reason=reading.absent)
    probe, operators = planned.probe, registry.operators
    outcome = answered(probe.expect, reading, operators) if probe.expect else Outcome(holds=True, findings=())
    if outcome.absent:
        return replace(verdict, status=Status.ABSENT, reason=outcome.absent)
    level, findings, band = _severity(probe, reading, operators, outcome)
    known = outcome.holds is not None and band is not None
    measured = in_words(findings) or _summary(reading)
    verdict = replace(verdict, findings=findings, measured=measured, severity=level)
    if not known:
        return replace(verdict, status=Status.UNMEASURED, reason=_unknown(findings))
    # Where only the trend says anything, it is the trend that is known to fail.
    waiver = None if probe.of_series_only else probe.xfail
    return weighed(verdict, waiver, bool(outcome.holds and not band), today)


def weighed(verdict: Verdict, waiver: Waiver | None, holds: bool, today: datetime.date) -> Verdict:  # noqa: FBT001
    """Give the status that the answer has in the light of the waiver, if there is one."""
    if waiver is None:
        return replace(verdict, status=Status.PASSED if holds else Status.FAILED)
    if waiver.expired(today):
        still = "; the property holds by now" if holds else ""
        reason = f"the waiver ({waiver.reason}) ran out on {waiver.until}{still}: renew or remove it"
        return replace(verdict, status=Status.FAILED, severity="error", reason=reason)
    if not holds:
        until = f" (until {waiver.until})" if waiver.until else ""
        return replace(verdict, status=Status.FAILED, waived=waiver.reason + until)
    if waiver.strict:
        reason = f"expected to fail ({waiver.reason}), but the property holds: remove the xfail"
        return replace(verdict, status=Status.FAILED, severity="error", reason=reason)
    return replace(verdict, status=Status.PASSED)


def blank(planned: PlannedCase) -> Verdict:
    """Return what a case's verdict says before anything is known."""
    probe = planned.probe
    return Verdict(
        case=planned.case.id,
        probe=probe.id,
        suite=probe.suite,
        checkpoint=planned.case.checkpoint,
        status=Status.UNMEASURED,
        severity=probe.severity,
        claim=probe.claim,
        cite=probe.cite,
        mark=str(probe.mark),
        reason=f"overridden here: {planned.because}" if planned.because else "",
    )


def _severity(
    probe: Probe, reading: Reading, operators: Mapping[str, Operator], outcome: Outcome
) -> tuple[Severity, tuple[Finding, ...], bool | None]:
    """Return the level a failure counts as, all findings, and whether a band of the bad state was entered."""
    findings = list(outcome.findings)
    if outcome.holds is False:
        return "error" if probe.bands else probe.severity, tuple(findings), False
    entered: bool | None = False
    for band in probe.bands:
        answer = answered(band.condition, reading, operators)
        # A band describes what must not be, so what it finds is told the other way round.
        findings.extend(
            replace(
                finding,
                expected=f"not {finding.expected} ({band.level})",
                holds=None if finding.holds is None else not finding.holds,
                margin=None if finding.margin is None else -finding.margin,
            )
            for finding in answer.findings
        )
        if answer.holds is None and not answer.absent:
            entered = None
        elif answer.holds:
            return band.level, tuple(findings), True
    return "error" if probe.bands else probe.severity, tuple(findings), entered


def answered(expect: Expectation, reading: Reading, operators: Mapping[str, Operator]) -> Outcome:
    """Compare what was measured with what is expected, clause by clause."""
    quantities = {clause.quantity: reading[clause.quantity] for clause in expect.clauses}
    for quantity in quantities.values():
        if quantity.absent is not None:
            return Outcome(holds=None, findings=(), absent=quantity.absent)
    plain = [clause for clause in expect.clauses if not quantities[clause.quantity].axes]
    ranged = [clause for clause in expect.clauses if quantities[clause.quantity].axes]
    findings = [_finding(clause, quantities[clause.quantity], 0, operators, "") for clause in plain]
    answers: list[bool | None] = [finding.holds for finding in findings]
    if ranged:
        assert expect.quantifier is not None, "the parser lets no clause range over an axis without a quantifier"
        holds, found = _quantified(expect.quantifier, ranged, quantities, operators)
        answers.append(holds)
        findings.extend(found)
    findings.sort(key=lambda finding: [clause.quantity for clause in expect.clauses].index(finding.quantity))
    known = None if None in answers else all(answers)
    return Outcome(holds=False if False in answers else known, findings=tuple(findings))


def _quantified(
    quantifier: Quantifier,
    clauses: list[Clause],
    quantities: Mapping[str, Quantity],
    operators: Mapping[str, Operator],
) -> tuple[bool | None, list[Finding]]:
    """Answer clauses jointly over the cells of their axes; the deciding cell is the one that is told."""
    shape = quantities[clauses[0].quantity]
    words = f" {quantifier}{_extent(shape)}"
    cells = [
        [_finding(clause, quantities[clause.quantity], index, operators, words) for clause in clauses]
        for index in range(len(shape.values))
    ]
    if not cells:
        return None, [replace(_lost(clause, words), mark=str(clause.mark or "")) for clause in clauses]
    answers = [_jointly(cell) for cell in cells]
    holding, unknown = answers.count(True), answers.count(None)
    by_room = sorted(range(len(cells)), key=lambda index: _room(cells[index]))
    if quantifier.kind in ("some", "none"):
        # The best cell decides both: it is the witness, or the nearest to being one.
        witness = next((index for index in reversed(by_room) if answers[index]), by_room[-1])
        holds = True if holding else (None if unknown else False)
        if quantifier.kind == "none":
            return (None if holds is None else not holds), [_negated(finding) for finding in cells[witness]]
        return holds, cells[witness]
    if quantifier.kind == "every":
        worst = next((index for index in by_room if answers[index] is False), by_room[0])
        lost = next((index for index, answer in enumerate(answers) if answer is None), worst)
        holds = False if False in answers else (None if unknown else True)
        return holds, cells[worst if holds is not None else lost]
    needed = _needed(quantifier, len(cells))
    holds = True if holding >= needed else (None if holding + unknown >= needed else False)
    deciding = by_room[max(0, len(cells) - needed)]
    told = f"{words}, {holding} of {len(cells)} do"
    return holds, [replace(finding, expected=finding.expected.replace(words, told)) for finding in cells[deciding]]


def _needed(quantifier: Quantifier, cells: int) -> int:
    if quantifier.share is not None:
        return max(1, math.ceil(quantifier.share * cells - 1e-9))
    return quantifier.count or 1


def _negated(finding: Finding) -> Finding:
    margin = None if finding.margin is None else -finding.margin
    return replace(finding, holds=None if finding.holds is None else not finding.holds, margin=margin)


def _finding(clause: Clause, quantity: Quantity, index: int, operators: Mapping[str, Operator], words: str) -> Finding:
    operator = operators[clause.operator]
    value = quantity.values[index]
    known = not math.isnan(value)
    return Finding(
        quantity=clause.quantity,
        expected=f"{clause.quantity} {operator.words(clause.bound)}{words}",
        observed=value,
        holds=operator.holds(value, clause.bound) if known else None,
        margin=operator.margin(value, clause.bound) if known else None,
        labels=quantity.labels(index),
        where=str(quantity.places[index]) if quantity.places else "",
        mark=str(clause.mark or ""),
    )


def _lost(clause: Clause, words: str) -> Finding:
    return Finding(quantity=clause.quantity, expected=clause.quantity + words, observed=None, holds=None)


def _jointly(cell: Iterable[Finding]) -> bool | None:
    answers = [finding.holds for finding in cell]
    if False in answers:
        return False
    return None if None in answers else True


def _room(cell: Iterable[Finding]) -> float:
    """Order cells from the farthest below its bounds to the farthest above; unknown ones come first."""
    margins = []
    for finding in cell:
        if finding.holds is None:
            return -math.inf
        margins.append(finding.margin if finding.margin is not None else (0.0 if finding.holds else -1.0))
    return min(margins)


def _extent(quantity: Quantity) -> str:
    layers = next((axis.labels for axis in quantity.axes if axis.name == "layer"), ())
    if not layers:
        return ""
    return f" of {layers[0]}..{layers[-1]}" if len(layers) > 1 else f" {layers[0]}"


def in_words(findings: Iterable[Finding]) -> str:
    """Say what decided, the cell once: ``layer 8  ratio 412  top 233.1  dim 507  token 0 'The'``."""
    parts: list[str] = []
    cell: Mapping[str, int] | None = None
    where = ""
    for finding in findings:
        if finding.labels and finding.labels != cell:
            parts.extend(f"{name} {label}" for name, label in finding.labels.items())
            cell = finding.labels
        value = f"{finding.quantity} {number(finding.observed)}"
        if value not in parts:
            parts.append(value)
        where = finding.where or where
    return "  ".join([*parts, where] if where else parts)


def _summary(reading: Reading) -> str:
    """Say the scalars of a Reading on which nothing was expected, or the peak of its first ranged quantity."""
    scalars = [q for q in reading.quantities.values() if not q.axes and q.absent is None]
    parts = [f"{quantity.name} {number(quantity.value)}" for quantity in scalars]
    if not parts:
        for quantity in reading.quantities.values():
            if quantity.absent is None and quantity.values:
                index = max(range(len(quantity.values)), key=lambda i: quantity.values[i])
                labels = " ".join(f"{name} {label}" for name, label in quantity.labels(index).items())
                return f"{quantity.name} at most {number(quantity.values[index])} ({labels})"
    return "  ".join(parts)


def _unknown(findings: Iterable[Finding]) -> str:
    for finding in findings:
        if finding.holds is None:
            where = " ".join(f"{name} {label}" for name, label in finding.labels.items())
            return (
                f"{finding.quantity} is not a number{' in ' + where if where else ''}, so nothing can be said; "
                f"a probe of kind `finite` tells where activations stop being finite"
            )
    return "a deciding value is not a number"
