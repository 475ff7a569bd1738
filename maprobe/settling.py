"""A case against its checkpoint's facts: which override applies, whether the question applies, what it will read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from maprobe.cases import Case, Condition, MeasureRequest
from maprobe.errors import MaprobeError, MeasurementError
from maprobe.facts import CheckpointFacts
from maprobe.modalities import foreign, own_inputs
from maprobe.planning import Arm, EditRequest, PlannedCase, RunKey
from maprobe.recipes import MeasurementRecipe, Operator
from maprobe.registry import Registry
from maprobe.sites import is_own, site_named

__all__ = ["settle"]


def settle(case: Case, facts: CheckpointFacts, registry: Registry) -> PlannedCase:
    """Choose the override, answer ``when``, and find what is wrong with the measurement before it is tried."""
    probe, because = case.probe, ""
    for override in case.probe.overrides:
        if not _excluded(override.when, facts, registry.operators):
            probe, because = override.probe, override.because
            break
    probe = replace(probe, inputs=own_inputs(probe.inputs, facts))
    inapplicable = _excluded(case.probe.when, facts, registry.operators) or foreign(probe, facts, registry)
    untouched = RunKey(checkpoint=case.checkpoint, inputs=probe.inputs)
    arms: dict[Arm, RunKey] = {"untouched": untouched}
    if probe.intervene is not None:
        # The edited pass is the same whatever its control is, so it is keyed without that word.
        edited = replace(probe.intervene, control="")
        arms["edited"] = replace(untouched, edit=EditRequest(intervene=edited, arm="edited"))
        if probe.intervene.control != "none":
            arms["control"] = replace(untouched, edit=EditRequest(intervene=probe.intervene, arm="control"))
    try:
        recipe = registry.measurements.find(probe.measure.kind, MeasurementError)
        _check(recipe, probe.measure, facts)
        fault = ""
    except MaprobeError as error:
        fault = str(error)
    return PlannedCase(case=case, probe=probe, because=because, inapplicable=inapplicable, fault=fault, arms=arms)


def _check(recipe: MeasurementRecipe, measure: MeasureRequest, facts: CheckpointFacts) -> None:
    if recipe.causal and not facts["causal"]:
        raise MeasurementError(
            f"{recipe.name} needs a causal language model, and {facts.label} ({facts['model_type']}) is none; "
            f"restrict the probe with `when: {{causal: true}}`"
        )
    # How many of its own sites a model has is seen once it is loaded.
    if site_named(measure.site).per_layer and not is_own(measure.site):
        measure.layers.resolve(int(facts["num_hidden_layers"]), site=measure.site)


def _excluded(conditions: Iterable[Condition], facts: CheckpointFacts, operators: Mapping[str, Operator]) -> str:
    """Return the first condition that does not hold, in words; empty if all hold."""
    for condition in conditions:
        actual = facts[condition.fact]
        operator = operators[condition.operator]
        values = actual if isinstance(actual, list | tuple) else (actual,)
        if not any(_holds(operator, value, condition.bound) for value in values):
            return f"needs {condition.fact} {operator.words(condition.bound)}; here it is {_words(actual)}"
    return ""


def _holds(operator: Operator, value: object, bound: object) -> bool:
    if isinstance(bound, str) != isinstance(value, str) and not isinstance(bound, tuple):
        return False
    try:
        return operator.holds(value, bound)
    except TypeError:
        return False


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
