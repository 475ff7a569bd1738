"""What is asked of a session by options and configuration is what it does."""

from __future__ import annotations

import shlex
import shutil
from typing import Any

import pytest
from inner_sessions import EXISTS, HEAD, PERPLEXITY, ZEROING, Inner, Watch, printed, told

from maprobe.running.engine import Engine
from maprobe.running.subjects import ReferencedSource

LOADED_TORCH = """
import sys

def pytest_unconfigure():
    print("torch was imported:", "torch" in sys.modules)
"""


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes of weights, in order: the label of a checkpoint that is loaded, or ``let go``."""
    found: list[str] = []
    load, release = ReferencedSource.load, Engine.release

    def loading(self: ReferencedSource, progress: Any) -> Any:
        found.append(self.facts.label)
        return load(self, progress)

    def releasing(self: Engine) -> None:
        if self._subject is not None:
            found.append("let go")
        release(self)

    monkeypatch.setattr(ReferencedSource, "load", loading)
    monkeypatch.setattr(Engine, "release", releasing)
    return found


class TestCheckpoints:
    def test_every_probe_runs_on_every_checkpoint_and_one_at_most_is_in_memory(
        self, inner: Inner, events: list[str]
    ) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + EXISTS)
        inner.write("b.probe.yaml", HEAD + EXISTS)
        checkpoints = inner.checkpoints
        result = inner.run("--property-report=report.json", model=(checkpoints.planted, checkpoints.twin))
        result.assert_outcomes(passed=4, failed=2)
        assert ["planted", "let go", "twin", "let go"] == events
        assert ["planted", "twin"] == [entry["label"] for entry in inner.report()["checkpoints"]]

    def test_the_table_has_a_column_for_each_checkpoint(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", HEAD + EXISTS)
        result = inner.run(model=(inner.checkpoints.planted, inner.checkpoints.twin))
        result.stdout.re_match_lines([r"probe +expected +planted +twin", r"exists +layers_hit > 0 +passed.* +FAILED.*"])

    def test_a_checkpoint_that_is_named_twice_is_measured_once(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        inner.run(model=(inner.checkpoints.plain,) * 2).assert_outcomes(passed=1)

    def test_two_checkpoints_of_one_label_are_refused(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        shutil.copytree(inner.checkpoints.plain, inner.path / "other" / "plain")
        result = inner.run(model=(inner.checkpoints.plain, inner.path / "other" / "plain"))
        assert pytest.ExitCode.INTERRUPTED == result.ret
        assert "would both be shown as 'plain'; give one of them a short name" in told(result)

    def test_the_long_spelling_is_the_same_option(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        inner.run(f"--maprobe-model={inner.checkpoints.plain}", "--property-report=report.json").assert_outcomes(
            passed=1
        )
        assert {"ppl[plain]": "passed"} == inner.statuses()

    def test_the_configuration_names_checkpoints_where_no_option_does(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        inner.write(
            "pytest.ini",
            f"[pytest]\nmaprobe_model = mine\nmaprobe_checkpoints =\n  mine = {inner.checkpoints.plain}\n",
        )
        inner.run("--property-report=report.json").assert_outcomes(passed=1)
        inner.run("--property-report=other.json", model=inner.checkpoints.twin).assert_outcomes(passed=1)
        assert [{"ppl[mine]": "passed"}, {"ppl[twin]": "passed"}] == [inner.statuses(), inner.statuses("other.json")]

    def test_a_conftest_that_lies_in_a_checkpoint_is_not_run(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        folder = shutil.copytree(inner.checkpoints.plain, inner.path / "fetched")
        inner.write("fetched/conftest.py", "raise SystemExit('code of the checkpoint')\n")
        result = inner.run("a.probe.yaml", "--model", folder)
        result.assert_outcomes(passed=1)
        assert "code of the checkpoint" not in printed(result)


class TestAnotherModelOption:
    CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--model", choices=["small", "large"], default="small")

def pytest_report_header(config):
    return f"the model of this repository: {config.getoption('--model')}"
"""

    def test_a_repository_keeps_its_own(self, inner: Inner) -> None:
        inner.write("conftest.py", self.CONFTEST)
        inner.write("test_own.py", "def test_own(request):\n    assert request.config.getoption('model') == 'large'\n")
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run("--model", "large", f"--maprobe-model={inner.checkpoints.plain}")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["the model of this repository: large"])

    def test_a_repository_keeps_its_own_refusal(self, inner: Inner) -> None:
        inner.write("conftest.py", self.CONFTEST)
        result = inner.run("--model", "medium")
        assert pytest.ExitCode.USAGE_ERROR == result.ret
        assert "invalid choice: 'medium'" in printed(result)

    def test_the_other_short_spellings_are_there_all_the_same(self, inner: Inner) -> None:
        inner.write("conftest.py", self.CONFTEST)
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run(
            "--dtype=bfloat16", f"--maprobe-model={inner.checkpoints.plain}", "--property-report=report.json"
        )
        result.assert_outcomes(passed=1)
        assert "bfloat16" == inner.report()["checkpoints"][0]["dtype"]


