"""The operators of expectations and conditions: what a bound looks like, when it holds, and by how much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from maprobe.recipes import Operator

__all__ = ["OPERATORS", "number", "together"]

_NUMBER = {"type": "number"}
_SCALAR = {"type": ["number", "string", "boolean"]}
_RELATIVE_TOLERANCE = 0.01


def number(value: Any) -> str:  # noqa: ANN401 - bounds and observed values are of any plain type
    """Return a value as people read it: four significant digits, from a thousand to a million whole."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    if magnitude < 1e6 and (value == int(value) or magnitude >= 1e3):  # noqa: PLR2004 - see the docstring
        return f"{value + 0:.0f}"  # + 0 turns -0.0 into 0
    return f"{value:.4g}"


def together(clauses: Iterable[str]) -> str:
    """Join comparisons in words; what all of them end with from ``in`` on, a quantifier, is said once."""
    told = list(dict.fromkeys(clauses))
    first = told[0] if told else ""
    starts = (index for index in range(len(first)) if first.startswith(" in ", index))
    shared = next((first[start:] for start in starts if all(clause.endswith(first[start:]) for clause in told)), "")
    return " and ".join(clause.removesuffix(shared) for clause in told) + shared


def _room(observed: float, bound: float, sign: int) -> float | None:
    """Return the distance to the bound as a share of it, or the plain distance where the bound is 0."""
    if math.isinf(observed) or math.isinf(bound):
        return None if observed == bound else math.copysign(math.inf, sign * (observed - bound))
    distance = sign * (observed - bound)
    return distance / abs(bound) if bound else distance


def _ordered(name: str, symbol: str, sign: int, holds: Callable[[float, float], bool], meaning: str) -> Operator:
    return Operator(
        name=name,
        meaning=meaning,
        schema=_NUMBER,
        holds=holds,
        margin=lambda observed, bound: _room(observed, bound, sign),
        words=lambda bound: f"{symbol} {number(bound)}",
    )


def _tolerance(bound: Any) -> tuple[float, float]:  # noqa: ANN401
    if not isinstance(bound, Mapping):
        return float(bound), abs(float(bound)) * _RELATIVE_TOLERANCE
    value = float(bound["value"])
    if "abs" in bound:
        return value, float(bound["abs"])
    return value, abs(value) * float(bound.get("rel", _RELATIVE_TOLERANCE))


def _approx_margin(observed: float, bound: Any) -> float | None:  # noqa: ANN401
    value, tolerance = _tolerance(bound)
    if not tolerance or math.isinf(observed):
        return None
    return 1 - abs(observed - value) / tolerance


def _between_margin(observed: float, bound: Any) -> float | None:  # noqa: ANN401
    low, high = bound
    nearer = min(observed - low, high - observed)
    return nearer / (high - low) if high > low else None


OPERATORS = (
    _ordered("gt", ">", 1, lambda observed, bound: observed > bound, "greater than"),
    _ordered("gte", ">=", 1, lambda observed, bound: observed >= bound, "greater than or equal to"),
    _ordered("lt", "<", -1, lambda observed, bound: observed < bound, "less than"),
    _ordered("lte", "<=", -1, lambda observed, bound: observed <= bound, "less than or equal to"),
    Operator(
        name="eq",
        meaning="equal to, exactly",
        schema=_SCALAR,
        holds=lambda observed, bound: bool(observed == bound),
        margin=lambda observed, bound: None,  # noqa: ARG005 - equality has no room
        words=lambda bound: f"= {number(bound)}",
    ),
    Operator(
        name="approx",
        meaning="within a tolerance of: a number (1 %), or {value: V, rel: R} or {value: V, abs: A}",
        schema={
            "oneOf": [
                _NUMBER,
                {
                    "type": "object",
                    "properties": {
                        "value": _NUMBER,
                        "rel": {"type": "number", "exclusiveMinimum": 0},
                        "abs": {"type": "number", "exclusiveMinimum": 0},
                    },
                    "required": ["value"],
                    "additionalProperties": False,
                },
            ]
        },
        holds=lambda observed, bound: abs(observed - _tolerance(bound)[0]) <= _tolerance(bound)[1],
        margin=_approx_margin,
        words=lambda bound: f"= {number(_tolerance(bound)[0])} +- {number(_tolerance(bound)[1])}",
    ),
    Operator(
        name="between",
        meaning="from the first number to the second, both included",
        schema={"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
        holds=lambda observed, bound: bool(bound[0] <= observed <= bound[1]),
        margin=_between_margin,
        words=lambda bound: f"in {number(bound[0])}..{number(bound[1])}",
    ),
    Operator(
        name="in",
        meaning="one of the values of a list",
        schema={"type": "array", "items": _SCALAR, "minItems": 1},
        holds=lambda observed, bound: observed in bound,
        margin=lambda observed, bound: None,  # noqa: ARG005 - membership has no room
        words=lambda bound: f"one of {', '.join(number(value) for value in bound)}",
    ),
)
