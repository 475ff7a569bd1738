"""``--maprobe-selftest``: every probe on a pair of small models made for it, which it must tell apart."""

from __future__ import annotations

import gc
import importlib.util
import os
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from maprobe.cases import Case, Probe
from maprobe.collecting import describe_item, shown_path
from maprobe.errors import MaprobeError
from maprobe.progress import Silent
from maprobe.reading.parsing import parse_file
from maprobe.reporting.grids import Grid, draw, titled
from maprobe.selftest.pairs import Member, Pair, of_images
from maprobe.selftest.rules import pairs_of
from maprobe.selftest.showing import Showing, expects, show, unasked, unseen
from maprobe.selftest.surroundings import card_text, lessons_of, placed, with_stand_ins
from maprobe.session import SESSION
from maprobe.trends import Stage, judge_trend

if TYPE_CHECKING:
    from maprobe.running.engine import Engine
    from maprobe.verdicts import Verdict

__all__ = ["SelftestFile", "SelftestItem", "SelftestListener", "check_alone"]

# Options that say which checkpoint is measured and how, with the values that say nothing here.
_FOREIGN: Mapping[str, tuple[object, ...]] = {
    "model": ([],),
    "dtype": ("auto", "float32"),
    "device": ("auto", "cpu"),
    "device_map": ("",),
    "attn": ("",),
}

_BATCH = 16  # sequences in a forward call, at least: the models are so small that calls cost more than arithmetic


def check_alone(config: pytest.Config) -> None:
    """Refuse options that mean nothing beside ``--maprobe-selftest``.

    Raises:
        pytest.UsageError: naming the first of them.
    """
    for name, allowed in _FOREIGN.items():
        if config.getoption(f"maprobe_{name}") not in allowed:
            option = f"--maprobe-{name.replace('_', '-')}"
            raise pytest.UsageError(f"--maprobe-selftest brings models of its own, on the CPU; leave out {option}")
    for name in ("maprobe_plan", "maprobe_plots", "property_report"):
        if config.getoption(name):
            option = f"--{name.replace('_', '-')}"
            raise pytest.UsageError(f"--maprobe-selftest measures no checkpoint, so it has no use for {option}")


class NotShown(Exception):  # noqa: N818 - it is the finding, and no error of ours
    """A probe did not tell the two models of its pair apart."""


class SelftestFile(pytest.File):
    """A probe file whose probes are tested, and not a checkpoint."""

    def collect(self) -> Iterator[SelftestItem]:
        """Yield an item for each probe and each twin on which it is to fail."""
        try:
            registry = self.config.stash[SESSION].registry
            probes = parse_file(self.path, registry, name=shown_path(self.path, self.config))
        except MaprobeError as error:
            raise self.CollectError(str(error)) from None
        for probe in probes:
            for pair in pairs_of(probe):
                name = f"{probe.id}[{pair.twin.name}]"
                yield SelftestItem.from_parent(self, name=name, nodeid=f"{self.nodeid}::{name}", probe=probe, pair=pair)


class SelftestItem(pytest.Item):
    """One probe and its pair of models. Passes if the probe holds on one of them and not on the other."""

    def __init__(self, *, probe: Probe, pair: Pair, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type] # pytest's own keywords
        self.probe = probe
        self.pair = pair
        self.showing: Showing | None = None
        describe_item(self, probe)

    def runtest(self) -> None:
        """Put the probe to both models."""
        listener: SelftestListener = self.config.pluginmanager.getplugin("maprobe-selftest")
        self.showing = listener.show(self)
        if self.showing.shown is None:
            pytest.skip(self.showing.reason)
        if not self.showing.shown:
            raise NotShown(_explained(self.showing))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """Tell what was seen, without a traceback of ours."""
        if isinstance(excinfo.value, NotShown):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo, style))  # type: ignore[arg-type]

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Point at the probe's line in its file; pytest counts lines from 0."""
        return self.path, self.probe.mark.line - 1, self.name


def _explained(showing: Showing) -> str:
    rows = (
        ("claim", showing.claim),
        ("planted", showing.planted),
        (showing.twin, showing.on_twin),
        ("reason", showing.reason),
        ("probe", f"{showing.file}:{showing.line}"),
    )
    width = max(len(label) for label, _ in rows) + 2
    return "\n".join(f"{label:<{width}}{text}" for label, text in rows)


