"""``token.norms``: how long the vectors of tokens are, and how many are far longer than the rest (arXiv:2309.16588)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.survey import lower_median
from maprobe.readings import Axis, Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["TOKEN_NORMS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Longest:
    """The longest token of a layer, and the median of its own sequence."""

    norm: float
    median: float
    place: Place


@dataclass
class _TokenNormsFold:
    context: FoldContext
    tokens: Counter[int] = field(default_factory=Counter)
    high: Counter[int] = field(default_factory=Counter)
    longest: dict[int, _Longest] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        site = self.context.request.site
        return tuple(Tap(site, layer) for layer in self.context.layers) or (Tap(site),)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        mask = batch.mask(self.context.request.tokens)
        threshold = float(self.context.request.option("threshold"))  # type: ignore[arg-type]
        for row, sequence in enumerate(batch.sequences):
            positions = mask[row].nonzero().flatten().tolist()
            if not positions:
                continue
            norms = value[row][mask[row]].float().norm(dim=-1)
            self.tokens[tap.layer] += len(norms)
            self.high[tap.layer] += int((norms > threshold).sum())
            at = int(norms.argmax())
            norm, before = float(norms[at]), self.longest.get(tap.layer)
            # A norm that is no number is kept, so that it cannot be overlooked.
            if before is None or math.isnan(norm) or norm > before.norm:
                place = Place(sequence=sequence, position=positions[at], token=batch.text(row, positions[at]))
                self.longest[tap.layer] = _Longest(norm=norm, median=lower_median(norms.cpu()), place=place)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        if not self.tokens:
            return Reading(
                kind="token.norms", absent=f"no token of the inputs is of class {self.context.request.tokens}"
            )
        layers = tuple(sorted(self.tokens))
        longest = [self.longest[layer] for layer in layers]
        axes = (Axis("layer", layers),)
        by_layer = {
            "share": [self.high[layer] / self.tokens[layer] for layer in layers],
            "high": [float(self.high[layer]) for layer in layers],
            "largest": [entry.norm for entry in longest],
            "median": [entry.median for entry in longest],
            "ratio": [entry.norm / entry.median if entry.median else math.inf for entry in longest],
        }
        unknown = any(math.isnan(entry.norm) for entry in longest)
        with_high = [layer for layer in layers if self.high[layer]]
        quantities = [
            Quantity(
                name=name,
                values=tuple(values),
                axes=axes,
                places=tuple(entry.place for entry in longest) if name in ("largest", "ratio") else (),
            )
            for name, values in by_layer.items()
        ]
        quantities.append(Quantity(name="layers_high", values=(math.nan if unknown else float(len(with_high)),)))
        quantities.append(self._first(with_high, longest, layers))
        records: list[dict[str, Scalar]] = [
            {"layer": layer, **{name: values[index] for name, values in by_layer.items()}, "token": entry.place.token}
            for index, (layer, entry) in enumerate(zip(layers, longest, strict=True))
        ]
        return Reading(
            kind="token.norms",
            quantities={quantity.name: quantity for quantity in quantities},
            records=tuple(records),
        )

    def _first(self, with_high: list[int], longest: list[_Longest], layers: tuple[int, ...]) -> Quantity:
        if with_high:
            return Quantity(name="first_layer", values=(float(with_high[0]),))
        near = max(range(len(layers)), key=lambda index: longest[index].norm)
        threshold = float(self.context.request.option("threshold"))  # type: ignore[arg-type]
        reason = (
            f"no token is longer than {threshold:g} in layers {layers[0]}..{layers[-1]}; the longest is "
            f"{longest[near].norm:.4g}, in layer {layers[near]}"
        )
        return Quantity(name="first_layer", absent=reason)


TOKEN_NORMS = MeasurementRecipe(
    name="token.norms",
    summary="How long the vectors of tokens are in each layer, and the share above a threshold.",
    sites=("block.out", "embed.out", "final.norm.out"),
    quantities=(
        QuantitySpec(name="share", axes=("layer",), meaning="share of the tokens whose L2 norm is above the threshold"),
        QuantitySpec(name="high", axes=("layer",), unit="tokens", meaning="number of these tokens, over all sequences"),
        QuantitySpec(name="largest", axes=("layer",), meaning="largest L2 norm of a token"),
        QuantitySpec(name="median", axes=("layer",), meaning="lower median of the norms in that same sequence"),
        QuantitySpec(name="ratio", axes=("layer",), meaning="largest / median"),
        QuantitySpec(name="layers_high", meaning="number of layers with a token above the threshold"),
        QuantitySpec(name="first_layer", meaning="first of these layers; absent without one"),
    ),
    parameters=(
        Parameter(
            name="threshold",
            schema={"type": "number", "exclusiveMinimum": 0},
            default=150,
            meaning="L2 norm above which a token counts as high",
        ),
    ),
    start=_TokenNormsFold,
)
