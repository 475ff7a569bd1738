"""Progress bars in a terminal; silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tqdm import tqdm

from maprobe.progress import Bar

__all__ = ["TerminalProgress"]


class _TqdmBar:
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def advance(self, amount: int = 1) -> None:
        self._bar.update(amount)


class TerminalProgress:
    """Shows tqdm bars on standard error if that is a terminal.

    Args:
        uncaptured: context in which standard error is the real one (under pytest, capture is suspended).
        newline: moves to a fresh line before a bar is drawn, so that it does not overwrite what stands there.
    """

    def __init__(
        self,
        uncaptured: Callable[[], AbstractContextManager[object]] = nullcontext,
        newline: Callable[[], None] = lambda: None,
    ) -> None:
        self._uncaptured = uncaptured
        self._newline = newline

    @contextmanager
    def bar(self, what: str, total: int | None, unit: str = "it") -> Iterator[Bar]:
        """Show a bar for the time of the context, with the time left."""
        with self._uncaptured():
            seen = sys.stderr.isatty()
            if seen:
                self._newline()
            with tqdm(
                desc=what,
                total=total,
                unit=unit,
                unit_scale=unit == "B",
                leave=False,
                disable=not seen,
                delay=0.5,
                dynamic_ncols=True,
            ) as shown:
                yield _TqdmBar(shown)

    @contextmanager
    def foreign(self) -> Iterator[bool]:
        """Let a library draw bars of its own if standard error is a terminal."""
        with self._uncaptured():
            seen = sys.stderr.isatty()
            if seen:
                self._newline()
                yield True
                return
        # Outside the suspension, so that whatever a library prints all the same is captured.
        yield False
