"""What can be said of a condition, and of a number, along a series; unknown stays unknown."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from maprobe.cases import Monotone, StepBound
from maprobe.courses import Check, Course, emergence, follow

LETTERS = {"T": True, "F": False, "?": None}
NAN = math.nan


def course(answers: str, steps: tuple[int, ...] = (), *, numbered: bool = True) -> Course:
    """A course of ``T``, ``F`` and ``?``; without steps, at 100, 200 ..."""
    steps = steps or tuple(100 * (index + 1) for index in range(len(answers)))
    found = tuple(LETTERS[letter] for letter in answers)
    return Course(names=tuple(f"step-{step}" for step in steps), steps=steps, numbered=numbered, answers=found)


def said(check: Check) -> str:
    """``yes``, ``no``, ``unknown`` or ``no object``."""
    assert check.why or check.holds is not None
    return {True: "yes", False: "no", None: "no object" if check.vacuous else "unknown"}[check.holds]


def step(value: int) -> StepBound:
    return StepBound(step=value)


def share(value: float) -> StepBound:
    return StepBound(share=value)


@pytest.mark.parametrize(
    ("answers", "bound", "answer"),
    [
        ("FTTT", 200, "yes"),
        ("TFFF", 200, "yes"),
        ("FFTT", 200, "no"),
        ("FFFF", 200, "no"),
        ("?TTT", 200, "yes"),
        ("F?TT", 200, "unknown"),
        ("?FFF", 200, "unknown"),
        ("FFF?", 200, "no"),
        # Between two checkpoints that differ, nobody knows.
        ("FFTT", 250, "unknown"),
        ("FFFT", 250, "no"),
        ("FF?T", 250, "unknown"),
        ("TTTT", 50, "unknown"),
        ("FTTT", 50, "no"),
        ("FFFF", 500, "unknown"),
        ("FFFT", 500, "yes"),
    ],
)
def test_a_condition_emerges_by_a_step(answers: str, bound: int, answer: str) -> None:
    assert answer == said(course(answers).by(step(bound)))


@pytest.mark.parametrize(
    ("answers", "bound", "answer"),
    [
        ("FFTT", 200, "yes"),
        ("FTTT", 200, "no"),
        ("TFFT", 100, "no"),
        ("?FTT", 200, "unknown"),
        ("?TTT", 200, "no"),
        ("FFTT", 250, "unknown"),
        ("FFFT", 250, "yes"),
        ("FTTT", 50, "yes"),
        ("TTTT", 50, "unknown"),
        ("FFFF", 200, "no object"),
        ("FFF?", 200, "unknown"),
    ],
)
def test_a_condition_emerges_after_a_step(answers: str, bound: int, answer: str) -> None:
    assert answer == said(course(answers).after(step(bound)))


@pytest.mark.parametrize(
    ("answers", "answer"),
    [
        ("FTTT", "yes"),
        ("TTTT", "yes"),
        ("FFFT", "yes"),
        ("FTFT", "no"),
        ("TTTF", "no"),
        ("T?F?", "no"),
        ("FT?T", "unknown"),
        ("?FTT", "unknown"),
        ("?TTT", "yes"),
        ("F?TT", "yes"),
        ("FFF?", "unknown"),
        ("FFFF", "no object"),
    ],
)
def test_a_condition_stays(answers: str, answer: str) -> None:
    assert answer == said(course(answers).stays(""))


def _completions(answers: str) -> list[str]:
    return ["".join(letters) for letters in itertools.product(*("TF" if a == "?" else a for a in answers))]


@pytest.mark.parametrize("answers", ["".join(letters) for letters in itertools.product("TF?", repeat=4)])
@pytest.mark.parametrize("ask", ["by", "after", "stays"])
def test_what_is_said_is_what_every_way_to_know_more_would_say(answers: str, ask: str) -> None:
    def answer(letters: str) -> str:
        asked = course(letters)
        return said({"by": asked.by, "after": asked.after}[ask](step(200)) if ask != "stays" else asked.stays(""))

    wanted = {answer(each) for each in _completions(answers)}
    # A condition that may hold nowhere leaves no answer that all would give.
    assert (wanted.pop() if len(wanted) == 1 else "unknown") == answer(answers)


def test_a_share_falls_on_the_first_checkpoint_that_has_come_so_far() -> None:
    uneven = course("FFTT", (0, 100, 700, 1000))
    check = uneven.by(share(0.5))
    assert ("yes", "emerges by 50 % of the steps (step-700)") == (said(check), check.words)
    assert "no" == said(course("FFFT", (0, 100, 700, 1000)).by(share(0.5)))
    assert "yes" == said(uneven.after(share(0.1)))
    assert "yes" == said(course("FFFT").by(share(1.0)))


def test_the_last_may_stand_at_the_step_of_the_one_before() -> None:
    last = course("FFT", (100, 200, 200))
    assert ("yes", "yes") == (said(last.by(share(1.0))), said(last.by(step(200))))


def test_a_step_says_nothing_of_names_without_numbers_and_a_share_does() -> None:
    positions = course("FTTT", (1, 2, 3, 4), numbered=False)
    assert "unknown" == said(positions.by(step(2))) == said(positions.after(step(1)))
    assert "write a share such as 50%" in positions.by(step(2)).why
    assert "yes" == said(positions.by(share(0.5)))


def test_what_is_unknown_says_why_and_where_a_checkpoint_is_missing() -> None:
    assert "step 250 lies between step-200 and step-300" in course("FFTT").by(step(250)).why
    assert "the series ends with step-400, before step 500" in course("FFFF").by(step(500)).why
    assert "step 50 lies before the first checkpoint (step-100)" in course("TTTT").by(step(50)).why
    assert "nothing is known of step-200, which would decide" in course("F?TT").by(step(200)).why
    assert "holds in none of 4 checkpoints" in course("FFFF").stays("").why


def monotone(values: list[float | None], **asked: Any) -> Check:
    wanted = Monotone(**{"quantity": "loss", "direction": "decreasing", **asked})
    return course("?" * len(values)).monotone(wanted, values)


@pytest.mark.parametrize(
    ("values", "tolerance", "answer"),
    [
        ([4, 3, 2, 2], 0, "yes"),
        ([4, 3, 3.1, 2], 0, "no"),
        ([4, 3, 3.1, 2], 0.05, "yes"),
        # Small steps back add up: each is compared with the best before it, and not with its neighbour.
        ([3, 3.1, 3.2, 3.3], 0.05, "no"),
        ([4, NAN, 3, 2], 0, "unknown"),
        ([4, NAN, 5, 2], 0, "no"),
        ([None, 4, 3, 2], 0, "yes"),
        ([None, None, None, 2], 0, "no object"),
        ([None, None, None, None], 0, "no object"),
        ([None, None, NAN, 2], 0, "unknown"),
    ],
)
def test_a_number_never_rises(values: list[float | None], tolerance: float, answer: str) -> None:
    assert answer == said(monotone(values, tolerance=tolerance))
    mirrored = [None if value is None else -value for value in values]
    assert answer == said(monotone(mirrored, tolerance=tolerance, direction="increasing"))


def test_a_number_that_turns_back_is_told_with_both_places() -> None:
    assert "loss 3 at step-200, 3.5 at step-300" == monotone([4, 3, 3.5]).told
    assert "loss 4 -> 2" == monotone([4, 3, 2]).told


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ("FFTT", "from step-300"),
        ("TTTT", "from the first"),
        ("FTFT", "from step-200, lost at step-300"),
        ("FFFF", "never"),
        ("FF?F", "unknown"),
        ("FT?T", "from step-200"),
    ],
)
def test_a_course_in_words(answers: str, words: str) -> None:
    made = course(answers)
    assert words == follow(made.answers, made.names)
    assert answers.find("T") == (-1 if emergence(made.answers) is None else emergence(made.answers))
