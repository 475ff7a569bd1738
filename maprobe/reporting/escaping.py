"""Making text from outside harmless in a terminal, in Markdown and in CSV.

Token texts, labels and reasons may hold anything: line breaks, terminal escapes, pipes, HTML, formulas.
"""

from __future__ import annotations

import re

__all__ = ["csv_text", "fenced", "markdown", "one_line"]

_LINE_BREAKS = re.compile(r"[ \t]*[\r\n]+\s*")
# An underscore within a word, and a < or & that opens nothing, mean nothing to Markdown and stay readable.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|<(?=[A-Za-z/!?])|&(?=[A-Za-z#])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: str) -> str:
    """Return the text as one line in which every character can be seen.

    Line breaks become a space; other control, format and surrogate characters become their Python escapes, so
    that no text can move the cursor, colour the terminal or reverse the reading direction.
    """
    joined = _LINE_BREAKS.sub(" ", text)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in joined)


def markdown(text: str) -> str:
    """Return the text so that GitHub-flavoured Markdown shows it as it is, within a table cell too."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def fenced(text: str, language: str = "text") -> str:
    """Return lines as a code block whose fence no run of backticks in them can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def csv_text(text: str) -> str:
    """Return the text so that no spreadsheet takes it for a formula: such a cell gains a leading apostrophe."""
    guard = "'" if text.lstrip(" ").startswith(_FORMULA) else ""
    return guard + one_line(text)