class TestLoading:
    @pytest.mark.parametrize("prefix", ["--", "--maprobe-"])
    def test_dtype_device_and_attention_are_those_asked_for(self, inner: Inner, prefix: str) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        options = [f"{prefix}dtype=bfloat16", f"{prefix}device=cpu", f"{prefix}attn=eager"]
        inner.run(*options, "--property-report=report.json", model=inner.checkpoints.plain).assert_outcomes(passed=1)
        (checkpoint,) = inner.report()["checkpoints"]
        assert ("bfloat16", "cpu", "eager") == tuple(checkpoint[name] for name in ("dtype", "device", "attention"))
        (verdict,) = inner.report()["verdicts"]
        assert verdict["repeat"].endswith(
            "--maprobe-dtype bfloat16 --maprobe-device cpu --maprobe-attn eager 'a.probe.yaml::ppl[plain]'"
        )

    @pytest.mark.parametrize(
        ("option", "sentence"),
        [
            ("--dtype=float31", "--maprobe-dtype 'float31' is unknown (did you mean 'float32'?); allowed: auto, "),
            ("--device=gpu", "--maprobe-device gpu: there is no such device on this machine; allowed: auto, cpu"),
            ("--attn=sdpaa", "--maprobe-attn 'sdpaa' is unknown (did you mean 'sdpa'?); allowed: eager, "),
        ],
    )
    def test_one_that_cannot_be_had_is_told_with_what_is_allowed(
        self, inner: Inner, option: str, sentence: str
    ) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run(option, model=inner.checkpoints.plain)
        result.assert_outcomes(errors=1)
        assert f"reason {sentence}" in told(result)
        assert "Traceback" not in printed(result)

    def test_the_command_to_repeat_a_case_repeats_it(self, inner: Inner) -> None:
        inner.write("sub/a.probe.yaml", PERPLEXITY + EXISTS)
        inner.run("--dtype=bfloat16", "--property-report=report.json", model=inner.checkpoints.planted)
        second = inner.report()["verdicts"][1]
        program, *arguments = shlex.split(second["repeat"])
        assert "pytest" == program
        again = inner.pytester.runpytest_inprocess(
            *arguments, "--property-report=again.json", "-p", "no:hypothesispytest"
        )
        again.assert_outcomes(passed=1)
        assert [{**second, "reading": 0}] == inner.report("again.json")["verdicts"]


