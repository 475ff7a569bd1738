"""``accuracy``: scores against a plain forward of each option, planted answers, ties, intervals; and under an edit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hidden_states import PlainBatch, context
from planted import planted
from tiny_checkpoints import bert_config, llama_config, tokenizer
from transformers import BertModel, LlamaForCausalLM

from maprobe.checking import check
from maprobe.errors import MeasurementError
from maprobe.measurements.accuracy import ACCURACY, wilson
from maprobe.pairing import mean_interval
from maprobe.readings import Reading
from maprobe.recipes import Choice, Tap
from maprobe.reporting.report import PropertyReport
from maprobe.verdicts import Status

QUESTIONS = [
    {"question": "The quick", "choices": ["brown fox", "dog", "lazy dog ."], "label": 0},
    {"question": "a dog", "choices": ["jumps", "over"], "label": 1},
    {"question": "The lazy dog", "choices": ["jumps over", "fox", "jumps the", "."], "label": 2},
    {"question": "over the", "choices": ["lazy dog .", "brown dog"], "label": 0},
]


def by_hand(logprobs: list[list[float]], choices: tuple[Choice, ...], **options: Any) -> Reading:
    """Measure options whose token t in sequence s has the log-probability ``logprobs[s][t]``."""
    fold = ACCURACY.start(replace(context(ACCURACY, **options), choices=choices))
    for number, row in enumerate(logprobs):
        logits = torch.full((1, len(row), 50), -50.0)
        for position, value in enumerate(row):
            rest = math.log1p(-math.exp(value)) - math.log(49)
            logits[0, position] = rest
            logits[0, position, position + 1] = value  # position p predicts the token p + 1
        fold.observe(Tap("logits"), logits, PlainBatch(torch.zeros(1, len(row), dtype=torch.long), (number,)))
    return fold.finish({})


def choice(question: int, option: int, sequence: int, length: int, characters: int, *, right: bool = False) -> Choice:
    """An option whose tokens are 1, 2 ... and begin at position 1."""
    ids = tuple(range(1, length + 1))
    return Choice(
        question=question,
        option=option,
        right=right,
        sequence=sequence,
        start=1,
        ids=ids,
        characters=characters,
        line=question + 1,
    )


class TestScores:
    # One token at -1.0 and of 2 characters, beside two tokens at -0.8 each and of 10 characters.
    short = choice(0, 0, 0, 1, 2)
    long = choice(0, 1, 1, 2, 10, right=True)
    logprobs = ([-1.0], [-0.8, -0.8])

    @pytest.mark.parametrize(
        ("norm", "correct", "ahead"), [("none", 0.0, -0.6), ("tokens", 1.0, 0.2), ("characters", 1.0, 0.34)]
    )
    def test_the_norm_decides_between_a_short_option_and_a_long_one(
        self, norm: str, correct: float, ahead: float
    ) -> None:
        reading = by_hand([*self.logprobs], (self.short, self.long), norm=norm)
        assert correct == reading["accuracy"].value
        assert pytest.approx(ahead, abs=1e-5) == reading.records[0]["ahead"]
        assert (0, 1, 1, int(correct)) == tuple(
            reading.records[0][name] for name in ("item", "line", "right", "chosen")
        )

    def test_the_same_scores_with_the_other_option_right_give_the_other_answer(self) -> None:
        options = (replace(self.short, right=True), replace(self.long, right=False))
        assert 1.0 == by_hand([*self.logprobs], options, norm="none")["accuracy"].value
        assert 0.0 == by_hand([*self.logprobs], options, norm="tokens")["accuracy"].value

    def test_quantities_are_over_all_questions(self) -> None:
        three = tuple(choice(1, option, 2 + option, 1, 1, right=option == 2) for option in range(3))
        reading = by_hand([*self.logprobs, [-2.0], [-1.0], [-3.0]], (self.short, self.long, *three))
        assert (0.5, 2.0) == (reading["accuracy"].value, reading["questions"].value)
        assert (1 / 2 + 1 / 3) / 2 == reading["chance"].value
        assert [1.0, 0.0] == [record["correct"] for record in reading.records]
        assert wilson(0.5, 2, 0.95) == (reading["low"].value, reading["high"].value)

    @pytest.mark.parametrize(("right", "correct"), [(0, 0.5), (1, 0.5), (2, 0.0)])
    def test_a_tie_counts_what_guessing_between_the_best_would_give(self, right: int, correct: float) -> None:
        options = tuple(choice(0, option, option, 1, 1, right=option == right) for option in range(3))
        assert correct == by_hand([[-1.0], [-1.0], [-2.0]], options)["accuracy"].value

    def test_a_model_that_tells_nothing_apart_answers_as_often_as_chance(self) -> None:
        options = tuple(choice(0, option, option, 1, 1, right=not option) for option in range(4))
        reading = by_hand([[-1.0]] * 4, options)
        assert reading["chance"].value == reading["accuracy"].value == 0.25

    def test_a_score_that_is_not_a_number_leaves_the_accuracy_unknown(self) -> None:
        fold = ACCURACY.start(replace(context(ACCURACY), choices=(self.short, self.long)))
        for number in range(2):
            value = torch.zeros(1, 2, 50) if number else torch.full((1, 2, 50), math.nan)
            fold.observe(Tap("logits"), value, PlainBatch(torch.zeros(1, 2, dtype=torch.long), (number,)))
        reading = fold.finish({})
        assert all(math.isnan(reading[name].value) for name in ("accuracy", "low", "high"))
        assert (0.5, None) == (reading["chance"].value, reading.records[0]["chosen"])

    def test_inputs_that_are_no_questions_are_refused(self) -> None:
        fold = ACCURACY.start(context(ACCURACY))
        fold.observe(Tap("logits"), torch.zeros(1, 2, 50), PlainBatch(torch.zeros(1, 2, dtype=torch.long), (0,)))
        with pytest.raises(MeasurementError, match="accuracy needs multiple-choice questions"):
            fold.finish({})


class TestWilson:
    @pytest.mark.parametrize(
        ("right", "count", "low", "high"),
        # By the formula, with z = 1.959964: 8/10 as in published tables, and both ends of the range.
        [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (50, 100, 0.4038, 0.5962)],
    )
    def test_known_intervals(self, right: int, count: int, low: float, high: float) -> None:
        assert pytest.approx((low, high), abs=5e-5) == wilson(right / count, count, 0.95)

    def test_a_higher_level_and_fewer_questions_make_it_wider(self) -> None:
        low, high = wilson(0.7, 100, 0.95)
        assert wilson(0.7, 100, 0.99)[0] < low < 0.7 < high < wilson(0.7, 50, 0.95)[1]

    def test_it_covers_the_true_share_about_as_often_as_it_says(self) -> None:
        generator = torch.Generator().manual_seed(0)
        found = torch.binomial(torch.full((4000,), 40.0), torch.full((4000,), 0.6), generator=generator)
        ends = [wilson(float(right) / 40, 40, 0.95) for right in found]
        assert 0.93 < sum(low <= 0.6 <= high for low, high in ends) / 4000 < 0.97


def questions(folder: Path, probes: str, records: list[Any] = QUESTIONS, **more: Any) -> Path:
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    path = folder / "q.probe.yaml"
    inputs = json.dumps({"choices": "q.jsonl", **more})
    path.write_text(f"version: 1\nsuite: s\ndefaults: {{inputs: {inputs}}}\nprobes:\n{probes}", encoding="utf-8")
    return path


def readings(report: PropertyReport) -> dict[str, Reading]:
    assert [] == [verdict.reason for verdict in report.verdicts if verdict.reading is None]
    return {verdict.probe: verdict.reading for verdict in report.verdicts if verdict.reading}


def plain_scores(model: Any, norm: str, bos: bool) -> list[list[float]]:
    """The score of every option by a forward of its whole text, alone."""
    words = tokenizer()
    head = [1] if bos else []
    scores = []
    for record in QUESTIONS:
        before = head + words(record["question"])["input_ids"]
        scores.append([])
        for option in record["choices"]:
            own = words(option)["input_ids"]
            with torch.inference_mode():
                logprobs = model(torch.tensor([before + own])).logits[0].double().log_softmax(-1)
            total = sum(float(logprobs[len(before) - 1 + i, token]) for i, token in enumerate(own))
            scores[-1].append(total / {"characters": len(option), "tokens": len(own), "none": 1}[norm])
    return scores


class TestOnAModel:
    @pytest.mark.parametrize("bos", [False, True])
    @pytest.mark.parametrize("batch", [1, 3])
    def test_scores_and_answers_are_those_of_a_plain_forward(self, tmp_path: Path, bos: bool, batch: int) -> None:
        torch.manual_seed(1)
        model = LlamaForCausalLM(llama_config(initializer_range=0.4)).eval()
        norms = ("characters", "tokens", "none")
        probes = "".join(f"  - {{id: {norm}, claim: c, measure: {{kind: accuracy, norm: {norm}}}}}\n" for norm in norms)
        path = questions(tmp_path, probes, bos="require" if bos else "never")
        found = readings(check(model, tokenizer(), path, batch=batch))
        answers = set()
        for norm in norms:
            scores = plain_scores(model, norm, bos)
            chosen = [row.index(max(row)) for row in scores]
            labels = [record["label"] for record in QUESTIONS]
            ahead = [
                row[label] - max(score for option, score in enumerate(row) if option != label)
                for row, label in zip(scores, labels, strict=True)
            ]
            assert chosen == [record["chosen"] for record in found[norm].records]
            assert ahead == pytest.approx([record["ahead"] for record in found[norm].records], abs=1e-5)
            assert sum(map(int.__eq__, chosen, labels)) / 4 == found[norm]["accuracy"].value
            answers.add(tuple(chosen))
        assert len(answers) > 1  # else the norms would not be told apart
        assert (1 / 3 + 1 / 2 + 1 / 4 + 1 / 2) / 4 == pytest.approx(found["none"]["chance"].value)

    def test_an_encoder_is_told_what_it_lacks(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        path = questions(tmp_path, "  - {id: a, claim: c, measure: {kind: accuracy}}\n")
        (verdict,) = check(BertModel(bert_config()).eval(), tokenizer(), path).verdicts
        assert Status.UNMEASURED is verdict.status
        assert "accuracy needs a causal language model" in verdict.reason

    def test_an_option_longer_than_the_model_takes_is_told(self, tmp_path: Path) -> None:
        model = LlamaForCausalLM(llama_config(max_position_embeddings=2)).eval()
        path = questions(tmp_path, "  - {id: a, claim: c, measure: {kind: accuracy}}\n")
        (verdict,) = check(model, tokenizer(), path).verdicts
        assert "leave out the longest question" in verdict.reason


FOX = [
    {"question": question, "choices": ["dog", "fox"], "label": label}
    for question, label in (("The quick", 1), ("over the lazy", 1), ("a brown", 1), ("jumps over the", 0))
]
ACCURACIES = """\
  - {id: accuracy, claim: c, measure: {kind: accuracy}, intervene: {target: massive}}
  - {id: surer, claim: c, measure: {kind: accuracy, level: 0.5}, intervene: {target: massive}}
