"""Probe files as pytest files, cases as pytest items."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from maprobe.cases import Case
from maprobe.errors import MaprobeError
from maprobe.expectations import number
from maprobe.reading.expanding import expand
from maprobe.reading.parsing import parse_file
from maprobe.reporting.failures import explain
from maprobe.session import SESSION
from maprobe.verdicts import Status, Verdict

__all__ = ["Gatherer", "ProbeFailed", "ProbeFile", "ProbeItem", "ProbeUnmeasured", "selected_cases"]


class ProbeFailed(Exception):  # noqa: N818 - named for what it says of the model, which is not an error of ours
    """A property does not hold. Carries the verdict; shown as its explanation, without a traceback."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(explain(verdict))
        self.verdict = verdict


class ProbeUnmeasured(Exception):  # noqa: N818
    """A property could not be measured, which is an error whatever a waiver says."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(explain(verdict))
        self.verdict = verdict


class ProbeFile(pytest.File):
    """A ``*.probe.yaml`` file."""

    def collect(self) -> Iterator[ProbeItem]:
        """Read the whole file and yield one item for each case; every fault of the file is one error."""
        session = self.config.stash[SESSION]
        try:
            probes = parse_file(self.path, session.registry, name=_shown(self.path, self.config))
            cases = expand(probes, file=self.nodeid, checkpoints=tuple(session.references))
        except MaprobeError as error:
            raise self.CollectError(str(error)) from None
        for case in cases:
            name = case.id.removeprefix(f"{self.nodeid}::")
            # The id in full, so that pytest sees the parameter in it and `--lf` knows the case again.
            yield ProbeItem.from_parent(self, name=name, nodeid=case.id, case=case)


def _shown(path: Path, config: pytest.Config) -> str:
    """Return the path as the user would type it: from the folder the command was started in."""
    try:
        return os.path.relpath(path, config.invocation_params.dir)
    except ValueError:  # on Windows there is no relative path to another drive
        return str(path)


class ProbeItem(pytest.Item):
    """One case. Measuring is its setup, judging is its call: an unmeasured case is an error, not a failure."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:  # noqa: ANN401 - pytest's own keywords
        super().__init__(**kwargs)
        self.case = case
        self.verdict: Verdict | None = None
        probe = case.probe
        self.extra_keyword_matches.update((probe.suite, *probe.tags))
        for name in probe.marks:
            self.add_marker(name)
        if probe.skip:
            self.add_marker(pytest.mark.skip(reason=probe.skip))

    def setup(self) -> None:
        """Measure, unless the passes needed were made for an earlier case, and judge."""
        session = self.config.stash[SESSION]
        try:
            self.verdict = session.verdict(self.case, lambda: selected_cases(self.session))
        except MaprobeError as error:
            if not hasattr(self.config, "workerinput"):
                # The plan as a whole was refused: the same for every case, so the session ends here.
                pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
            # One process of several cannot end the session.
            self.verdict = session.unplanned(self.case, error)
        self._record(self.verdict)
        verdict = self.verdict
        if verdict.status in (Status.ABSENT, Status.NOT_APPLICABLE):
            pytest.skip(f"{verdict.status.value}: {verdict.reason}")
        if verdict.status is Status.UNMEASURED:
            raise ProbeUnmeasured(verdict)
        if verdict.waived and verdict.severity == "error":
            self.add_marker(pytest.mark.xfail(reason=verdict.waived, raises=ProbeFailed))

    def runtest(self) -> None:
        """Fail if the property does not hold, unless the failure counts as less than an error."""
        assert self.verdict is not None, "setup comes first"
        if self.verdict.status is Status.FAILED and self.verdict.severity == "error":
            raise ProbeFailed(self.verdict)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Point at the probe's line in its file; pytest counts lines from 0."""
        return self.path, self.case.probe.mark.line - 1, self.name

    def _record(self, verdict: Verdict) -> None:
        """Hand the numbers to JUnit XML, whose properties are plain strings."""
        self.user_properties.append(("maprobe.status", verdict.status.value))
        self.user_properties.append(("maprobe.checkpoint", verdict.checkpoint))
        if verdict.reason:
            self.user_properties.append(("maprobe.reason", verdict.reason))
        for finding in verdict.findings:
            if finding.observed is not None:
                self.user_properties.append((f"maprobe.{finding.quantity}", number(finding.observed)))
        if verdict.margin is not None:
            self.user_properties.append(("maprobe.margin", f"{verdict.margin:.4g}"))


class Gatherer:
    """Brings the cases of one checkpoint together, so that each is loaded once; other items keep their places."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Sort what all others made of the items; registered late, so that `--failed-first` comes before."""
        yield
        cases = [item for item in items if isinstance(item, ProbeItem)]
        order = list(dict.fromkeys(item.case.checkpoint for item in cases))
        together = iter(sorted(cases, key=lambda item: order.index(item.case.checkpoint)))
        items[:] = [next(together) if isinstance(item, ProbeItem) else item for item in items]


def selected_cases(session: pytest.Session) -> list[Case]:
    """Return the cases that were selected and that no mark of their own skips, in the order in which they run."""
    return [item.case for item in session.items if isinstance(item, ProbeItem) and not item.case.probe.skip]
