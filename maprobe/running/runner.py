"""One pass: all sequences of an input through one subject, every measurement folded on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maprobe.edits import AnyEdit, NoiseEdit
from maprobe.errors import MaprobeError, MeasurementError
from maprobe.planning import companion_request, describe
from maprobe.readings import Circumstances, Reading
from maprobe.recipes import Fold, FoldContext
from maprobe.running.calling import resting
from maprobe.running.inputs import AnyInputs, Inputs, batches, count_batches
from maprobe.running.noise import Noise, make_noise
from maprobe.running.recorder import Recorder
from maprobe.sites import ATTRIBUTION, site_named

if TYPE_CHECKING:
    from maprobe.cases import MeasureRequest
    from maprobe.planning import Run
    from maprobe.progress import Progress
    from maprobe.registry import Registry
    from maprobe.running.subjects import Subject

__all__ = ["Outcome", "circumstances", "execute"]

Outcome = Reading | MaprobeError


def execute(
    run: Run,
    subject: Subject,
    inputs: AnyInputs,
    registry: Registry,
    *,
    edits: Sequence[AnyEdit] = (),
    untouched: Mapping[MeasureRequest, Outcome] | None = None,
    size: int = 1,
    progress: Progress,
) -> tuple[dict[MeasureRequest, Outcome], int]:
    """Make one pass and return what each measurement of the run found, and the number of forward calls.

    A measurement that cannot be finished leaves its error in place of a Reading, and the others their Readings.

    Raises:
        MaprobeError: the pass as a whole could not be made.
    """
    memo: dict[Any, Any] = {}
    folds: dict[MeasureRequest, Fold] = {}
    failures: dict[MeasureRequest, MaprobeError] = {}
    for measure in run.measures:
        try:
            context = _context(measure, subject, inputs, memo, (untouched or {}).get(measure))
            folds[measure] = registry.measurements[measure.kind].start(context)
        except MaprobeError as error:
            failures[measure] = error
    what = f"{run.key.checkpoint}: {run.key.edit or 'untouched'}"
    # Noise is made of the inputs, and learnt by calling the model, which nothing may watch or edit at that time.
    made = [
        make_noise(subject.anatomy, inputs, edit, subject.device, progress) if isinstance(edit, NoiseEdit) else edit
        for edit in edits
    ]
    with (
        resting(subject.anatomy.model),
        Recorder(subject.anatomy, list(folds.values()), made) as recorder,
        progress.bar(what, count_batches(inputs, size), "batch") as bar,
    ):
        for batch in batches(inputs, size=size, device=subject.device) if recorder.observes else ():
            recorder.run(batch)
            bar.advance()
        if recorder.attributed:
            ids = inputs.sequences if isinstance(inputs, Inputs) else ()
            with progress.bar(f"{what}, gradients", subject.anatomy.depth, "block") as blocks:
                recorder.differentiate(ids, blocks.advance)
    for measure, fold in folds.items():
        if (failure := recorder.failure(fold)) is not None:
            failures[measure] = failure
    outcomes = _noted(_finish(folds, registry, failures), _left_out(recorder.left_out), at=(ATTRIBUTION,))
    learnt = [edit.told for edit in made if isinstance(edit, Noise) and edit.losses]
    return {**_noted(outcomes, learnt), **failures}, recorder.forwards


def _left_out(weights: Sequence[str]) -> list[str]:
    """Say which weights the Readings of attributions are not of."""
    others = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
    return [f"left out are weights that are no matrix of a linear layer: {weights[0]}{others}"] if weights else []


def _noted(
    outcomes: dict[MeasureRequest, Outcome], notes: Sequence[str], at: Sequence[str] = ()
) -> dict[MeasureRequest, Outcome]:
    """Add notes to the Readings of some sites, or of all."""
    return {
        measure: replace(outcome, notes=(*outcome.notes, *notes))
        if isinstance(outcome, Reading) and (not at or measure.site in at)
        else outcome
        for measure, outcome in outcomes.items()
    }


def _context(
    measure: MeasureRequest, subject: Subject, inputs: AnyInputs, memo: dict[Any, Any], untouched: Outcome | None
) -> FoldContext:
    depth = subject.anatomy.depth
    site = measure.site
    return FoldContext(
        request=measure,
        layers=measure.layers.resolve(subject.anatomy.layers(site), site=site) if site_named(site).per_layer else (),
        depth=depth,
        facts=subject.loaded.facts,
        sequences=len(inputs.sequences),
        choices=inputs.choices,
        labels=inputs.labels,
        groups=inputs.groups,
        pairs=inputs.pairs,
        untouched=untouched if isinstance(untouched, Reading) else None,
        memo=memo,
    )


def _finish(
    folds: Mapping[MeasureRequest, Fold],
    registry: Registry,
    failures: Mapping[MeasureRequest, MaprobeError],
) -> dict[MeasureRequest, Outcome]:
    outcomes: dict[MeasureRequest, Outcome] = {}
    recipes = {measure: registry.measurements[measure.kind] for measure in folds}
    # Those that lean on a companion come after those that may be one.
    whole = [measure for measure in folds if measure not in failures]
    for measure in sorted(whole, key=lambda measure: bool(recipes[measure].companions)):
        companions = {
            kind: outcome
            for kind in recipes[measure].companions
            if isinstance(outcome := outcomes.get(companion_request(kind, registry)), Reading)
        }
        missing = [kind for kind in recipes[measure].companions if kind not in companions]
        if missing:
            outcomes[measure] = MeasurementError(
                f"{measure.kind} leans on {', '.join(missing)}, which could not be measured in the same pass"
            )
            continue
        try:
            reading = folds[measure].finish(companions)
        except MaprobeError as error:
            outcomes[measure] = error
        except Exception as error:  # noqa: BLE001 - a plugin's fold may raise anything; the others keep their Readings
            outcomes[measure] = MeasurementError(f"{measure.kind} failed with {type(error).__name__}: {error}")
        else:
            outcomes[measure] = reading
    return outcomes


def circumstances(run: Run, measure: MeasureRequest, subject: Subject, inputs: AnyInputs) -> Circumstances:
    """Return under which conditions a measurement of a run is taken."""
    provenance = subject.loaded.provenance
    maps = measure.site in ("block.attn.probs", "block.attn.scores")
    route = f" (read through: {subject.anatomy.attention_route})" if maps else ""
    return Circumstances(
        inputs=inputs.description,
        digest=inputs.digest,
        sequences=len(inputs.sequences),
        tokens=inputs.tokens,
        length=inputs.length,
        bos=inputs.bos,
        dtype=provenance.dtype,
        device=provenance.device,
        attention=provenance.attention + route,
        edit=str(run.key.edit or ""),
        measure=describe(measure),
    )
