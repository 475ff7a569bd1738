"""Probe files written down in tests, and what reading them gives."""

from __future__ import annotations

from textwrap import dedent, indent

from small_registry import REGISTRY

from maprobe.cases import Probe
from maprobe.errors import ProbeFileError
from maprobe.reading.parsing import parse_text

NAME = "x.probe.yaml"
HEAD = "version: 1\nsuite: a-suite\n"


def probe_file(probe: str, *, head: str = "") -> str:
    """Return a file of one probe, whose first line of ``probe`` is line 6 (more by the lines of ``head``), column 5."""
    body = indent(dedent(probe).strip("\n"), "    ")
    return f"{HEAD}{dedent(head)}probes:\n  - id: a\n    claim: It holds.\n{body}\n"


def read(text: str, *, folder: str = "") -> tuple[Probe, ...]:
    return parse_text(dedent(text), REGISTRY, name=NAME, folder=folder)


def probe(text: str = "", *, head: str = "", folder: str = "") -> Probe:
    """Read one probe; without a ``measure`` of its own it measures perplexity."""
    if "measure:" not in text + head:
        text = f"measure: {{kind: perplexity}}\n{dedent(text)}"
    found = read(probe_file(text, head=head), folder=folder)
    assert len(found) == 1
    return found[0]


def faults(text: str) -> list[str]:
    """Return the messages for a file, one a line, each without the file's name."""
    try:
        read(text)
    except ProbeFileError as error:
        lines = str(error).splitlines()
        assert all(line.startswith(f"{NAME}:") for line in lines)
        return [line.removeprefix(f"{NAME}:") for line in lines]
    return []


def probe_faults(text: str, *, head: str = "") -> list[str]:
    return faults(probe_file(text, head=head))
