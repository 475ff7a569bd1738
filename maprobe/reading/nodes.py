"""Marked nodes: the values of a probe file, each with the place where it was written."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from maprobe.source import SourceMark

__all__ = ["FrozenMapping", "Node", "Scalar", "child_path", "frozen", "rebased"]

Scalar = str | int | float | bool | None

_PLAIN_KEY = re.compile(r"^[\w.-]+$")


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a probe file.

    Attributes:
        value: a scalar, a tuple of nodes for a list, or a dict of nodes for a mapping.
        mark: where the value begins.
        key: where its key is written, for a value in a mapping.
    """

    value: Scalar | tuple[Node, ...] | dict[str, Node]
    mark: SourceMark
    key: SourceMark | None = None

    @property
    def entries(self) -> dict[str, Node]:
        """The entries of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> tuple[Node, ...]:
        """The items of a list; empty for anything else."""
        return self.value if isinstance(self.value, tuple) else ()

    @property
    def place(self) -> SourceMark:
        """Where the entry begins: at its key if it has one."""
        return self.key or self.mark

    def plain(self) -> Any:  # noqa: ANN401 - plain data of any type
        """Return the value without marks: scalars, lists and dicts."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        return self.value

    @property
    def size(self) -> int:
        """Number of values: this one and all within."""
        return 1 + sum(node.size for node in (*self.items, *self.entries.values()))

    def at(self, path: Iterable[str | int]) -> Node:
        """Return the node that a path of keys and indices leads to."""
        node = self
        for step in path:
            node = node.items[step] if isinstance(step, int) else node.entries[step]
        return node


class FrozenMapping(Mapping[str, Any]):
    """A mapping that can be hashed, so that a clause whose bound is one can be. Equal to a dict of the same items."""

    def __init__(self, items: Mapping[str, Hashable]) -> None:
        self._items = dict(sorted(items.items()))

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def frozen(value: Any) -> Any:  # noqa: ANN401
    """Return plain data in a form that can be hashed: lists as tuples, mappings as :class:`FrozenMapping`."""
    if isinstance(value, Mapping):
        return FrozenMapping({key: frozen(entry) for key, entry in value.items()})
    return tuple(frozen(entry) for entry in value) if isinstance(value, list | tuple) else value


def child_path(path: str, step: str | int) -> str:
    """Return the path of an entry or item, such as ``probes[0].expect.ratio``."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    if not _PLAIN_KEY.match(step):
        return f"{path}[{step!r}]"
    return f"{path}.{step}" if path else step


def rebased(node: Node, path: str, *, at: SourceMark | None = None, key: SourceMark | None = None) -> Node:
    """Return a copy of a node under another path; with ``at`` at that position throughout."""

    def moved(mark: SourceMark, path: str) -> SourceMark:
        return replace(at or mark, path=path)

    value = node.value
    if isinstance(value, dict):
        value = {
            name: rebased(
                entry, child_path(path, name), at=at, key=moved(entry.key or entry.mark, child_path(path, name))
            )
            for name, entry in value.items()
        }
    elif isinstance(value, tuple):
        value = tuple(rebased(entry, child_path(path, index), at=at) for index, entry in enumerate(value))
    return Node(value, moved(node.mark, path), key)