class TestSelection:
    PROBES = (
        HEAD
        + "  - {id: first, claim: C., measure: {kind: perplexity}, expect: {targets: {lt: 1}}, marks: [slow]}\n"
        + "  - {id: second, claim: C., measure: {kind: finite}, tags: [sound]}\n"
        + "  - {id: third, claim: C., measure: {kind: perplexity}}\n"
    )

    @pytest.fixture
    def probes(self, inner: Inner) -> Inner:
        inner.write("pytest.ini", "[pytest]\nmarkers =\n  slow: takes long\n")
        inner.write("a.probe.yaml", self.PROBES)
        return inner

    @pytest.mark.parametrize(
        ("options", "ran"),
        [
            (("-k", "second"), ["second"]),
            (("-k", "sound"), ["second"]),
            (("-k", "s and not sound"), ["first", "third"]),
            (("-m", "slow"), ["first"]),
            (("-m", "not slow"), ["second", "third"]),
            (("-x",), ["first"]),
            (("--maxfail=2",), ["first", "second", "third"]),
            (("a.probe.yaml::third[plain]",), ["third"]),
        ],
    )
    def test_what_runs_is_what_pytest_selects(self, probes: Inner, options: tuple[str, ...], ran: list[str]) -> None:
        probes.run(*options, "--property-report=report.json", model=probes.checkpoints.plain)
        assert [f"{probe}[plain]" for probe in ran] == list(probes.statuses())

    def test_a_mark_that_nobody_knows_is_refused_under_strict_markers(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", self.PROBES.replace("[slow]", "[slwo]"))
        result = inner.run("--strict-markers", model=inner.checkpoints.plain)
        assert pytest.ExitCode.OK != result.ret
        assert "'slwo' not found in `markers` configuration option" in told(result)

    def test_the_last_failed_run_alone(self, probes: Inner) -> None:
        probes.run(model=probes.checkpoints.plain).assert_outcomes(passed=2, failed=1)
        probes.run("--lf", "--property-report=report.json", model=probes.checkpoints.plain).assert_outcomes(failed=1)
        assert ["first[plain]"] == list(probes.statuses())

    def test_failed_first_loads_each_checkpoint_once_all_the_same(self, inner: Inner, events: list[str]) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + EXISTS)
        models = (inner.checkpoints.planted, inner.checkpoints.twin)
        inner.run(model=models).assert_outcomes(passed=3, failed=1)
        events.clear()
        result = inner.run("--ff", "-v", model=models)
        assert ["twin", "let go", "planted", "let go"] == events
        result.stdout.fnmatch_lines(["*::exists?twin? FAILED*", "*::ppl?twin? PASSED*", "*::ppl?planted? PASSED*"])

    def test_ordinary_tests_keep_their_places(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + EXISTS)
        inner.write("test_b.py", "def test_one(): pass\n")
        inner.write("z.probe.yaml", PERPLEXITY)
        result = inner.run("--collect-only", "-q", model=(inner.checkpoints.planted, inner.checkpoints.twin))
        names = [line.split("::")[1] for line in result.outlines if "::" in line]
        planted, twin = (["ppl", "exists", "ppl"] for _ in range(2))
        expected = [f"{name}[planted]" for name in planted] + [f"{name}[twin]" for name in twin]
        assert [*expected[:4], "test_one", *expected[4:]] == names