"""
PERPLEXITIES = """\
  - {id: perplexity, claim: c, measure: {kind: perplexity}, intervene: {target: massive}}
  - id: expected
    claim: c
    measure: {kind: perplexity}
    intervene: {target: massive}
    expect: {paired.low: {gt: 0.5}, control.paired.high: {lt: 0.1}}
"""


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> PropertyReport:
    model = planted()
    with torch.no_grad():
        # The word that no text has is likely without the massive activation, and so the fox is with it.
        model.lm_head.weight[tokenizer().convert_tokens_to_ids("fox")] = -model.lm_head.weight[31]
    path = questions(tmp_path_factory.mktemp("edit"), ACCURACIES, FOX)
    return check(model, tokenizer(prepends_bos=True), path)


@pytest.fixture(scope="module")
def perplexities(tmp_path_factory: pytest.TempPathFactory) -> PropertyReport:
    path = questions(tmp_path_factory.mktemp("edit"), PERPLEXITIES)
    return check(planted(), tokenizer(prepends_bos=True), path)


class TestUnderAnEdit:
    def test_the_accuracy_is_compared_question_by_question(self, accuracies: PropertyReport) -> None:
        reading = readings(accuracies)["accuracy"]
        assert (0.75, 0.25, 0.75) == tuple(reading[name].value for name in ("untouched", "edited", "control.edited"))
        # Three questions flip to wrong, one to right.
        assert mean_interval([-1.0, -1.0, -1.0, 1.0], 0.95) == tuple(
            reading[f"paired.{name}"].value for name in ("mean", "low", "high")
        )
        assert [0.0, 0.0, 0.0, 1.0] == [record["correct"] for record in reading.records]
        assert 0.0 == reading["control.paired.low"].value == reading["control.paired.high"].value

    def test_its_level_is_that_of_the_interval(self, accuracies: PropertyReport) -> None:
        wide, narrow = (readings(accuracies)[name] for name in ("accuracy", "surer"))
        assert wide["paired.high"].value > narrow["paired.high"].value

    def test_perplexity_is_compared_by_the_mean_loss_of_each_sequence(self, perplexities: PropertyReport) -> None:
        reading = readings(perplexities)["perplexity"]
        assert 1.0 < reading["paired.low"].value < reading["paired.mean"].value < reading["paired.high"].value
        assert pytest.approx(0, abs=0.05) == reading["control.paired.mean"].value

    def test_what_is_paired_can_be_expected(self, perplexities: PropertyReport) -> None:
        (verdict,) = [verdict for verdict in perplexities.verdicts if verdict.probe == "expected"]
        assert Status.PASSED is verdict.status, verdict.measured
