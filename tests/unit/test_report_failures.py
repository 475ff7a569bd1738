from __future__ import annotations

from dataclasses import replace

import pytest
from sample_reports import MINILM_EXISTS, NOTHING, SMOLLM2, SMOLLM2_EXISTS, perplexity, unanswered

from maprobe.reporting.failures import explain
from maprobe.reporting.wording import expected, measured, percent, status
from maprobe.verdicts import Status, Verdict


def test_a_failure_tells_claim_expectation_measurement_inputs_and_how_to_repeat() -> None:
    lines = [
        "claim     From layer 2 on, some layer has an entry above 100 and above 1000x the median at the first token.",
        "expected  ratio > 1000 in some layer of 2..5               massive.probe.yaml:12:14",
        "          top > 100 in some layer of 2..5                  massive.probe.yaml:11:12",
        "measured  layer 3  top 10.5  ratio 43.75  dim 308  token 0 '[CLS]'     margin -96 %",
        "inputs    4 x 512 tokens of python-docs, BOS auto: none added, float32, sdpa",
        "repeat    pytest --model all-MiniLM-L6-v2 'massive.probe.yaml::exists[all-MiniLM-L6-v2]'",
    ]
    assert lines == explain(MINILM_EXISTS).splitlines()


def test_the_clause_that_failed_is_told_and_not_the_one_that_held() -> None:
    text = explain(perplexity())
    assert "expected  control.ratio < 1.05       massive.probe.yaml:24:22" in text
    assert "ratio > 10" not in text
    assert "edit      massive at first-layer set to zero" in text


def test_an_unmeasured_case_tells_its_reason_and_no_numbers() -> None:
    verdict = replace(unanswered(SMOLLM2, Status.UNMEASURED, "out of\nmemory"), repeat="pytest x")
    assert ["claim", "reason", "repeat"] == [line.split()[0] for line in explain(verdict).splitlines()]
    assert "reason    out of memory" in explain(verdict)


def test_why_an_override_applies_and_why_a_failure_is_waived_is_told() -> None:
    text = explain(
        replace(perplexity(), reason="overridden here: harmless in GPT-2", waived="known (until 2027-03-01)")
    )
    assert "\nreason    overridden here: harmless in GPT-2\nwaived    known (until 2027-03-01)\n" in text


def test_terminal_escapes_in_a_text_from_outside_are_shown_and_not_obeyed() -> None:
    text = explain(replace(MINILM_EXISTS, measured="token 0 \x1b[2J\u202e\x00"))
    assert r"token 0 \x1b[2J\u202e\x00" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (SMOLLM2_EXISTS, "passed"),
        (MINILM_EXISTS, "FAILED"),
        (perplexity(), "warn"),
        (replace(perplexity(), severity="info"), "info"),
        (replace(MINILM_EXISTS, waived="known"), "xfail"),
        (unanswered(SMOLLM2, Status.ABSENT, NOTHING), "absent"),
        (unanswered(SMOLLM2, Status.NOT_APPLICABLE, "when"), "n/a"),
        (unanswered(SMOLLM2, Status.UNMEASURED, "NaN"), "UNMEASURED"),
    ],
)
def test_each_status_is_one_word(verdict: Verdict, word: str) -> None:
    assert word == status(verdict)


@pytest.mark.parametrize(
    ("margin", "text"),
    [
        (-0.588, "-59 %"),
        (0.0, "0 %"),
        (-0.003, "-0.3 %"),
        (13.0, "+1300 %"),
        (2443381.2, "+2.4e+08 %"),
        (float("inf"), "+inf"),
        (float("nan"), ""),
        (None, ""),
    ],
)
def test_a_margin_is_a_signed_percentage(margin: float | None, text: str) -> None:
    assert text == percent(margin)


def test_a_quantifier_that_clauses_share_is_said_once() -> None:
    assert "top > 100 and ratio > 1000 in some layer of 2..29" == expected(SMOLLM2_EXISTS)
    assert "ratio > 10 and control.ratio < 1.05" == expected(perplexity())


def test_clauses_decided_in_one_cell_name_it_once() -> None:
    assert "top 23147, ratio 14003 (layer 12)" == measured(SMOLLM2_EXISTS)


def test_numbers_of_a_probe_without_expectation_are_its_own_words() -> None:
    assert "perplexity 13.91" == measured(replace(perplexity(), findings=(), measured="perplexity 13.91"))
