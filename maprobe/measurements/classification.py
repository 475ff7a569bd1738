"""``classification``: how often the image-classification head of a checkpoint names the right class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.readings import Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["CLASSIFICATION"]

_TOP = 5


@dataclass
class _ClassificationFold:
    context: FoldContext
    records: list[dict[str, Scalar]] = field(default_factory=list)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return (Tap("class.logits"),)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del tap, offset
        labels = self.context.labels
        if not labels:
            raise MeasurementError(
                "classification needs to know the right class of each image; write `labels: subfolders` under "
                "`inputs`, with a subfolder of images for each class"
            )
        if value.dim() != 2:  # noqa: PLR2004 - images and classes
            raise MeasurementError(
                f"the head of this model gives {tuple(value.shape)} for {len(batch.sequences)} images, and one number "
                f"for each class is expected"
            )
        if not bool(value.isfinite().all()):
            raise MeasurementError("the head gives numbers that are not finite, so no class can be told from them")
        best = value.float().topk(min(_TOP, value.shape[1]), dim=1).indices.tolist()
        for row, sequence in enumerate(batch.sequences):
            right = labels[sequence]
            self.records.append(
                {
                    "item": sequence,
                    "label": right,
                    "named": best[row][0],
                    "right": float(best[row][0] == right),
                    "right_of_five": float(right in best[row]),
                }
            )

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        count = len(self.records)
        values = {
            "accuracy": sum(float(record["right"] or 0) for record in self.records) / count,
            "top5": sum(float(record["right_of_five"] or 0) for record in self.records) / count,
            "images": float(count),
            "chance": 1 / float(self.context.facts["num_classes"] or 1),
        }
        return Reading(
            kind="classification",
            quantities={name: Quantity(name=name, values=(value,)) for name, value in values.items()},
            records=tuple(self.records),
        )


CLASSIFICATION = MeasurementRecipe(
    name="classification",
    summary="How often the checkpoint's image-classification head names the right class.",
    sites=("class.logits",),
    quantities=(
        QuantitySpec(name="accuracy", meaning="share of the images whose largest logit is that of their class"),
        QuantitySpec(name="top5", meaning="share whose class is among the five largest logits"),
        QuantitySpec(name="images", unit="images", meaning="number of images"),
        QuantitySpec(name="chance", meaning="1 / number of classes"),
    ),
    headline="accuracy",
    items="right",
    takes_layers=False,
    takes_tokens=False,
    source="images",
    modality="image",
    start=_ClassificationFold,
)