class TestNothingIsRun:
    def test_collecting_loads_no_weights(self, inner: Inner, events: list[str]) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + EXISTS)
        result = inner.run("--collect-only", "-q", "--property-report=report.json", model=inner.checkpoints.plain)
        assert (pytest.ExitCode.OK, []) == (result.ret, events)
        result.stdout.fnmatch_lines(["a.probe.yaml::ppl[[]plain]", "a.probe.yaml::exists[[]plain]"])
        assert not (inner.path / "report.json").exists()

    def test_collecting_does_not_even_import_torch(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        inner.write("conftest.py", LOADED_TORCH)
        result = inner.pytester.runpytest_subprocess(
            "--collect-only", "-s", "-p", "no:hypothesispytest", f"--model={inner.checkpoints.plain}"
        )
        assert pytest.ExitCode.OK == result.ret
        result.stdout.fnmatch_lines(["*1 test collected*", "torch was imported: False"])

    def test_a_plan_is_printed_and_nothing_is_run(self, inner: Inner, events: list[str]) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + ZEROING)
        watch = Watch()
        result = inner.run("--maprobe-plan", model=inner.checkpoints.planted, plugins=(watch,))
        assert (pytest.ExitCode.OK, [], []) == (result.ret, events, watch.passes)
        result.assert_outcomes()
        assert "3 passes, 6 forward calls, 63 tokens, about 64 MiB beyond the weights" in told(result)

    def test_a_plan_with_a_checkpoint_that_cannot_be_had_is_a_failure(self, inner: Inner, events: list[str]) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run("--maprobe-plan", model=(inner.checkpoints.planted, inner.path / "none"))
        assert (pytest.ExitCode.TESTS_FAILED, []) == (result.ret, events)
        assert "1 passes, 2 forward calls" in told(result)
        assert f"none: {inner.path / 'none'}: there is no such folder" in told(result)

    def test_a_plan_names_the_cases_that_cannot_be_measured(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run("--maprobe-plan", model=inner.checkpoints.encoder)
        assert "a.probe.yaml::ppl[encoder]: perplexity needs a causal language model" in told(result)

    def test_a_plan_is_made_in_one_process(self, inner: Inner, events: list[str]) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run("--maprobe-plan", "-n2", model=(inner.checkpoints.planted, inner.checkpoints.twin))
        assert (pytest.ExitCode.OK, []) == (result.ret, events)
        assert "2 passes, 4 forward calls" in told(result)

    def test_a_plan_of_no_cases_says_so(self, inner: Inner) -> None:
        inner.write("test_a.py", "def test_a(): pass\n")
        result = inner.run("--maprobe-plan", model=inner.checkpoints.plain)
        assert "0 passes, 0 forward calls, 0 tokens" in told(result)
        assert "INTERNALERROR" not in printed(result)

    def test_a_plan_runs_nothing_though_a_file_is_faulty(self, inner: Inner, events: list[str]) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        inner.write("b.probe.yaml", "version: 1\n")
        result = inner.run("--maprobe-plan", "--continue-on-collection-errors", model=inner.checkpoints.plain)
        assert pytest.ExitCode.TESTS_FAILED == result.ret
        assert ([], True) == (events, "1 passes, 2 forward calls" in told(result))


class TestMemory:
    def test_a_plan_over_the_limit_is_refused_in_one_sentence(self, inner: Inner, events: list[str]) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + EXISTS)
        result = inner.run("--maprobe-memory=0.001", "--property-report=report.json", model=inner.checkpoints.plain)
        assert (pytest.ExitCode.USAGE_ERROR, []) == (result.ret, events)
        assert 1 == told(result).count(
            "the plan needs about 0.06 GiB beyond the weights, and --maprobe-memory allows 0.001"
        )
        assert "Traceback" not in printed(result)
        assert "property report NOT written: no case was judged, so report.json is as it was" in told(result)

    def test_so_is_one_that_is_only_printed(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run("--maprobe-memory=0.001", "--maprobe-plan", model=inner.checkpoints.plain)
        assert pytest.ExitCode.USAGE_ERROR == result.ret
        assert 1 == told(result).count("ERROR: the plan needs about 0.06 GiB")

    def test_a_plan_within_the_limit_is_carried_out(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        inner.run("--maprobe-memory=1", model=inner.checkpoints.plain).assert_outcomes(passed=1)

    @pytest.mark.parametrize("limit", ["0", "-1", "nan"])
    def test_a_limit_that_says_nothing_is_refused(self, inner: Inner, limit: str) -> None:
        result = inner.run(f"--maprobe-memory={limit}")
        assert pytest.ExitCode.USAGE_ERROR == result.ret
        assert "ERROR: --maprobe-memory takes a number of GiB above 0" in told(result)


class TestBatch:
    def test_sequences_share_a_forward_call_and_the_numbers_stay(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY.replace("a quick fox .]", "a quick brown fox .]"))
        one, two = Watch(), Watch()
        inner.run("--property-report=one.json", model=inner.checkpoints.plain, plugins=(one,))
        inner.run("--maprobe-batch=2", "--property-report=two.json", model=inner.checkpoints.plain, plugins=(two,))
        assert (2, 1) == (one.forwards, two.forwards)
        values = [
            inner.report(name)["readings"][0]["quantities"]["loss"]["values"][0] for name in ("one.json", "two.json")
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-6)

    @pytest.mark.parametrize("size", ["0", "-3"])
    def test_a_size_below_one_is_refused(self, inner: Inner, size: str) -> None:
        result = inner.run(f"--maprobe-batch={size}")
        assert pytest.ExitCode.USAGE_ERROR == result.ret
        assert "ERROR: --maprobe-batch takes a whole number from 1 on" in told(result)
