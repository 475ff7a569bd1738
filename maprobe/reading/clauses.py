"""From marked nodes to what is expected: quantifiers and clauses, severity, conditions on the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maprobe.cases import Clause, Condition, Expectation, Quantifier, SeverityBand
from maprobe.errors import did_you_mean
from maprobe.facts import FACTS
from maprobe.reading.faults import FaultList, Leaf, in_words, keys
from maprobe.reading.grammar import (
    AXES,
    COMPARISONS,
    CONTROL_COMPARISONS,
    CONTROL_PAIRED,
    FACT_SCHEMAS,
    LEVELS,
    PAIRED,
    QUANTIFIERS,
)
from maprobe.reading.nodes import Node, frozen
from maprobe.reading.requests import Context
from maprobe.recipes import MeasurementRecipe, QuantitySpec
from maprobe.verdicts import Severity

__all__ = ["AMOUNT", "LEVEL", "Yields", "compared", "conditions", "expectation", "measured", "severity"]

AMOUNT = Leaf(
    {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": r"^(?=.*[1-9])(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)\s?%$"},
        ]
    },
    "a number of cells such as 3, or a share of them such as 80%",
)
LEVEL = Leaf({"enum": list(LEVELS)}, "error, warn, info, or a mapping of them to the bad state of each")
_AXIS = Leaf({"enum": list(AXES)})
_SCALAR = Leaf({"type": ["string", "number", "boolean"]}, "a value, a list of values, or {OPERATOR: BOUND}")


class Yields(dict[str, QuantitySpec]):
    """The quantities that can be expected of a probe, by name, and whose they are, in words."""

    def __init__(self, what: str, quantities: Mapping[str, QuantitySpec]) -> None:
        super().__init__(quantities)
        self.what = what


def measured(recipe: MeasurementRecipe) -> Yields:
    """Return the quantities of a measurement."""
    return Yields(repr(recipe.name), {quantity.name: quantity for quantity in recipe.quantities})


def compared(recipe: MeasurementRecipe, *, control: bool) -> Yields:
    """Return the quantities of the comparison that an intervention makes of the recipe's headline quantity."""
    headline = recipe.quantity(recipe.headline)
    assert headline is not None, "only recipes with a headline are compared"
    names = {**COMPARISONS, **(CONTROL_COMPARISONS if control else {})}
    paired = {**PAIRED, **(CONTROL_PAIRED if control else {})} if recipe.items else {}
    what = f"the comparison of {recipe.headline!r}" + ("" if control else " without a control arm")
    specs = [QuantitySpec(name=name, axes=headline.axes, meaning=meaning) for name, meaning in names.items()]
    specs += [QuantitySpec(name=name, meaning=meaning) for name, meaning in paired.items()]
    return Yields(what, {spec.name: spec for spec in specs})


def expectation(node: Node, yields: Yields | None, context: Context) -> Expectation | None:
    """Read `expect`, or the bad state of a severity; None, with the faults noted, where it cannot be used.

    Without ``yields``, as under an unknown measurement, the rest is checked all the same.
    """
    faults = context.faults
    if not isinstance(node.value, dict):
        faults.add(node.mark, f"{in_words(node)} is not allowed; allowed: a mapping of quantities to comparisons")
        return None
    found = [name for name in QUANTIFIERS if name in node.value]
    if len(found) > 1:
        told = ", ".join(f"`{name}`" for name in found)
        faults.add(
            node.value[found[1]].place, f"{told} stand side by side; allowed: one quantifier, so split the probe"
        )
    quantifier = _quantifier(found[0], node.value[found[0]], faults) if found else None
    clauses: list[Clause] = []
    for name, entry in node.value.items():
        if name in QUANTIFIERS:
            continue
        if yields is not None and name not in yields:
            near = did_you_mean(name, [*yields, *QUANTIFIERS])
            faults.add(entry.place, f"{yields.what} has no quantity {name!r}{near}; allowed: {', '.join(yields)}")
            continue
        clauses.extend(_clauses(name, entry, context))
        if yields is not None and (quantifier or not found) and len(found) <= 1:
            _check_axes(yields[name], entry, quantifier, faults)
    if yields is not None:
        _check_cover(node, found[0] if quantifier else "", yields, faults)
    return Expectation(clauses=tuple(clauses), quantifier=quantifier, mark=node.mark)


def _quantifier(kind: str, node: Node, faults: FaultList) -> Quantifier | None:
    if kind != "at_least":
        axis = _AXIS.take(node, faults)
        return Quantifier(kind=kind, axis=axis) if axis else None  # type: ignore[arg-type]
    entries = keys(node, AXES, faults)
    if len(entries) != 1:
        if entries or node.value == {}:  # else what it holds instead is a fault already
            told = f"names {len(entries)} axes"
            faults.add(node.mark, f"{told}; allowed: exactly one, such as {{layers: 3}} or {{heads: 80%}}")
        return None
    axis, entry = next(iter(entries.items()))
    amount = AMOUNT.take(entry, faults)
    if amount is None:
        return None
    if isinstance(amount, str):
        return Quantifier(kind="at_least", axis=axis, share=float(amount.rstrip(" %")) / 100)
    return Quantifier(kind="at_least", axis=axis, count=amount)


