"""With pytest-xdist a checkpoint is loaded by one process, and the report is the one that a single process makes."""

from __future__ import annotations

from typing import Any

import pytest
from inner_sessions import EXISTS, PERPLEXITY, ZEROING, Inner, printed, told

# A conftest.py that notes which process makes a pass over which checkpoint, and hence has loaded it.
NOTING = """
import os


def pytest_maprobe_execute_run(run):
    if "PYTEST_XDIST_WORKER" in os.environ:
        with open({path!r}, "a") as file:
            file.write(f"{{os.getpid()}} {{run.key.checkpoint}}\\n")
"""

ORDINARY = "import pytest\n\n@pytest.mark.parametrize('n', range(4))\ndef test_n(n):\n    assert n != 3\n"


@pytest.fixture
def noting(inner: Inner) -> Inner:
    inner.write("conftest.py", NOTING.format(path=str(inner.path / "loads.txt")))
    inner.write("a.probe.yaml", PERPLEXITY + EXISTS)
    inner.write("b.probe.yaml", PERPLEXITY + ZEROING.replace("gt: 10", "gt: 1e9"))
    return inner


def loads(inner: Inner) -> list[tuple[str, str]]:
    """The processes that loaded a checkpoint, by label."""
    lines = (inner.path / "loads.txt").read_text(encoding="utf-8").splitlines()
    return sorted({(label, process) for process, label in map(str.split, lines)})


def timeless(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in ("command", "started", "seconds")}


def test_one_process_loads_a_checkpoint_and_the_report_is_the_same_beside_ordinary_tests(noting: Inner) -> None:
    noting.write("test_ordinary.py", ORDINARY)
    models = (noting.checkpoints.planted, noting.checkpoints.twin)
    alone = noting.run("--property-report=alone.json", model=models)
    spread = noting.run("-n2", "--property-report=spread.json", model=models)
    for result in (alone, spread):
        result.assert_outcomes(passed=8, failed=3, skipped=1)
    (one, first), (other, second) = loads(noting)
    assert (["planted", "twin"], True) == ([one, other], first != second)
    assert timeless(noting.report("alone.json")) == timeless(noting.report("spread.json"))
    assert 12 == noting.report("spread.json")["plan"]["forwards"]
    spread.stdout.re_match_lines([r"exists +layers_hit > 0 +passed.* +FAILED.*", "property report: spread.json"])
    assert "Traceback" not in printed(spread).split("test_n")[0]


def test_a_single_checkpoint_is_loaded_by_one_process_of_several(noting: Inner) -> None:
    result = noting.run("-n2", "--property-report=spread.json", model=noting.checkpoints.planted)
    result.assert_outcomes(passed=3, failed=1)
    assert ["planted"] == [label for label, _ in loads(noting)]
    assert ["ppl[planted]", "exists[planted]", "zeroing[planted]"] == list(noting.statuses("spread.json"))
    result.stdout.fnmatch_lines(
        ["claim     Zeroing destroys perplexity.", "expected  ratio > 1e+09 *", "repeat    pytest *"]
    )


def test_a_plan_over_the_limit_is_told_for_each_case_and_the_session_goes_on(noting: Inner) -> None:
    noting.write("test_ordinary.py", "def test_a(): pass\n")
    result = noting.run("-n2", "--maprobe-memory=0.001", model=noting.checkpoints.planted)
    result.assert_outcomes(passed=1, errors=4)
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    assert "reason the plan needs about 0.06 GiB beyond the weights" in told(result)
    assert not {"Traceback", "INTERNALERROR"} & set(told(result).replace(">", " ").split())


def test_the_scope_of_a_case_is_its_checkpoint_and_that_of_another_test_is_itself(pytester: pytest.Pytester) -> None:
    from maprobe.distributing import CheckpointScheduling

    pytester.makeini("[pytest]\nmaprobe_files = *.probe.yaml *.probe.json\n")
    scheduling = CheckpointScheduling(pytester.parseconfig("--dist=load", "--tx=popen"))
    scopes = {
        "probes/a.probe.yaml::exists[org/name@v1]": "org/name@v1",
        "probes/a.probe.json::exists-1[tiny]": "tiny",
        "test_a.py::test_a[tiny]": "test_a.py::test_a[tiny]",
        "other.yaml::case[tiny]": "other.yaml::case[tiny]",
    }
    assert scopes == {nodeid: scheduling._split_scope(nodeid) for nodeid in scopes}
