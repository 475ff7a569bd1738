"""From the merged entries of one probe to a Probe, with its overrides."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from maprobe.cases import InputsRequest, InterveneRequest, Override, Probe, Waiver
from maprobe.reading.clauses import Yields, compared, conditions, expectation, measured, severity
from maprobe.reading.faults import FaultList, Leaf, allowed_keys, in_words, keys
from maprobe.reading.grammar import (
    BUILTIN_MARKS,
    DATE,
    DECIDED_AT_COLLECTION,
    MARK,
    NOT_IN_OVERRIDES,
    OVERRIDE_KEYS,
    SLUG,
    SOURCES,
    TEXT,
    TRUTH,
    WAIVER_KEYS,
)
from maprobe.reading.merging import merged
from maprobe.reading.nodes import Node
from maprobe.reading.requests import Context, inputs_request, intervene_request, measure_request, recipe_of
from maprobe.reading.trends import read_trend
from maprobe.recipes import MeasurementRecipe
from maprobe.source import SourceMark

__all__ = ["Heading", "prose", "read_probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What a probe is called, and what it has from the file as a whole."""

    id: str
    suite: str
    cite: str
    mark: SourceMark


def read_probe(entries: Mapping[str, Node], heading: Heading, context: Context) -> Probe | None:
    """Read a probe whose defaults are merged and whose parameters are filled in.

    Returns:
        The probe, of use only where no fault was noted; None where too little is known to make one.
    """
    faults = context.faults
    context.budget.spend(sum(node.size for node in entries.values()), heading.mark)
    recipe = _recipe(entries, heading.mark, context)
    intervene = _intervene(entries, context)
    inputs = inputs_request(entries.get("inputs"), context)
    _check_source(recipe, inputs, entries, heading.mark, faults)
    when = conditions(entries["when"], context) if "when" in entries else ()
    waiver = _waiver(entries["xfail"], faults) if "xfail" in entries else None
    told = {name: prose(entries.get(name), faults) for name in ("claim", "cite", "skip")}
    marks = _marks(entries.get("marks"), faults)
    tags = _texts(entries.get("tags"), SLUG, faults)
    overrides = _overrides(entries, heading, context)
    yields = _yields(recipe, entries, context) if recipe else None
    expect = expectation(entries["expect"], yields, context) if "expect" in entries else None
    trend = read_trend(entries["trend"], yields, context) if "trend" in entries else None
    level, bands = severity(entries.get("severity"), yields, context)
    if trend and waiver and (expect or bands):
        faults.add(
            entries["xfail"].place,
            "`xfail` does not say what is known to fail, as the probe has a `trend` and more; make two probes of it",
        )
    if recipe is None:
        return None
    measure = measure_request(entries["measure"], recipe, context)
    return Probe(
        id=heading.id,
        suite=heading.suite,
        claim=told["claim"],
        measure=measure,
        inputs=inputs,
        mark=heading.mark,
        cite=told["cite"] or heading.cite,
        intervene=intervene,
        expect=expect,
        trend=trend,
        severity=level,
        bands=bands,
        when=when,
        overrides=overrides,
        xfail=waiver,
        skip=told["skip"] or None,
        marks=marks,
        tags=tags,
    )


def prose(node: Node | None, faults: FaultList) -> str:
    """Read a sentence; line breaks and runs of spaces become one space."""
    text = TEXT.take(node, faults) if node else None
    return " ".join(text.split()) if text else ""


def _recipe(entries: Mapping[str, Node], mark: SourceMark, context: Context) -> MeasurementRecipe | None:
    if "measure" not in entries:
        context.faults.add(mark, "`measure` is missing, here and under `defaults`")
        return None
    return recipe_of(entries["measure"], context)


def _check_source(
    recipe: MeasurementRecipe | None,
    inputs: InputsRequest,
    entries: Mapping[str, Node],
    mark: SourceMark,
    faults: FaultList,
) -> None:
    """Hold the inputs to the source that a measurement needs; inputs that name none have a fault already."""
    needed = recipe.source if recipe else ""
    named = [source for source in SOURCES if source in entries["inputs"].entries] if "inputs" in entries else ["corpus"]
    if recipe and needed and len(named) == 1 and inputs.source != needed:
        place = entries["inputs"].mark if "inputs" in entries else mark
        faults.add(
            place, f"measurement {recipe.name!r} needs inputs of `{needed}`, and the source here is `{named[0]}`"
        )


