"""``perplexity``: how well the model predicts the inputs, by one definition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.readings import Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["PERPLEXITY"]

_CHUNK = 1 << 24


@dataclass
class _PerplexityFold:
    context: FoldContext
    total: float = 0.0
    targets: int = 0
    records: list[dict[str, Scalar]] = field(default_factory=list)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return (Tap("logits"),)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del tap, offset
        from torch.nn.functional import cross_entropy

        # Chunks of rows, since the float32 copy of all logits of a long sequence would dwarf the model's own.
        rows = max(1, _CHUNK // value.shape[-1])
        targets = batch.ids[:, 1:]
        for row, sequence in enumerate(batch.sequences):
            total = 0.0
            for start in range(0, targets.shape[1], rows):
                stop = min(start + rows, targets.shape[1])
                losses = cross_entropy(value[row, start:stop].float(), targets[row, start:stop], reduction="none")
                total += float(losses.double().sum())
            self.total += total
            if count := targets.shape[1]:
                self.records.append({"item": sequence, "loss": total / count, "targets": count})
        self.targets += targets.numel()

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        if not self.targets:
            raise MeasurementError(
                "perplexity needs at least 2 tokens in a sequence, one to predict from and one to predict; "
                "lengthen the inputs"
            )
        loss = self.total / self.targets
        return Reading(
            kind="perplexity",
            quantities={
                "perplexity": Quantity(name="perplexity", values=(_exp(loss),)),
                "loss": Quantity(name="loss", values=(loss,), unit="nats/token"),
                "targets": Quantity(name="targets", values=(float(self.targets),), unit="tokens"),
            },
            records=tuple(self.records),
        )


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


PERPLEXITY = MeasurementRecipe(
    name="perplexity",
    summary="exp of the mean cross-entropy over all target tokens of all sequences, in float32.",
    sites=("logits",),
    quantities=(
        QuantitySpec(name="perplexity", meaning="exp(loss); inf where that leaves the range of a double"),
        QuantitySpec(name="loss", unit="nats/token", meaning="mean cross-entropy of the next token"),
        QuantitySpec(name="targets", unit="tokens", meaning="tokens predicted: all but the first of a sequence"),
    ),
    headline="perplexity",
    items="loss",
    takes_layers=False,
    takes_tokens=False,
    causal=True,
    start=_PerplexityFold,
)
