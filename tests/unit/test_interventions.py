from __future__ import annotations

from dataclasses import replace

import pytest
from probes_by_hand import ZERO

from maprobe.edits import Edit
from maprobe.errors import InterventionError
from maprobe.interventions.massive import MASSIVE_ENTRIES
from maprobe.planning import EditRequest
from maprobe.readings import Reading


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


SEVERAL = found(
    ("edited", 0, 0, 7, 100.0),
    ("edited", 0, 0, 9, -400.0),
    ("edited", 0, 4, 7, 250.0),
    ("edited", 1, 0, 7, 300.0),
    ("control", 0, 0, 1, 0.1),
    ("control", 0, 0, 2, 0.2),
    ("control", 0, 4, 3, 0.3),
    ("control", 1, 0, 4, 0.4),
)


def chosen(top: object, arm: str, set_to: str = "zero") -> list[tuple[int, int, int]]:
    request = replace(ZERO, set=set_to, options=(("top", top),))
    return [(edit.sequence, edit.position, edit.dim) for edit in MASSIVE_ENTRIES.edits(SEVERAL, request, arm)]


@pytest.mark.parametrize(
    ("top", "edited"),
    [
        (1, [(0, 0, 9), (1, 0, 7)]),
        (2, [(0, 0, 9), (0, 4, 7), (1, 0, 7)]),
        (3, [(0, 0, 7), (0, 0, 9), (0, 4, 7), (1, 0, 7)]),
        (99, [(0, 0, 7), (0, 0, 9), (0, 4, 7), (1, 0, 7)]),
        ("all", [(0, 0, 7), (0, 0, 9), (0, 4, 7), (1, 0, 7)]),
    ],
)
def test_top_keeps_the_largest_of_each_sequence(top: object, edited: list[tuple[int, int, int]]) -> None:
    assert edited == chosen(top, "edited")


@pytest.mark.parametrize(
    ("top", "control"),
    [
        (1, [(0, 0, 1), (1, 0, 4)]),
        (2, [(0, 0, 1), (0, 4, 3), (1, 0, 4)]),
        (3, [(0, 0, 1), (0, 0, 2), (0, 4, 3), (1, 0, 4)]),
        ("all", [(0, 0, 1), (0, 0, 2), (0, 4, 3), (1, 0, 4)]),
    ],
)
def test_the_control_edits_as_many_at_each_token_the_nearest_to_the_median_first(
    top: object, control: list[tuple[int, int, int]]
) -> None:
    assert control == chosen(top, "control")


def test_the_mean_is_that_of_the_entries_that_are_edited() -> None:
    request = replace(ZERO, set="mean", options=(("top", 1),))
    assert [-400.0, 300.0] == [edit.value for edit in MASSIVE_ENTRIES.edits(SEVERAL, request, "edited")]


def test_an_edit_of_the_largest_is_told_apart_from_one_of_all() -> None:
    told = [EditRequest(intervene=replace(ZERO, options=(("top", top),)), arm="edited") for top in ("all", 2)]
    assert ["massive at first-layer = zero", "massive top=2 at first-layer = zero"] == list(map(str, told))
