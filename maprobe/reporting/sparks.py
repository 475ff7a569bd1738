"""Lines of one character a value, which show how a number goes along a series."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.:=+*#@"
_ABSENT, _UNKNOWN = "-", "?"
_WIDE = 100  # from this ratio of the largest to the smallest value on, heights are those of logarithms


def sparkline(values: Sequence[float | None], *, plain: bool = False, most: int | None = None) -> str:
    """Return one character for each value, the higher the larger.

    Values that lie far apart, all of them positive, are drawn by their logarithms.

    Args:
        values: in order; NaN is shown as ``?`` and None, for what has no value, as ``-``.
        plain: whether only ASCII is used.
        most: characters at most; of more values evenly spaced ones are shown, the first and the last among them.
    """
    shown = list(values)
    if most is not None and len(shown) > most:
        shown = [shown[round(index * (len(shown) - 1) / (most - 1))] for index in range(most)]
    finite = [value for value in shown if value is not None and math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    steep = low > 0 and high / low > _WIDE
    marks = _ASCII if plain else _BLOCKS
    return "".join(_mark(value, low, high, marks, steep=steep) for value in shown)


def _mark(value: float | None, low: float, high: float, marks: str, *, steep: bool) -> str:
    if value is None:
        return _ABSENT
    if math.isnan(value):
        return _UNKNOWN
    if math.isinf(value):
        return marks[-1] if value > 0 else marks[0]
    if low == high:
        return marks[len(marks) // 2 - 1]
    part = math.log(value / low) / math.log(high / low) if steep else (value - low) / (high - low)
    return marks[min(len(marks) - 1, int(part * len(marks)))]
