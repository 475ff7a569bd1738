from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maprobe.measurements.survey import largest, lower_median, meets, ratio, survey
from maprobe.recipes import Tap

TAP = Tap("block.out", 1)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200))
def test_the_median_is_the_lower_one_as_torch_has_it(values: list[float]) -> None:
    tensor = torch.tensor(values)
    assert float(tensor.median()) == lower_median(tensor)


def test_the_largest_entries_come_with_place_and_sign() -> None:
    hidden = torch.zeros(3, 5)
    hidden[2, 1], hidden[0, 4] = -7.0, 3.0
    found = largest(hidden, 2)
    assert [(2, 1, -7.0), (0, 4, 3.0)] == [(entry.position, entry.dim, entry.value) for entry in found]


def test_the_criterion_needs_more_than_100_and_at_least_1000_times_the_median() -> None:
    assert meets(100.1, 0.1)
    assert not meets(100.0, 0.01)
    assert meets(1000.0, 1.0)
    assert not meets(999.9, 1.0)


def test_a_near_miss_of_ratio_924_is_no_hit() -> None:
    hidden = torch.ones(4, 8)
    hidden[3, 5] = 924.0
    found = survey(hidden, TAP, 0, {})
    assert (1.0, ()) == (found.median, found.hits)


def test_every_entry_over_the_criterion_is_a_hit_largest_first() -> None:
    hidden = torch.full((4, 8), 0.5)
    hidden[0, 5], hidden[2, 1], hidden[1, 1] = 600.0, -900.0, 499.0
    hits = survey(hidden, TAP, 0, {}).hits
    assert [(2, 1, -900.0), (0, 5, 600.0)] == [(hit.position, hit.dim, hit.value) for hit in hits]


def test_two_folds_of_a_pass_survey_a_hidden_state_once() -> None:
    memo: dict[object, object] = {}
    first = survey(torch.ones(2, 2), TAP, 0, memo)
    assert first is survey(torch.zeros(2, 2), TAP, 0, memo)
    assert first is not survey(torch.zeros(2, 2), TAP, 1, memo)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_hidden_state_that_is_not_finite_has_no_median_and_no_hits(bad: float) -> None:
    hidden = torch.full((4, 8), 0.1)
    hidden[1, 1], hidden[0, 0] = bad, 5000.0
    found = survey(hidden, TAP, 0, {})
    assert math.isnan(found.median)
    assert () == found.hits


def test_the_ratio_to_a_median_of_zero_is_infinite_and_to_an_unknown_one_unknown() -> None:
    assert math.inf == ratio(5.0, 0.0)
    assert math.isnan(ratio(5.0, math.nan))
    assert math.isnan(ratio(math.inf, 1.0))


def test_half_precision_is_surveyed_in_float32() -> None:
    hidden = torch.full((4, 8), 0.25, dtype=torch.bfloat16)
    hidden[1, 1] = 512.0
    found = survey(hidden, TAP, 0, {})
    assert (0.25, 512.0) == (found.median, found.hits[0].value)
