"""``edge.massive``: which entries of edge features are massive, so that they can be edited (arXiv:2409.03463)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.edges import OVER, SITE, EdgeLayer
from maprobe.readings import Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap
from maprobe.sites import LayerRange

if TYPE_CHECKING:
    import torch

__all__ = ["EDGE_MASSIVE"]


@dataclass
class _EntriesFold:
    context: FoldContext
    layers: tuple[int, ...]
    records: list[dict[str, Scalar]] = field(default_factory=list)
    edges: set[tuple[int, int, int]] = field(default_factory=set)
    largest: tuple[float, int, Place] = (0.0, 0, Place())

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap(SITE, layer) for layer in self.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        features = value[0].float()
        sizes = features.abs()
        graph = EdgeLayer.of(tap.layer, sizes)
        # What is not finite has no ratio that could be compared; `finite` tells of it.
        ratios = graph.ratios("edge", sizes).where(sizes.isfinite().cpu(), 0.0)
        top = int(ratios.argmax())
        edge, channel = divmod(top, features.shape[1])
        ratio = float(ratios[edge, channel])
        if ratio > self.largest[0]:
            self.largest = (ratio, tap.layer, self._place(batch, edge, channel))
        hits = (ratios > float(self.context.request.option("over"))).nonzero()  # type: ignore[arg-type]
        for position in dict.fromkeys(hits[:, 0].tolist()):
            channels = hits[hits[:, 0] == position, 1].tolist()
            self.edges.add((tap.layer, batch.sequences[0], position))
            self._note("edited", tap.layer, batch, features, position, channels)
            # As many others of the same edge, those nearest to its median.
            near = (sizes[position].cpu() - graph.medians[position]).abs().nan_to_num(nan=math.inf)
            near[channels] = math.inf
            others = near.argsort(stable=True)[: min(len(channels), len(near) - len(channels))].tolist()
            self._note("control", tap.layer, batch, features, position, others)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        edited = [record for record in self.records if record["arm"] == "edited"]
        if not edited:
            ratio, layer, place = self.largest
            return Reading(
                kind="edge.massive",
                absent=f"no edge has an entry above {self.context.request.option('over'):g} times its own median; the "
                f"largest ratio is {ratio:.4g} (layer {layer}, {place})",
            )
        layers = {layer for layer, _, _ in self.edges}
        values = {"entries": len(edited), "edges": len(self.edges), "layers_hit": len(layers)}
        return Reading(
            kind="edge.massive",
            quantities={name: Quantity(name=name, values=(float(value),)) for name, value in values.items()},
            records=tuple(self.records),
        )

    def _note(
        self, arm: str, layer: int, batch: Batch, features: torch.Tensor, position: int, channels: list[int]
    ) -> None:
        for channel in channels:
            value = float(features[position, channel])
            where = {"sequence": batch.sequences[0], "position": position, "dim": channel}
            self.records.append({"arm": arm, "layer": layer, **where, "value": value, "token": batch.text(0, position)})

    @staticmethod
    def _place(batch: Batch, edge: int, channel: int) -> Place:
        word = batch.text(0, edge)
        return Place(sequence=batch.sequences[0], position=edge, token=word, dim=channel, unit="edge")


def _start(context: FoldContext) -> _EntriesFold:
    """Start a fold over the layers asked for, or over the one of choice.

    Raises:
        MeasurementError: the model has no such layer.
    """
    at = context.request.option("at")
    if at == "every-layer":
        return _EntriesFold(context, context.layers)
    layer = int(at)  # type: ignore[arg-type]
    return _EntriesFold(context, LayerRange(layer, layer).resolve(context.depth, site=SITE))


EDGE_MASSIVE = MeasurementRecipe(
    name="edge.massive",
    summary="The entries of edge features in attention that are massive beside the median of their edge.",
    sites=(SITE,),
    quantities=(
        QuantitySpec(name="entries", meaning="massive entries, over all layers and graphs"),
        QuantitySpec(name="edges", meaning="edges that have one, each layer counted"),
        QuantitySpec(name="layers_hit", meaning="layers in which there is one"),
    ),
    parameters=(
        Parameter(
            name="at",
            schema={"anyOf": [{"const": "every-layer"}, {"type": "integer", "minimum": 1}]},
            default="every-layer",
            meaning="the layer to look at, or every one of `layers`",
        ),
        OVER,
    ),
    takes_tokens=False,
    modality="own",
    start=_start,
)
