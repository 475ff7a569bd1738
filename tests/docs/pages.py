"""Pages of the documentation as tests see them: sections, fenced examples, tables."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))

_HEADING = re.compile(r"^(?P<depth>#{1,6}) (?P<title>.+?)\s*$")
_RULE = re.compile(r"^\|[\s|:-]+\|$")
_CELLS = re.compile(r"(?<!\\)\|")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A fenced block: its language, its text, and the line that its text begins on."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass
class Section:
    """A heading and the lines below it down to the next heading of the same depth or less."""

    title: str
    lines: list[str] = field(default_factory=list)
    line: int = 0
    page: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def words(self) -> str:
        """The text with every run of white space as one space, to look for phrases that are wrapped."""
        return " ".join(self.text.split())

    def examples(self, language: str) -> list[Example]:
        found: list[Example] = []
        block: list[str] | None = None
        start, opened = 0, ""
        for number, line in enumerate(self.lines, start=self.line + 1):
            if not line.startswith("```"):
                if block is not None:
                    block.append(line)
            elif block is None:
                block, start, opened = [], number + 1, line.removeprefix("```").strip()
            else:
                if opened == language:
                    found.append(Example(self.page, start, language, "\n".join(block) + "\n"))
                block = None
        assert block is None, f"{self.page}: the block opened on line {start - 1} is never closed"
        return found

    def example(self, language: str) -> Example:
        found = self.examples(language)
        assert len(found) == 1, f"{self.title} has {len(found)} examples in {language}"
        return found[0]

    def table(self) -> list[list[str]]:
        """The rows of the section's first table, cell by cell, without its head."""
        rows: list[list[str]] = []
        for line in self.lines:
            if line.startswith("|"):
                rows.append([cell.strip().replace("\\|", "|") for cell in _CELLS.split(line)[1:-1]])
            elif rows:
                break
        assert not rows or _RULE.match("|" + "|".join(rows[1]) + "|"), f"the table of {self.title} has no head"
        return rows[2:]

    def sections(self, depth: int) -> list[Section]:
        """The sections of a depth within, in order; headings within fenced blocks are none."""
        found: list[Section] = []
        current: Section | None = None
        fenced = False
        for number, line in enumerate(self.lines, start=self.line + 1):
            fenced ^= line.startswith("```")
            heading = None if fenced else _HEADING.match(line)
            if heading and len(heading["depth"]) <= depth:
                current = Section(heading["title"], line=number, page=self.page)
                if len(heading["depth"]) == depth:
                    found.append(current)
            elif current is not None:
                current.lines.append(line)
        return found

    def section(self, title: str, depth: int) -> Section:
        found = [section for section in self.sections(depth) if section.title == title]
        assert len(found) == 1, f"{self.page} has {len(found)} sections called {title!r}"
        return found[0]


def page(name: str) -> Section:
    path = ROOT / "docs" / name
    return Section(name, path.read_text(encoding="utf-8").splitlines(), page=f"docs/{name}")


def names(text: str) -> list[str]:
    """What stands in code marks in a cell or text, fenced blocks left out."""
    return re.findall(r"`([^`]+)`", _FENCED.sub("", text))


def columns(rows: Sequence[Sequence[str]], *indexes: int) -> list[Any]:
    """The cells of one column, or tuples of those of several."""
    picked = [tuple(row[index] for index in indexes) for row in rows]
    return [cells[0] for cells in picked] if len(indexes) == 1 else picked


def whole_file(fragment: str) -> str:
    """Put a fragment of a probe, or a list of probes, into a file that holds no more than it must."""
    if fragment.lstrip().startswith("version:"):
        return fragment
    head = "version: 1\nsuite: fragments\nprobes:\n"
    if fragment.startswith("- "):
        return head + textwrap.indent(fragment, "  ")
    entries = ["id: fragment", "claim: It can be read."]
    if not re.search(r"^measure:", fragment, re.MULTILINE):
        kind = "perplexity" if re.search(r"^intervene:", fragment, re.MULTILINE) else "magnitude"
        entries.append(f"measure: {{kind: {kind}}}")
    probe = "\n".join(entries) + "\n" + fragment
    return head + "  - " + textwrap.indent(probe, "    ").lstrip()
