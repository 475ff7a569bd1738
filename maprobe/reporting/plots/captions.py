"""The words on pictures: what was measured on what, and tokens in which every character can be seen."""

from __future__ import annotations

import textwrap
from functools import lru_cache

from maprobe.reporting.escaping import one_line
from maprobe.reporting.report import ReadingUse

__all__ = ["described", "figure_of", "taken", "visible", "wrapped"]

_LONGEST = 14
_SPACE = "\u2423"  # an open box


def described(use: ReadingUse) -> str:
    """Return what was measured where, such as ``layerwise block.out all order=mean-first``."""
    circumstances = use.reading.circumstances
    return one_line((circumstances.measure if circumstances else "") or use.reading.kind)


def taken(use: ReadingUse) -> list[str]:
    """Return the lines that every picture has below its headline: the probes, the inputs, the edit."""
    lines = [f"{described(use)} (probe: {', '.join(dict.fromkeys(use.probes))})"]
    circumstances = use.reading.circumstances
    if circumstances:
        bos = f"BOS {circumstances.bos}; " if circumstances.bos else ""
        lines.append(one_line(f"{circumstances.inputs}; {bos}{circumstances.dtype}"))
        if circumstances.edit:
            lines.append(one_line(f"edited: {circumstances.edit}"))
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most that many characters, words kept whole where they fit."""
    return textwrap.wrap(text, max(width, 20)) or [""]


def visible(token: str) -> str:
    r"""Return a token's text with its white space shown: spaces at its ends as an open box, a line break as ``\n``.

    What cannot be printed, or has no shape in the font of the pictures, becomes its Python escape. A single mark, such
    as a full stop, stands in quotation marks. Long texts are cut.
    """
    shown = "".join(_seen(char) for char in token)
    inner = shown.strip(" ")
    before = len(shown) - len(shown.lstrip(" "))
    after = len(shown) - len(inner) - before
    told = _SPACE * before + inner + _SPACE * after if inner else _SPACE * len(shown)
    if len(inner) == 1 and not inner.isalnum():
        told = f"\u2018{told}\u2019"  # a full stop by itself would pass for dust
    return told if len(told) <= _LONGEST else told[: _LONGEST - 1] + "\u2026"


def _seen(char: str) -> str:
    if char == " ":
        return char
    if not char.isprintable() or ord(char) not in _shapes():
        return char.encode("unicode_escape").decode("ascii")
    return char


@lru_cache(maxsize=1)
def _shapes() -> frozenset[int]:
    """Return the characters that the font of the pictures can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


def figure_of(value: float) -> str:
    """Return a number for a label: whole from a thousand on, with thin spaces, else to three digits."""
    if abs(value) >= 1e3:  # noqa: PLR2004
        return f"{value:,.0f}".replace(",", "\u2009").replace("-", "\u2212")
    return f"{value:.3g}".replace("-", "\u2212")
