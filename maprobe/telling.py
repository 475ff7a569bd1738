"""From the verdicts of a session to what the user sees: terminal, report files, exit status."""

from __future__ import annotations

import datetime
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from maprobe.collecting import ProbeItem
from maprobe.errors import MaprobeError
from maprobe.reporting.plans import plan_table
from maprobe.reporting.plots.gallery import check_folder, hang
from maprobe.reporting.report import PropertyReport
from maprobe.reporting.series import series_table
from maprobe.reporting.sparks import sparkline
from maprobe.reporting.tables import layer_table, property_table
from maprobe.reporting.writing import check_target, write_report
from maprobe.session import COLLECTING_HOOKS, SESSION, ProbeSession
from maprobe.verdicts import Status, Verdict

if TYPE_CHECKING:
    from maprobe.cases import Case

__all__ = ["Listener", "announce_plan", "check_reports", "skipped"]

_ANSWERED = (Status.PASSED, Status.FAILED)


def skipped(case: Case, report: pytest.TestReport) -> Verdict:
    """Return the Verdict of a case that a mark skipped before anything was measured."""
    reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else "skipped"
    return Verdict(
        case=case.id,
        probe=case.probe.id,
        suite=case.probe.suite,
        checkpoint=case.checkpoint,
        status=Status.NOT_APPLICABLE,
        claim=case.probe.claim,
        cite=case.probe.cite,
        mark=str(case.probe.mark),
        reason=reason,
        members=case.members,
    )


def check_reports(config: pytest.Config) -> None:
    """Refuse report paths that cannot be written, and pictures that cannot be drawn or written.

    Raises:
        MaprobeError: naming the first such path.
    """
    if config.getoption("maprobe_plots"):
        check_folder(Path(config.getoption("maprobe_plots")))
    for path in config.getoption("property_report"):
        check_target(Path(path), config.stash[SESSION].registry.renderers)


