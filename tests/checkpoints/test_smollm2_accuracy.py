"""The answers of SmolLM2-135M-Instruct to the questions of the suite, against a few plain lines of torch.

The literal figures were measured with torch 2.13.0 (CPU) and transformers 5.23.0 in float32; no BOS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ground_truth import Truth, massive

from maprobe.checking import check
from maprobe.readings import Reading
from maprobe.reporting.report import PropertyReport
from maprobe.running.checkpoints import LoadedCheckpoint
from maprobe.verdicts import Status

SUITE = Path(__file__).parents[2] / "probes" / "massive_activations"
QUESTIONS = [json.loads(line) for line in (SUITE / "data" / "everyday.jsonl").read_text(encoding="utf-8").splitlines()]
LAYER = 12  # where its massive activations first appear


@pytest.fixture(scope="module")
def report(smollm2: LoadedCheckpoint) -> PropertyReport:
    return check(smollm2.model, smollm2.tokenizer, SUITE / "accuracy.probe.yaml", label="smollm2-135m")


@pytest.fixture(scope="module")
def zeroed(report: PropertyReport) -> Reading:
    return reading(report, "zeroing-destroys-accuracy")


def reading(report: PropertyReport, probe: str) -> Reading:
    (found,) = [verdict.reading for verdict in report.verdicts if verdict.probe == probe]
    assert found is not None
    return found


def answers(truth: Truth) -> list[int]:
    """Which option of each question has the highest mean log-probability a character, each text run whole."""
    chosen = []
    for record in QUESTIONS:
        before = len(truth.tokenizer(record["question"])["input_ids"])
        scores = []
        for option in record["choices"]:
            ids = torch.tensor([truth.tokenizer(f"{record['question']} {option}")["input_ids"]])
            with torch.inference_mode():
                logprobs = truth.model(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
            scores.append(float(logprobs.gather(1, ids[0, 1:, None])[before - 1 :].sum()) / len(option))
        chosen.append(scores.index(max(scores)))
    return chosen


def accuracy(chosen: list[int]) -> float:
    return sum(option == record["label"] for option, record in zip(chosen, QUESTIONS, strict=True)) / len(QUESTIONS)


def test_the_shipped_probes_hold(report: PropertyReport) -> None:
    assert [Status.PASSED] * 2 == [verdict.status for verdict in report.verdicts]


def test_it_answers_39_of_42_questions_give_or_take_one(zeroed: Reading) -> None:
    assert (42, {3}) == (len(QUESTIONS), {len(record["choices"]) for record in QUESTIONS})
    assert pytest.approx(39 / 42, abs=1.1 / 42) == zeroed["untouched"].value


def test_the_answers_are_those_of_a_plain_forward_of_each_text(zeroed: Reading, truth: Truth) -> None:
    assert accuracy(answers(truth)) == pytest.approx(zeroed["untouched"].value)


def test_without_the_massive_activations_they_are_those_of_guessing(zeroed: Reading) -> None:
    assert pytest.approx(12 / 42, abs=4.1 / 42) == zeroed["edited"].value
    assert zeroed["paired.high"].value < -0.4
    assert 0 == zeroed["control.difference"].value


def test_zeroing_by_a_plain_hook_gives_the_same_answers(zeroed: Reading, truth: Truth) -> None:
    def zero(stream: Any) -> None:
        for position, dim in massive(stream[0]).tolist():
            stream[0, position, dim] = 0

    with truth.edited(LAYER, zero):
        chosen = answers(truth)
    # Without them the options are close to one another, so that rounding may turn a single answer.
    assert 41 <= sum(option == record["chosen"] for option, record in zip(chosen, zeroed.records, strict=True))
    assert accuracy(chosen) == pytest.approx(zeroed["edited"].value, abs=1.1 / 42)


def test_their_mean_leaves_every_answer_as_it_was(report: PropertyReport) -> None:
    found = reading(report, "mean-restores-accuracy")
    assert (0, 0, 0) == tuple(found[name].value for name in ("difference", "paired.low", "paired.high"))
