from __future__ import annotations

import datetime
import math

import pytest
from probes_by_hand import REGISTRY, by_layer, clause, expect, planned, quantifier, scalars

from maprobe.cases import Expectation, SeverityBand, Waiver
from maprobe.judging import compare, judge, unanswered
from maprobe.readings import Quantity, Reading
from maprobe.verdicts import Status, Verdict

TODAY = datetime.date(2026, 11, 24)


def verdict(reading: Reading, expectation: Expectation | None, **values: object) -> Verdict:
    return judge(planned(expect=expectation, **values), reading, REGISTRY, TODAY)


def over(kind: str, **amount: object) -> Expectation:
    return expect(clause("ratio", "gt", 1000), clause("top", "gt", 100), quantifier=quantifier(kind, **amount))


class TestQuantifiers:
    mixed = by_layer(ratio=[50.0, 2000.0, 412.0], top=[80.0, 23000.0, 233.1])

    def test_some_is_decided_by_the_best_layer(self) -> None:
        found = verdict(self.mixed, over("some"))
        assert Status.PASSED is found.status
        assert [{"layer": 3}, {"layer": 3}] == [finding.labels for finding in found.findings]
        assert 1.0 == found.margin

    def test_some_needs_one_layer_in_which_all_clauses_hold_at_once(self) -> None:
        split = by_layer(ratio=[2000.0, 10.0], top=[50.0, 500.0])
        found = verdict(split, over("some"))
        assert Status.FAILED is found.status
        assert {"layer": 2} == found.findings[0].labels

    def test_every_is_decided_by_the_worst_layer(self) -> None:
        found = verdict(self.mixed, over("every"))
        assert Status.FAILED is found.status
        assert {"layer": 2} == found.findings[0].labels
        assert -0.95 == pytest.approx(found.margin)

    def test_none_fails_on_the_layer_that_is_a_witness(self) -> None:
        found = verdict(self.mixed, over("none"))
        assert Status.FAILED is found.status
        assert {"layer": 3} == found.findings[0].labels
        assert found.margin is not None
        assert found.margin < 0

    def test_none_passes_where_no_layer_satisfies_all_clauses(self) -> None:
        assert Status.PASSED is verdict(by_layer(ratio=[5.0], top=[500.0]), over("none")).status

    @pytest.mark.parametrize(("count", "status"), [(1, Status.PASSED), (2, Status.FAILED)])
    def test_at_least_counts_layers(self, count: int, status: Status) -> None:
        found = verdict(self.mixed, over("at_least", count=count))
        assert status is found.status
        assert "1 of 3 do" in found.findings[0].expected

    @pytest.mark.parametrize(("share", "status"), [(0.3, Status.PASSED), (0.34, Status.FAILED)])
    def test_at_least_takes_a_share_of_the_layers(self, share: float, status: Status) -> None:
        assert status is verdict(self.mixed, over("at_least", share=share)).status

    def test_a_clause_without_axes_is_compared_once_beside_the_quantified_ones(self) -> None:
        reading = Reading(
            kind="magnitude",
            quantities={**self.mixed.quantities, "layers_hit": Quantity(name="layers_hit", values=(1.0,))},
        )
        both = expect(clause("ratio", "gt", 1000), clause("layers_hit", "gte", 2), quantifier=quantifier("some"))
        found = verdict(reading, both)
        assert Status.FAILED is found.status
        assert [True, False] == [finding.holds for finding in found.findings]

    def test_the_expectation_is_told_with_its_range_of_layers(self) -> None:
        found = verdict(self.mixed, over("some"))
        assert "ratio > 1000 in some layer of 2..4" == found.findings[0].expected
        assert "layer 3  ratio 2000  top 23000  dim 507  token 0 'The'" == found.measured


class TestUnknown:
    @pytest.mark.parametrize("operator", ["gt", "lt", "gte", "lte", "eq", "approx"])
    def test_nan_is_unmeasured_in_whichever_direction_the_clause_is_written(self, operator: str) -> None:
        found = verdict(scalars(perplexity=math.nan), expect(clause("perplexity", operator, 3)))
        assert Status.UNMEASURED is found.status
        assert found.reason.startswith("perplexity is not a number")

    def test_nan_in_one_layer_leaves_every_unknown_unless_another_layer_fails(self) -> None:
        every = expect(clause("ratio", "gt", 10), quantifier=quantifier("every"))
        assert Status.UNMEASURED is verdict(by_layer(ratio=[math.nan, 20.0]), every).status
        assert Status.FAILED is verdict(by_layer(ratio=[math.nan, 5.0]), every).status

    def test_nan_in_one_layer_leaves_some_known_where_another_layer_is_a_witness(self) -> None:
        some = expect(clause("ratio", "gt", 10), quantifier=quantifier("some"))
        assert Status.PASSED is verdict(by_layer(ratio=[math.nan, 20.0]), some).status
        assert Status.UNMEASURED is verdict(by_layer(ratio=[math.nan, 5.0]), some).status

    def test_infinity_is_a_number(self) -> None:
        found = verdict(scalars(perplexity=math.inf), expect(clause("perplexity", "gt", 10)))
        assert Status.PASSED is found.status

    def test_an_absent_quantity_leaves_the_question_without_an_object(self) -> None:
        reading = Reading(kind="magnitude", quantities={"dims": Quantity(name="dims", absent="nothing massive here")})
        found = verdict(reading, expect(clause("dims", "lte", 4)))
        assert (Status.ABSENT, "nothing massive here") == (found.status, found.reason)

    def test_an_absent_reading_is_absent_whatever_is_expected(self) -> None:
        found = verdict(Reading(kind="magnitude", absent="none"), over("some"))
        assert (Status.ABSENT, "none") == (found.status, found.reason)


