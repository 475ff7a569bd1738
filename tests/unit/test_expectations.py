from __future__ import annotations

import math

import pytest

from maprobe.expectations import OPERATORS, number

BY_NAME = {operator.name: operator for operator in OPERATORS}


@pytest.mark.parametrize(
    ("name", "bound", "inside", "outside"),
    [
        ("gt", 10, 10.1, 10),
        ("gte", 10, 10, 9.9),
        ("lt", 10, 9.9, 10),
        ("lte", 10, 10, 10.1),
        ("eq", 3, 3.0, 3.1),
        ("approx", 100, 100.9, 101.1),
        ("approx", {"value": 100, "rel": 0.1}, 91, 89),
        ("approx", {"value": 0, "abs": 0.5}, -0.5, 0.6),
        ("between", (1, 2), 1, 2.01),
        ("in", (1, 2), 2, 3),
    ],
)
def test_an_operator_holds_inside_its_bound_and_not_outside(
    name: str, bound: object, inside: float, outside: float
) -> None:
    operator = BY_NAME[name]
    assert operator.holds(inside, bound)
    assert not operator.holds(outside, bound)
    for value in (inside, outside):
        margin = operator.margin(value, bound)
        assert margin is None or (margin >= 0) is operator.holds(value, bound) or margin == 0


@pytest.mark.parametrize(
    ("name", "bound", "observed", "margin"),
    [("gt", 1000, 412, -0.588), ("lt", 1.05, 1.0, 0.0476), ("gt", 0, 2, 2), ("between", (0, 2), 1, 0.5)],
)
def test_the_margin_is_the_room_relative_to_the_bound(name: str, bound: object, observed: float, margin: float) -> None:
    assert margin == pytest.approx(BY_NAME[name].margin(observed, bound), abs=1e-3)


def test_infinity_has_an_infinite_margin() -> None:
    assert math.inf == BY_NAME["gt"].margin(math.inf, 10)
    assert -math.inf == BY_NAME["lt"].margin(math.inf, 10)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (1000.0, "1000"), (0.123456, "0.1235"), (24433822.0, "2.443e+07"), (math.inf, "inf"), (True, "True")],
)
def test_numbers_read_as_people_write_them(value: float, text: str) -> None:
    assert text == number(value)
