"""The hooks through which other plugins extend maprobe, called through pytest's own plugin manager.

A conftest.py or an installed plugin implements one by defining a function of that name. Our own recipes come in
through the same hooks (maprobe/builtin.py). See docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import pytest

    from maprobe.cases import MeasureRequest
    from maprobe.edits import AnyEdit
    from maprobe.planning import Run
    from maprobe.readings import Reading
    from maprobe.recipes import (
        Architecture,
        Corpus,
        InterventionRecipe,
        MeasurementRecipe,
        Operator,
        Renderer,
    )
    from maprobe.references import CheckpointReference, LoadOptions
    from maprobe.running.inputs import Inputs
    from maprobe.running.subjects import Source, Subject
    from maprobe.verdicts import Verdict

__all__ = [
    "pytest_maprobe_architectures",
    "pytest_maprobe_execute_run",
    "pytest_maprobe_expectations",
    "pytest_maprobe_inputs",
    "pytest_maprobe_interventions",
    "pytest_maprobe_load_checkpoint",
    "pytest_maprobe_measurements",
    "pytest_maprobe_report_renderers",
    "pytest_maprobe_verdict",
]

hookspec = pluggy.HookspecMarker("pytest")


@hookspec
def pytest_maprobe_measurements(config: pytest.Config) -> Iterable[MeasurementRecipe]:  # type: ignore[empty-body]
    """Return measurement recipes: kinds usable under ``measure``."""


@hookspec
def pytest_maprobe_interventions(config: pytest.Config) -> Iterable[InterventionRecipe]:  # type: ignore[empty-body]
    """Return intervention recipes: targets usable under ``intervene``."""


@hookspec
def pytest_maprobe_expectations(config: pytest.Config) -> Iterable[Operator]:  # type: ignore[empty-body]
    """Return operators: keys usable under a quantity in ``expect``."""


@hookspec
def pytest_maprobe_architectures(config: pytest.Config) -> Iterable[Architecture]:  # type: ignore[empty-body]
    """Return rows for model families whose parts cannot be found by their roles."""


@hookspec
def pytest_maprobe_inputs(config: pytest.Config) -> Iterable[Corpus]:  # type: ignore[empty-body]
    """Return corpora: names usable under ``inputs: {corpus: ...}``."""


@hookspec
def pytest_maprobe_report_renderers(config: pytest.Config) -> Iterable[Renderer]:  # type: ignore[empty-body]
    """Return report formats, chosen by the suffix of ``--property-report``."""


@hookspec(firstresult=True)
def pytest_maprobe_load_checkpoint(
    config: pytest.Config, reference: CheckpointReference, options: LoadOptions
) -> Source | None:
    """Return where a checkpoint comes from, or None to leave it to the next plugin. The first result wins.

    Called once for each checkpoint of a session, before anything of it is loaded.
    """


@hookspec(firstresult=True)
def pytest_maprobe_execute_run(
    config: pytest.Config, run: Run, subject: Subject, inputs: Inputs, edits: tuple[AnyEdit, ...]
) -> Mapping[MeasureRequest, Reading] | None:
    """Make one pass and return a Reading for each of ``run.measures``, or None. The first result wins.

    ``edits`` are to be made to the model or its residual stream while ``inputs`` pass through ``subject``; they are
    empty for the untouched pass. Readings without circumstances are given those of the run.
    """


@hookspec
def pytest_maprobe_verdict(config: pytest.Config, verdict: Verdict) -> None:
    """Observe the Verdict of each case, in the process that builds the report (the controller under xdist)."""