def _clauses(quantity: str, node: Node, context: Context) -> list[Clause]:
    """Read the comparisons of one quantity."""
    operators = context.registry.operators
    if not node.entries:
        example = "{gt: 100}" if isinstance(node.value, dict | str) or node.value is None else f"{{eq: {node.plain()}}}"
        context.faults.add(
            node.mark, f"{in_words(node)} compares to nothing; write an operator and its bound, such as {example}"
        )
    clauses = []
    for name, entry in keys(node, operators, context.faults).items() if node.entries else ():
        bound = Leaf(operators[name].schema).take(entry, context.faults)
        if bound is not None:
            clauses.append(Clause(quantity=quantity, operator=name, bound=frozen(bound), mark=node.mark))
    return clauses


def _check_axes(spec: QuantitySpec, node: Node, quantifier: Quantifier | None, faults: FaultList) -> None:
    """Hold a quantity with axes to a quantifier that ranges over them."""
    if not spec.axes or (quantifier and AXES[quantifier.axis] == spec.axes):
        return
    axis = next((name for name, axes in AXES.items() if axes == spec.axes), "")
    each = " and ".join(spec.axes)
    ways = f"`every: {axis}`, `some: {axis}`, `none: {axis}` or `at_least: {{{axis}: N}}`"
    if quantifier:
        faults.add(
            node.place,
            f"{spec.name!r} has a value for each {each}, which `{quantifier.kind}` over {quantifier.axis} does not "
            f"cover; write {ways}",
        )
    else:
        faults.add(
            node.place,
            f"{spec.name!r} has a value for each {each}; say for which it must hold: {ways} "
            f"(the default is written down, never implied)",
        )


def _check_cover(node: Node, quantifier: str, yields: Yields, faults: FaultList) -> None:
    """Refuse what says nothing: an expectation without quantities, a quantifier that covers none."""
    names = [name for name in node.entries if name not in QUANTIFIERS]
    if not names:
        faults.add(node.mark, f"expects nothing of any quantity; allowed: {', '.join(yields)}")
    elif quantifier and all(name in yields and not yields[name].axes for name in names):
        has = ", ".join(map(repr, names)) + (" has" if len(names) == 1 else " have")
        faults.add(
            node.entries[quantifier].place,
            f"`{quantifier}` covers no quantity, as {has} one value for the whole model; remove it",
        )


def severity(node: Node | None, yields: Yields | None, context: Context) -> tuple[Severity, tuple[SeverityBand, ...]]:
    """Read `severity`: one level for any failure, or the bad state that each level stands for, the worst first."""
    if node is None:
        return "error", ()
    if not isinstance(node.value, dict):
        return LEVEL.take(node, context.faults) or "error", ()
    if not node.value:
        context.faults.add(node.mark, f"an empty mapping is not allowed; allowed: {LEVEL.words}")
    entries = keys(node, LEVELS, context.faults)
    bands = []
    for level in LEVELS:
        condition = expectation(entries[level], yields, context) if level in entries else None
        if condition:
            bands.append(SeverityBand(level=level, condition=condition))  # type: ignore[arg-type]
    return "error", tuple(bands)


def conditions(node: Node, context: Context) -> tuple[Condition, ...]:
    """Read `when`: facts of a checkpoint and what they are compared with."""
    if not node.entries:
        context.faults.add(node.mark, f"{in_words(node)} names no fact; allowed: a mapping with {', '.join(FACTS)}")
        return ()
    found: list[Condition] = []
    for name, entry in keys(node, FACTS, context.faults).items():
        for operator, bound in _comparisons(entry, context):
            if _fits(bound, name, context.faults):
                found.append(Condition(fact=name, operator=operator, bound=frozen(bound.plain()), mark=entry.mark))
    return tuple(found)


def _comparisons(node: Node, context: Context) -> list[tuple[str, Node]]:
    """Return the operators of one fact with their bounds; a plain value means `eq`, a list `in`."""
    if not isinstance(node.value, dict):
        if not isinstance(node.value, tuple):
            return [("eq", node)] if _SCALAR.take(node, context.faults) is not None else []
        leaf = Leaf({"type": "array", "items": _SCALAR.schema, "minItems": 1})
        return [("in", node)] if leaf.take(node, context.faults) is not None else []
    if not node.value:
        context.faults.add(node.mark, "an empty mapping compares to nothing; write an operator, such as {gte: 12}")
    operators = context.registry.operators
    return [
        (name, entry)
        for name, entry in keys(node, operators, context.faults).items()
        if Leaf(operators[name].schema).take(entry, context.faults) is not None
    ]


def _fits(bound: Node, fact: str, faults: FaultList) -> bool:
    """Whether a fact can ever equal what it is compared with: `has_bos: yes` would exclude every checkpoint."""
    leaf = Leaf(FACT_SCHEMAS[fact])
    scalars: tuple[Any, ...] = bound.items or (() if isinstance(bound.value, dict) else (bound,))
    taken = [leaf.take(scalar, faults) for scalar in scalars]
    return None not in taken
