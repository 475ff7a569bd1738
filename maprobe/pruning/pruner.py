"""Pruning a loaded checkpoint by one or more methods in turn, and what came of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from maprobe.errors import PruningError
from maprobe.measurements.perplexity import PERPLEXITY
from maprobe.pruning.targets import targets_of
from maprobe.pruning.wanda import PrunedMatrix, prune
from maprobe.running.inputs import batches
from maprobe.running.matrices import Matrix, left_out
from maprobe.running.measuring import measured
from maprobe.sparsity import SparsityRule

if TYPE_CHECKING:
    from maprobe.facts import CheckpointFacts
    from maprobe.progress import Progress
    from maprobe.running.inputs import Inputs
    from maprobe.running.subjects import Subject

__all__ = ["Counter", "Method", "Outcome", "Pruner", "perplexity", "require_prunable"]

Method = Literal["layers", "wanda"]

Counter = Callable[["Subject", "Inputs"], Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one method made of a model.

    Attributes:
        method: its name; ``dense`` for the untouched model.
        shares: the sparsity asked for, layer by layer.
        counts: active parameters of each layer, where the method looks at them.
        matrices: what became of each matrix.
        perplexity: on the held-out inputs; NaN where it was not asked for.
    """

    method: str
    shares: tuple[float, ...]
    matrices: tuple[PrunedMatrix, ...]
    counts: tuple[int, ...] = ()
    perplexity: float = math.nan

    def counted(self, layer: int | None = None) -> float:
        """Return the share of weights that are zero, in one layer or in all matrices together."""
        own = [matrix for matrix in self.matrices if layer in (None, matrix.layer)]
        return sum(matrix.zeros for matrix in own) / sum(matrix.weights for matrix in own)

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that have matrices."""
        return tuple(dict.fromkeys(matrix.layer for matrix in self.matrices))


def require_prunable(facts: CheckpointFacts, *, logits: str = "") -> None:
    """Refuse a checkpoint that its config says cannot be pruned.

    Args:
        facts: the checkpoint's facts.
        logits: what needs next-token logits; empty if nothing does.

    Raises:
        PruningError: it is not a model of texts, is quantised, or has no next-token logits where they are needed.
    """
    if facts["modality"] != "text":
        raise PruningError(f"{facts.label} is no model of texts, and only those are pruned")
    if facts["quantization"] not in ("none", "gguf"):  # a GGUF file is unpacked as it is loaded
        raise PruningError(
            f"{facts.label} is quantised ({facts['quantization']}), and only plain numbers can be set to zero one by "
            f"one; prune the checkpoint before it is quantised"
        )
    if logits and not facts["causal"]:
        raise PruningError(
            f"{logits} needs next-token logits, which {facts.label} has not; allowed for it: --method wanda without "
            f"--compare"
        )


@dataclass(eq=False)
class Pruner:
    """A checkpoint that is pruned, once or by several methods from the same start.

    Attributes:
        subject: the checkpoint; its model is changed.
        inputs: what is calibrated on.
        rule: the sparsity, and how it is spread over the layers.
        count: tells the active parameters of each layer.
        progress: where to show how far it is.
    """

    subject: Subject
    inputs: Inputs
    rule: SparsityRule
    count: Counter
    progress: Progress
    targets: tuple[Matrix, ...] = field(init=False)
    left: tuple[str, ...] = field(init=False)
    _counts: tuple[int, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        self.targets = targets_of(self.subject.anatomy)
        self.left = left_out(self.subject.anatomy, self.targets)

    def dense(self) -> Outcome:
        """Return how sparse the model is before anything is done to it."""
        none = (0.0,) * self.subject.anatomy.depth
        matrices = tuple(
            PrunedMatrix(
                layer=target.layer,
                path=target.path,
                outputs=target.weight.shape[0],
                inputs=target.weight.shape[1],
                asked=0.0,
                zeros=int((target.weight == 0).sum()),
            )
            for target in self.targets
        )
        return Outcome(method="dense", shares=none, matrices=matrices)

    def by(self, method: Method) -> Outcome:
        """Prune by a method.

        Raises:
            PruningError: the rule gives no sparsities, or weights cannot be scored.
            MaprobeError: active parameters cannot be counted in this model.
        """
        counts = self._counted() if method == "layers" else ()
        shares = self.rule.by_layer(counts) if counts else (self.rule.sparsity,) * self.subject.anatomy.depth
        matrices = prune(
            self.subject.anatomy,
            self.targets,
            self.inputs,
            shares,
            device=self.subject.device,
            progress=self.progress,
        )
        return Outcome(method=method, shares=shares, matrices=matrices, counts=counts)

    def compared(self, methods: Sequence[Method], measure: Callable[[], float]) -> tuple[Outcome, ...]:
        """Return what the untouched model and each method give, all from the same start; the last method's stays.

        A copy of the matrices is held meanwhile.

        Args:
            methods: the methods in turn.
            measure: measures the model as it is at the time.

        Raises:
            MaprobeError: as :meth:`by`.
        """
        if "layers" in methods:
            self.rule.by_layer(self._counted())  # of the untouched model, and refused before time is spent on others
        found = [_measured(self.dense(), measure)]
        copies = [target.weight.clone() for target in self.targets]
        for number, method in enumerate(methods):
            if number:
                for target, copy in zip(self.targets, copies, strict=True):
                    target.weight.copy_(copy)
            found.append(_measured(self.by(method), measure))
        return tuple(found)

    def _counted(self) -> tuple[int, ...]:
        if not self._counts:
            self._counts = tuple(self.count(self.subject, self.inputs))
        return self._counts


def _measured(outcome: Outcome, measure: Callable[[], float]) -> Outcome:
    return Outcome(
        method=outcome.method,
        shares=outcome.shares,
        matrices=outcome.matrices,
        counts=outcome.counts,
        perplexity=measure(),
    )


def perplexity(subject: Subject, inputs: Inputs) -> float:
    """Return the perplexity of a model, by the measurement of that name.

    Raises:
        MeasurementError: it cannot be measured.
    """
    reading = measured(subject.anatomy, PERPLEXITY, batches(inputs, size=1, device=subject.device))
    return reading["perplexity"].value
