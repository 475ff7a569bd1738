from __future__ import annotations

from dataclasses import replace

import pytest
from probes_by_hand import ZERO

from maprobe.errors import InterventionError
from maprobe.interventions.massive import MASSIVE_ENTRIES
from maprobe.readings import Reading
from maprobe.recipes import Edit


def found(*entries: tuple[str, int, int, int, float]) -> Reading:
    keys = ("arm", "sequence", "position", "dim", "value")
    return Reading(kind="massive", records=tuple({"layer": 2, **dict(zip(keys, e, strict=True))} for e in entries))


READING = found(
    ("edited", 0, 0, 7, 100.0),
    ("edited", 1, 0, 7, 300.0),
    ("edited", 1, 5, 7, 900.0),
    ("edited", 0, 0, 9, -50.0),
    ("control", 0, 0, 1, 0.5),
    ("control", 1, 0, 2, -0.3),
)


def values(set_to: str, arm: str, **more: object) -> list[float]:
    request = replace(ZERO, set=set_to, **more)
    return [edit.value for edit in MASSIVE_ENTRIES.edits(READING, request, arm)]


def test_zero_sets_every_located_entry_to_zero() -> None:
    edits = MASSIVE_ENTRIES.edits(READING, ZERO, "edited")
    assert Edit(layer=2, sequence=1, position=5, dim=7, value=0.0) in edits
    assert 4 == len(edits)


def test_a_value_is_set_as_given() -> None:
    assert [3.5] * 4 == values("value", "edited", value=3.5)


def test_the_mean_is_taken_by_dim_apart_for_the_first_token_and_later_ones() -> None:
    assert [200.0, 200.0, 900.0, -50.0] == values("mean", "edited")


def test_the_control_arm_edits_the_control_entries_by_the_same_rule() -> None:
    assert [0.0, 0.0] == values("zero", "control")
    assert [0.1, 0.1] == pytest.approx(values("mean", "control"))


def test_the_mean_over_one_sequence_is_refused_since_it_would_edit_nothing() -> None:
    one = found(("edited", 0, 0, 7, 100.0))
    with pytest.raises(InterventionError, match="at least 2 sequences"):
        MASSIVE_ENTRIES.edits(one, replace(ZERO, set="mean"), "edited")