def _intervene(entries: Mapping[str, Node], context: Context) -> InterveneRequest | None:
    if "intervene" in entries:
        return intervene_request(entries["intervene"], entries.get("control"), context)
    if "control" in entries:
        context.faults.add(entries["control"].place, "`control` belongs to `intervene`, and there is none; remove it")
    return None


def _yields(recipe: MeasurementRecipe, entries: Mapping[str, Node], context: Context) -> Yields | None:
    """Return the quantities that can be expected; None, with the fault noted, where the intervention compares none."""
    if "intervene" not in entries:
        return measured(recipe)
    if recipe.headline:
        return compared(recipe, control="control" not in entries or entries["control"].value != "none")
    others = [name for name, other in context.registry.measurements.items() if other.headline]
    context.faults.add(
        entries["intervene"].place,
        f"measurement {recipe.name!r} has no headline quantity that `intervene` could compare; allowed: "
        f"{allowed_keys(sorted(others))}",
    )
    return None


def _overrides(entries: Mapping[str, Node], heading: Heading, context: Context) -> tuple[Override, ...]:
    if "overrides" not in entries:
        return ()
    base = {name: node for name, node in entries.items() if name not in ("overrides", "when")}
    overrides = [_override(item, base, heading, context) for item in _items(entries["overrides"], context.faults)]
    return tuple(override for override in overrides if override)


def _override(node: Node, base: Mapping[str, Node], heading: Heading, context: Context) -> Override | None:
    faults = context.faults
    refused = [name for name in node.entries if name in NOT_IN_OVERRIDES]
    for name in refused:
        why = (
            "is decided before a checkpoint is known; use `when`" if name in DECIDED_AT_COLLECTION else "stays as it is"
        )
        faults.add(node.entries[name].place, f"`{name}` cannot be overridden, as it {why}")
    kept = Node({name: entry for name, entry in node.entries.items() if name not in refused}, node.mark)
    own = keys(kept if refused else node, OVERRIDE_KEYS, faults, required=("when", "because"))
    when = conditions(own["when"], context) if "when" in own else ()
    because = prose(own.get("because"), faults)
    changed = {name: entry for name, entry in own.items() if name not in ("when", "because")}
    if own and not changed:
        faults.add(node.mark, "changes nothing; name at least one key that differs, such as `expect`")
    if "trend" in own and "trend" not in base:
        faults.add(own["trend"].place, "`trend` can be overridden only where the probe has one; add it there")
    probe = read_probe(merged(base, changed), heading, context)
    return Override(when=when, because=because, probe=probe) if probe else None


def _items(node: Node | None, faults: FaultList) -> tuple[Node, ...]:
    if node is not None and not isinstance(node.value, tuple):
        faults.add(node.mark, f"{in_words(node)} is not allowed; allowed: a list")
    return node.items if node else ()


def _texts(node: Node | None, leaf: Leaf, faults: FaultList) -> tuple[str, ...]:
    texts = [leaf.take(item, faults) for item in _items(node, faults)]
    return tuple(text for text in texts if text)


def _marks(node: Node | None, faults: FaultList) -> tuple[str, ...]:
    for item in _items(node, faults):
        if item.value in BUILTIN_MARKS:
            faults.add(
                item.mark,
                f"{item.value!r} is a mark of pytest's own; use the keys `skip`, `xfail`, `when` and `parametrize`",
                final=True,
            )
    return _texts(node, MARK, faults)


def _waiver(node: Node, faults: FaultList) -> Waiver:
    entries = keys(node, WAIVER_KEYS, faults, required=("reason",))
    strict = TRUTH.take(entries["strict"], faults) if "strict" in entries else True
    until = _date(entries["until"], faults) if "until" in entries else None
    return Waiver(reason=prose(entries.get("reason"), faults), strict=bool(strict), until=until)


def _date(node: Node, faults: FaultList) -> datetime.date | None:
    text = DATE.take(node, faults)
    try:
        return datetime.date.fromisoformat(text) if text else None
    except ValueError:
        faults.add(node.mark, f"{text} is no day of the calendar; allowed: {DATE.words}")
        return None
