"""A series of checkpoints in a session: a case for each member, trends behind them, in one process and in several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inner_sessions import HEAD, PERPLEXITY, Inner, Watch, printed, told
from planted import save_planted

from maprobe.verdicts import Verdict

EMERGES = HEAD + (
    "  - id: emerges\n    claim: They emerge.\n    measure: {kind: magnitude}\n"
    "    trend:\n      of: {some: layers, top: {gt: 100}, ratio: {gt: 1000}}\n"
    "      emerges_after: 0\n      emerges_by: BY\n      stays: true\n"
)
GOOD, EARLY = EMERGES.replace("BY", "60%"), EMERGES.replace("BY", "100")
EXISTS = "  - {id: exists, claim: There are some., measure: {kind: magnitude}, expect: {layers_hit: {gte: 0}}}\n"
STEPS = ("step-0", "step-100", "step-200", "final")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of one training; massive from step 200 on, which is the last number."""
    folder = tmp_path_factory.mktemp("series") / "runs"
    for name, value in zip(STEPS, (0.0, 0.0, 4000.0, 4000.0), strict=True):
        save_planted(folder / name, value=value)
    (folder / "logs").mkdir()
    return folder


def cases(result: pytest.RunResult) -> list[str]:
    return [line.partition("::")[2] for line in result.outlines if ".probe.yaml::" in line]


