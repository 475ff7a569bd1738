"""What becomes of a case is what pytest shows, and what its report holds."""

from __future__ import annotations

from typing import Any

import pytest
from inner_sessions import EXISTS, HEAD, ZEROING, Inner, printed, told


def probe(**keys: str) -> str:
    """One probe of perplexity, with the keys given."""
    written = {"id": "p", "claim": "It holds.", "measure": "{kind: perplexity}", **keys}
    return "  - {" + ", ".join(f"{name}: {value}" for name, value in written.items()) + "}\n"


HOLDS = "{targets: {gt: 1}}"
FAILS = "{targets: {gt: 1000}}"


class Case:
    """What one probe came to, on the planted checkpoint unless another is asked for."""

    def __init__(self, inner: Inner, text: str, *arguments: str, model: Any = None, plugins: tuple[object, ...] = ()):
        inner.write("a.probe.yaml", HEAD + text)
        options = ("--property-report=report.json", "-rA", *arguments)
        self.result = inner.run(*options, model=model or inner.checkpoints.planted, plugins=plugins)
        assert "INTERNALERROR" not in printed(self.result)
        assert "Traceback" not in printed(self.result)
        self.report = inner.report()
        self.verdicts = self.report["verdicts"]
        self.counts = {name: count for name, count in self.report["counts"].items() if count}

    @property
    def verdict(self) -> dict[str, Any]:
        (verdict,) = self.verdicts
        found: dict[str, Any] = verdict
        return found


class TestAnswers:
    def test_a_property_that_holds_is_a_pass(self, inner: Inner) -> None:
        case = Case(inner, probe(expect=HOLDS))
        case.result.assert_outcomes(passed=1)
        assert (pytest.ExitCode.OK, {"passed": 1}) == (case.result.ret, case.counts)

    def test_a_probe_that_expects_nothing_tells_its_numbers_and_passes(self, inner: Inner) -> None:
        case = Case(inner, probe())
        case.result.assert_outcomes(passed=1)
        case.result.stdout.re_match_lines([r"p +passed +perplexity 3\d\.\d+ +loss 3\.\d+ .*"])

    def test_a_property_that_does_not_hold_is_a_failure_told_in_five_lines(self, inner: Inner) -> None:
        case = Case(inner, probe(expect=FAILS))
        case.result.assert_outcomes(failed=1)
        assert (pytest.ExitCode.TESTS_FAILED, {"failed": 1}) == (case.result.ret, case.counts)
        case.result.stdout.fnmatch_lines(
            [
                "*_ p[[]planted] _*",
                "claim     It holds.",
                "expected  targets > 1000     a.probe.yaml:6:*",
                "measured  targets 19 *margin -98 %",
                "inputs    2 texts of 10 to 11 tokens, BOS auto: <s> at the start of each, float32, sdpa",
                f"repeat    pytest --model={inner.checkpoints.planted} --maprobe-device cpu 'a.probe.yaml::p*'",
                "=* properties =*",
            ],
            consecutive=True,
        )

    def test_the_massive_activation_is_found_where_it_was_planted_and_zeroing_it_destroys_perplexity(
        self, inner: Inner
    ) -> None:
        case = Case(inner, EXISTS + ZEROING)
        case.result.assert_outcomes(passed=2)
        exists, zeroing = (case.report["readings"][verdict["reading"]] for verdict in case.verdicts)
        first = next(record for record in exists["records"] if record["massive"])
        assert (2, 0, "<s>", 7) == tuple(first[name] for name in ("layer", "position", "token", "dim"))
        assert 2 == exists["quantities"]["first_layer"]["values"][0]
        assert 100 < zeroing["quantities"]["ratio"]["values"][0]
        assert 1 == pytest.approx(zeroing["quantities"]["control.ratio"]["values"][0], rel=1e-3)

    def test_without_the_first_token_there_is_none(self, inner: Inner) -> None:
        never = EXISTS.replace("measure:", "inputs: {bos: never}, measure:")
        Case(inner, never).result.assert_outcomes(failed=1)


