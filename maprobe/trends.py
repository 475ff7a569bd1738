"""From the verdicts on the checkpoints of a series to one on how they follow one another. Pure."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from maprobe.cases import Case, Trend
from maprobe.courses import Check, Course, emergence
from maprobe.expectations import together
from maprobe.judging import Outcome, answered, blank, in_words, weighed
from maprobe.planning import PlannedCase
from maprobe.readings import Axis, Quantity, Reading
from maprobe.registry import Registry
from maprobe.verdicts import Finding, Status, Verdict

__all__ = ["Stage", "judge_trend"]

_ABSENT = "absent"
_FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One checkpoint of a series, and what became of the probe's case on it.

    Attributes:
        label: the checkpoint's label.
        name: its name within the series.
        step: its number of steps, or its position.
        numbered: whether it is a number of steps.
        planned: the case as settled; None where it was not planned.
        verdict: its verdict; None where the case was deselected or skipped.
    """

    label: str
    name: str
    step: int
    numbered: bool = True
    planned: PlannedCase | None = None
    verdict: Verdict | None = None


def judge_trend(
    case: Case, stages: Sequence[Stage], registry: Registry, today: datetime.date, *, repeat: str = ""
) -> Verdict:
    """Judge the trend of a probe over the checkpoints of a series.

    A checkpoint in which the property is absent counts as one in which the condition does not hold; one that the
    probe's ``when`` excludes is left out.

    Args:
        case: the trend's case.
        stages: the members of the series, in order.
        registry: for the operators.
        today: decides whether a waiver has run out.
        repeat: the command that repeats the case with those that it is judged by.
    """
    settled = [stage.planned for stage in stages if stage.planned and not stage.planned.inapplicable]
    planned = replace(settled[-1], case=case) if settled else PlannedCase(case=case, probe=case.probe, arms={})
    verdict = replace(blank(planned), members=case.members, repeat=repeat)
    missing = [stage.name for stage in stages if stage.verdict is None]
    if missing:
        named = ", ".join(missing[:_FEW]) + (", ..." if len(missing) > _FEW else "")
        reason = (
            f"there is no verdict on {len(missing)} of the {len(stages)} checkpoints ({named}), as their cases were "
            f"deselected, skipped or run by another process; select {case.stem}, which is the probe on all of them"
        )
        return replace(verdict, reason=reason)
    asked = [stage for stage in stages if stage.verdict and stage.verdict.status is not Status.NOT_APPLICABLE]
    if not asked:
        reason = next((stage.verdict.reason for stage in stages if stage.verdict), "")
        return replace(verdict, status=Status.NOT_APPLICABLE, reason=reason)
    trends = {each.probe.trend for each in settled}
    if len(trends) > 1:
        return replace(verdict, reason="overrides make the checkpoints of the series ask for different trends")
    trend = planned.probe.trend
    assert trend is not None, "only a probe with a trend has a case on a series"
    return _judged(verdict, planned, _Followed.of(trend, asked, registry), today)