def test_a_trend_is_collected_behind_its_members_and_nothing_is_loaded_for_that(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", GOOD + EXISTS)
    watch = Watch()
    result = inner.run("--collect-only", "-q", model=runs, plugins=(watch,))
    members = [f"{probe}[runs@{name}]" for name in STEPS for probe in ("emerges", "exists")]
    assert [*members, "emerges[runs]"] == cases(result)
    assert [] == watch.passes


def test_it_is_judged_by_what_the_members_brought_with_no_pass_more(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", GOOD + EXISTS)
    watch = Watch()
    result = inner.run("--property-report=report.json", "--junitxml=j.xml", model=runs, plugins=(watch,))
    result.assert_outcomes(passed=9)
    assert [(f"runs@{name}", "") for name in STEPS] == watch.passes
    (verdict,) = [each for each in inner.report()["verdicts"] if each["members"]]
    assert ("a.probe.yaml::emerges[runs]", "passed", [f"runs@{name}" for name in STEPS]) == (
        verdict["case"],
        verdict["status"],
        verdict["members"],
    )
    assert "emerges at step-200 (layer" in verdict["measured"]
    (series,) = inner.report()["series"]
    assert [0, 100, 200, 200] == [member["step"] for member in series["members"]]
    assert "runs: 4 checkpoints, step-0 .. final" in printed(result)
    assert 'name="maprobe.checkpoint" value="runs"' in (inner.path / "j.xml").read_text()


def test_one_that_fails_says_so_and_its_command_repeats_it(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", EARLY)
    result = inner.run(model=runs)
    result.assert_outcomes(passed=4, failed=1)
    assert "emerges by step 100 a.probe.yaml:" in told(result)
    assert f"repeat pytest --model={runs} --maprobe-device cpu a.probe.yaml::emerges " in told(result)
    inner.run("a.probe.yaml::emerges", model=runs).assert_outcomes(passed=4, failed=1)


def test_a_case_of_a_member_is_repeated_with_its_series(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", HEAD + EXISTS.replace("gte: 0", "gt: 9"))
    result = inner.run("-k", "step-100", model=runs)
    assert f"repeat pytest --model={runs} --maprobe-device cpu 'a.probe.yaml::exists[runs@step-100]'" in told(result)
    inner.run("a.probe.yaml::exists[runs@step-100]", model=runs).assert_outcomes(failed=1)


def test_a_trend_without_its_members_is_unmeasured_and_says_what_to_select(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", GOOD)
    watch = Watch()
    result = inner.run("a.probe.yaml::emerges[runs]", model=runs, plugins=(watch,))
    result.assert_outcomes(errors=1)
    assert "there is no verdict on 4 of the 4 checkpoints (step-0, step-100, step-200, ...)" in told(result)
    assert "select a.probe.yaml::emerges, which is the probe on all of them" in told(result)
    assert [] == watch.passes
    inner.run("-k", "not final", model=runs).assert_outcomes(passed=3, errors=1)


def test_last_failed_runs_a_trend_with_its_members_until_it_passes(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", EARLY + EXISTS)
    inner.run("-p", "cacheprovider", model=runs).assert_outcomes(passed=8, failed=1)
    again = inner.run("--lf", model=runs)
    again.assert_outcomes(passed=4, failed=1)
    inner.write("a.probe.yaml", GOOD + EXISTS)
    inner.run("--lf", model=runs).assert_outcomes(passed=5)
    assert "no previously failed tests" in printed(inner.run("--lf", "--collect-only", model=runs))


def test_exitfirst_stops_before_the_trend(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", GOOD + EXISTS.replace("gte: 0", "gt: 0"))
    inner.run("-x", model=runs).assert_outcomes(passed=1, failed=1)


def test_the_plan_counts_the_passes_of_members_only(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", GOOD)
    assert "4 passes" in told(inner.run("--maprobe-plan", model=runs))


def test_failed_first_and_another_order_leave_the_trend_behind_its_members(inner: Inner, runs: Path) -> None:
    inner.write("conftest.py", "def pytest_collection_modifyitems(items):\n    items.reverse()\n")
    inner.write("a.probe.yaml", GOOD)
    result = inner.run("--collect-only", "-q", model=runs)
    assert "emerges[runs]" == cases(result)[-1]
    inner.run(model=runs).assert_outcomes(passed=5)


def test_a_checkpoint_alone_has_no_case_of_a_trend(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", GOOD + EXISTS)
    result = inner.run(model=runs / "final")
    result.assert_outcomes(passed=1)
    assert "exists" in printed(result)
    listed = inner.run("--collect-only", model=runs / "final")
    assert "a trend is asked of a series" not in told(result) + told(listed)


def test_a_session_of_nothing_but_trends_on_one_checkpoint_says_what_they_ask_of(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", GOOD)
    result = inner.run(model=runs / "final")
    assert pytest.ExitCode.NO_TESTS_COLLECTED == result.ret
    assert "a.probe.yaml::emerges: a trend is asked of a series of checkpoints, and none was given" in told(result)


def test_a_series_and_a_checkpoint_stand_side_by_side(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", GOOD + EXISTS)
    braces = f"{runs}/{{step-0,step-200,final}}"
    result = inner.run(
        f"--model={braces}",
        "--property-report=report.json",
        "--property-report=report.md",
        model=inner.checkpoints.plain,
    )
    result.assert_outcomes(passed=8)
    assert "exists[plain]" in inner.statuses()
    assert "emerges[runs]" in inner.statuses()
    assert "## Along the series" in (inner.path / "report.md").read_text(encoding="utf-8")


def test_an_unmeasured_member_leaves_the_trend_open_where_it_would_decide(
    inner: Inner, runs: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "runs"
    for name in STEPS:
        (broken / name).parent.mkdir(exist_ok=True)
        (broken / name).symlink_to(runs / name)
    (broken / "step-100").unlink()
    (broken / "step-100").mkdir()
    (broken / "step-100" / "config.json").write_text("{")
    inner.write("a.probe.yaml", GOOD)
    # What step 100 would say decides nothing, and what step 200 would say does.
    inner.run(model=broken).assert_outcomes(passed=4, errors=1)
    inner.write("a.probe.yaml", GOOD.replace("60%", "100"))
    result = inner.run(model=broken)
    result.assert_outcomes(passed=3, errors=2)
    assert "nothing is known of step-100, which would decide; its own case tells why" in told(result)


def test_with_several_processes_a_series_is_judged_in_one_and_the_report_is_the_same(inner: Inner, runs: Path) -> None:
    inner.write("a.probe.yaml", EARLY + EXISTS)
    inner.write("b.probe.yaml", PERPLEXITY)
    models = (runs, inner.checkpoints.plain)
    alone = inner.run("--property-report=alone.json", model=models)
    spread = inner.run("-n2", "--property-report=spread.json", model=models)
    for result in (alone, spread):
        result.assert_outcomes(passed=14, failed=1)

    def timeless(name: str) -> dict[str, Any]:
        kept = inner.report(name)
        return {key: value for key, value in kept.items() if key not in ("command", "started", "seconds")}

    assert timeless("alone.json") == timeless("spread.json")
    assert "emerges by step 100" in told(spread)


def test_observers_are_shown_the_verdict_of_a_trend(inner: Inner, runs: Path) -> None:
    class Observer:
        seen: list[Verdict] = []  # noqa: RUF012

        def pytest_maprobe_verdict(self, verdict: Verdict) -> None:
            self.seen.append(verdict)

    inner.write("a.probe.yaml", GOOD)
    inner.run(model=runs, plugins=(Observer(),))
    assert [(), (), (), (), tuple(f"runs@{name}" for name in STEPS)] == [verdict.members for verdict in Observer.seen]


@pytest.mark.parametrize("arguments", [("--model", "org/a@x", "org/a@y"), ("--maprobe-model=org/a@x", "org/a@y")])
def test_braces_that_a_shell_took_apart_are_noticed(inner: Inner, arguments: tuple[str, ...]) -> None:
    inner.write("a.probe.yaml", GOOD)
    result = inner.run(*arguments)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert "quote them: --model 'org/a@{x,y}'" in told(result)


def test_a_series_that_cannot_be_read_is_one_sentence(inner: Inner) -> None:
    inner.write("a.probe.yaml", GOOD)
    result = inner.run("--model=org/a@{x,x}")
    assert "names x twice; name each member once" in told(result)
    assert "Traceback" not in told(result)
