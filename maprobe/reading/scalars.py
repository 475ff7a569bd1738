"""Plain scalars as YAML 1.2 reads them: the core schema (YAML 1.2.2, section 10.3.2).

There are no dates, `no` and `on` are texts, `1e3` is a number, and a leading zero says nothing: `010` is ten.
"""

from __future__ import annotations

import math
import re

from maprobe.reading.nodes import Scalar

__all__ = ["resolved"]

_LARGEST_INTEGER = 1 << 53
_MOST_DIGITS = 24
_CONSTANTS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_A_NUMBER = (".nan", ".NaN", ".NAN")


def resolved(text: str) -> Scalar:
    """Return the value of a scalar written without quotes.

    Raises:
        ValueError: it is NaN, or a number out of range; the text says what is allowed.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text in _NOT_A_NUMBER:
        raise ValueError(f"{text} is not allowed, as nothing compares to it; write a number")
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError(f"{text[:_MOST_DIGITS]} is too large for a number of 64 bits; write .inf for infinity")
        return number
    return text


def _integer(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    # Digits are counted first: to convert very many is slow, and Python refuses it.
    number = int(text, base) if len(text) <= _MOST_DIGITS else None
    if number is None or abs(number) > _LARGEST_INTEGER:
        raise ValueError(f"{text[:_MOST_DIGITS]} is too large; allowed: integers to 2^53, or a decimal such as 1e20")
    return number
