"""Probe files as pytest files, cases as pytest items."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from maprobe.cases import Case, Probe
from maprobe.errors import MaprobeError
from maprobe.expectations import number
from maprobe.reading.expanding import expand
from maprobe.reading.parsing import parse_file
from maprobe.reporting.failures import explain
from maprobe.session import SESSION
from maprobe.verdicts import Status, Verdict

__all__ = [
    "Gatherer",
    "ProbeFailed",
    "ProbeFile",
    "ProbeItem",
    "ProbeUnmeasured",
    "describe_item",
    "selected_cases",
    "shown_path",
]


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
            probes = parse_file(self.path, session.registry, name=shown_path(self.path, self.config))
            series = {label: each.labels for label, each in session.series.items()}
            cases = expand(probes, file=self.nodeid, checkpoints=tuple(session.references), series=series)
        except MaprobeError as error:
            raise self.CollectError(str(error)) from None
        asked = {case.probe.id for case in cases}
        session.unasked += [f"{self.nodeid}::{probe.id}" for probe in probes if probe.id not in asked]
        for case in cases:
            name = case.id.removeprefix(f"{self.nodeid}::")
            # The id in full, so that pytest sees the parameter in it and `--lf` knows the case again.
            yield ProbeItem.from_parent(self, name=name, nodeid=case.id, case=case)


def describe_item(item: pytest.Item, probe: Probe) -> None:
    """Give an item what `-k` and `-m` select by, and skip it where the probe says so."""
    item.extra_keyword_matches.update((probe.suite, *probe.tags))
    for name in probe.marks:
        item.add_marker(name)
    if probe.skip:
        item.add_marker(pytest.mark.skip(reason=probe.skip))


def shown_path(path: Path, config: pytest.Config) -> str:
    """Return the path as the user would type it: from the folder the command was started in."""
    try:
        return os.path.relpath(path, config.invocation_params.dir)
    except ValueError:  # on Windows there is no relative path to another drive
        return str(path)


class ProbeItem(pytest.Item):
    """One case. Measuring is its setup, judging is its call: an unmeasured case is an error, not a failure.

    That of a trend measures nothing: its setup takes what the cases of its series have brought.
    """

    def __init__(self, *, case: Case, **kwargs: Any) -> None:  # noqa: ANN401 - pytest's own keywords
        super().__init__(**kwargs)
        self.case = case
        self.verdict: Verdict | None = None
        describe_item(self, case.probe)

    def setup(self) -> None:
        """Measure, unless the passes needed were made for an earlier case, and judge."""
        session = self.config.stash[SESSION]
        try:
            if self.case.members:
                self.verdict = session.trend(self.case)
            else:
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
        """Sort what all others made of the items; registered late, so that `--failed-first` comes before.

        The trends of a series come behind the last of its checkpoints.
        """
        yield
        cases = [item for item in items if isinstance(item, ProbeItem)]
        order = list(dict.fromkeys(item.case.checkpoint for item in cases if not item.case.members))

        def place(item: ProbeItem) -> tuple[int, bool]:
            last = [order.index(label) for label in item.case.members or (item.case.checkpoint,) if label in order]
            return max(last, default=len(order)), bool(item.case.members)

        together = iter(sorted(cases, key=place))
        items[:] = [next(together) if isinstance(item, ProbeItem) else item for item in items]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let `--lf` run again, with a trend that did not pass, the cases that it is judged by."""
        config = session.config
        verdicts = config.stash[SESSION].verdicts.values()
        trends = [verdict for verdict in verdicts if verdict.members and _is_failure(verdict)]
        cache = getattr(config, "cache", None)
        if cache is None or not trends or config.getoption("cacheshow", default=None):
            return
        failed: dict[str, bool] = cache.get("cache/lastfailed", {})
        for verdict in trends:
            stem = verdict.case.removesuffix(f"[{verdict.checkpoint}]")
            failed.update({f"{stem}[{member}]": True for member in verdict.members})
        cache.set("cache/lastfailed", failed)


def _is_failure(verdict: Verdict) -> bool:
    if verdict.status is Status.FAILED:
        return verdict.severity == "error" and not verdict.waived
    return verdict.status is Status.UNMEASURED


def selected_cases(session: pytest.Session) -> list[Case]:
    """Return the cases to be measured, in the order in which they run: selected, and not skipped by their probe."""
    items = [item for item in session.items if isinstance(item, ProbeItem)]
    return [item.case for item in items if not item.case.members and not item.case.probe.skip]
