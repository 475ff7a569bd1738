"""Probe files against a model in memory, without pytest: for notebooks and training callbacks."""

from __future__ import annotations

import datetime
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from maprobe.builtin import builtin_registry
from maprobe.errors import ProbeFileError
from maprobe.judging import unanswered
from maprobe.planning import PlannedCase
from maprobe.progress import Silent
from maprobe.python_models import PythonModel
from maprobe.reading.expanding import expand
from maprobe.reading.folders import probe_files
from maprobe.reading.parsing import parse_file
from maprobe.reporting.report import PropertyReport
from maprobe.running.calling import resting
from maprobe.running.checkpoints import LoadedCheckpoint, held
from maprobe.running.engine import Engine, EngineOptions
from maprobe.running.own_models import facts_of_own, held_own
from maprobe.running.subjects import HeldSource
from maprobe.verdicts import Status, Verdict

if TYPE_CHECKING:
    from torch import nn
    from transformers import ImageProcessingMixin, PreTrainedTokenizerBase

    from maprobe.cases import Case, Probe
    from maprobe.registry import Registry

__all__ = ["check"]


def check(
    model: nn.Module | PythonModel,
    tokenizer: PreTrainedTokenizerBase | ImageProcessingMixin | None,
    probes: str | Path,
    *,
    label: str = "model",
    batch: int = 1,
    registry: Registry | None = None,
) -> PropertyReport:
    """Run probe files against a model in memory; see :func:`maprobe.check`."""
    recipes = builtin_registry() if registry is None else registry
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.monotonic()
    cases = _cases(Path(probes), recipes, label)
    with resting(model.module if isinstance(model, PythonModel) else model):
        source = HeldSource(loaded=_loaded(model, tokenizer, label))
        engine = Engine(recipes, {label: lambda: source}, Silent(), EngineOptions(batch=batch))
        plan = engine.plan([case for case in cases if not case.probe.skip])
        verdicts = tuple(_skipped(case) if case.probe.skip else engine.verdict(case) for case in cases)
    return PropertyReport(
        verdicts=verdicts,
        checkpoints=tuple(provenance.to_dict() for provenance in engine.provenance.values()),
        plan=plan.to_dict(),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 2),
    )


def _loaded(
    model: nn.Module | PythonModel, tokenizer: PreTrainedTokenizerBase | ImageProcessingMixin | None, label: str
) -> LoadedCheckpoint:
    if isinstance(model, PythonModel):
        brought = model if tokenizer is None else replace(model, tokenizer=tokenizer)
        return held_own(brought, facts_of_own(brought, label=label, reference=label))
    return held(model, tokenizer, label)


def _skipped(case: Case) -> Verdict:
    return unanswered(PlannedCase(case=case, probe=case.probe, arms={}), Status.NOT_APPLICABLE, str(case.probe.skip))


def _cases(path: Path, registry: Registry, label: str) -> list[Case]:
    """Read every file before anything is run, so that the faults of all are told at once."""
    faults: list[ProbeFileError] = []
    cases: list[Case] = []
    for file in probe_files(path):
        try:
            probes: tuple[Probe, ...] = tuple(parse_file(file, registry))
        except ProbeFileError as error:
            faults.append(error)
        else:
            cases.extend(expand(probes, file=str(file), checkpoints=[label]))
    if faults:
        raise ProbeFileError(fault for error in faults for fault in error.faults)
    return cases
