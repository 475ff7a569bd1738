"""``pytest --maprobe-selftest``: the shipped probes are seen to hold and to fail; one that cannot fail is caught."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from inner_sessions import HEAD, Inner, printed, told

from maprobe.builtin import builtin_registry
from maprobe.reading.folders import probe_files
from maprobe.reading.parsing import parse_file
from maprobe.selftest.graph_rules import GRAPH_TRENDS
from maprobe.selftest.rules import RULES, TRENDS, pairs_of
from maprobe.selftest.showing import expects

PAIRS = (*(rule.pair for rule in RULES), *(pair for _, pair in (*TRENDS, *GRAPH_TRENDS)))
NAMES = {pair.twin.name for pair in PAIRS}
PROBES = Path(__file__).parents[2] / "probes"
MAGNITUDE = "measure: {kind: magnitude}"
ALWAYS = f"  - {{id: always, claim: It is always so., {MAGNITUDE}, expect: {{layers_hit: {{gte: 0}}}}}}\n"
NEVER = f"  - {{id: never, claim: It is never so., {MAGNITUDE}, expect: {{layers_hit: {{gt: 100}}}}}}\n"
EXISTS = f"  - {{id: exists, claim: Something is massive., {MAGNITUDE}, expect: {{layers_hit: {{gt: 0}}}}}}\n"
NOTHING = f"  - {{id: nothing, claim: Nothing is massive., {MAGNITUDE}, expect: {{layers_hit: {{eq: 0}}}}}}\n"

# Its measurement is absent where it finds nothing, so that it is skipped there.
NEVER_FAILS = {"super-weights"}
# What they deny is built into the planted model.
DENYING = ("none-before-training", "none-with-explicit-bias")
# Probes with a clause that no twin makes fail: that one's only, and two control arms.
PARTLY_SEEN = {*NEVER_FAILS, "window-needs-first-tokens", "images-zeroing"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_shipped_probe_holds_on_the_planted_model_and_fails_on_each_of_its_twins(
    inner: Inner, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = [probe for file in probe_files(PROBES) for probe in parse_file(file, builtin_registry())]
    expected = sorted((probe.id, pair.twin.name) for probe in probes for pair in pairs_of(probe))
    monkeypatch.setenv("COLUMNS", "400")  # so that no row is wrapped
    result = inner.run("--maprobe-selftest", PROBES)
    assert pytest.ExitCode.OK == result.ret
    silent = [probe.id for probe in probes if not expects(probe)]
    result.assert_outcomes(passed=len(expected) - len(silent), skipped=len(silent))
    rows = [re.split(r" {2,}", line.strip()) for line in result.outlines]
    found = [row for row in rows if len(row) == 5 and row[2] in NAMES]
    unasked = [row for row in rows if len(row) == 3 and "not asked" == row[2]]
    assert expected == sorted([(row[0], row[2]) for row in found] + [(row[0], row[1]) for row in unasked])
    assert sorted(silent) == sorted(row[0] for row in unasked)
    for probe, planted, _, twin, verdict in found:
        if probe.startswith(DENYING):
            assert (True, True) == (planted.startswith("failed"), twin.startswith("passed: "))
            continue
        assert planted.startswith("passed: ")
        if probe in NEVER_FAILS:
            assert (True, "holds, is absent") == (twin.startswith("absent: "), verdict)
        else:
            assert (True, "holds, fails") == (bool(re.match(r"failed( \((warn|info)\))?: ", twin)), verdict)
    assert PARTLY_SEEN == {line.partition(":")[0] for line in result.outlines if "does this clause fail" in line}
    asked = len(probes) - len(silent)
    assert f"{asked} of {asked} probes hold on one model and not on the other." in printed(result)


def test_a_probe_that_cannot_fail_and_one_that_cannot_hold_are_named_and_fail_the_session(inner: Inner) -> None:
    inner.write("a.probe.yaml", HEAD + ALWAYS + NEVER + EXISTS)
    result = inner.run("--maprobe-selftest")
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    result.assert_outcomes(passed=1, failed=2)
    found = told(result)
    assert "it holds on both models, so it was not seen to fail: unplanted is the planted model whose one" in found
    assert "it holds on neither model, not even where its object is built in: planted is a Llama of eight" in found
    result.stdout.re_match_lines_random(
        [
            r"always +passed: layers_hit 6 +unplanted +passed: layers_hit 0 +never failed",
            r"never +failed: layers_hit 6 +unplanted +failed: layers_hit 0 +never held",
            r"1 of 3 probes hold on one model and not on the other\.",
        ]
    )
    assert "Traceback" not in printed(result)


def test_a_claim_of_absence_holds_on_the_twin(inner: Inner) -> None:
    inner.write("a.probe.yaml", HEAD + NOTHING)
    result = inner.run("--maprobe-selftest")
    assert pytest.ExitCode.OK == result.ret
    result.stdout.re_match_lines([r"nothing +failed: layers_hit 6 +unplanted +passed: layers_hit 0 +holds, fails"])


def test_overrides_and_conditions_are_those_of_a_llama(inner: Inner) -> None:
    override = "overrides: [{when: {model_type: llama}, because: it is one, expect: {layers_hit: {gt: 3}}}]"
    inner.write(
        "a.probe.yaml",
        HEAD
        + NOTHING.replace("}}}\n", "}}, " + override + "}\n")
        + EXISTS.replace("id: exists,", "id: exists, when: {model_type: gpt2},"),
    )
    result = inner.run("--maprobe-selftest", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.re_match_lines([r"nothing +passed: layers_hit 6 +unplanted +failed: layers_hit 0 +holds, fails"])
    assert "there is no pair of models that its `when` admits: needs model_type = gpt2; here it is llama" in told(
        result
    )


def test_a_clause_that_no_twin_makes_fail_is_told(inner: Inner) -> None:
    inner.write("a.probe.yaml", HEAD + EXISTS.replace("{gt: 0}", "{gt: 0}, sequence_share: {gte: 0}"))
    result = inner.run("--maprobe-selftest", "-k", "unplanted")
    assert "exists: on no twin asked does this clause fail: sequence_share (a.probe.yaml:6:" in told(result)


def test_a_corpus_of_the_hub_is_not_fetched(inner: Inner, offline: None) -> None:
    corpus = "inputs: {corpus: wikitext2-sun, sequences: 2, length: 64}, "
    inner.write("a.probe.yaml", HEAD + EXISTS.replace("measure:", f"{corpus}measure:"))
    inner.run("--maprobe-selftest").assert_outcomes(passed=1)


def test_a_session_in_which_nothing_was_asked_does_not_end_with_success(inner: Inner) -> None:
    inner.write("a.probe.yaml", HEAD + EXISTS.replace("id: exists,", "id: exists, when: {model_type: gpt2},"))
    assert pytest.ExitCode.NO_TESTS_COLLECTED == inner.run("--maprobe-selftest").ret


def test_processes_share_the_probes_and_one_table_tells_of_all(inner: Inner) -> None:
    inner.write("a.probe.yaml", HEAD + ALWAYS + EXISTS)
    inner.write("b.probe.yaml", HEAD + EXISTS.replace("layers_hit: {gt: 0}", "dims: {lte: 10}"))
    result = inner.run("--maprobe-selftest", "-n2")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.re_match_lines(
        [
            r"always +passed: layers_hit 6 +unplanted +passed: layers_hit 0 +never failed",
            r"exists +passed: layers_hit 6 +unplanted +failed: layers_hit 0 +holds, fails",
            r"exists +passed: dims 1 +many-dims +failed: dims 12 +holds, fails",
            r"2 of 3 probes hold on one model and not on the other\.",
        ]
    )


def test_probes_are_selected_and_skipped_as_ever(inner: Inner) -> None:
    inner.write("a.probe.yaml", HEAD + EXISTS + ALWAYS.replace("id: always,", "id: always, skip: not today,"))
    result = inner.run("--maprobe-selftest", "-k", "exists or always", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    assert "not today" in told(result)
    assert "1 of 1 probes" in told(result)


def test_a_fault_in_a_probe_file_is_told_as_ever(inner: Inner) -> None:
    inner.write("a.probe.yaml", HEAD + EXISTS.replace("magnitude", "magnitud"))
    result = inner.run("--maprobe-selftest")
    assert pytest.ExitCode.INTERRUPTED == result.ret
    assert "'magnitud' is not allowed (did you mean 'magnitude'?)" in told(result)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--model=x", "--maprobe-selftest brings models of its own, on the CPU; leave out --maprobe-model"),
        ("--maprobe-dtype=float16", "brings models of its own, on the CPU; leave out --maprobe-dtype"),
        ("--maprobe-plan", "--maprobe-selftest measures no checkpoint, so it has no use for --maprobe-plan"),
        ("--property-report=a.md", "measures no checkpoint, so it has no use for --property-report"),
    ],
)
def test_options_that_mean_nothing_here_are_refused_in_one_sentence(inner: Inner, option: str, sentence: str) -> None:
    inner.write("a.probe.yaml", HEAD + EXISTS)
    result = inner.run("--maprobe-selftest", option)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert sentence in told(result)
    assert "Traceback" not in printed(result)
