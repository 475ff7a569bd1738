"""The fewest passes that serve the selected cases, with their cost. Pure: knows facts and sizes, no model.

Each distinct input gets one untouched pass that serves every measurement asked of it. Each distinct edit of an
input gets one pass more, which depends on what the untouched pass located.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from maprobe.cases import Case, InputsRequest, InterveneRequest, MeasureRequest, Options, Probe
from maprobe.costs import memory_of
from maprobe.errors import MaprobeError
from maprobe.facts import CheckpointFacts
from maprobe.recipes import MeasurementRecipe
from maprobe.registry import Registry
from maprobe.sites import ATTRIBUTION, LayerRange, site_named

__all__ = [
    "Arm",
    "EditRequest",
    "InputSize",
    "Plan",
    "PlannedCase",
    "Run",
    "RunKey",
    "companion_request",
    "describe",
    "located_by",
    "located_on",
    "make_plan",
    "merged",
]

_SUMMED = ("passes", "forwards", "backwards", "tokens", "learning")

Arm = Literal["untouched", "edited", "control"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """An intervention and the arm of it that one pass makes."""

    intervene: InterveneRequest
    arm: Literal["edited", "control"]

    def __str__(self) -> str:
        how = f" = {self.intervene.value:g}" if self.intervene.value is not None else f" = {self.intervene.set}"
        # Parameters that are `all` say nothing, as do layers and tokens.
        options = [f"{name}={value}" for name, value in self.intervene.options if value != "all"]
        at = f"layer {self.intervene.at}" if isinstance(self.intervene.at, int) else self.intervene.at
        what = " ".join([self.intervene.target, *options, "at", at]) + (how if self.intervene.set else "")
        return what if self.arm == "edited" else f"control of ({what})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """What tells one pass from another."""

    checkpoint: str
    inputs: InputsRequest
    edit: EditRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass: all sequences of an input through one checkpoint, with the measurements it serves.

    Attributes:
        key: what tells it from others.
        measures: the measurements.
        learning: how many steps of learning over all inputs its edit takes before, at most.
    """

    key: RunKey
    measures: tuple[MeasureRequest, ...]
    learning: int = 0

    @property
    def observes(self) -> bool:
        """Whether a forward pass is made for it."""
        return any(measure.site != ATTRIBUTION for measure in self.measures)

    @property
    def differentiates(self) -> bool:
        """Whether a gradient pass is made for it."""
        return any(measure.site == ATTRIBUTION for measure in self.measures)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSize:
    """How large an input is once tokenised.

    Attributes:
        description: the inputs in words.
        sequences: number of sequences.
        tokens: number of tokens of all of them.
        length: number of tokens of the longest.
        batches: forward calls of a pass.
        gradient_batches: forward calls of a gradient pass, which makes its own batches.
    """

    description: str
    sequences: int
    tokens: int
    length: int
    batches: int
    gradient_batches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCase:
    """A case settled against its checkpoint's facts: the probe as it applies there, and what it reads.

    Attributes:
        case: the case.
        probe: the probe after its override, if one applies.
        because: the override's reason; empty without one.
        inapplicable: why ``when`` excludes the checkpoint; empty where it does not.
        fault: why the measurement cannot be made; empty where it can.
        arms: the pass that each arm reads.
    """

    case: Case
    probe: Probe
    because: str = ""
    inapplicable: str = ""
    fault: str = ""
    arms: Mapping[Arm, RunKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Passes in the order in which they depend on one another, the cases they serve, and the cost."""

    runs: tuple[Run, ...]
    cases: tuple[PlannedCase, ...]
    sizes: Mapping[tuple[str, InputsRequest], InputSize]
    memory: int

    @property
    def passes(self) -> int:
        """Number of passes; those of edits are not made where nothing is found to edit."""
        return len(self.runs)

    @property
    def forwards(self) -> int:
        """Number of forward calls of the model, one for each batch of each pass, two for each of a gradient pass."""
        return sum(map(self.calls, self.runs))

    @property
    def backwards(self) -> int:
        """Number of backward calls, one for each batch of each gradient pass."""
        return sum(self.size(run).gradient_batches for run in self.runs if run.differentiates)

    @property
    def learning(self) -> int:
        """Number of steps of learning over all inputs, at most, each a forward and a backward pass over them."""
        return sum(run.learning for run in self.runs)

    def calls(self, run: Run) -> int:
        """Return the number of forward calls of a run."""
        size = self.size(run)
        return size.batches * run.observes + 2 * size.gradient_batches * run.differentiates

    @property
    def tokens(self) -> int:
        """Number of tokens over all passes."""
        return sum(self.size(run).tokens for run in self.runs)

    def size(self, run: Run) -> InputSize:
        """Return the size of a run's inputs."""
        return self.sizes[run.key.checkpoint, run.key.inputs]

    def of(self, checkpoint: str) -> Plan:
        """Return the part of the plan that is for one checkpoint."""
        runs = tuple(run for run in self.runs if run.key.checkpoint == checkpoint)
        cases = tuple(planned for planned in self.cases if planned.case.checkpoint == checkpoint)
        return replace(self, runs=runs, cases=cases)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return {
            "passes": self.passes,
            "forwards": self.forwards,
            "backwards": self.backwards,
            "tokens": self.tokens,
            "learning": self.learning,
            "memory": self.memory,
            "runs": [
                {
                    "checkpoint": run.key.checkpoint,
                    "inputs": self.size(run).description,
                    "edit": str(run.key.edit or ""),
                    "measures": [describe(measure) for measure in run.measures],
                    "forwards": self.calls(run),
                    "tokens": self.size(run).tokens,
                }
                for run in self.runs
            ],
        }


def merged(plans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the plans of several checkpoints, as plain data, as one; they are carried out one after the other."""
    if not plans:
        return {}
    return {
        **{name: sum(plan[name] for plan in plans) for name in _SUMMED},
        "memory": max(plan["memory"] for plan in plans),
        "runs": [run for plan in plans for run in plan["runs"]],
    }


def describe(measure: MeasureRequest) -> str:
    """Return a measurement in words: kind, site, layers and tokens as far as they say something, and its parameters."""
    parts = [measure.kind]
    if site_named(measure.site).per_layer:
        parts.append(f"{measure.site} {measure.layers}")
    elif measure.site not in ("logits", measure.kind):
        parts.append(measure.site)
    if measure.tokens.kind != "all":
        parts.append(f"at {measure.tokens}")
    parts.extend(
        f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in measure.options
    )
    return " ".join(parts)


def make_plan(
    settled: Sequence[PlannedCase],
    registry: Registry,
    facts: Mapping[str, CheckpointFacts],
    size: Callable[[str, InputsRequest], InputSize],
) -> Plan:
    """Merge the needs of all cases into passes.

    Args:
        settled: the cases, in the order in which they will be judged.
        registry: all recipes.
        facts: facts by checkpoint label.
        size: tokenises an input for a checkpoint and tells its size; may raise InputError, which becomes the fault of
            the cases that ask for it.
    """
    needs: dict[RunKey, dict[MeasureRequest, None]] = {}
    sizes: dict[tuple[str, InputsRequest], InputSize] = {}
    cases = []
    for planned in settled:
        probe = planned.probe
        locating = located_by(probe.intervene, registry) if probe.intervene is not None else None
        place = located_on(planned.arms["untouched"], probe.intervene, registry)
        for inputs in (probe.inputs, place.inputs):
            planned = _sized(planned, inputs, sizes, size)  # noqa: PLW2901 - a fault found here belongs to the case
        cases.append(planned)
        if planned.inapplicable or any((place.checkpoint, part) not in sizes for part in (probe.inputs, place.inputs)):
            continue
        needs.setdefault(planned.arms["untouched"], {})
        if locating is not None:
            needs.setdefault(place, {})[locating] = None
        if planned.fault:
            continue
        wanted = [probe.measure]
        wanted += [companion_request(kind, registry) for kind in registry.measurements[probe.measure.kind].companions]
        for key in planned.arms.values():
            needs.setdefault(key, {}).update(dict.fromkeys(wanted))
    runs = [
        Run(key=key, measures=tuple(measures), learning=_learning(key, registry))
        for key, measures in needs.items()
        if measures
    ]
    checkpoints = list(dict.fromkeys(planned.case.checkpoint for planned in cases))
    runs.sort(key=lambda run: (checkpoints.index(run.key.checkpoint), run.key.edit is not None))
    memory = max((memory_of(run, sizes, facts) for run in runs), default=0)
    return Plan(runs=tuple(runs), cases=tuple(cases), sizes=sizes, memory=memory)


def _learning(key: RunKey, registry: Registry) -> int:
    """Return the steps of learning that an edit takes; only the arm that is asked about learns."""
    if key.edit is None or key.edit.arm != "edited":
        return 0
    parameter = registry.interventions[key.edit.intervene.target].learning
    return int(key.edit.intervene.option(parameter)) if parameter else 0  # type: ignore[arg-type]


def companion_request(kind: str, registry: Registry) -> MeasureRequest:
    """Return the request by which a recipe's companion is measured: its defaults, over all layers."""
    recipe = registry.measurements[kind]
    return MeasureRequest(kind=kind, site=recipe.sites[0], layers=LayerRange(), options=_options(recipe))


def located_by(intervene: InterveneRequest, registry: Registry) -> MeasureRequest | None:
    """Return the request by which an intervention finds what to edit, with every parameter that it leaves out.

    None where it has to find nothing.
    """
    recipe = registry.interventions[intervene.target]
    locate = recipe.locate
    if locate is None:
        return None
    asked = {"at": intervene.at, **dict(intervene.options)}
    given = {**dict(locate.options), **{name: asked[name] for name in recipe.handed}}
    defaults = _options(registry.measurements[locate.kind])
    return replace(locate, options=tuple((name, given.get(name, default)) for name, default in defaults))


def located_on(key: RunKey, intervene: InterveneRequest | None, registry: Registry) -> RunKey:
    """Return the untouched pass in which an intervention finds what to edit in the passes of a key.

    It is one over the same inputs, or over those that the intervention names.
    """
    named = registry.interventions[intervene.target].inputs if intervene is not None else None
    inputs = named(intervene) if named is not None and intervene is not None else None
    return replace(key, edit=None, inputs=inputs or key.inputs)


def _options(recipe: MeasurementRecipe) -> Options:
    return tuple(sorted((parameter.name, parameter.default) for parameter in recipe.parameters))


def _sized(
    planned: PlannedCase,
    inputs: InputsRequest,
    sizes: dict[tuple[str, InputsRequest], InputSize],
    size: Callable[[str, InputsRequest], InputSize],
) -> PlannedCase:
    key = (planned.case.checkpoint, inputs)
    if planned.inapplicable or key in sizes:
        return planned
    try:
        sizes[key] = size(*key)
    except MaprobeError as error:
        return replace(planned, fault=str(error))
    return planned
