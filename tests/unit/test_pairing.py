"""Paired differences: what is paired with what, and the interval of their mean against other ways to find it."""

from __future__ import annotations

import math

import numpy
import pytest
from probes_by_hand import scalars

from maprobe.judging import compare
from maprobe.pairing import by_item, differences, mean_interval
from maprobe.readings import Reading


def with_items(value: float, *items: float, name: str = "loss", first: int = 0) -> Reading:
    reading = scalars(perplexity=value)
    records = tuple({"item": first + number, name: item} for number, item in enumerate(items))
    return Reading(kind=reading.kind, quantities=reading.quantities, records=records)


class TestInterval:
    def test_it_is_the_same_every_time(self) -> None:
        assert mean_interval([1.0, 2.0, 4.0], 0.95) == mean_interval([1.0, 2.0, 4.0], 0.95)

    def test_equal_differences_leave_nothing_open(self) -> None:
        assert (0.25, 0.25, 0.25) == mean_interval([0.25] * 7, 0.95)

    def test_of_a_single_one_only_its_value_is_known(self) -> None:
        mean, low, high = mean_interval([3.0], 0.95)
        assert 3.0 == mean
        assert math.isnan(low)
        assert math.isnan(high)

    def test_one_that_is_not_a_number_leaves_all_unknown(self) -> None:
        assert all(map(math.isnan, mean_interval([1.0, math.nan, 2.0], 0.95)))

    def test_infinite_ones_keep_the_ends_that_can_be_known(self) -> None:
        mean, low, high = mean_interval([math.inf] * 3, 0.95)
        assert (math.inf, math.inf, math.inf) == (mean, low, high)
        assert (math.inf, 1.0, math.inf) == mean_interval([1.0, math.inf], 0.95)

    def test_two_values_have_a_known_interval(self) -> None:
        # The mean of two draws is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
        assert (0.5, 0.0, 1.0) == mean_interval([0.0, 1.0], 0.95)
        assert (0.5, 0.5, 0.5) == mean_interval([0.0, 1.0], 0.45)

    def test_many_values_have_the_interval_of_the_normal_distribution(self) -> None:
        values = numpy.random.default_rng(1).normal(3.0, 2.0, 400)
        mean, low, high = mean_interval(values.tolist(), 0.95)
        half = 1.96 * values.std() / 20
        assert pytest.approx((values.mean(), values.mean() - half, values.mean() + half), abs=0.02) == (mean, low, high)

    def test_it_covers_the_true_mean_about_as_often_as_it_says(self) -> None:
        generator = numpy.random.default_rng(2)
        samples = [generator.choice([-1.0, 0.0, 1.0], 40, p=[0.5, 0.4, 0.1]) for _ in range(200)]
        ends = [mean_interval(sample.tolist(), 0.9)[1:] for sample in samples]
        assert 0.84 < sum(low <= -0.4 <= high for low, high in ends) / 200 < 0.96

    def test_a_higher_level_is_wider(self) -> None:
        values = [float(number) for number in range(20)]
        _, low, high = mean_interval(values, 0.9)
        _, lower, higher = mean_interval(values, 0.99)
        assert lower < low < high < higher

    def test_more_items_than_are_drawn_at_a_time_are_no_matter(self) -> None:
        mean, low, high = mean_interval([0.0, 1.0] * 3000, 0.95)
        assert 0.48 < low < mean == 0.5 < high < 0.52


class TestItems:
    def test_records_without_an_item_or_a_number_are_none(self) -> None:
        records = ({"item": 2, "loss": 1.5}, {"loss": 3.0}, {"item": 4}, {"item": 5, "loss": None})
        assert {2: 1.5} == by_item(Reading(kind="k", records=records), "loss")

    def test_items_are_paired_by_their_number(self) -> None:
        assert [1.0, -1.0] == differences({1: 4.0, 0: 2.0}, {0: 1.0, 1: 5.0})

    def test_passes_over_other_items_have_no_differences(self) -> None:
        assert [] == differences({0: 1.0}, {0: 1.0, 1: 2.0})


class TestComparison:
    def test_every_arm_is_paired_with_the_untouched_one(self) -> None:
        arms = {
            "untouched": with_items(10.0, 2.0, 3.0, 4.0),
            "edited": with_items(20.0, 3.0, 5.0, 7.0),
            "control": with_items(10.0, 2.0, 3.0, 4.0),
        }
        found = compare(arms, "perplexity", items="loss")  # type: ignore[arg-type]
        mean, low, high = mean_interval([1.0, 2.0, 3.0], 0.95)
        assert (mean, low, high) == tuple(found[f"paired.{name}"].value for name in ("mean", "low", "high"))
        assert (0.0, 0.0, 0.0) == tuple(found[f"control.paired.{name}"].value for name in ("mean", "low", "high"))
        assert (2.0, 2.0) == (found["ratio"].value, mean)

    def test_differences_that_point_one_way_are_seen_where_the_means_overlap(self) -> None:
        before = [float(number) for number in range(20)]
        arms = {"untouched": with_items(1.0, *before), "edited": with_items(1.0, *(value + 0.1 for value in before))}
        found = compare(arms, "perplexity", items="loss")  # type: ignore[arg-type]
        assert (0.1, 0.1) == pytest.approx((found["paired.low"].value, found["paired.high"].value))

    def test_a_level_can_be_asked_for(self) -> None:
        arms = {"untouched": with_items(1.0, 0.0, 0.0, 0.0), "edited": with_items(1.0, 1.0, 2.0, 3.0)}
        wide, narrow = (
            compare(arms, "perplexity", items="loss", level=level)["paired.low"].value  # type: ignore[arg-type]
            for level in (0.99, 0.5)
        )
        assert wide < narrow

    @pytest.mark.parametrize("edited", [scalars(perplexity=2.0), with_items(2.0, 1.0, 2.0, first=1)])
    def test_where_items_are_missing_the_rest_is_compared(self, edited: Reading) -> None:
        arms = {"untouched": with_items(1.0, 1.0, 2.0), "edited": edited}
        found = compare(arms, "perplexity", items="loss")  # type: ignore[arg-type]
        assert ["untouched", "edited", "ratio", "difference"] == list(found.quantities)

    def test_a_measurement_without_items_has_nothing_paired(self) -> None:
        arms = {"untouched": with_items(1.0, 1.0, 2.0), "edited": with_items(1.0, 1.0, 2.0)}
        assert "paired.mean" not in compare(arms, "perplexity").quantities  # type: ignore[arg-type]
