"""How the probability of dropping falls in the course of a training (arXiv:2410.01866, section on MacDrop)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from maprobe.errors import TrainingError, allowed_names, did_you_mean

__all__ = ["CURRICULA", "Curriculum", "Moment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One optimiser step within a training.

    Attributes:
        step: its number, from 1.
        steps: steps in all.
        epoch: number of the epoch that it belongs to, from 1.
        epochs: epochs in all.

    Raises:
        TrainingError: a number is out of range.
    """

    step: int
    steps: int
    epoch: int = 1
    epochs: int = 1

    def __post_init__(self) -> None:
        for what, number, total in (("step", self.step, self.steps), ("epoch", self.epoch, self.epochs)):
            if not 1 <= number <= total:
                raise TrainingError(f"{what} {number} of {total} does not exist; {what}s are counted from 1 to {total}")


def _step(moment: Moment, p0: float, _alpha: float) -> float:
    return p0 * (1 - moment.step / moment.steps)


def _before(moment: Moment, p0: float, _alpha: float) -> float:
    return p0 * (1 - (moment.epoch - 1) / moment.epochs)


def _after(moment: Moment, p0: float, _alpha: float) -> float:
    return p0 * (1 - moment.epoch / moment.epochs)


def _exp(moment: Moment, p0: float, alpha: float) -> float:
    return p0 * math.exp(-alpha * moment.step)


CURRICULA: dict[str, Callable[[Moment, float, float], float]] = {
    "step": _step,
    "epoch-before": _before,
    "epoch-after": _after,
    "exp": _exp,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """A probability for each step of a training.

    Attributes:
        kind: ``step`` p0 (1 - t/T), the paper's choice; ``epoch-before`` p0 (1 - (e-1)/E); ``epoch-after``
            p0 (1 - e/E); ``exp`` p0 exp(-alpha t). Steps t and epochs e are counted from 1.
        p0: the probability that it begins at, from 0 to 1; the paper's is 0.8.
        alpha: how fast ``exp`` falls, at least 0; for no other kind.

    Raises:
        TrainingError: the kind is none of these, or a number is out of range, missing, or of no use.
    """

    kind: str = "step"
    p0: float = 0.8
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in CURRICULA:
            raise TrainingError(
                f"a curriculum {self.kind!r} does not exist{did_you_mean(self.kind, CURRICULA)}; allowed: "
                f"{allowed_names(CURRICULA)}"
            )
        if not _is_number(self.p0) or not 0 <= self.p0 <= 1:
            raise TrainingError(f"p0 = {self.p0!r} is not a probability; allowed: a number from 0 to 1")
        if self.kind != "exp":
            if self.alpha is not None:
                raise TrainingError(f"alpha is for the curriculum exp alone; leave it out for {self.kind}")
        elif self.alpha is None or not _is_number(self.alpha) or self.alpha < 0:
            raise TrainingError(
                f"alpha = {self.alpha!r} is not a rate for the curriculum exp; allowed: a number of at least 0, such "
                f"as 0.01"
            )

    def at(self, moment: Moment) -> float:
        """Return the probability of dropping a weight in a step, from 0 to 1."""
        return CURRICULA[self.kind](moment, self.p0, self.alpha or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