def announce_plan(session: pytest.Session, cases: list[Case]) -> None:
    """Print the passes that the selected cases need, and what they cost."""
    config = session.config
    held = config.stash[SESSION]
    writer = config.get_terminal_writer()
    try:
        plan = held.make_plan(cases)
    except MaprobeError as error:
        raise pytest.UsageError(str(error)) from None
    writer.line()
    writer.line(plan_table(plan.to_dict(), width=writer.fullwidth))
    for label in held.references:
        fault = held.engine.fault(label)
        if fault is not None:
            writer.line(f"{label}: {fault}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            session.testsfailed += 1
    for planned in plan.cases:
        if planned.fault and not planned.inapplicable:
            writer.line(f"{planned.case.id}: {planned.fault}", yellow=True)


def _fail(session: pytest.Session, exitstatus: int) -> None:
    """Let a session that would end with success end as failed."""
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _draws_blocks() -> bool:
    """Whether what the terminal writes to can encode the characters that lines are drawn with."""
    try:
        # That of the process, since the one in its place while tests are captured can encode anything.
        sparkline([1.0, 2.0]).encode(getattr(sys.__stdout__, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class Listener:
    """Takes in the reports of a session wherever its cases ran, and tells what came of them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.held: ProbeSession = config.stash[SESSION]
        self.written: list[str] = []
        self.measured = True
        self.collected = 0
        self.planned_only = False

    def pytest_plugin_registered(self, plugin: object, plugin_name: str) -> None:
        """Notice recipes that arrive after the registry was read, so that they are not silently ignored."""
        late = [hook for hook in COLLECTING_HOOKS if hasattr(plugin, hook)]
        if late and self.held.frozen:
            self.held.late = f"plugin {plugin_name!r} brings {late[0]}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the verdict of a case and show it to observers; one road with and without xdist."""
        data = getattr(report, "maprobe_verdict", None)
        if data is None or self._is_worker:
            return
        verdict = Verdict.from_dict(data)
        self.held.verdicts[verdict.case] = verdict
        self.config.hook.pytest_maprobe_verdict(config=self.config, verdict=verdict)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401 - xdist's type
        """Take over what a worker process knows of the checkpoints it loaded and of its plan."""
        brought = getattr(node, "workeroutput", {}).get("maprobe")
        if brought:
            self.held.checkpoints.update(brought["checkpoints"])
            self.held.plans.update(brought["plans"])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the reports; a session whose probes measured nothing does not end with success."""
        self.held.close()
        self.collected = session.testscollected
        if self._is_worker:
            output: dict[str, Any] = self.config.workeroutput  # type: ignore[attr-defined]
            output["maprobe"] = {"checkpoints": self.held.checkpoints, "plans": self.held.plans}
            return
        verdicts = self.held.verdicts.values()
        missing = {item.case.id for item in session.items if isinstance(item, ProbeItem)} - set(self.held.verdicts)
        if not verdicts:
            if missing and not (self.config.getoption("maprobe_plan") or self.config.option.collectonly):
                for path in self.config.getoption("property_report"):
                    self.written.append(f"property report NOT written: no case was judged, so {path} is as it was")
            return
        self.measured = any(verdict.status in _ANSWERED for verdict in verdicts)
        if not self.measured and exitstatus == pytest.ExitCode.OK and session.testscollected == len(verdicts):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        stopped = exitstatus == pytest.ExitCode.INTERRUPTED or session.shouldstop or session.shouldfail
        # With xdist, the items are known to the processes only that ran them.
        interrupted = bool(missing if session.items else stopped)
        report = self._hang(session, exitstatus, self.report(interrupted=interrupted))
        for path in self.config.getoption("property_report"):
            try:
                linked = report.relinked(Path(), Path(path).parent)
                write_report(Path(path), linked, self.held.registry.renderers)
                self.written.append(f"property report: {path}")
            except Exception as error:  # noqa: BLE001 - a plugin's renderer may raise anything; the others are written
                ours = isinstance(error, MaprobeError)
                told = str(error) if ours else f"cannot write {path}: {type(error).__name__}: {error}"
                self.written.append(f"property report NOT written: {told}")
                _fail(session, exitstatus)

    def _hang(self, session: pytest.Session, exitstatus: int, report: PropertyReport) -> PropertyReport:
        """Draw the pictures if they were asked for, and return the report with links to them."""
        folder = self.config.getoption("maprobe_plots")
        if not folder:
            return report
        try:
            hanging = hang(report, Path(folder))
        except MaprobeError as error:
            self.written.append(f"pictures NOT written: {error}")
            _fail(session, exitstatus)
            return report
        self.written.extend(f"picture: {link.path} (and .svg)" for link in hanging.links)
        self.written.extend(hanging.lacking)
        if hanging.failed:
            _fail(session, exitstatus)
        return replace(report, pictures=hanging.links)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the property table, the massive layers with their near misses, and what was written."""
        if self.held.verdicts:
            self._tell_tables(terminalreporter)
        elif self.held.unasked and not self.collected and not terminalreporter.stats:
            asked = ", ".join(self.held.unasked)
            terminalreporter.write_line(
                f"{asked}: a trend is asked of a series of checkpoints, and none was given; name one, such as "
                f"--model 'org/name@{{step100,step200}}' or --model=runs/"
            )
        for line in self.written:
            terminalreporter.write_line(line)

    def _tell_tables(self, terminalreporter: pytest.TerminalReporter) -> None:
        report = self.report()
        width = self.config.get_terminal_writer().fullwidth
        terminalreporter.write_sep("=", "properties")
        terminalreporter.write_line(property_table(report, width=width))
        along = series_table(report, width=width, plain=not _draws_blocks())
        layers = layer_table(report, format="simple", every=False)
        for table in (along, layers):
            if table:
                terminalreporter.write_line("")
                terminalreporter.write_line(table)
        if not self.measured:
            terminalreporter.write_line("No property was measured, so there is nothing to be green about.", red=True)

    def report(self, *, interrupted: bool = False) -> PropertyReport:
        """Return the report of what has come in so far, in the order of collection.

        One process judges the cases of a checkpoint, in that order; those of several come in mixed.
        """
        held = self.held
        labels = held.labels
        return PropertyReport(
            verdicts=tuple(sorted(held.verdicts.values(), key=lambda verdict: labels.index(verdict.checkpoint))),
            checkpoints=tuple(held.checkpoints[label] for label in held.references if label in held.checkpoints),
            series=tuple(series.to_dict() for series in held.series.values()),
            plan=held.plan,
            command=shlex.join(["pytest", *map(str, self.config.invocation_params.args)]),
            started=held.started.astimezone(datetime.timezone.utc).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - held.clock, 2),
            interrupted=interrupted,
        )

    @property
    def _is_worker(self) -> bool:
        return hasattr(self.config, "workerinput")
