"""From a probe file to probes: every fault of the file at once, each with its place and what is allowed there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maprobe.cases import Probe
from maprobe.reading.budget import MAX_READ, Budget
from maprobe.reading.faults import FaultList, in_words, keys
from maprobe.reading.grammar import NOT_IN_DEFAULTS, PROBE_KEYS, SLUG, TOP_KEYS, VERSIONS
from maprobe.reading.loading import load, read_text
from maprobe.reading.merging import MERGED_BY_KEY, Filling, ParameterSet, merged, parameter_sets
from maprobe.reading.nodes import Node
from maprobe.reading.probes import Heading, prose, read_probe
from maprobe.reading.requests import Context
from maprobe.registry import Registry
from maprobe.source import SourceMark

__all__ = ["parse_file", "parse_text"]


def parse_file(path: Path, registry: Registry, *, name: str | None = None) -> tuple[Probe, ...]:
    """Read a probe file.

    Args:
        path: the file.
        registry: the recipes that may be named in it.
        name: how the file is called in marks and messages; None for the path as given.

    Raises:
        ProbeFileError: with every fault of the file.
    """
    name = str(path) if name is None else name
    return parse_text(read_text(path, name), registry, name=name, folder=str(path.parent))


def parse_text(text: str, registry: Registry, *, name: str, folder: str = "") -> tuple[Probe, ...]:
    """Read the text of a probe file.

    Args:
        text: YAML 1.2, or JSON.
        registry: the recipes that may be named in it.
        name: how the file is called in marks and messages.
        folder: the folder that relative paths start from.

    Raises:
        ProbeFileError: with every fault of the text.
    """
    faults = FaultList()
    root = load(text, name, faults)
    probes: tuple[Probe, ...] = ()
    if root is not None:
        budget = Budget(faults, MAX_READ, "counted anew for each probe, set of parameters and override")
        probes = _File(Context(registry=registry, faults=faults, budget=budget, folder=folder)).probes(root)
    elif not faults:
        faults.add(SourceMark(file=name), "the file is empty; it needs `version: 1`, `suite` and `probes`")
    faults.raise_if_any()
    return probes


@dataclass
class _File:
    """A probe file being read."""

    context: Context
    suite: str = ""
    cite: str = ""
    defaults: Mapping[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def faults(self) -> FaultList:
        return self.context.faults

    def probes(self, root: Node) -> tuple[Probe, ...]:
        """Read the whole file; of use only where no fault was noted."""
        if "version" in root.entries and not self._supported(root.entries["version"]):
            return ()  # what another version allows is not known here
        entries = keys(root, TOP_KEYS, self.faults, required=("version", "suite", "probes"))
        for name in ("suite", "cite"):
            if name in entries:
                Filling({}, self.faults, self.context.budget)(entries[name])
        self.suite = (SLUG.take(entries["suite"], self.faults) or "") if "suite" in entries else ""
        self.cite = prose(entries.get("cite"), self.faults)
        if "defaults" in entries:
            self.defaults = self._defaults(entries["defaults"])
        listed = entries.get("probes")
        if listed is not None and not listed.items:
            self.faults.add(listed.mark, f"{in_words(listed)} is not allowed; allowed: a list of at least one probe")
        return tuple(probe for node in (listed.items if listed else ()) for probe in self._instances(node))

    def _supported(self, node: Node) -> bool:
        if isinstance(node.value, int) and not isinstance(node.value, bool) and node.value in VERSIONS:
            return True
        told = ", ".join(map(str, VERSIONS))
        self.faults.add(node.mark, f"{in_words(node)} is not a version of this format; supported: {told}")
        return False

    def _defaults(self, node: Node) -> dict[str, Node]:
        entries = keys(node, PROBE_KEYS, self.faults)
        for name in NOT_IN_DEFAULTS:
            if name in entries:
                self.faults.add(entries.pop(name).place, f"`{name}` belongs to each probe, not to `defaults`")
        return entries

    def _instances(self, node: Node) -> list[Probe]:
        """Read one probe, once for each set of its parameters."""
        own = keys(node, PROBE_KEYS, self.faults, required=("id", "claim"))
        if not own:
            return []
        identity = SLUG.take(own["id"], self.faults) if "id" in own else None
        sets = [ParameterSet("", {}, own["id"].mark if "id" in own else node.mark)]
        if "parametrize" in own:
            sets = list(parameter_sets(own["parametrize"], self.faults))
        kept = {name: entry for name, entry in own.items() if name not in ("id", "parametrize")}
        below = {name: entry for name, entry in self.defaults.items() if name not in kept or name in MERGED_BY_KEY}
        used: set[str] = set()
        found = []
        for parameters in sets:
            full = "-".join(filter(None, (identity, parameters.id))) or node.mark.path
            if identity:
                self._register(full, parameters.mark)
            with self.faults.within(node.mark.path, full, parametrized=bool(parameters.values)):
                filling = Filling(parameters.values, self.faults, self.context.budget)
                # Filled in before they are merged, since a parameter may stand for what is merged key by key.
                entries = merged(filling.entries(below), filling.entries(kept))
                used |= filling.used
                heading = Heading(id=full, suite=self.suite, cite=self.cite, mark=node.mark)
                found.append(read_probe(entries, heading, self.context))
        self._refuse_unused(sets, used)
        return [probe for probe in found if probe]

    def _register(self, identity: str, mark: SourceMark) -> None:
        if identity in self.lines:
            line = self.lines[identity]
            self.faults.add(mark, f"id {identity!r} is taken on line {line}; choose another `id` here")
        self.lines.setdefault(identity, mark.line)

    def _refuse_unused(self, sets: list[ParameterSet], used: set[str]) -> None:
        for name, entry in sets[0].values.items() if sets else ():
            if name not in used:
                told = f"write ${{{name}}} where it belongs, or remove it"
                self.faults.add(entry.place, f"parameter {name!r} is not used; {told}")
