"""How `defaults`, a probe and an override become one mapping, and how parameters are filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from maprobe.errors import did_you_mean
from maprobe.reading.budget import Budget
from maprobe.reading.faults import FaultList, in_words
from maprobe.reading.grammar import OF_ONE_SOURCE, PARAMETER_NAME, SLUG, SOURCES, UNFIT
from maprobe.reading.nodes import Node, rebased
from maprobe.source import SourceMark

__all__ = ["MERGED_BY_KEY", "Filling", "ParameterSet", "merged", "parameter_sets"]

MERGED_BY_KEY = ("inputs", "measure", "intervene")
_HOLE = re.compile(r"\$\{[^}]*\}")


def merged(base: Mapping[str, Node], over: Mapping[str, Node]) -> dict[str, Node]:
    """Return the entries of ``base`` with those of ``over`` on top.

    ``inputs``, ``measure`` and ``intervene`` merge key by key, every other key is replaced whole. Inputs have one
    source, so that a source in ``over`` takes the place of the one in ``base``, and of the keys that go with it alone.
    """
    result = {**base, **over}
    for name in MERGED_BY_KEY:
        if name not in base or name not in over:
            continue
        if not isinstance(base[name].value, dict):
            result[name] = base[name]  # what is no mapping stands, so that its fault is told
        elif isinstance(over[name].value, dict):
            below = base[name].entries
            if name == "inputs" and any(source in over[name].entries for source in SOURCES):
                unfit = [key for source, keys in UNFIT.items() if source in over[name].entries for key in keys]
                replaced = {*SOURCES, *OF_ONE_SOURCE, *unfit}
                below = {key: node for key, node in below.items() if key not in replaced}
            result[name] = Node({**below, **over[name].entries}, over[name].mark, over[name].key)
    return result


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """One set of parameters of a probe, where it is written, and the part of the id that tells it from the others."""

    id: str
    values: Mapping[str, Node]
    mark: SourceMark


def parameter_sets(node: Node, faults: FaultList) -> tuple[ParameterSet, ...]:
    """Read `parametrize`; empty, with the faults noted, where it cannot be used."""
    if not node.items:
        faults.add(node.mark, f"{in_words(node)} is not allowed; allowed: a list of at least one set of parameters")
        return ()
    names = [name for name in node.items[0].entries if name != "id"]
    sets = [_parameter_set(item, names, faults) for item in node.items]
    return tuple(entry for entry in sets if entry) if all(sets) else ()


def _parameter_set(node: Node, names: list[str], faults: FaultList) -> ParameterSet | None:
    values = {name: entry for name, entry in node.entries.items() if name != "id"}
    if not values:
        faults.add(node.mark, "a set of parameters is a mapping of at least one name to its value")
        return None
    sound = True
    for name, entry in values.items():
        sound &= PARAMETER_NAME.take(Node(name, entry.place), faults) is not None
        if name not in names:
            faults.add(entry.place, f"parameter {name!r} is not in the first set{did_you_mean(name, names)}")
            sound = False
        for hole in _holes(entry):
            faults.add(hole.mark, "the value of a parameter holds no ${...} itself")
            sound = False
    for name in names:
        if name not in values:
            faults.add(node.mark, f"parameter {name!r} is missing here; every set has: {', '.join(names)}")
            sound = False
    given = node.entries.get("id")
    name = "-".join(filter(None, (_slug(values[name].plain()) for name in names if name in values)))
    if given is not None:
        name = SLUG.take(given, faults) or ""
    elif sound and not name:
        faults.add(node.mark, "no id can be made of these values; give the set an `id`")
    return ParameterSet(name, values, node.mark) if sound and name else None


def _slug(value: object) -> str:
    """Return a value as a part of an id; the sign of a number is kept, as it may be all that tells two apart."""
    if isinstance(value, dict):
        return "-".join(filter(None, (_slug(part) for pair in value.items() for part in pair)))
    if isinstance(value, list):
        return "-".join(filter(None, map(_slug, value)))
    sign = "minus-" if isinstance(value, int | float) and value < 0 else ""
    return sign + re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-")


class Filling:
    """Puts the values of parameters in the places of their placeholders.

    Attributes:
        used: the parameters that occur.
    """

    def __init__(self, parameters: Mapping[str, Node], faults: FaultList, budget: Budget) -> None:
        self._parameters = parameters
        self._faults = faults
        self._budget = budget
        self.used: set[str] = set()

    def __call__(self, node: Node) -> Node:
        """Return a node with every ``${name}`` in it replaced; what cannot be is noted as a fault."""
        if isinstance(node.value, dict):
            return Node(self.entries(node.value), node.mark, node.key)
        if isinstance(node.value, tuple):
            return Node(tuple(self(item) for item in node.value), node.mark, node.key)
        hole = _HOLE.search(node.value) if isinstance(node.value, str) else None
        return self._scalar(node, hole[0]) if hole else node

    def entries(self, entries: Mapping[str, Node]) -> dict[str, Node]:
        """Return the entries of a mapping with every ``${name}`` in their values replaced."""
        for name, node in entries.items():
            if _HOLE.search(name):
                self._faults.add(node.place, "${...} stands for a value, never for a key; write the key out")
        return {name: self(node) for name, node in entries.items()}

    def _scalar(self, node: Node, hole: str) -> Node:
        value = self._parameters.get(hole[2:-1])
        if value is not None:
            self.used.add(hole[2:-1])
        if value is None or hole != node.value:
            self._faults.add(node.mark, _unfilled(hole, node, self._parameters), final=True)
            return node
        self._budget.spend(value.size, node.mark)
        return rebased(value, node.mark.path, at=node.mark, key=node.key)


def _unfilled(hole: str, node: Node, parameters: Mapping[str, Node]) -> str:
    if hole != node.value:
        return f"{hole} within a longer text is not filled in; write the whole value as one parameter"
    if not parameters:
        return f"{hole} stands for a parameter, and there is no `parametrize` here"
    name = hole[2:-1]
    return f"no parameter is named {name!r}{did_you_mean(name, parameters)}; allowed: {', '.join(parameters)}"


def _holes(node: Node) -> list[Node]:
    if isinstance(node.value, str):
        return [node] if _HOLE.search(node.value) else []
    children = node.items or tuple(node.entries.values())
    return [hole for child in children for hole in _holes(child)]
