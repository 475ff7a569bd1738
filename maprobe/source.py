"""Where in a probe file something was written."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SourceMark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMark:
    """A position in a file, and the path of keys that leads to it.

    Attributes:
        file: the file as the user named it.
        line: line number, counted from 1.
        column: column number, counted from 1.
        path: path of keys, such as ``probes[0].expect.ratio``; empty for the file as a whole.
    """

    file: str
    line: int = 1
    column: int = 1
    path: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"
