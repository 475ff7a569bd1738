"""``finite``: whether every activation is a number, and how much of a dtype's range is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.readings import Axis, Place, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap
from maprobe.sites import OWN_SITES, STREAMS, site_named

if TYPE_CHECKING:
    import torch

__all__ = ["FINITE", "LARGEST_FINITE"]

LARGEST_FINITE = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": 3.4028234663852886e38,
    "float64": 1.7976931348623157e308,
}


@dataclass
class _FiniteFold:
    context: FoldContext
    nonfinite: dict[int, int] = field(default_factory=dict)
    peaks: dict[int, tuple[float, Place]] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        site = self.context.request.site
        return tuple(Tap(site, layer) for layer in self.context.layers) or (Tap(site),)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        finite = value.isfinite()
        bad = value.numel() - int(finite.sum())
        self.nonfinite[tap.layer] = self.nonfinite.get(tap.layer, 0) + bad
        magnitudes = value.abs()
        if bad:
            magnitudes = magnitudes.where(finite, 0)
        index = int(magnitudes.argmax())
        peak = float(magnitudes.flatten()[index])
        if tap.layer not in self.peaks or peak > self.peaks[tap.layer][0]:
            self.peaks[tap.layer] = (peak, _place(index, value, batch, site_named(tap.site).axes[1]))

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        name = str(self.context.request.option("dtype"))
        dtype = str(self.context.facts["dtype"]) if name == "loaded" else name
        if dtype not in LARGEST_FINITE:
            raise MeasurementError(
                f"the range of the loaded dtype {dtype} is not known; name one under `dtype`: "
                + ", ".join(sorted(LARGEST_FINITE))
            )
        limit = LARGEST_FINITE[dtype]
        layers = tuple(sorted(self.nonfinite))
        axes = (Axis("layer", layers),)
        peaks = [self.peaks[layer][0] for layer in layers]
        places = tuple(self.peaks[layer][1] for layer in layers)
        values = {
            "nonfinite": [float(self.nonfinite[layer]) for layer in layers],
            "largest": peaks,
            "range_share": [peak / limit for peak in peaks],
        }
        return Reading(
            kind="finite",
            quantities={
                name: Quantity(name=name, values=tuple(entry), axes=axes, places=() if name == "nonfinite" else places)
                for name, entry in values.items()
            },
            notes=(f"range_share is of {dtype}, whose largest finite number is {limit:.6g}",),
        )


def _place(index: int, value: torch.Tensor, batch: Batch, unit: str) -> Place:
    width = value.shape[-1]
    if value.dim() < 3:  # noqa: PLR2004 - routed experts give rows that belong to no one token
        return Place(dim=index % width)
    row, rest = divmod(index, value.shape[1] * width)
    position, dim = divmod(rest, width)
    word = batch.text(row, position)
    return Place(sequence=batch.sequences[row], position=position, token=word, dim=dim, unit=unit)


FINITE = MeasurementRecipe(
    name="finite",
    summary="Counts of non-finite activations, and the largest |x| against a dtype's range.",
    sites=(*STREAMS, "block.mlp.hidden", "edge.attn", "edge.embed", OWN_SITES),
    quantities=(
        QuantitySpec(name="nonfinite", axes=("layer",), meaning="entries that are inf or nan"),
        QuantitySpec(name="largest", axes=("layer",), meaning="largest finite |x|"),
        QuantitySpec(
            name="range_share",
            axes=("layer",),
            meaning="largest over the largest finite number of `dtype`; from 1 on, a cast to it overflows",
        ),
    ),
    parameters=(
        Parameter(
            name="dtype",
            schema={"enum": ["loaded", *LARGEST_FINITE]},
            default="loaded",
            meaning="whose range to compare with; `loaded` is the dtype the checkpoint runs in",
        ),
    ),
    takes_tokens=False,
    start=_FiniteFold,
)
