"""Tables of text, drawn by tabulate to fit a width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from maprobe.reporting.escaping import markdown, one_line

__all__ = ["Grid", "draw", "titled"]

_MARKDOWN = ("github", "pipe")
_NARROWEST = 7  # a column is never made narrower than this, however many there are
_HEADER_PADDING = 2  # tabulate makes every column at least this much wider than its header


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table before it is drawn: unescaped text, and which columns hold numbers (aligned at the right)."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


def titled(title: str, body: str, format: str) -> str:  # noqa: A002 - tabulate's word for it
    """Return a body under its title: a Markdown heading of level 3, or a plain line."""
    return f"### {markdown(title)}\n\n{body}" if format in _MARKDOWN else f"{one_line(title)}\n{body}"


def draw(grid: Grid, *, format: str, width: int | None = None) -> str:  # noqa: A002
    """Return the table as text.

    Args:
        grid: the table; with no rows its headers stand alone.
        format: a format of tabulate; ``github`` and ``pipe`` are escaped as Markdown and never wrapped.
        width: columns of the terminal; the widest columns are wrapped until the table fits. None wraps nothing.
    """
    escape = markdown if format in _MARKDOWN else one_line
    headers = [escape(header) for header in grid.headers]
    rows = [[escape(cell) for cell in row] for row in grid.rows]
    widths = None
    if width is not None and rows and format not in _MARKDOWN:
        widths = _fitted(headers, rows, width - _rules(len(headers), format))
    return tabulate(
        rows,
        headers,
        tablefmt=format,
        disable_numparse=True,
        colalign=["right" if header in grid.numeric else "left" for header in grid.headers] if rows else None,
        maxcolwidths=widths,
        maxheadercolwidths=[fitted - _HEADER_PADDING for fitted in widths] if widths else None,
    )


def _rules(columns: int, format: str) -> int:  # noqa: A002
    """Return how many characters a line spends between cells; ruled formats have a bar and padding for each."""
    return 2 * (columns - 1) if format in ("simple", "plain") else 3 * columns + 1


def _fitted(headers: Sequence[str], rows: Sequence[Sequence[str]], available: int) -> list[int]:
    """Return column widths whose sum is at most ``available``, taken from the widest columns first."""
    widths = [
        max(len(header) + _HEADER_PADDING, *(len(row[column]) for row in rows)) for column, header in enumerate(headers)
    ]
    while sum(widths) > available and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths
