"""A trend is judged by the verdicts on the members of its series, and by nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import pytest
from probes_by_hand import (
    MAGNITUDE,
    MARK,
    PERPLEXITY,
    REGISTRY,
    by_layer,
    clause,
    expect,
    planned,
    probe,
    quantifier,
    scalars,
)

from maprobe.cases import Case, Monotone, Probe, StepBound, Trend, Waiver
from maprobe.judging import judge, unanswered
from maprobe.readings import Quantity, Reading
from maprobe.trends import Stage, judge_trend
from maprobe.verdicts import Status, Verdict

TODAY = datetime.date(2026, 11, 25)
NAN = float("nan")
MASSIVE = expect(clause("top", "gt", 100), clause("ratio", "gt", 1000), quantifier=quantifier("some"))
STAYS = Trend(of=MASSIVE, emerges_by=StepBound(share=0.5), stays=True, mark=MARK)
FALLS = Trend(monotone=Monotone(quantity="perplexity", direction="decreasing", mark=MARK))
NOTHING = Reading(kind="magnitude", absent="nothing massive here")


def small() -> Reading:
    return by_layer(top=[3.0, 4.0], ratio=[10.0, 12.0])


def large() -> Reading:
    return by_layer(top=[3.0, 4000.0], ratio=[10.0, 8000.0])


def lost() -> Reading:
    return by_layer(top=[NAN, NAN], ratio=[NAN, NAN])


def stages(readings: Sequence[Reading | Status | None], **values: Any) -> list[Stage]:
    """A stage at 100, 200 ... for each Reading; a status is that of a case without, None of one that never ran."""
    found = []
    for index, reading in enumerate(readings):
        name = f"step-{100 * (index + 1)}"
        settled = planned(checkpoint=f"runs@{name}", **values)
        verdict: Verdict | None = None
        if isinstance(reading, Status):
            verdict = unanswered(settled, reading, f"{reading.value} here")
        elif reading is not None:
            verdict = judge(settled, reading, REGISTRY, TODAY)
        found.append(Stage(label=f"runs@{name}", name=name, step=100 * (index + 1), planned=settled, verdict=verdict))
    return found


def judged(*readings: Reading | Status | None, **values: Any) -> Verdict:
    values = {"measure": MAGNITUDE, "trend": STAYS, **values}
    made = stages(readings, **values)
    it: Probe = probe(**values)
    case = Case(
        id=f"x.probe.yaml::{it.id}[runs]", probe=it, checkpoint="runs", members=tuple(stage.label for stage in made)
    )
    return judge_trend(case, made, REGISTRY, TODAY, repeat="again")


def test_a_condition_that_emerges_and_stays_passes_with_the_numbers_on_both_sides() -> None:
    verdict = judged(small(), large(), large())
    assert (Status.PASSED, "runs", ("runs@step-100", "runs@step-200", "runs@step-300"), "again") == (
        verdict.status,
        verdict.checkpoint,
        verdict.members,
        verdict.repeat,
    )
    assert verdict.measured == (
        "emerges at step-200 (layer 3, top 4000, ratio 8000), not at step-100 (layer 3, top 4, ratio 12)"
    )
    assert verdict.expected == (
        "top > 100 and ratio > 1000 in some layer of 2..3: emerges by 50 % of the steps (step-200), stays"
    )


def test_one_that_emerges_too_late_fails() -> None:
    verdict = judged(small(), small(), small(), large())
    assert Status.FAILED is verdict.status
    assert {"emerges_by": False, "stays": True} == {found.quantity: found.holds for found in verdict.findings}
    assert str(MARK) == verdict.findings[1].mark


def test_one_that_is_lost_again_fails_and_says_where() -> None:
    verdict = judged(large(), small(), large())
    assert Status.FAILED is verdict.status
    assert "lost at step-200" in verdict.measured
    assert "emerges at step-100 (layer 3, top 4000, ratio 8000), the first" in verdict.measured


def test_one_that_never_emerges_fails_where_a_time_was_named_and_is_absent_where_none_was() -> None:
    never = (small(), small())
    assert Status.FAILED is judged(*never).status
    verdict = judged(*never, trend=Trend(of=MASSIVE, stays=True))
    assert (Status.ABSENT, "the condition holds in none of 2 checkpoints, so there is no emergence") == (
        verdict.status,
        verdict.reason,
    )


def test_an_absent_property_does_not_satisfy_the_condition() -> None:
    assert Status.PASSED is judged(NOTHING, large(), large()).status
    verdict = judged(large(), NOTHING, large())
    assert (Status.FAILED, True) == (verdict.status, "lost at step-200" in verdict.measured)
    assert "not at step-100 (absent)" in judged(NOTHING, large()).measured


def test_an_absent_quantity_does_not_satisfy_it_either() -> None:
    hit = Trend(of=expect(clause("first_layer", "lt", 5)), emerges_by=StepBound(share=1))
    none = Reading(kind="magnitude", quantities={"first_layer": Quantity(name="first_layer", absent="no layer")})
    assert Status.FAILED is judged(none, none, trend=hit).status
    assert Status.PASSED is judged(none, scalars("magnitude", first_layer=2), trend=hit).status


@pytest.mark.parametrize("unknown", [Status.UNMEASURED, lost()])
def test_an_unmeasured_member_leaves_the_trend_open_unless_the_others_decide(unknown: Reading | Status) -> None:
    verdict = judged(large(), unknown, large())
    assert Status.UNMEASURED is verdict.status
    assert "nothing is known of step-200, which would decide; its own case tells why" == verdict.reason
    assert Status.FAILED is judged(large(), unknown, small()).status
    assert Status.PASSED is judged(unknown, large(), large()).status


def test_a_member_that_was_deselected_leaves_it_open_and_what_to_select_is_told() -> None:
    verdict = judged(large(), None, small())
    assert Status.UNMEASURED is verdict.status
    assert (
        "there is no verdict on 1 of the 3 checkpoints (step-200), as their cases were deselected, skipped or run by "
        "another process; select x.probe.yaml::a, which is the probe on all of them"
    ) == verdict.reason
    assert "(step-100, step-200, step-300, ...)" in judged(*[None] * 9).reason


def test_members_that_when_excludes_are_left_out() -> None:
    excluded = Status.NOT_APPLICABLE
    assert Status.PASSED is judged(excluded, large(), large(), large()).status
    verdict = judged(excluded, excluded)
    assert (excluded, "not-applicable here") == (verdict.status, verdict.reason)


def test_where_nothing_is_known_none_is_said_to_lack_it() -> None:
    verdict = judged(lost(), small(), lost())
    assert "holds in no checkpoint, unknown in 2, step-200 (layer 3, top 4, ratio 12)" == verdict.measured
    assert "nothing is known of step-100, which would decide; its own case tells why" == verdict.reason
    assert "holds in none of 2 checkpoints, step-200 (layer 3, top 4, ratio 12)" == judged(small(), small()).measured


def test_a_number_that_rises_fails_and_one_that_falls_passes() -> None:
    def of(*values: float) -> Verdict:
        return judged(*(scalars(perplexity=value) for value in values), measure=PERPLEXITY, trend=FALLS)

    assert (Status.PASSED, "perplexity 40 -> 20", "perplexity decreasing") == (
        of(40, 30, 20).status,
        of(40, 30, 20).measured,
        of(40, 30, 20).expected,
    )
    assert (Status.FAILED, "perplexity 30 at step-200, 35 at step-300") == (
        of(40, 30, 35).status,
        of(40, 30, 35).measured,
    )
    assert Status.UNMEASURED is of(40, NAN, 20).status


def test_what_was_compared_is_kept_step_by_step_and_survives_the_way_to_a_report() -> None:
    verdict = judged(NOTHING, Status.UNMEASURED, large())
    assert verdict.reading is not None
    again = Verdict.from_dict(verdict.to_dict())
    assert verdict.members == again.members
    assert again.reading is not None
    assert (100, 200, 300) == again.reading["top"].axes[0].labels
    assert ["0.0", "nan", "1.0"] == [str(value) for value in again.reading["holds"].values]
    assert ["nan", "nan", "4000.0"] == [str(value) for value in again.reading["top"].values]
    assert ["runs@step-100", "runs@step-200", "runs@step-300"] == [
        record["checkpoint"] for record in again.reading.records
    ]


def test_a_waiver_covers_a_trend_that_fails_and_none_that_is_unknown() -> None:
    waived: dict[str, Any] = {"xfail": Waiver(reason="known")}
    assert (Status.FAILED, "known") == (
        judged(large(), small(), **waived).status,
        judged(large(), small(), **waived).waived,
    )
    assert (Status.FAILED, "") == (judged(large(), large(), **waived).status, judged(large(), large(), **waived).waived)
    assert (Status.UNMEASURED, "") == (judged(lost(), lost(), **waived).status, judged(lost(), lost(), **waived).waived)


def test_a_waiver_of_a_trend_says_nothing_of_its_members() -> None:
    found = stages([large()], measure=MAGNITUDE, trend=STAYS, xfail=Waiver(reason="known"))[0].verdict
    assert found is not None
    assert (Status.PASSED, "") == (found.status, found.reason)


def test_a_severity_is_that_of_the_trend_too() -> None:
    assert "warn" == judged(large(), small(), severity="warn").severity


def test_overrides_that_ask_for_different_trends_leave_it_open() -> None:
    one, two = stages([large()], measure=MAGNITUDE, trend=STAYS), stages([large()], measure=MAGNITUDE, trend=FALLS)
    case = Case(id="x::a[runs]", probe=probe(trend=STAYS), checkpoint="runs", members=("one", "two"))
    verdict = judge_trend(case, [*one, *two], REGISTRY, TODAY)
    assert (Status.UNMEASURED, True) == (verdict.status, "ask for different trends" in verdict.reason)