class TestNoAnswers:
    def test_a_property_that_does_not_exist_is_skipped_with_the_reason(self, inner: Inner) -> None:
        case = Case(inner, ZEROING, model=inner.checkpoints.twin)
        case.result.assert_outcomes(skipped=1)
        assert {"absent": 1} == case.counts
        case.result.stdout.fnmatch_lines(["SKIPPED [[]1] a.probe.yaml:6: absent: nothing massive here: *"])

    def test_a_checkpoint_that_when_excludes_is_skipped_with_the_reason(self, inner: Inner) -> None:
        case = Case(inner, probe(when="{num_hidden_layers: {gte: 12}}", expect=FAILS))
        case.result.assert_outcomes(skipped=1)
        assert {"not-applicable": 1} == case.counts
        case.result.stdout.fnmatch_lines(
            ["SKIPPED [[]1] a.probe.yaml:6: not-applicable: needs num_hidden_layers >= 12; here it is 4"]
        )

    def test_a_case_without_a_number_is_an_error_in_setup_and_not_a_failure(self, inner: Inner) -> None:
        case = Case(inner, probe(inputs="{length: 60}"))
        case.result.assert_outcomes(errors=1)
        assert (pytest.ExitCode.TESTS_FAILED, {"unmeasured": 1}) == (case.result.ret, case.counts)
        case.result.stdout.fnmatch_lines(
            ["*ERROR at setup of p[[]planted]*", "claim     It holds.", "reason    *", "repeat *"]
        )

    @pytest.mark.parametrize("strict", ["true", "false"])
    def test_no_waiver_covers_a_case_without_a_number(self, inner: Inner, strict: str) -> None:
        case = Case(inner, probe(inputs="{length: 60}", xfail=f"{{reason: known, strict: {strict}}}"))
        case.result.assert_outcomes(errors=1)

    def test_a_probe_that_says_skip_is_skipped_with_its_reason(self, inner: Inner) -> None:
        case = Case(inner, probe(skip="no time", expect=FAILS) + probe(id="q"))
        case.result.assert_outcomes(passed=1, skipped=1)
        assert ("not-applicable", "no time") == (case.verdicts[0]["status"], case.verdicts[0]["reason"])
        case.result.stdout.fnmatch_lines(["SKIPPED [[]1] a.probe.yaml: no time"])


class TestNothingIsNotSuccess:
    def test_all_absent(self, inner: Inner) -> None:
        case = Case(inner, ZEROING, model=inner.checkpoints.twin)
        assert pytest.ExitCode.NO_TESTS_COLLECTED == case.result.ret
        case.result.stdout.fnmatch_lines(["No property was measured, so there is nothing to be green about."])

    def test_all_not_applicable(self, inner: Inner) -> None:
        case = Case(inner, probe(when="{model_type: bert}"))
        assert pytest.ExitCode.NO_TESTS_COLLECTED == case.result.ret

    def test_all_skipped(self, inner: Inner) -> None:
        assert pytest.ExitCode.NO_TESTS_COLLECTED == Case(inner, probe(skip="no time")).result.ret

    def test_one_answer_is_enough(self, inner: Inner) -> None:
        case = Case(inner, ZEROING + probe(), model=inner.checkpoints.twin)
        assert pytest.ExitCode.OK == case.result.ret
        assert "No property was measured" not in told(case.result)

    def test_with_ordinary_tests_the_session_is_theirs(self, inner: Inner) -> None:
        inner.write("test_a.py", "def test_a(): pass\n")
        case = Case(inner, ZEROING, model=inner.checkpoints.twin)
        case.result.assert_outcomes(passed=1, skipped=1)
        assert pytest.ExitCode.OK == case.result.ret
        case.result.stdout.fnmatch_lines(["No property was measured, so there is nothing to be green about."])


class TestWaivers:
    def test_a_known_failure_is_an_xfail(self, inner: Inner) -> None:
        case = Case(inner, probe(expect=FAILS, xfail="{reason: lost in training, until: 9999-01-31}"))
        case.result.assert_outcomes(xfailed=1)
        assert (pytest.ExitCode.OK, {"waived": 1}) == (case.result.ret, case.counts)
        case.result.stdout.fnmatch_lines(["XFAIL a.probe.yaml::p[[]planted] - lost in training (until 9999-01-31)"])

    def test_a_known_failure_that_holds_is_a_failure(self, inner: Inner) -> None:
        case = Case(inner, probe(expect=HOLDS, xfail="{reason: lost in training}"))
        case.result.assert_outcomes(failed=1)
        assert "expected to fail (lost in training), but the property holds: remove the xfail" in told(case.result)

    def test_unless_it_is_not_strict(self, inner: Inner) -> None:
        Case(inner, probe(expect=HOLDS, xfail="{reason: flaky, strict: false}")).result.assert_outcomes(passed=1)

    @pytest.mark.parametrize("expect", [FAILS, HOLDS])
    def test_a_waiver_that_has_run_out_is_a_failure(self, inner: Inner, expect: str) -> None:
        case = Case(inner, probe(expect=expect, xfail="{reason: lost, until: 2020-01-31}"))
        case.result.assert_outcomes(failed=1)
        assert "the waiver (lost) ran out on 2020-01-31" in told(case.result)

    def test_runxfail_takes_waivers_away(self, inner: Inner) -> None:
        Case(inner, probe(expect=FAILS, xfail="{reason: lost}"), "--runxfail").result.assert_outcomes(failed=1)


