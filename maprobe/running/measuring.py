"""One measurement of a model at hand, without a session, a plan, or a checkpoint's facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from maprobe.cases import MeasureRequest, OptionValue
from maprobe.facts import CheckpointFacts
from maprobe.recipes import Batch, FoldContext
from maprobe.running.calling import resting
from maprobe.running.recorder import Recorder
from maprobe.sites import SITES

if TYPE_CHECKING:
    from maprobe.readings import Reading
    from maprobe.recipes import MeasurementRecipe
    from maprobe.running.anatomy import Anatomy

__all__ = ["measured"]


def measured(
    anatomy: Anatomy,
    recipe: MeasurementRecipe,
    batches: Iterable[Batch],
    options: Mapping[str, OptionValue] | None = None,
) -> Reading:
    """Return what a recipe that has no companions, and asks for no facts, finds in one pass over all layers.

    Args:
        anatomy: the model's parts.
        recipe: the measurement; its site is the first of those it can read.
        batches: what the model is called on.
        options: parameters of the recipe that are not at their defaults.

    Raises:
        MaprobeError: it cannot be measured.
    """
    defaults = {parameter.name: parameter.default for parameter in recipe.parameters}
    site = recipe.sites[0]
    fold = recipe.start(
        FoldContext(
            request=MeasureRequest(
                kind=recipe.name, site=site, options=tuple(sorted({**defaults, **(options or {})}.items()))
            ),
            layers=tuple(range(1, anatomy.depth + 1)) if SITES[site].per_layer else (),
            depth=anatomy.depth,
            facts=CheckpointFacts(label="", reference="", values={}),
            sequences=0,
        )
    )
    with resting(anatomy.model), Recorder(anatomy, [fold]) as recorder:
        for batch in batches:
            recorder.run(batch)
    if (failure := recorder.failure(fold)) is not None:
        raise failure
    return fold.finish({})
