"""From a file to marked nodes: YAML 1.2 (and so JSON) as data, nothing constructed and nothing evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maprobe.errors import Fault, ProbeFileError
from maprobe.reading.budget import MAX_VALUES, Budget
from maprobe.reading.faults import FaultList
from maprobe.reading.nodes import Node, Scalar, child_path, rebased
from maprobe.reading.scalars import resolved
from maprobe.source import SourceMark

if TYPE_CHECKING:
    from ruamel.yaml.events import Event

__all__ = ["MAX_BYTES", "MAX_DEPTH", "load", "read_text"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32


def read_text(path: Path, name: str) -> str:
    """Return the text of a probe file.

    Raises:
        ProbeFileError: it cannot be read, is larger than :data:`MAX_BYTES`, or is not UTF-8.
    """
    try:
        size = path.stat().st_size
        data = b"" if size > MAX_BYTES else path.read_bytes()
    except OSError as error:
        raise _refused(name, f"cannot be read: {error.strerror or error}") from None
    if max(size, len(data)) > MAX_BYTES:
        raise _too_large(name, size)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start
        line = data.count(b"\n", 0, start) + 1
        column = start - data.rfind(b"\n", 0, start)
        raise _refused(
            name,
            f"not UTF-8: byte 0x{data[start]:02x} at offset {start} ({error.reason}); save the file as UTF-8",
            line=line,
            column=column,
        ) from None


def load(text: str, name: str, faults: FaultList) -> Node | None:
    """Return the one document of a text as marked nodes; None, with the fault noted, where there is none.

    Args:
        text: YAML 1.2, or JSON as its subset.
        name: the file as it is named in marks.
        faults: takes what is wrong with the text as YAML: syntax, duplicate keys, tags, what is too large.

    Raises:
        ProbeFileError: the text is larger than :data:`MAX_BYTES`, or holds too many values.
    """
    from ruamel.yaml import YAML  # loaded here, as most sessions of pytest read no probe file
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    if (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_BYTES:
        raise _too_large(name, size)
    text = text.removeprefix("\ufeff")
    composer = _Composer(YAML(typ="safe", pure=True).parse(text), name, faults)
    try:
        return composer.document()
    except _Unusable as error:
        faults.add(error.fault.mark, error.fault.message)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = SourceMark(file=name, line=mark.line + 1, column=mark.column + 1) if mark else composer.last
        faults.add(place, f"not YAML: {_problem(error)}")
    except ReaderError as error:
        before = text[: error.position]
        place = SourceMark(file=name, line=before.count("\n") + 1, column=error.position - before.rfind("\n"))
        character = error.character if isinstance(error.character, int) else ord(error.character)
        faults.add(place, f"not YAML: character U+{character:04X} may not stand in a text file; remove it")
    except (YAMLError, ValueError, OverflowError):
        # ruamel.yaml turns an escape beyond the last character of Unicode into one of the latter two.
        faults.add(composer.last, "not YAML: after this place something cannot be read; look for a wrong \\ escape")
    return None


def _problem(error: Any) -> str:  # noqa: ANN401 - MarkedYAMLError, imported where it is needed
    problem = " ".join(str(error.problem or error.context or "it cannot be read").split())
    if "mapping values are not allowed" in problem:
        return f"{problem}; put a text that holds ': ' in quotes, or check the indentation"
    if r"'\t'" in problem:
        return f"{problem}; indent with spaces"
    if "end of stream" in problem:
        return f"{problem}; close the quote or bracket"
    return f"{problem}; check the indentation, quotes and brackets up to here"


def _refused(name: str, message: str, *, line: int = 1, column: int = 1) -> ProbeFileError:
    return ProbeFileError([Fault(mark=SourceMark(file=name, line=line, column=column), message=message)])


def _too_large(name: str, size: int) -> ProbeFileError:
    return _refused(name, f"too large: {size:,} bytes; allowed: {MAX_BYTES:,}; put long texts in a file of their own")


class _Unusable(Exception):  # noqa: N818 - a signal within this module
    """The document cannot be read any further."""

    def __init__(self, mark: SourceMark, message: str) -> None:
        self.fault = Fault(mark=mark, message=message)


@dataclass
class _Composer:
    """Makes nodes of parser events. Aliases are copied out and counted, so that none can blow up."""

    events: Iterator[Event]
    name: str
    faults: FaultList
    anchors: dict[str, Node] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.last = SourceMark(file=self.name)
        self.budget = Budget(self.faults, MAX_VALUES, "each alias (*) counted as its value")

    def document(self) -> Node | None:
        """Return the root, or None for an empty file."""
        from ruamel.yaml.events import DocumentStartEvent, StreamEndEvent

        self._next()
        start = self._next()
        if isinstance(start, StreamEndEvent):
            return None
        if start.version not in (None, (1, 2)):
            version = ".".join(map(str, start.version))
            self.faults.add(self.last, f"%YAML {version} is not supported; allowed: 1.2, which needs no directive")
        root = self._node(self._next(), "", None, 0)
        self._next()
        if isinstance(self._next(), DocumentStartEvent):
            raise _Unusable(self.last, "a second document begins here; a file holds one: remove the `---`")
        return root

    def _next(self) -> Any:  # noqa: ANN401 - an Event of any kind
        event = next(self.events)
        self.last = SourceMark(file=self.name, line=event.start_mark.line + 1, column=event.start_mark.column + 1)
        return event

    def _node(self, event: Any, path: str, key: SourceMark | None, depth: int) -> Node:  # noqa: ANN401
        from ruamel.yaml.events import AliasEvent, MappingStartEvent, SequenceStartEvent

        mark = SourceMark(file=self.name, line=self.last.line, column=self.last.column, path=path)
        self.budget.spend(1, mark)
        if depth > MAX_DEPTH:
            raise _Unusable(mark, f"nested too deep; allowed: {MAX_DEPTH} levels")
        if isinstance(event, AliasEvent):
            return self._alias(event.anchor, mark, key)
        if event.tag is not None:
            self.faults.add(mark, f"tag {event.tag!r} is not read, as a probe file is data; remove it")
        before = self.budget.spent
        if isinstance(event, MappingStartEvent):
            node = Node(self._mapping(path, depth), mark, key)
        elif isinstance(event, SequenceStartEvent):
            node = Node(self._list(path, depth), mark, key)
        else:
            # An empty value has no place of its own: the parser is at the next token already.
            node = Node(
                self._scalar(event, mark), key if key and not event.value and event.style is None else mark, key
            )
        if event.anchor:
            self.anchors[event.anchor] = node
            self.sizes[event.anchor] = self.budget.spent - before
        return node

    def _alias(self, anchor: str, mark: SourceMark, key: SourceMark | None) -> Node:
        if anchor not in self.anchors:
            raise _Unusable(mark, f"alias *{anchor} stands for no value that ends before it; write the value out")
        self.budget.spend(self.sizes[anchor], mark)
        return rebased(self.anchors[anchor], mark.path, key=key)

    def _list(self, path: str, depth: int) -> tuple[Node, ...]:
        from ruamel.yaml.events import SequenceEndEvent

        items: list[Node] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            items.append(self._node(event, child_path(path, len(items)), None, depth + 1))
        return tuple(items)

    def _mapping(self, path: str, depth: int) -> dict[str, Node]:
        from ruamel.yaml.events import MappingEndEvent, ScalarEvent

        entries: dict[str, Node] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            plain = isinstance(event, ScalarEvent)
            name = event.value if plain else ""
            below = child_path(path, name) if plain else path
            place = SourceMark(file=self.name, line=self.last.line, column=self.last.column, path=below)
            wrong = self._wrong_key(event, name, entries)
            self._node(event, below, None, depth + 1)
            node = self._node(self._next(), below, place, depth + 1)
            if wrong:
                self.faults.add(place, wrong)
            else:
                entries[name] = node
        return entries

    def _wrong_key(self, event: Any, name: str, entries: dict[str, Node]) -> str:  # noqa: ANN401
        from ruamel.yaml.events import ScalarEvent

        if not isinstance(event, ScalarEvent):
            return "a key must be a plain text"
        if name == "<<":
            return "merge keys (<<) are not part of YAML 1.2; put what probes share under `defaults`"
        if name in entries:
            return f"key {name!r} is written twice, first on line {entries[name].place.line}; remove one"
        return ""

    def _scalar(self, event: Any, mark: SourceMark) -> Scalar:  # noqa: ANN401
        text: str = event.value
        if event.style is None and event.tag is None:
            try:
                return resolved(text)
            except ValueError as error:
                self.faults.add(mark, str(error))
                return 0
        try:
            # JSON writes a character beyond U+FFFF as two escapes.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.faults.add(mark, "a \\u escape is half of a surrogate pair; write the character itself")
            return ""
