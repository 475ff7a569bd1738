"""Saying how far along something is, without knowing where it is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Bar", "Progress", "Silent"]


class Bar(Protocol):
    """One thing under way."""

    def advance(self, amount: int = 1) -> None:
        """Report that ``amount`` more of the total is done."""


class Progress(Protocol):
    """Where progress is shown. The terminal's shows bars with the time left; the silent one shows nothing."""

    def bar(self, what: str, total: int | None, unit: str = "it") -> AbstractContextManager[Bar]:
        """Show a bar for the time of the context; ``unit`` ``"B"`` is scaled as bytes."""

    def foreign(self) -> AbstractContextManager[bool]:
        """Let a library show bars of its own for the time of the context; yields whether it may."""


class _SilentBar:
    def advance(self, amount: int = 1) -> None:
        pass


class Silent:
    """Shows nothing."""

    @contextmanager
    def bar(self, what: str, total: int | None, unit: str = "it") -> Iterator[Bar]:  # noqa: ARG002 - a protocol
        """Yield a bar that nobody sees."""
        yield _SilentBar()

    @contextmanager
    def foreign(self) -> Iterator[bool]:
        """Yield False: libraries keep quiet too."""
        yield False
