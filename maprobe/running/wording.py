"""What a library's exception says, made fit for the middle of a sentence."""

from __future__ import annotations

__all__ = ["one_line"]

_LONGEST = 240
_TERSE = (ArithmeticError, AttributeError, LookupError, TypeError)  # whose text alone says little


def one_line(error: BaseException) -> str:
    """Return what an exception says on one line, cut to the length of a sentence."""
    text = " ".join(str(error).split())
    if isinstance(error, _TERSE) or not text:
        text = f"{type(error).__name__}: {text}"
    return (text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...").rstrip(".: ")
