"""``registers``: the mean vector of every register, and how far it depends on the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maprobe.errors import MeasurementError
from maprobe.readings import Axis, Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap
from maprobe.sites import TokenSet

if TYPE_CHECKING:
    import torch

__all__ = ["REGISTER_MEANS"]

_REGISTERS, _PATCHES = TokenSet("registers"), TokenSet("patches")


@dataclass
class _Sums:
    """Sums over the images, of some tokens of one layer."""

    positions: list[int]
    count: int = 0
    total: Any = 0.0
    squares: float = 0.0

    def add(self, vectors: torch.Tensor) -> None:
        self.count += 1
        self.total = self.total + vectors
        self.squares += float((vectors * vectors).sum())

    @property
    def mean(self) -> torch.Tensor:
        mean: torch.Tensor = self.total / self.count
        return mean

    @property
    def variation(self) -> float:
        """Root mean square distance from the mean, over the root mean square length of the means."""
        length = float((self.mean * self.mean).sum())
        spread = max(0.0, self.squares / self.count - length)
        return math.sqrt(spread / length) if length else math.nan


@dataclass
class _RegistersFold:
    context: FoldContext
    registers: dict[int, _Sums] = field(default_factory=dict)
    patches: dict[int, _Sums] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    tokens: set[int] = field(default_factory=set)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.out", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        self.tokens.add(batch.shape[1])
        for row in range(len(batch.sequences)):
            positions = batch.mask(_REGISTERS)[row].nonzero().flatten().tolist()
            if not positions:
                return
            for position in positions:
                self.texts.setdefault(position, batch.text(row, position))
            self._add(self.registers, tap.layer, positions, value[row])
            if len(self.tokens) == 1:
                patches = batch.mask(_PATCHES)[row].nonzero().flatten().tolist()
                self._add(self.patches, tap.layer, _spread(patches, len(positions)), value[row])

    @staticmethod
    def _add(sums: dict[int, _Sums], layer: int, positions: list[int], hidden: torch.Tensor) -> None:
        vectors = hidden[positions].double().cpu()
        if not bool(vectors.isfinite().all()):
            raise MeasurementError(
                f"layer {layer} has a register or patch that is not finite, so no mean can be taken; `finite` tells "
                f"where"
            )
        sums.setdefault(layer, _Sums(positions)).add(vectors)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        if not self.registers:
            return Reading(kind="registers", absent="this model has no register tokens")
        layers = tuple(sorted(self.registers))
        means = [self.registers[layer].mean for layer in layers]
        spots = [divmod(int(mean.abs().argmax()), mean.shape[1]) for mean in means]
        places = tuple(self._place(layer, *spot) for layer, spot in zip(layers, spots, strict=True))
        by_layer = {
            "top": [float(mean.abs().max()) for mean in means],
            "norm": [float(mean.norm(dim=1).mean()) for mean in means],
            "variation": [self.registers[layer].variation for layer in layers],
        }
        quantities = [
            Quantity(
                name=name,
                values=tuple(values),
                axes=(Axis("layer", layers),),
                places=places if name == "top" else (),
            )
            for name, values in by_layer.items()
        ]
        quantities.append(Quantity(name="registers", values=(float(len(means[0])),), unit="tokens"))
        records: list[dict[str, Scalar]] = [
            {
                "layer": layer,
                "register": place.token,
                "dim": place.dim,
                "value": float(mean[spot]),
                "variation": self.registers[layer].variation,
            }
            for layer, mean, spot, place in zip(layers, means, spots, places, strict=True)
        ]
        # Patches at the same places in every image, for the control: only where all images are of one size.
        controls = self.patches if len(self.tokens) == 1 else {}
        return Reading(
            kind="registers",
            quantities={quantity.name: quantity for quantity in quantities},
            records=tuple(records),
            kept={
                arm: {
                    layer: dict(zip(sums.positions, sums.mean.tolist(), strict=True)) for layer, sums in found.items()
                }
                for arm, found in (("edited", self.registers), ("control", controls))
            },
        )

    def _place(self, layer: int, register: int, dim: int) -> Place:
        position = self.registers[layer].positions[register]
        return Place(sequence=0, position=position, token=self.texts[position], dim=dim)


def _spread(positions: list[int], count: int) -> list[int]:
    """Return so many of the positions, evenly apart, the middle ones of as many equal parts."""
    count = min(count, len(positions))
    return [positions[(2 * part + 1) * len(positions) // (2 * count)] for part in range(count)]


REGISTER_MEANS = MeasurementRecipe(
    name="registers",
    summary="The mean vector of every register over the images, and how much it differs from image to image.",
    sites=("block.out",),
    quantities=(
        QuantitySpec(name="top", axes=("layer",), meaning="largest |entry| of the mean vectors of the registers"),
        QuantitySpec(name="norm", axes=("layer",), meaning="L2 norm of these mean vectors, mean over the registers"),
        QuantitySpec(
            name="variation",
            axes=("layer",),
            meaning="root mean square distance of a register from its mean, over that of the means from 0",
        ),
        QuantitySpec(name="registers", unit="tokens", meaning="number of registers"),
    ),
    takes_tokens=False,
    modality="image",
    start=_RegistersFold,
)
