"""Model cards: Markdown with YAML front matter, of which the tool rewrites its own parts and nothing else.

In the front matter the keys of :data:`OWNED` are the tool's; in the body what stands between the two markers.
All other text was written by a person and is kept to the byte, which is why the file is cut at the places of the
tool's parts instead of being parsed and written anew.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node

from maprobe.errors import ReportError
from maprobe.readings import Scalar, plain
from maprobe.reporting.markdown import measured_sections
from maprobe.reporting.report import PropertyReport
from maprobe.reporting.wording import status, summary
from maprobe.reporting.writing import replace_file
from maprobe.verdicts import Verdict

__all__ = ["BEGIN", "END", "OWNED", "update_card", "write_card"]

BEGIN = "<!-- maprobe:measured:begin -->"
END = "<!-- maprobe:measured:end -->"
OWNED = ("maprobe_card", "checkpoint", "digests", "measured")
VERSION = 1

_FRONT = re.compile(r"\A(?P<open>\ufeff?---[ \t]*\r?\n)(?P<yaml>.*?)(?P<close>^---[ \t]*(?:\r?\n|\Z))", re.S | re.M)
_UNFINISHED = re.compile(r"\A\ufeff?---[ \t]*\r?\n")


@dataclass(frozen=True, slots=True)
class _Span:
    """Characters of a text that belong to one key of its front matter, and the value it has now."""

    start: int
    end: int
    value: Node


def write_card(path: Path, report: Mapping[str, Any], checkpoint: str) -> None:
    """Write what a report says of one checkpoint into a card, which is made if it does not exist.

    Raises:
        ReportError: the card is malformed or another checkpoint's, the report holds no such checkpoint, or the file
            cannot be read or written; the card is then unchanged.
    """
    try:
        text = path.read_bytes().decode("utf-8") if path.exists() else None
    except OSError as error:
        raise ReportError(f"card {path} cannot be read: {error.strerror or error}; name a file") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"card {path} is not UTF-8 text ({error}); save it as UTF-8") from error
    try:
        updated = update_card(text, report, checkpoint)
    except ReportError as error:
        raise ReportError(f"card {path}: {error}") from error
    replace_file(path, updated)


def update_card(text: str | None, report: Mapping[str, Any], checkpoint: str) -> str:
    """Return the card's text with the tool's parts written anew.

    Args:
        text: the card as it stands; None makes a new one.
        report: the report's plain data.
        checkpoint: label of the checkpoint.

    Raises:
        ReportError: the card is malformed or another checkpoint's, or the report holds no such checkpoint.
    """
    part = PropertyReport.from_dict(report).of(checkpoint)
    old = _skeleton(checkpoint) if text is None else text
    newline = "\r\n" if "\r\n" in old else "\n"
    front, body = _halves(old, newline)
    updated = _with_front(front, _facts(part), newline)
    section = "\n\n".join([f"{summary(part)}.", *measured_sections(part)]).replace("\n", newline)
    return updated + _with_body(body, section, newline)


def _skeleton(checkpoint: str) -> str:
    return (
        "---\n"
        "# Facts that others published, each with its source. This list is yours: the tool never changes it.\n"
        "published: []\n"
        "---\n\n"
        f"# {checkpoint}\n\n"
        "What stands outside the two markers below is yours, too.\n\n"
        f"{BEGIN}\n{END}\n"
    )


def _halves(text: str, newline: str) -> tuple[str, str]:
    """Return the front matter with its fences, and the rest."""
    match = _FRONT.match(text)
    if match:
        return text[: match.end()], text[match.end() :]
    if _UNFINISHED.match(text):
        raise ReportError("the front matter has no closing line `---`; add it below the last key")
    return f"---{newline}---{newline}", newline + text


def _with_front(front: str, facts: Mapping[str, Any], newline: str) -> str:
    """Replace the owned keys where they stand; those that are missing follow the last key."""
    match = _FRONT.match(front)
    assert match, "the fences were found before"
    yaml = match["yaml"]
    spans = _spans(yaml)
    _same_checkpoint(spans, facts)
    for key in sorted((key for key in facts if key in spans), key=lambda key: -spans[key].start):
        span = spans[key]
        yaml = yaml[: span.start] + _dump({key: facts[key]}, newline) + yaml[span.end :]
    yaml += _dump({key: value for key, value in facts.items() if key not in spans}, newline)
    if set(_spans(yaml)) != {*spans, *facts}:
        raise ReportError("no key can be added at the end of the front matter; end it with a `key: value` line")
    return match["open"] + yaml + match["close"]


def _spans(yaml: str) -> dict[str, _Span]:
    """Find where each top-level key begins and ends; comments and blank lines below it are not its own."""
    entries = _entries(yaml)
    lines = yaml.splitlines(keepends=True)
    offsets = [0, *itertools.accumulate(len(line) for line in lines)]
    starts = [key.start_mark.line for key, _ in entries]
    spans: dict[str, _Span] = {}
    for (key, value), start, following in zip(entries, starts, [*starts[1:], len(lines)], strict=False):
        name = str(key.value)
        if name in spans:
            raise ReportError(f"the front matter has the key {name!r} twice; keep one of them")
        end = following
        while end > start + 1 and _is_margin(lines[end - 1]):
            end -= 1
        spans[name] = _Span(offsets[start], offsets[end], value)
    return spans


def _entries(yaml: str) -> list[tuple[Node, Node]]:
    """Return the key and value nodes of the front matter; nothing in it is constructed."""
    try:
        node = YAML(typ="safe", pure=True).compose(yaml)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at its line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "malformed"
        raise ReportError(f"the front matter is not YAML{place} ({problem}); mend it by hand") from error
    if node is None:
        return []
    if not isinstance(node, MappingNode) or node.flow_style or node.start_mark.column:
        raise ReportError(
            "the front matter is not a list of keys, each at the start of a line; write it as `key: value` lines"
        )
    return list(node.value)


def _is_margin(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _same_checkpoint(spans: Mapping[str, _Span], facts: Mapping[str, Any]) -> None:
    """Refuse to write one checkpoint's figures into another's card."""
    node = spans["checkpoint"].value if "checkpoint" in spans else None
    entries = node.value if isinstance(node, MappingNode) else []
    wanted = facts["checkpoint"]["label"]
    for key, value in entries:
        if key.value == "label" and value.value != wanted:
            raise ReportError(f"it is the card of checkpoint {value.value!r}, not of {wanted!r}; name another card")


def _with_body(body: str, section: str, newline: str) -> str:
    """Replace what stands between the markers; without any, append them with the section."""
    lines = body.splitlines(keepends=True)
    places = {marker: [i for i, line in enumerate(lines) if line.strip() == marker] for marker in (BEGIN, END)}
    begins, ends = places[BEGIN], places[END]
    block = f"{newline}{section}{newline}{newline}"
    if not begins and not ends:
        gap = "" if not body or body.endswith(newline * 2) else newline if body.endswith("\n") else newline * 2
        return f"{body}{gap}{BEGIN}{newline}{block}{END}{newline}"
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise ReportError(
            f"it has {len(begins)} lines `{BEGIN}` and {len(ends)} lines `{END}`; there must be one of each, in this "
            f"order, or none"
        )
    return "".join(lines[: begins[0] + 1]) + block + "".join(lines[ends[0] :])


def _facts(part: PropertyReport) -> dict[str, Any]:
    """Return the values of the keys that the tool owns."""
    provenance = part.checkpoints[0]
    how = ("dtype", "device", "attention", "versions")
    return {
        "maprobe_card": VERSION,
        "checkpoint": {key: provenance[key] for key in ("label", "reference", "resolved", "parameters")},
        "digests": {key: provenance[f"{key}_digest"] for key in ("weights", "config", "tokenizer")},
        "measured": {
            "started": part.started,
            "command": part.command,
            **{key: provenance[key] for key in how},
            "results": [_result(verdict) for verdict in part.verdicts],
        },
    }


def _result(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a card keeps it: the status, and each deciding number where it was found."""
    numbers: list[dict[str, Scalar]] = []
    for finding in verdict.findings:
        entry = {finding.quantity: plain(finding.observed), **finding.labels}
        if entry not in numbers:
            numbers.append(entry)
    told: dict[str, Any] = {"suite": verdict.suite, "probe": verdict.probe, "status": status(verdict).lower()}
    if numbers:
        told["measured"] = numbers
    elif verdict.measured:
        told["measured"] = verdict.measured
    if verdict.reason:
        told["reason"] = verdict.reason
    if verdict.reading and verdict.reading.circumstances:
        told["inputs"] = str(verdict.reading.circumstances)
    return told


def _dump(values: Mapping[str, Any], newline: str) -> str:
    if not values:
        return ""
    yaml = YAML()
    yaml.width = 4096  # one value a line, so that a change of one figure is a change of one line
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(dict(values), stream)
    return stream.getvalue().replace("\n", newline)
