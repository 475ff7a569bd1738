"""How sparse each layer is to become, by how many of its parameters are active (arXiv:2405.17799, validation 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from maprobe.errors import PruningError

__all__ = ["SparsityRule", "check_sparsity"]

_FEWEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityRule:
    """The rule by which layers with many active parameters are pruned less than those with few.

    Attributes:
        sparsity: S, the mean over the layers, above 0 and below 1.
        alpha: how much the first layers are spared beyond what their counts say.
        beta: how far the sparsity of a layer may be from S, as a share of S.
    """

    sparsity: float = 0.5
    alpha: float = 2.0
    beta: float = 0.2

    def by_layer(self, counts: Sequence[float]) -> tuple[float, ...]:
        """Return the sparsity of each layer; their mean is S, but for the rounding of floating-point numbers.

        With N_i the count of layer i, from 1, out of L, and mean and std taken over the layers,

            N'_i = sigmoid((N_i - mean N) / std N + alpha / i)
            S_i = S + beta S (1 - N'_i L / sum N')

        The paper does not say which std is meant. Turned backwards, the vectors of sparsities that its code carries
        for Llama-7B and Llama-2-7B give scaled counts whose population std, the sum of squares divided by L, is 1 to
        15 digits. So that is taken.

        Args:
            counts: how many parameters of each layer are active, the first layer first.

        Raises:
            PruningError: S, alpha or beta is out of range, the counts tell no layers apart, or a layer's sparsity would
                lie outside 0 to 1.
        """
        check_sparsity(self.sparsity)
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not math.isfinite(value):
                raise PruningError(f"{name} {value} is not allowed in the rule of sparsities; allowed: a finite number")
        _check_counts(counts)
        size = len(counts)
        mean = math.fsum(counts) / size
        std = math.sqrt(math.fsum((count - mean) ** 2 for count in counts) / size)
        weights = [_sigmoid((count - mean) / std + self.alpha / layer) for layer, count in enumerate(counts, start=1)]
        average = math.fsum(weights) / size
        if not average:
            raise PruningError(f"alpha {self.alpha} leaves no layer any weight in the rule of sparsities; raise it")
        found = tuple(self.sparsity * (1 + self.beta * (1 - weight / average)) for weight in weights)
        for layer, value in enumerate(found, start=1):
            if not 0 <= value <= 1:
                raise PruningError(
                    f"layer {layer} would get a sparsity of {value:.3f} by the rule with sparsity {self.sparsity:g}, "
                    f"alpha {self.alpha:g} and beta {self.beta:g}; allowed: 0 to 1, so bring beta nearer to 0"
                )
        return found


def check_sparsity(value: float) -> None:
    """Refuse a sparsity that would prune nothing, or everything.

    Raises:
        PruningError: it is not above 0 and below 1.
    """
    if not 0 < value < 1:
        raise PruningError(f"sparsity {value:g} is not allowed; allowed: above 0 and below 1")


def _check_counts(counts: Sequence[float]) -> None:
    if len(counts) < _FEWEST:
        raise PruningError(
            f"the rule of sparsities was given the counts of {len(counts)} layers, and it weighs layers against one "
            f"another; allowed: {_FEWEST} layers or more, so prune this model with the method wanda"
        )
    for layer, count in enumerate(counts, start=1):
        if not (math.isfinite(count) and count >= 0):
            raise PruningError(
                f"the count of layer {layer} is {count}, and the rule of sparsities needs numbers; allowed: 0 or more"
            )
    if len({*counts}) == 1:
        raise PruningError(
            f"every layer has {counts[0]:g} active parameters, which tells no layers apart; choose another gamma, or "
            f"prune with the method wanda"
        )


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    power = math.exp(value)
    return power / (1 + power)
