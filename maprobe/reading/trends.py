"""From marked nodes to what is asked along a series of checkpoints."""

from __future__ import annotations

from maprobe.cases import Monotone, StepBound, Trend
from maprobe.errors import did_you_mean
from maprobe.reading.clauses import Yields, expectation
from maprobe.reading.faults import FaultList, allowed_keys, keys
from maprobe.reading.grammar import DIRECTION, MONOTONE_KEYS, STEPS, TEXT, TOLERANCE, TREND_KEYS, TRUTH
from maprobe.reading.nodes import Node
from maprobe.reading.requests import Context

__all__ = ["read_trend"]

_OF_A_CONDITION = ("emerges_after", "emerges_by", "stays")


def read_trend(node: Node, yields: Yields | None, context: Context) -> Trend | None:
    """Read `trend`; None, with the faults noted, where it cannot be used.

    Without ``yields``, as under an unknown measurement, the rest is checked all the same.
    """
    faults = context.faults
    entries = keys(node, TREND_KEYS, faults)
    if not isinstance(node.value, dict):
        return None
    of = expectation(entries["of"], yields, context) if "of" in entries else None
    bounds = {name: _bound(entries[name], faults) for name in ("emerges_after", "emerges_by") if name in entries}
    stays = bool(TRUTH.take(entries["stays"], faults)) if "stays" in entries else False
    monotone = _monotone(entries["monotone"], yields, faults) if "monotone" in entries else None
    asking = [name for name in _OF_A_CONDITION if name in entries and entries[name].value is not False]
    known = {*entries} == {*node.entries}  # else what asks may only be misspelt
    if asking and "of" not in entries:
        faults.add(entries[asking[0]].place, f"`{asking[0]}` asks about a condition; write it under `of`")
    if "of" in entries and not asking and known:
        told = allowed_keys(f"`{name}`" for name in _OF_A_CONDITION)
        faults.add(entries["of"].place, f"nothing is asked of this condition; add one of {told}")
    if not asking and not {"of", "monotone"} & {*entries} and (entries or node.value == {}):
        faults.add(node.mark, "asks nothing; allowed: `of` with `emerges_by` or `stays`, or `monotone`")
    after, by = bounds.get("emerges_after"), bounds.get("emerges_by")
    if after and by and not _rising(after, by):
        faults.add(
            entries["emerges_by"].place, f"{by} is not later than {after} (`emerges_after`), so nothing fits both"
        )
    return Trend(of=of, emerges_after=after, emerges_by=by, stays=stays, monotone=monotone, mark=node.mark)


def _bound(node: Node, faults: FaultList) -> StepBound | None:
    value = STEPS.take(node, faults)
    if value is None:
        return None
    if isinstance(value, str):
        return StepBound(share=float(value.rstrip(" %")) / 100, mark=node.mark)
    return StepBound(step=value, mark=node.mark)


def _rising(after: StepBound, by: StepBound) -> bool:
    """Whether something lies between two bounds, as far as that can be told without a series."""
    if after.step is not None and by.step is not None:
        return after.step < by.step
    return after.share is None or by.share is None or after.share < by.share


def _monotone(node: Node, yields: Yields | None, faults: FaultList) -> Monotone | None:
    entries = keys(node, MONOTONE_KEYS, faults, required=("quantity", "direction"))
    quantity = TEXT.take(entries["quantity"], faults) if "quantity" in entries else None
    direction = DIRECTION.take(entries["direction"], faults) if "direction" in entries else None
    tolerance = TOLERANCE.take(entries["tolerance"], faults) if "tolerance" in entries else 0
    if quantity and yields is not None:
        single = [name for name, spec in yields.items() if not spec.axes]
        if quantity not in single:
            axes = yields[quantity].axes if quantity in yields else ()
            fault = f"{quantity!r} has a value for each {' and '.join(axes)}, and a trend follows one"
            if not axes:
                fault = f"{yields.what} has no quantity {quantity!r}{did_you_mean(quantity, single)}"
            faults.add(entries["quantity"].mark, f"{fault}; allowed: {allowed_keys(single)}")
    if quantity is None or direction is None:
        return None
    return Monotone(quantity=quantity, direction=direction, tolerance=float(tolerance or 0), mark=node.mark)