class SelftestListener:
    """Runs the probes of this process, takes in what all processes saw, and tells it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.showings: list[Showing] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._engines: tuple[Engine, Engine] | None = None
        self._froze = False

    def show(self, item: SelftestItem) -> Showing:
        """Put a probe to its two models; all selected probes are planned before the first of them."""
        reason = _unasked(item.probe)
        if reason:
            return unasked(item.probe, item.pair, reason)
        if self._engines is None:
            self._folder = tempfile.TemporaryDirectory(prefix="maprobe-selftest-")
            items = [other for other in item.session.items if isinstance(other, SelftestItem)]
            self._engines = self._made([other for other in items if not _unasked(other.probe) and not other.probe.skip])
        planted, twin = (
            self._verdict(item, member, engine) for member, engine in zip(_members(item), self._engines, strict=True)
        )
        return show(item.probe, item.pair, planted, twin)

    def _verdict(self, item: SelftestItem, member: Member, engine: Engine) -> Verdict:
        verdicts = [engine.verdict(case) for case in self._cases(item, member)]
        if not member.stages:
            return verdicts[0]
        stages = [
            Stage(
                label=model.name,
                name=f"step {step}",
                step=step,
                planned=engine.planned(case.id),
                verdict=verdict,
            )
            for (step, model), case, verdict in zip(member.stages, self._cases(item, member), verdicts, strict=True)
        ]
        case = self._case(item, member.name, tuple(model.name for model in member.models))
        return judge_trend(case, stages, engine.registry, engine.options.today)

    def _made(self, items: Sequence[SelftestItem]) -> tuple[Engine, Engine]:
        """Return an engine for the planted models and one for the twins, so that a model of each stays in memory."""
        from maprobe.running.engine import Engine, EngineOptions

        probes = [item.probe for item in items]
        registry = with_stand_ins(self.config.stash[SESSION].registry, probes)
        lessons = lessons_of(probes)
        self._card.write_text(card_text(["planted"]), encoding="utf-8")
        options = EngineOptions(batch=max(_BATCH, self.config.getoption("maprobe_batch")))
        engines = []
        for side in range(2):
            models = {model.name: model for item in items for model in _members(item)[side].models}
            sources = {name: partial(model.open, lessons) for name, model in models.items() if model.open}
            engines.append(Engine(registry, sources, Silent(), options))
            cases = [case for item in items for case in self._cases(item, _members(item)[side])]
            engines[-1].plan(list({case.id: case for case in cases}.values()))
        # Each twin is let go of in its turn. Looking through all of torch every time would take a third of the session.
        self._froze = not gc.get_freeze_count()
        if self._froze:
            gc.freeze()
        return engines[0], engines[1]

    @property
    def _card(self) -> Path:
        assert self._folder is not None, "made before the first probe"
        return Path(self._folder.name) / "planted.md"

    def _cases(self, item: SelftestItem, member: Member) -> list[Case]:
        return [self._case(item, model.name) for model in member.models]

    def _case(self, item: SelftestItem, name: str, members: tuple[str, ...] = ()) -> Case:
        probe = placed(item.probe, self._card)
        file = item.nodeid.partition("::")[0]
        return Case(id=f"{file}::{probe.id}[{name}]", probe=probe, checkpoint=name, members=members)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what was seen on the report, as plain data that xdist can carry."""
        report = yield
        if isinstance(item, SelftestItem):
            if report.skipped and isinstance(report.longrepr, tuple):
                report.longrepr = (str(item.path), item.probe.mark.line, report.longrepr[2])
            if call.when == "call" and item.showing:
                report.maprobe_showing = item.showing.to_dict()  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was seen, wherever it was."""
        data = getattr(report, "maprobe_showing", None)
        if data is not None:
            self.showings.append(Showing.from_dict(data))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Clean up; a session in which nothing was shown does not end with success."""
        for engine in self._engines or ():
            engine.release()
        if self._froze:
            gc.unfreeze()
        if self._folder is not None:
            self._folder.cleanup()
        asked = [showing for showing in self.showings if showing.shown is not None]
        if self.showings and not asked and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what each probe said of its two models, and what the twins are."""
        if not self.showings:
            return
        showings = sorted(self.showings, key=lambda showing: (showing.file, showing.line, showing.probe))
        width = self.config.get_terminal_writer().fullwidth
        terminalreporter.write_sep("=", "self-test")
        for suite in dict.fromkeys(showing.suite for showing in showings):
            rows = tuple(_row(showing) for showing in showings if showing.suite == suite)
            grid = Grid(headers=("probe", "on planted", "twin", "on the twin", "shown"), rows=rows)
            terminalreporter.write_line(titled(suite, draw(grid, format="simple", width=width), "simple"))
            terminalreporter.write_line("")
        for name, told in sorted({(showing.twin, showing.told) for showing in showings}):
            terminalreporter.write_line(f"{name}: {told}")
        for showing in showings:
            if showing.shown is None:
                terminalreporter.write_line(f"{showing.probe}: {showing.verdict}: {showing.reason}", yellow=True)
        for probe, clause in unseen(showings):
            terminalreporter.write_line(f"{probe}: on no twin asked does this clause fail: {clause}", yellow=True)
        probes = {(showing.file, showing.probe) for showing in showings if showing.shown is not None}
        without = {(showing.file, showing.probe) for showing in showings if showing.shown is False}
        terminalreporter.write_line(
            f"{len(probes - without)} of {len(probes)} probes hold on one model and not on the other."
        )


def _unasked(probe: Probe) -> str:
    """Return why a probe need not be put to any model; empty where it has to be."""
    if not expects(probe):
        return "it expects nothing, so that it cannot fail"
    if of_images(probe) and importlib.util.find_spec("PIL") is None:
        return "images need Pillow; install it with `pip install 'maprobe[vision]'`"
    return ""


def _members(item: SelftestItem) -> tuple[Member, Member]:
    return item.pair.planted, item.pair.twin


def _row(showing: Showing) -> tuple[str, ...]:
    return showing.probe, showing.planted, showing.twin, showing.on_twin, showing.verdict
