"""``loss``: the loss of a model whose own code brings one: one that predicts something else than the next token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.readings import Place, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap
from maprobe.sites import LOSS

if TYPE_CHECKING:
    import torch

__all__ = ["OWN_LOSS"]


@dataclass
class _LossFold:
    context: FoldContext
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return (Tap(LOSS),)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del tap, offset
        self.losses.update(zip(batch.sequences, value.double().tolist(), strict=True))

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        worst = max(self.losses, key=lambda sequence: self.losses[sequence])
        mean = sum(self.losses.values()) / len(self.losses)
        return Reading(
            kind="loss",
            quantities={
                "loss": Quantity(name="loss", values=(mean,)),
                "highest": Quantity(name="highest", values=(self.losses[worst],), places=(Place(sequence=worst),)),
            },
            records=tuple({"item": sequence, "loss": loss} for sequence, loss in self.losses.items()),
        )


OWN_LOSS = MeasurementRecipe(
    name="loss",
    summary="The mean loss over the inputs, as the code that brings the model computes it.",
    sites=(LOSS,),
    quantities=(
        QuantitySpec(name="loss", meaning="mean over the inputs of the loss of each"),
        QuantitySpec(name="highest", meaning="loss of the input that has the highest"),
    ),
    headline="loss",
    items="loss",
    takes_layers=False,
    takes_tokens=False,
    modality="own",
    start=_LossFold,
)