@dataclass(frozen=True, slots=True)
class _Followed:
    """A trend on the checkpoints it is asked of: the outcome of its condition on each, and what is asked of them."""

    trend: Trend
    stages: Sequence[Stage]
    outcomes: Sequence[Outcome]
    checks: Sequence[Check]

    @classmethod
    def of(cls, trend: Trend, stages: Sequence[Stage], registry: Registry) -> _Followed:
        outcomes = [_outcome(trend, stage, registry) for stage in stages]
        course = Course(
            names=tuple(stage.name for stage in stages),
            steps=tuple(stage.step for stage in stages),
            numbered=all(stage.numbered for stage in stages),
            answers=tuple(outcome.holds for outcome in outcomes),
        )
        checks = [course.after(trend.emerges_after)] if trend.emerges_after is not None else []
        checks += [course.by(trend.emerges_by)] if trend.emerges_by is not None else []
        checks += [course.stays(str(trend.mark or ""))] if trend.stays else []
        if trend.monotone is not None:
            checks.append(course.monotone(trend.monotone, [_value(trend.monotone.quantity, stage) for stage in stages]))
        return cls(trend, stages, outcomes, checks)

    @property
    def condition(self) -> str:
        """The condition in words, as it was compared on the last checkpoint on which it was."""
        compared = next((outcome.findings for outcome in reversed(self.outcomes) if outcome.findings), ())
        words = together(finding.expected for finding in compared)
        if words or self.trend.of is None:
            return words
        return " and ".join(dict.fromkeys(clause.quantity for clause in self.trend.of.clauses))

    def asked(self, check: Check) -> str:
        """Say what one check asks, with the condition that it asks about."""
        about = self.trend.monotone is None or check.name != self.trend.monotone.quantity
        return f"{self.condition}: {check.words}" if about and self.condition else check.words

    def told(self) -> str:
        """Say what was found."""
        parts = [self._emergence(), *(check.told for check in self.checks)]
        return "; ".join(part for part in parts if part)

    def _emergence(self) -> str:
        if self.trend.of is None:
            return ""
        first = emergence([outcome.holds for outcome in self.outcomes])
        if first is None:
            known = [index for index, outcome in enumerate(self.outcomes) if outcome.holds is not None]
            numbers = f", {self.stages[known[-1]].name}{_numbers(self.outcomes[known[-1]])}" if known else ""
            lost = len(self.stages) - len(known)
            unknown = f", unknown in {lost}" if lost else ""
            return (
                f"holds in {'no checkpoint' if lost else f'none of {len(self.stages)} checkpoints'}{unknown}{numbers}"
            )
        told = f"emerges at {self.stages[first].name}{_numbers(self.outcomes[first])}"
        if first == 0:
            return f"{told}, the first"
        before = self.outcomes[first - 1]
        name = self.stages[first - 1].name
        return f"{told}, unknown at {name}" if before.holds is None else f"{told}, not at {name}{_numbers(before)}"

    def reading(self) -> Reading:
        """Return what was compared at each step, as a Reading over the axis ``step``."""
        axes = (Axis("step", tuple(stage.step for stage in self.stages)),)
        values: dict[str, list[float]] = {}
        if self.trend.of is not None:
            values["holds"] = [math.nan if each.holds is None else float(each.holds) for each in self.outcomes]
            for clause in self.trend.of.clauses:
                values[clause.quantity] = [_observed(outcome, clause.quantity) for outcome in self.outcomes]
        if self.trend.monotone is not None:
            found = [_value(self.trend.monotone.quantity, stage) for stage in self.stages]
            values[self.trend.monotone.quantity] = [math.nan if value is None else value for value in found]
        return Reading(
            kind="trend",
            quantities={name: Quantity(name=name, values=tuple(each), axes=axes) for name, each in values.items()},
            records=tuple(
                {"checkpoint": stage.label, "step": stage.step, **{name: each[index] for name, each in values.items()}}
                for index, stage in enumerate(self.stages)
            ),
        )


def _judged(verdict: Verdict, planned: PlannedCase, followed: _Followed, today: datetime.date) -> Verdict:
    checks = followed.checks
    verdict = replace(
        verdict,
        expected=": ".join(part for part in (followed.condition, ", ".join(check.words for check in checks)) if part),
        measured=followed.told(),
        findings=tuple(
            Finding(
                quantity=check.name, expected=followed.asked(check), observed=None, holds=check.holds, mark=check.mark
            )
            for check in checks
        ),
        reading=followed.reading(),
    )
    answers = [check.holds for check in checks if not check.vacuous]
    if False in answers:
        return weighed(verdict, planned.probe.xfail, False, today)  # noqa: FBT003
    if None in answers:
        reason = next(check.why for check in checks if check.holds is None and not check.vacuous)
        return replace(verdict, status=Status.UNMEASURED, reason=reason)
    vacuous = [check.why for check in checks if check.vacuous]
    if vacuous:
        return replace(verdict, status=Status.ABSENT, reason=vacuous[0])
    return weighed(verdict, planned.probe.xfail, True, today)  # noqa: FBT003


def _outcome(trend: Trend, stage: Stage, registry: Registry) -> Outcome:
    """Answer the condition on one checkpoint: False where the property is absent, None where nothing is known."""
    reading = stage.verdict.reading if stage.verdict else None
    if trend.of is None or (reading is None and _unknown(stage)):
        return Outcome(holds=None, findings=())
    if reading is None or reading.absent is not None:
        return Outcome(holds=False, findings=(), absent=_ABSENT)
    found = answered(trend.of, reading, registry.operators)
    return replace(found, holds=False) if found.absent else found


def _value(quantity: str, stage: Stage) -> float | None:
    """Return a value on one checkpoint; NaN where it is unknown, None where the property is absent."""
    reading = stage.verdict.reading if stage.verdict else None
    if reading is None and _unknown(stage):
        return math.nan
    if reading is None or reading.absent is not None or reading[quantity].absent is not None:
        return None
    return reading[quantity].value


def _unknown(stage: Stage) -> bool:
    return stage.verdict is None or stage.verdict.status is Status.UNMEASURED


def _numbers(outcome: Outcome) -> str:
    words = in_words(replace(finding, where="") for finding in outcome.findings) or (_ABSENT if outcome.absent else "")
    return f" ({words.replace('  ', ', ')})" if words else ""


def _observed(outcome: Outcome, quantity: str) -> float:
    found = next((finding.observed for finding in outcome.findings if finding.quantity == quantity), None)
    return math.nan if found is None else found
