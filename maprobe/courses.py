"""How answers and values follow one another along a series. Pure: knows steps, not models.

Three-valued: what is unknown leaves a question open, unless the rest decides it. Nothing is known between two
checkpoints either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from maprobe.cases import Monotone, StepBound
from maprobe.expectations import number

__all__ = ["Answers", "Check", "Course", "emergence", "follow"]

Answers = Sequence[bool | None]
_FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that is asked of a course.

    Attributes:
        name: the key of ``trend`` that asks it, or the quantity that it is asked of.
        words: what is asked.
        holds: None where it is unknown, or has no object.
        told: what was found, as far as it says more than ``words``.
        why: why it is unknown or has no object.
        vacuous: whether it has no object.
        mark: ``file:line:column`` of what asks.
    """

    name: str
    words: str
    holds: bool | None
    told: str = ""
    why: str = ""
    vacuous: bool = False
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The checkpoints of a series, in order, and whether a condition holds in each (None where that is unknown).

    Attributes:
        names: of the checkpoints.
        steps: how far each has come; never falling.
        numbered: whether ``steps`` count steps; otherwise they are positions.
        answers: one for each checkpoint.
    """

    names: tuple[str, ...]
    steps: tuple[int, ...]
    numbered: bool = True
    answers: tuple[bool | None, ...] = field(default=())

    def by(self, bound: StepBound) -> Check:
        """Whether the condition holds in some checkpoint up to a bound."""
        step, words = self._bound(bound)
        asked, mark = f"emerges by {words}", str(bound.mark or "")
        if step is None:
            return Check(name="emerges_by", words=asked, holds=None, why=self._off_scale(words), mark=mark)
        early, later = self._divided(step)
        holds: bool | None = True
        if True not in early:
            decided = step in self.steps or (bool(later) and later[0] is False)
            holds = False if None not in early and decided else None
        why = self._lost(early) or self._between(len(early), words)
        return Check(name="emerges_by", words=asked, holds=holds, why=why, mark=mark)

    def after(self, bound: StepBound) -> Check:
        """Whether the condition holds in no checkpoint up to a bound, and in some beyond it."""
        step, words = self._bound(bound)
        asked, mark = f"emerges after {words}", str(bound.mark or "")
        if step is None:
            return Check(name="emerges_after", words=asked, holds=None, why=self._off_scale(words), mark=mark)
        early, later = self._divided(step)
        if True in early:
            return Check(name="emerges_after", words=asked, holds=False, mark=mark)
        if True not in later:
            return self._nowhere("emerges_after", asked, mark)
        decided = step in self.steps or later[0] is False
        holds = True if None not in early and decided else None
        why = self._lost(early) or self._between(len(early), words)
        return Check(name="emerges_after", words=asked, holds=holds, why=why, mark=mark)

    def stays(self, mark: str) -> Check:
        """Whether the condition holds in each checkpoint behind the first in which it does."""
        first = emergence(self.answers)
        refused = [index for index, answer in enumerate(self.answers) if answer is False]
        if first is None:
            return self._nowhere("stays", "stays", mark)
        lost = next((index for index in refused if index > first), None)
        if lost is not None:
            return Check(name="stays", words="stays", holds=False, told=f"lost at {self.names[lost]}", mark=mark)
        # An unknown one matters behind one that holds, and before one in which it does not, or may not.
        last = max((index for index, answer in enumerate(self.answers) if not answer), default=-1)
        open_ones = [
            self.names[index]
            for index, answer in enumerate(self.answers)
            if answer is None and (index > first or index < last)
        ]
        why = _nothing_known(open_ones) if open_ones else ""
        return Check(name="stays", words="stays", holds=None if open_ones else True, why=why, mark=mark)

    def monotone(self, asked: Monotone, values: Sequence[float | None]) -> Check:
        """Whether values never fall behind the best before them by more than the tolerance.

        Args:
            asked: the quantity, its direction and the tolerance.
            values: one for each checkpoint; NaN where it is unknown, None where there is nothing to have one.
        """
        sign = 1 if asked.direction == "increasing" else -1
        within = f" within {100 * asked.tolerance:g} %" if asked.tolerance else ""
        words, mark = f"{asked.quantity} {asked.direction}{within}", str(asked.mark or "")
        pairs = [pair for pair in zip(values, self.names, strict=True) if pair[0] is not None]
        known = [(value, name) for value, name in pairs if value is not None and not math.isnan(value)]
        told = f"{asked.quantity} {' -> '.join(number(value) for value, _ in (known[0], known[-1]))}" if known else ""
        for index, (value, name) in enumerate(known):
            best, where = max(known[: index + 1], key=lambda pair: sign * pair[0])
            if sign * (value - best) < -asked.tolerance * abs(best):
                told = f"{asked.quantity} {number(best)} at {where}, {number(value)} at {name}"
                return Check(name=asked.quantity, words=words, holds=False, told=told, mark=mark)
        lost = [name for value, name in pairs if value is not None and math.isnan(value)]
        short = len(known) < 2  # noqa: PLR2004 - it takes two points to go anywhere
        why = f"{asked.quantity} has a value in {len(known)} of {len(self.names)} checkpoints, and a trend takes two"
        return Check(
            name=asked.quantity,
            words=words,
            holds=None if lost or short else True,
            told=told,
            why=_nothing_known(lost) if lost else why,
            vacuous=short and not lost,
            mark=mark,
        )

    def _bound(self, bound: StepBound) -> tuple[int | None, str]:
        """Return a bound as a step, and in words; a share falls on the first checkpoint that has come so far."""
        if bound.share is None:
            return (bound.step if self.numbered else None), str(bound)
        reached = bound.share * self.steps[-1] - 1e-9
        index = next(index for index, step in enumerate(self.steps) if step >= reached)
        return self.steps[index], f"{bound} ({self.names[index]})"

    def _divided(self, step: int) -> tuple[Answers, Answers]:
        early = sum(1 for each in self.steps if each <= step)
        return self.answers[:early], self.answers[early:]

    def _nowhere(self, name: str, words: str, mark: str) -> Check:
        """Return the check of a condition that holds nowhere, so that there is no emergence to ask about."""
        lost = self._lost(self.answers)
        why = lost or f"the condition holds in none of {len(self.answers)} checkpoints, so there is no emergence"
        return Check(name=name, words=words, holds=None, why=why, vacuous=not lost, mark=mark)

    def _lost(self, answers: Answers) -> str:
        names = [name for name, answer in zip(self.names, answers, strict=False) if answer is None]
        return _nothing_known(names) if names else ""

    def _off_scale(self, words: str) -> str:
        return (
            f"{words} is not on the scale of this series, whose names ({_several(self.names)}) count no steps; write a "
            f"share such as 50%"
        )

    def _between(self, early: int, words: str) -> str:
        """Say between which checkpoints a bound falls, where it matters what happens between them."""
        if early == 0:
            return f"{words} lies before the first checkpoint ({self.names[0]}); add an earlier one, or move the bound"
        if early == len(self.names):
            return f"the series ends with {self.names[-1]}, before {words}; add a later one, or move the bound"
        return (
            f"{words} lies between {self.names[early - 1]} and {self.names[early]}, and nothing is known between them; "
            f"add a checkpoint there, or move the bound"
        )


def emergence(answers: Answers) -> int | None:
    """Return the index of the first checkpoint in which a condition holds; None without one."""
    return next((index for index, answer in enumerate(answers) if answer), None)


def follow(answers: Answers, names: Sequence[str]) -> str:
    """Say in a few words where a condition emerges along a series, and whether it stays."""
    first = emergence(answers)
    if first is None:
        return "unknown" if None in answers else "never"
    start = "from the first" if first == 0 else f"from {names[first]}"
    lost = next((name for name, answer in list(zip(names, answers, strict=True))[first:] if answer is False), "")
    return f"{start}, lost at {lost}" if lost else start


def _nothing_known(names: Sequence[str]) -> str:
    why = "its own case tells why" if len(names) == 1 else "their own cases tell why"
    return f"nothing is known of {_several(names)}, which would decide; {why}"


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")
