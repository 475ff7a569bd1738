"""`domains` of inputs: from a marked node to what each domain is, and the schema of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from maprobe.cases import Domain
from maprobe.reading.faults import FaultList, Leaf, in_words, keys
from maprobe.reading.grammar import DOMAIN_KEYS, INPUT_LEAVES, SLUG
from maprobe.reading.nodes import Node

if TYPE_CHECKING:
    from maprobe.recipes import Corpus

__all__ = ["domains_of", "domains_schema"]

_ALL = "all"
_FEWEST = 2
_SOURCES = ("corpus", "file", "jsonl")


def domains_of(node: Node, corpora: Mapping[str, Corpus], faults: FaultList) -> tuple[Domain, ...]:
    """Read `domains`. The result is of use only where no fault was noted."""
    if len(node.entries) < _FEWEST:
        told = f"{in_words(node)} is not allowed" if not isinstance(node.value, dict) else "names too few domains"
        faults.add(node.mark, f"{told}; allowed: a mapping of {_FEWEST} domains or more, each by a name of your choice")
        return ()
    found = [_domain(name, entry, corpora, faults) for name, entry in node.entries.items()]
    return tuple(domain for domain in found if domain is not None)


def _domain(name: str, node: Node, corpora: Mapping[str, Corpus], faults: FaultList) -> Domain | None:
    SLUG.take(Node(name, node.place), faults)
    if name == _ALL:
        faults.add(node.place, f"{_ALL!r} stands for all domains together in tables; give this one another name")
    entries = keys(node, DOMAIN_KEYS, faults)
    named = [source for source in _SOURCES if source in entries]
    if len(named) != 1:
        if isinstance(node.value, dict):
            told = "names no source" if not named else f"names {len(named)} sources ({', '.join(named)})"
            faults.add(node.mark, f"{told}; allowed: exactly one of {', '.join(_SOURCES)}")
        return None
    source = named[0]
    if "field" in entries and source != "jsonl":
        faults.add(entries["field"].place, f"`field` belongs to `jsonl`, and the source is `{source}`; remove it")
    leaf = Leaf({"enum": _of_texts(corpora)}) if source == "corpus" else INPUT_LEAVES[source]
    value = leaf.take(entries[source], faults)
    field = INPUT_LEAVES["field"].take(entries["field"], faults) if "field" in entries else None
    return Domain(name=name, source=source, value=value or "", text_field=field or "text")  # type: ignore[arg-type]


def _of_texts(corpora: Mapping[str, Corpus]) -> list[str]:
    return sorted(name for name, corpus in corpora.items() if corpus.modality == "text")


def domains_schema(
    corpora: Mapping[str, Corpus], value: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Return the JSON Schema of `domains`.

    Args:
        corpora: the registered corpora.
        value: allows a placeholder in place of a value, where there may be one.
    """
    leaves = {
        "corpus": {"enum": _of_texts(corpora)},
        **{name: INPUT_LEAVES[name].schema for name in ("file", "jsonl", "field")},
    }
    properties = {name: {**value(leaves[name]), "description": meaning} for name, meaning in DOMAIN_KEYS.items()}
    one = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "oneOf": [{"required": [source]} for source in _SOURCES],
    }
    return {
        "type": "object",
        "propertyNames": {**SLUG.schema, "not": {"const": _ALL}},
        "additionalProperties": one,
        "minProperties": _FEWEST,
    }
