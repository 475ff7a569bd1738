"""Probes, cases and Readings written by hand, for testing what thinks about them."""

from __future__ import annotations

from typing import Any

from hidden_states import facts

from maprobe.builtin import builtin_registry
from maprobe.cases import (
    Case,
    Clause,
    Expectation,
    InputsRequest,
    InterveneRequest,
    MeasureRequest,
    Probe,
    Quantifier,
)
from maprobe.planning import PlannedCase
from maprobe.readings import Axis, Place, Quantity, Reading
from maprobe.settling import settle
from maprobe.source import SourceMark

REGISTRY = builtin_registry()
MARK = SourceMark(file="x.probe.yaml", line=3, column=5)
PERPLEXITY = MeasureRequest(kind="perplexity", site="logits")
MAGNITUDE = MeasureRequest(kind="magnitude", site="block.out", options=(("top", 3),))
ZERO = InterveneRequest(target="massive", set="zero")


def clause(quantity: str, operator: str, bound: Any) -> Clause:
    return Clause(quantity=quantity, operator=operator, bound=bound, mark=MARK)


def expect(*clauses: Clause, quantifier: Quantifier | None = None) -> Expectation:
    return Expectation(clauses=clauses, quantifier=quantifier)


def quantifier(kind: Any, axis: str = "layers", **amount: Any) -> Quantifier:
    return Quantifier(kind=kind, axis=axis, **amount)


def probe(**values: Any) -> Probe:
    defaults: dict[str, Any] = {
        "id": "a",
        "suite": "s",
        "claim": "It holds.",
        "measure": MAGNITUDE,
        "inputs": InputsRequest(sequences=2, length=8),
        "mark": MARK,
    }
    return Probe(**{**defaults, **values})


def case(checkpoint: str = "tiny", **values: Any) -> Case:
    it = probe(**values)
    return Case(id=f"x.probe.yaml::{it.id}[{checkpoint}]", probe=it, checkpoint=checkpoint)


def planned(**values: Any) -> PlannedCase:
    return settle(case(**values), facts(), REGISTRY)


def by_layer(**quantities: list[float]) -> Reading:
    length = len(next(iter(quantities.values())))
    axes = (Axis("layer", tuple(range(2, 2 + length))),)
    places = tuple(Place(sequence=0, position=0, token="The", dim=507) for _ in range(length))
    return Reading(
        kind="magnitude",
        quantities={
            name: Quantity(name=name, values=tuple(values), axes=axes, places=places)
            for name, values in quantities.items()
        },
    )


def scalars(kind: str = "perplexity", **values: float) -> Reading:
    return Reading(kind=kind, quantities={name: Quantity(name=name, values=(value,)) for name, value in values.items()})
