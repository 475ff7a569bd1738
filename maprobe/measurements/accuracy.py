"""``accuracy``: how often the model finds the right option of a multiple-choice question the likeliest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.readings import Quantity, Reading, Scalar
from maprobe.recipes import Batch, Choice, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["ACCURACY", "wilson"]


@dataclass
class _AccuracyFold:
    context: FoldContext
    scores: dict[Choice, float] = field(default_factory=dict)
    by_sequence: dict[int, list[Choice]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for choice in self.context.choices:
            self.by_sequence.setdefault(choice.sequence, []).append(choice)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return (Tap("logits"),)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del tap, offset
        import torch

        for row, sequence in enumerate(batch.sequences):
            for choice in self.by_sequence.get(sequence, ()):
                ids = torch.tensor(choice.ids, device=value.device)
                logits = value[row, choice.start - 1 : choice.start - 1 + len(ids)].float()
                losses = torch.nn.functional.cross_entropy(logits, ids, reduction="none")
                self.scores[choice] = -float(losses.double().sum()) / self._length(choice)

    def _length(self, choice: Choice) -> int:
        lengths = {"characters": choice.characters, "tokens": len(choice.ids), "none": 1}
        return lengths[str(self.context.request.option("norm"))]

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        if not self.context.choices:
            raise MeasurementError(
                "accuracy needs multiple-choice questions, and these inputs are none; name a file of them with "
                "`choices` under `inputs`"
            )
        questions: dict[int, list[tuple[Choice, float]]] = {}
        for choice in self.context.choices:
            questions.setdefault(choice.question, []).append((choice, self.scores[choice]))
        records = tuple(_answered(number, options) for number, options in questions.items())
        accuracy = math.fsum(float(record["correct"] or 0) for record in records) / len(records)
        low, high = wilson(accuracy, len(records), float(self.context.request.option("level") or 0))  # type: ignore[arg-type]
        values = {
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "chance": math.fsum(1 / len(options) for options in questions.values()) / len(questions),
            "questions": len(questions),
        }
        return Reading(
            kind="accuracy",
            quantities={name: Quantity(name=name, values=(float(value),)) for name, value in values.items()},
            records=records,
        )


def _answered(number: int, options: Sequence[tuple[Choice, float]]) -> dict[str, Scalar]:
    """Return the record of one question: which option was the likeliest, and how far the right one is ahead."""
    right = next(score for choice, score in options if choice.right)
    others = [score for choice, score in options if not choice.right]
    known = not any(math.isnan(score) for _, score in options)
    best = max(score for _, score in options)
    # A tie is a guess among those that are level: a model that tells nothing apart is right as often as chance.
    level = sum(score == best for _, score in options)
    return {
        "item": number,
        "line": options[0][0].line,
        "correct": (1 / level if right == best else 0.0) if known else math.nan,
        "right": next(choice.option for choice, _ in options if choice.right),
        "chosen": next(choice.option for choice, score in options if score == best) if known else None,
        "ahead": right - max(others) if known and math.isfinite(right) else math.nan,
    }


def wilson(share: float, count: int, level: float) -> tuple[float, float]:
    """Return the Wilson score interval of a share of ``count`` at a confidence level; nan of nan."""
    if math.isnan(share):
        return math.nan, math.nan
    z = NormalDist().inv_cdf((1 + level) / 2)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


ACCURACY = MeasurementRecipe(
    name="accuracy",
    summary="Share of multiple-choice questions whose right option is the likeliest by the model's own probabilities.",
    sites=("logits",),
    quantities=(
        QuantitySpec(name="accuracy", meaning="share of the questions answered rightly; a tie of k counts 1/k"),
        QuantitySpec(name="low", meaning="lower end of the Wilson interval of accuracy"),
        QuantitySpec(name="high", meaning="upper end of the Wilson interval of accuracy"),
        QuantitySpec(name="chance", meaning="accuracy of guessing: mean of 1 / number of options"),
        QuantitySpec(name="questions", meaning="number of questions"),
    ),
    headline="accuracy",
    items="correct",
    parameters=(
        Parameter(
            name="norm",
            schema={"enum": ["characters", "tokens", "none"]},
            default="characters",
            meaning="what an option's log-likelihood is divided by: its characters, its tokens, or nothing",
        ),
        Parameter(
            name="level",
            schema={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            default=0.95,
            meaning="confidence level of the intervals",
        ),
    ),
    takes_layers=False,
    takes_tokens=False,
    causal=True,
    source="choices",
    start=_AccuracyFold,
)
