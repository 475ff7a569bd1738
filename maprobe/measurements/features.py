"""``features``: how far an edit turns the vector that stands for an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maprobe.errors import MeasurementError
from maprobe.readings import Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap
from maprobe.sites import TokenSet

if TYPE_CHECKING:
    import torch

__all__ = ["FEATURES"]


@dataclass
class _FeaturesFold:
    context: FoldContext
    vectors: dict[int, Any] = field(default_factory=dict)
    records: list[dict[str, Scalar]] = field(default_factory=list)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return (Tap("final.norm.out"),)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del tap, offset
        pooling = str(self.context.request.option("pooling"))
        mask = batch.mask(TokenSet(pooling))  # type: ignore[arg-type]
        if not bool(mask.any()):
            raise MeasurementError(
                f"this model has no token of class {pooling}, so its features cannot be pooled so; write "
                f"`pooling: {'patches' if pooling == 'class' else 'class'}`"
            )
        before = self.context.untouched.kept if self.context.untouched is not None else {}
        for row, sequence in enumerate(batch.sequences):
            vector = value[row][mask[row]].double().mean(dim=0).cpu()
            # Only the untouched pass has to remember; what a pass with an edit leaves is read by none.
            if self.context.untouched is None:
                self.vectors[sequence] = vector
            cosine = _cosine(vector, before.get(sequence, vector))
            self.records.append({"item": sequence, "cosine": cosine, "norm": float(vector.norm())})

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        cosines = [float(record["cosine"] or 0.0) for record in self.records]
        norms = [float(record["norm"] or 0.0) for record in self.records]
        worst = min(range(len(cosines)), key=lambda index: -math.inf if math.isnan(cosines[index]) else cosines[index])
        place = Place(sequence=int(self.records[worst]["item"] or 0))
        quantities = (
            Quantity(name="cosine", values=(math.fsum(cosines) / len(cosines),)),
            Quantity(name="lowest", values=(cosines[worst],), places=(place,)),
            Quantity(name="norm", values=(math.fsum(norms) / len(norms),)),
        )
        return Reading(
            kind="features",
            quantities={quantity.name: quantity for quantity in quantities},
            records=tuple(self.records),
            kept=self.vectors,
        )


def _cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    length = float(left.norm()) * float(right.norm())
    return float(left @ right) / length if length else math.nan


FEATURES = MeasurementRecipe(
    name="features",
    summary="How far an edit turns the pooled feature of each image from what it is without the edit.",
    sites=("final.norm.out",),
    quantities=(
        QuantitySpec(
            name="cosine", meaning="cosine between the feature and that of the untouched pass, mean of images"
        ),
        QuantitySpec(name="lowest", meaning="the smallest of these cosines"),
        QuantitySpec(name="norm", meaning="L2 norm of the feature, mean over the images"),
    ),
    headline="cosine",
    items="cosine",
    parameters=(
        Parameter(
            name="pooling",
            schema={"enum": ["class", "patches"]},
            default="class",
            meaning="what stands for an image: its class token, or the mean of its patches",
        ),
    ),
    takes_layers=False,
    takes_tokens=False,
    modality="image",
    start=_FeaturesFold,
)
