"""Reading the arguments of the scripts of this package: one sentence for whatever is wrong."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

__all__ = ["Parser", "least_zero", "positive", "probability", "share", "whole"]


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one sentence, and ends with exit status 2.

    Args:
        module: the script's module, as it stands after ``python -m``.
        about: what the script does.
    """

    def __init__(self, module: str, about: str) -> None:
        super().__init__(prog=f"python -m {module}", description=about, allow_abbrev=False)
        self._module = module

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one sentence."""
        self.exit(2, f"{self._module}: {message}; --help tells what there is\n")


def whole(least: int, most: int = 2**31) -> Callable[[str], int]:
    """Return a reader of whole numbers of a range, both ends included."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return number

    return read


def positive(text: str) -> float:
    """Read a number above 0."""
    return _number(text, "above 0", lambda number: number > 0)


def least_zero(text: str) -> float:
    """Read a number of at least 0."""
    return _number(text, "of at least 0", lambda number: number >= 0)


def probability(text: str) -> float:
    """Read a number from 0 to 1."""
    return _number(text, "from 0 to 1", lambda number: 0 <= number <= 1)


def share(text: str) -> float:
    """Read a number from 0, below 1."""
    return _number(text, "from 0, below 1", lambda number: 0 <= number < 1)


def _number(text: str, what: str, holds: Callable[[float], bool]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and holds(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number {what}")
    return number