class TestSeverity:
    def banded(self, value: float) -> Verdict:
        bands = (
            SeverityBand(level="error", condition=expect(clause("perplexity", "lt", 10))),
            SeverityBand(level="warn", condition=expect(clause("perplexity", "lt", 20))),
        )
        return verdict(scalars(perplexity=value), None, bands=bands)

    @pytest.mark.parametrize(
        ("value", "status", "severity"),
        [(5, Status.FAILED, "error"), (15, Status.FAILED, "warn"), (25, Status.PASSED, "error")],
    )
    def test_the_band_that_is_entered_decides(self, value: float, status: Status, severity: str) -> None:
        found = self.banded(value)
        assert (status, severity) == (found.status, found.severity)

    def test_a_band_that_is_not_entered_shows_its_room(self) -> None:
        assert 0.25 == self.banded(25).margin

    def test_a_failure_counts_as_the_probe_says(self) -> None:
        found = verdict(scalars(perplexity=5), expect(clause("perplexity", "gt", 10)), severity="warn")
        assert (Status.FAILED, "warn") == (found.status, found.severity)


class TestWaivers:
    fails = expect(clause("perplexity", "gt", 10))
    holds = expect(clause("perplexity", "lt", 10))
    reading = scalars(perplexity=5)

    def test_a_failure_under_a_waiver_is_marked_as_waived(self) -> None:
        found = verdict(self.reading, self.fails, xfail=Waiver(reason="known", until=TODAY))
        assert (Status.FAILED, "known (until 2026-11-24)") == (found.status, found.waived)

    @pytest.mark.parametrize("expectation", [fails, holds])
    def test_a_waiver_past_its_date_fails(self, expectation: Expectation) -> None:
        waiver = Waiver(reason="known", until=TODAY - datetime.timedelta(days=1))
        found = verdict(self.reading, expectation, xfail=waiver, severity="warn")
        assert (Status.FAILED, "error", "") == (found.status, found.severity, found.waived)
        assert "the waiver (known) ran out on 2026-11-23" in found.reason

    def test_a_property_that_holds_under_a_strict_waiver_fails(self) -> None:
        found = verdict(self.reading, self.holds, xfail=Waiver(reason="known"))
        assert Status.FAILED is found.status
        assert "expected to fail (known), but the property holds: remove the xfail" == found.reason

    def test_a_property_that_holds_under_a_lenient_waiver_passes(self) -> None:
        assert Status.PASSED is verdict(self.reading, self.holds, xfail=Waiver(reason="known", strict=False)).status


class TestComparison:
    def arms(self, **values: float) -> dict[str, Reading]:
        return {arm: scalars(perplexity=value) for arm, value in values.items()}

    def test_arms_are_set_side_by_side(self) -> None:
        reading = compare(self.arms(untouched=10.0, edited=200.0, control=10.1), "perplexity")
        found = {name: quantity.value for name, quantity in reading.quantities.items()}
        assert {
            "untouched": 10.0,
            "edited": 200.0,
            "ratio": 20.0,
            "difference": 190.0,
            "control.edited": 10.1,
            "control.ratio": pytest.approx(1.01),
            "control.difference": pytest.approx(0.1),
            "over_control": pytest.approx(200 / 10.1),
        } == found

    def test_without_a_control_arm_there_are_no_control_quantities(self) -> None:
        reading = compare(self.arms(untouched=10.0, edited=10.0), "perplexity")
        assert {"untouched", "edited", "ratio", "difference"} == set(reading.quantities)

    def test_an_unknown_arm_leaves_the_ratio_unknown(self) -> None:
        reading = compare(self.arms(untouched=math.inf, edited=math.inf), "perplexity")
        assert math.isnan(reading["ratio"].value)


def test_a_measurement_without_an_expectation_passes_and_still_tells_its_numbers() -> None:
    found = verdict(scalars(perplexity=13.9, loss=2.63), None)
    assert (Status.PASSED, "perplexity 13.9  loss 2.63") == (found.status, found.measured)


def test_an_unanswered_case_keeps_claim_and_reason() -> None:
    found = unanswered(planned(), Status.NOT_APPLICABLE, "needs model_type = gpt2; here it is llama")
    assert ("It holds.", "x.probe.yaml:3:5") == (found.claim, found.mark)


def test_a_verdict_survives_the_way_through_plain_data() -> None:
    found = verdict(by_layer(ratio=[math.inf, 5.0]), expect(clause("ratio", "gt", 1), quantifier=quantifier("every")))
    assert found == Verdict.from_dict(found.to_dict())
