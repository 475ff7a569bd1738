"""Serving cases one by one from a plan: passes made when first needed, remembered, never made twice."""

from __future__ import annotations

import datetime
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from maprobe.costs import require_memory
from maprobe.errors import MaprobeError, MeasurementError
from maprobe.judging import compare, judge, unanswered
from maprobe.pairing import LEVEL
from maprobe.planning import (
    InputSize,
    Plan,
    PlannedCase,
    Run,
    RunKey,
    describe,
    located_by,
    located_on,
    make_plan,
)
from maprobe.readings import Reading
from maprobe.running.attributions import groups_of
from maprobe.running.inputs import AnyInputs, Inputs, count_batches, prepare
from maprobe.running.quiet import hushed
from maprobe.running.runner import Outcome, circumstances, execute
from maprobe.running.subjects import Source, Subject, examine
from maprobe.settling import settle
from maprobe.verdicts import Status, Verdict

if TYPE_CHECKING:
    from maprobe.cases import Case, InputsRequest, MeasureRequest
    from maprobe.edits import AnyEdit
    from maprobe.facts import CheckpointFacts, Provenance
    from maprobe.progress import Progress
    from maprobe.registry import Registry

__all__ = ["Engine", "EngineOptions"]

Execute = Callable[[Run, Subject, AnyInputs, "tuple[AnyEdit, ...]"], "Mapping[MeasureRequest, Outcome] | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine works.

    Attributes:
        batch: sequences in one forward call, at most.
        memory: GiB that a pass may need beyond the weights; None for no limit.
        today: the day by which waivers are judged.
        repeat: the command that repeats a case.
        execute: tried first for each pass; None from it means that the engine makes the pass itself.
    """

    batch: int = 1
    memory: float | None = None
    today: datetime.date = field(default_factory=datetime.date.today)
    repeat: Callable[[Case], str] = lambda case: case.id
    execute: Execute = lambda *job: None  # noqa: ARG005 - the default makes every pass itself


class Engine:
    """Plans cases, then answers them. Holds at most one loaded checkpoint at a time.

    Attributes:
        forwards: forward calls made so far (the short ones of the proof at load not counted).
        provenance: of each checkpoint loaded so far, in order.
    """

    def __init__(
        self,
        registry: Registry,
        sources: Mapping[str, Callable[[], Source]],
        progress: Progress,
        options: EngineOptions,
    ) -> None:
        self.registry = registry
        self.options = options
        self.forwards = 0
        self.provenance: dict[str, Provenance] = {}
        self._progress = progress
        self._openers = dict(sources)
        self._sources: dict[str, Source | MaprobeError] = {}
        self._inputs: dict[tuple[str, InputsRequest], AnyInputs | MaprobeError] = {}
        self._subject: tuple[str, Subject | MaprobeError] | None = None
        self._outcomes: dict[RunKey, Mapping[MeasureRequest, Outcome] | MaprobeError] = {}
        self._cases: dict[str, PlannedCase] = {}
        self._faults: dict[str, MaprobeError] = {}
        self._runs: dict[RunKey, Run] = {}

    def plan(self, cases: Sequence[Case]) -> Plan:
        """Settle and plan cases. Reads configs and tokenizers; loads no weights.

        A checkpoint that cannot be had does not stop the plan: its cases end as unmeasured with that reason.

        Raises:
            PlanError: the plan needs more memory than the options allow.
        """
        settled = []
        for case in cases:
            source = self._source(case.checkpoint)
            try:
                if isinstance(source, MaprobeError):
                    raise source
                settled.append(settle(case, source.facts, self.registry))
            except Exception as error:  # noqa: BLE001 - a plugin's operator may raise anything; told for this case
                self._faults[case.id] = _known(error, f"planning {case.id}")
        plan = make_plan(settled, self.registry, self._facts(), self._size)
        require_memory(plan, self.options.memory)
        self._cases.update((planned.case.id, planned) for planned in plan.cases)
        self._runs.update((run.key, run) for run in plan.runs)
        return plan

    def planned(self, case: str) -> PlannedCase | None:
        """Return a case as it was settled against its checkpoint's facts; None if it was not planned."""
        return self._cases.get(case)

    def fault(self, checkpoint: str) -> MaprobeError | None:
        """Return why a checkpoint cannot be had, or None."""
        source = self._sources.get(checkpoint)
        return source if isinstance(source, MaprobeError) else None

    def verdict(self, case: Case) -> Verdict:
        """Answer one planned case, making the passes it needs unless they were made before."""
        repeat = self.options.repeat(case)
        if case.id in self._faults:
            blank = PlannedCase(case=case, probe=case.probe, arms={})
            return unanswered(blank, Status.UNMEASURED, str(self._faults[case.id]), repeat=repeat)
        planned = self._cases[case.id]
        if planned.inapplicable:
            return unanswered(planned, Status.NOT_APPLICABLE, planned.inapplicable, repeat=repeat)
        try:
            reading = self._measured(planned)
            return judge(planned, reading, self.registry, self.options.today, repeat=repeat)
        except Exception as error:  # noqa: BLE001 - a plugin's operator or Reading may bring anything about
            return unanswered(planned, Status.UNMEASURED, str(_known(error, f"judging {case.id}")), repeat=repeat)

    def subject(self, checkpoint: str) -> Subject:
        """Load a checkpoint and prove its parts, or return it if it is the one in memory.

        Raises:
            MaprobeError: it cannot be had, loaded or proven; remembered, and not tried again.
        """
        if self._subject is None or self._subject[0] != checkpoint:
            self.release()
            self._subject = (checkpoint, self._examined(checkpoint))
        subject = self._subject[1]
        if isinstance(subject, MaprobeError):
            raise subject
        return subject

    def release(self) -> None:
        """Let go of the loaded checkpoint and its memory."""
        if self._subject is not None:
            self._subject = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _examined(self, checkpoint: str) -> Subject | MaprobeError:
        source = self._source(checkpoint)
        if isinstance(source, MaprobeError):
            return source
        try:
            loaded = source.load(self._progress)
            self.provenance[checkpoint] = loaded.provenance
            return examine(loaded, self.registry.architectures)
        except Exception as error:  # noqa: BLE001 - a plugin's source may raise anything; kept, and told once
            self._sources[checkpoint] = remembered = _known(error, f"loading {checkpoint}")
            return remembered

    def _source(self, checkpoint: str) -> Source | MaprobeError:
        if checkpoint not in self._sources:
            try:
                self._sources[checkpoint] = self._openers[checkpoint]()
            except Exception as error:  # noqa: BLE001 - as above
                self._sources[checkpoint] = _known(error, f"looking up {checkpoint}")
        return self._sources[checkpoint]

    def _facts(self) -> dict[str, CheckpointFacts]:
        return {label: source.facts for label, source in self._sources.items() if not isinstance(source, MaprobeError)}

    def _prepared(self, checkpoint: str, request: InputsRequest) -> AnyInputs:
        key = (checkpoint, request)
        if key not in self._inputs:
            source = self._source(checkpoint)
            if isinstance(source, MaprobeError):
                raise source
            try:
                # A source that a plugin brings may know nothing of images, and bring no inputs.
                reader, own = getattr(source, "reader", None), getattr(source, "own", None)
                with hushed(self._progress):
                    self._inputs[key] = prepare(
                        request, source.tokenizer, source.facts, self.registry.corpora, reader, own
                    )
            except Exception as error:  # noqa: BLE001 - a plugin's corpus may raise anything
                self._inputs[key] = _known(error, f"preparing the inputs of {checkpoint}")
        inputs = self._inputs[key]
        if isinstance(inputs, MaprobeError):
            raise inputs
        return inputs

    def _size(self, checkpoint: str, request: InputsRequest) -> InputSize:
        inputs = self._prepared(checkpoint, request)
        return InputSize(
            description=inputs.description,
            sequences=len(inputs.sequences),
            tokens=inputs.tokens,
            length=inputs.length,
            batches=count_batches(inputs, self.options.batch),
            gradient_batches=len(groups_of(inputs.sequences, single=bool(self._experts(checkpoint))))
            if isinstance(inputs, Inputs)
            else 0,
        )

    def _experts(self, checkpoint: str) -> int:
        source = self._source(checkpoint)
        return 0 if isinstance(source, MaprobeError) else int(source.facts["num_experts"])

    def _measured(self, planned: PlannedCase) -> Reading:
        probe = planned.probe
        untouched = planned.arms["untouched"]
        place = located_on(untouched, probe.intervene, self.registry)
        if probe.intervene is None or place not in self._runs:
            if planned.fault:
                raise MeasurementError(planned.fault)
            return self._reading(untouched, probe.measure)
        # Looking for the entries comes first: where there are none, the question has no object, whatever else
        # stands in the way of answering it.
        locating = located_by(probe.intervene, self.registry)
        located = self._reading(place, locating) if locating is not None else None
        if located is not None and located.absent is not None:
            return located
        if planned.fault:
            raise MeasurementError(planned.fault)
        readings = {arm: self._reading(key, probe.measure) for arm, key in planned.arms.items()}
        recipe = self.registry.measurements[probe.measure.kind]
        level = float(dict(probe.measure.options).get("level") or LEVEL)  # type: ignore[arg-type]
        return compare(readings, recipe.headline, items=recipe.items, level=level)

    def _reading(self, key: RunKey, measure: MeasureRequest) -> Reading:
        if key not in self._outcomes:
            self._outcomes[key] = self._executed(self._runs[key])
        outcomes = self._outcomes[key]
        if isinstance(outcomes, MaprobeError):
            raise outcomes
        outcome = outcomes[measure]
        if isinstance(outcome, MaprobeError):
            raise outcome
        self._require_promised(measure.kind, outcome)
        return outcome

    def _require_promised(self, kind: str, reading: Reading) -> None:
        """Refuse a Reading that lacks a quantity which its recipe promises, or gives it over other axes."""
        specs = self.registry.measurements[kind].quantities if reading.absent is None else ()
        brought = f"plugin {self.registry.measurements.plugin(kind)!r} brought it"
        missing = [spec.name for spec in specs if spec.name not in reading.quantities]
        if missing:
            raise MeasurementError(
                f"measurement {kind} gave no {', '.join(missing)}, which its recipe promises; {brought}"
            )
        for spec in specs:
            quantity = reading[spec.name]
            axes = tuple(axis.name for axis in quantity.axes)
            if quantity.absent is None and axes != spec.axes:
                given, promised = (" and ".join(names) or "no axis" for names in (axes, spec.axes))
                raise MeasurementError(
                    f"measurement {kind} gave {spec.name} over {given}, where its recipe promises {promised}; {brought}"
                )

    def _executed(self, run: Run) -> Mapping[MeasureRequest, Outcome] | MaprobeError:
        """Make a pass; an error is returned, so that it is remembered and the pass never tried again."""
        try:
            edits = self._edits(run)
            subject = self.subject(run.key.checkpoint)
            inputs = self._prepared(run.key.checkpoint, run.key.inputs)
            outcomes = self._elsewhere(run, subject, inputs, edits)
            if outcomes is None:
                size, progress = self.options.batch, self._progress
                before = self._outcomes.get(replace(run.key, edit=None)) if run.key.edit else None
                untouched = before if isinstance(before, Mapping) else None
                outcomes, forwards = execute(
                    run, subject, inputs, self.registry, edits=edits, untouched=untouched, size=size, progress=progress
                )
                self.forwards += forwards
        except Exception as error:  # noqa: BLE001 - a model may raise anything; the cause is kept and told once
            return _known(error, f"the pass over {run.key.checkpoint} ({run.key.edit or 'untouched'})")
        return {
            measure: outcome
            if isinstance(outcome, MaprobeError) or outcome.circumstances is not None
            else replace(outcome, circumstances=circumstances(run, measure, subject, inputs))
            for measure, outcome in outcomes.items()
        }

    def _elsewhere(
        self, run: Run, subject: Subject, inputs: AnyInputs, edits: tuple[AnyEdit, ...]
    ) -> Mapping[MeasureRequest, Outcome] | None:
        """Let a plugin make the pass; what it gives must be whole."""
        outcomes = self.options.execute(run, subject, inputs, edits)
        missing = [describe(measure) for measure in run.measures if outcomes is not None and measure not in outcomes]
        if missing:
            raise MeasurementError(
                f"a plugin's pytest_maprobe_execute_run gave no Reading for {', '.join(missing)}; it must return one "
                f"for each of `run.measures`, or None"
            )
        return outcomes

    def _edits(self, run: Run) -> tuple[AnyEdit, ...]:
        if run.key.edit is None:
            return ()
        intervene = run.key.edit.intervene
        recipe = self.registry.interventions[intervene.target]
        place = located_on(run.key, intervene, self.registry)
        locating = located_by(intervene, self.registry)
        located = self._reading(place, locating) if locating is not None else None
        return recipe.edits(located, intervene, run.key.edit.arm)


def _known(error: Exception, doing: str) -> MaprobeError:
    """Return the error as one of ours, in one sentence, and without the frames, which would keep a model in memory."""
    if isinstance(error, MaprobeError):
        return _frameless(error)
    first = (str(error).strip().splitlines() or ["no message"])[0]
    short = isinstance(error, MemoryError) or "out of memory" in first or "can't allocate memory" in first
    hint = "; lower --maprobe-batch or `length`, or load with --maprobe-dtype bfloat16" if short else ""
    failed = MeasurementError(f"{doing} failed with {type(error).__name__}: {first}{hint}")
    failed.__cause__ = error
    return _frameless(failed)


def _frameless(error: MaprobeError) -> MaprobeError:
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