class TestSeverity:
    @pytest.mark.parametrize(("severity", "word"), [("warn", "warned"), ("info", "noted")])
    def test_what_fails_below_error_is_shown_and_does_not_fail_the_session(
        self, inner: Inner, severity: str, word: str
    ) -> None:
        case = Case(inner, probe(expect=FAILS, severity=severity), "-v")
        assert (pytest.ExitCode.OK, {"warned": 1}) == (case.result.ret, case.counts)
        assert ("failed", severity) == (case.verdict["status"], case.verdict["severity"])
        case.result.stdout.fnmatch_lines([f"a.probe.yaml::p[[]planted] {word.upper()} *", f"*1 {word} in *"])

    @pytest.mark.parametrize("severity", ["warn", "info"])
    def test_what_holds_below_error_is_a_pass(self, inner: Inner, severity: str) -> None:
        Case(inner, probe(expect=HOLDS, severity=severity)).result.assert_outcomes(passed=1)

    @pytest.mark.parametrize(
        ("warn", "error", "status", "severity", "code"),
        [
            (100, 1000, "passed", "error", 0),
            (10, 1000, "failed", "warn", 0),
            (10, 15, "failed", "error", 1),
        ],
    )
    def test_the_worst_band_that_is_entered_decides(
        self, inner: Inner, warn: int, error: int, status: str, severity: str, code: int
    ) -> None:
        bands = f"{{warn: {{targets: {{gte: {warn}}}}}, error: {{targets: {{gte: {error}}}}}}}"
        case = Case(inner, probe(severity=bands))
        assert (status, severity, code) == (case.verdict["status"], case.verdict["severity"], case.result.ret)


class TestOverrides:
    TEXT = probe(
        expect=FAILS,
        overrides="[{when: {model_type: bert}, because: wrong, expect: {targets: {gt: 2000}}}, "
        "{when: {num_hidden_layers: 4}, because: it is shallow, expect: {targets: {gt: 1}}}]",
    )

    def test_the_first_that_applies_is_merged_and_told(self, inner: Inner) -> None:
        case = Case(inner, self.TEXT)
        case.result.assert_outcomes(passed=1)
        assert "overridden here: it is shallow" == case.verdict["reason"]

    def test_elsewhere_the_probe_stands_as_written(self, inner: Inner) -> None:
        case = Case(inner, self.TEXT, model=inner.checkpoints.plain)
        case.result.assert_outcomes(failed=1)
        assert "" == case.verdict["reason"]


class TestParameters:
    TEXT = probe(
        id="least",
        expect='"${bound}"',
        parametrize="[{bound: {targets: {gt: 1}}, id: low}, {bound: {targets: {gt: 1000}}, id: high}]",
    )

    def test_each_set_is_a_case_with_an_id_of_its_own(self, inner: Inner) -> None:
        case = Case(inner, self.TEXT)
        case.result.assert_outcomes(passed=1, failed=1)
        assert ["a.probe.yaml::least-low[planted]", "a.probe.yaml::least-high[planted]"] == [
            verdict["case"] for verdict in case.verdicts
        ]

    def test_its_id_selects_it(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", HEAD + self.TEXT)
        inner.run("a.probe.yaml::least-high[planted]", model=inner.checkpoints.planted).assert_outcomes(failed=1)


def test_cases_stand_beside_ordinary_tests(inner: Inner) -> None:
    inner.write("test_a.py", "import pytest\n\ndef test_a(): pass\n\ndef test_b(): assert 1 == 2\n")
    case = Case(inner, probe(expect=HOLDS) + probe(id="q", expect=FAILS))
    case.result.assert_outcomes(passed=2, failed=2)
    assert {"passed": 1, "failed": 1} == case.counts


def test_an_operator_that_raises_is_told_for_its_case_alone(inner: Inner) -> None:
    from maprobe import Operator

    class Odd:
        def pytest_maprobe_expectations(self) -> list[Operator]:
            def holds(observed: Any, bound: Any) -> bool:
                raise ZeroDivisionError("by nothing")

            schema = {"type": "number"}
            return [
                Operator(name="odd", meaning="m", schema=schema, holds=holds, margin=holds, words=lambda bound: "odd")
            ]

    text = probe(expect="{targets: {odd: 1}}") + probe(id="q", when="{hidden_size: {odd: 1}}") + probe(id="r")
    case = Case(inner, text, plugins=(Odd(),))
    case.result.assert_outcomes(errors=2, passed=1)
    assert [
        "judging a.probe.yaml::p[planted] failed with ZeroDivisionError: by nothing",
        "planning a.probe.yaml::q[planted] failed with ZeroDivisionError: by nothing",
        "",
    ] == [verdict["reason"] for verdict in case.verdicts]


def test_a_corpus_that_raises_is_told_for_the_cases_that_ask_for_it(inner: Inner) -> None:
    from maprobe import Corpus

    class Lost:
        loads = 0

        def pytest_maprobe_inputs(self) -> list[Corpus]:
            def load() -> str:
                self.loads += 1
                raise OSError("the disk is gone")

            return [Corpus(name="lost", summary="s", protocol="p", load=load)]

    inner.write("a.probe.yaml", "")
    text = probe(inputs="{corpus: lost}") + probe(id="q", inputs="{corpus: lost}") + probe(id="r")
    lost = Lost()
    case = Case(inner, text, plugins=(lost,))
    case.result.assert_outcomes(errors=2, passed=1)
    assert 1 == lost.loads
    assert "the disk is gone" in case.verdicts[0]["reason"]
