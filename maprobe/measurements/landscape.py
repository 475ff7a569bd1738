"""``landscape``: the magnitudes of one hidden state of one short text, over its tokens and dims, for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.measurements.prompts import LONGEST, demand_short
from maprobe.measurements.survey import Survey, known, nearer, nothing_massive, ratio
from maprobe.readings import Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["LANDSCAPE"]

_NAMED = 8  # dims that are told one by one, of those with hits


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What is kept of one layer."""

    layer: int
    found: Survey
    place: Place
    records: tuple[dict[str, Scalar], ...]


@dataclass
class _LandscapeFold:
    context: FoldContext
    view: _View | None = None
    nearest: tuple[int, float, float] = (0, 0.0, -1.0)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.out", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        demand_short(self.context, batch)
        if self.view is not None and self.view.found.hits:
            return  # layers come in order, and the first massive one is kept
        found = known(value[0], tap, batch.sequences[0], self.context.memo)
        nearest = nearer(self.nearest, tap.layer, found)
        if found.hits or nearest != self.nearest:
            self.nearest = nearest
            self.view = self._look(tap.layer, value[0].float(), found, batch)

    def _look(self, layer: int, hidden: torch.Tensor, found: Survey, batch: Batch) -> _View:
        import torch

        magnitudes = hidden.abs().cpu()
        massive = {(entry.position, entry.dim) for entry in found.hits}
        named = sorted(list(dict.fromkeys(entry.dim for entry in found.hits or found.top[:1]))[:_NAMED])
        rest = magnitudes.clone()
        rest[:, named] = -1.0
        width = magnitudes.shape[1]
        bins = min(int(self.context.request.option("bins")), width)  # type: ignore[arg-type]
        edges = [width * number // bins for number in range(bins + 1)]
        # A bin of nothing but dims that are told one by one has no maximum of its own, and is left out.
        peaks = torch.stack([rest[:, a:b].amax(dim=1) for a, b in pairwise(edges)], dim=1).tolist()
        records: list[dict[str, Scalar]] = []
        for position, by_bin in enumerate(peaks):
            told: list[tuple[int, int, float]] = [(dim, dim, float(magnitudes[position, dim])) for dim in named]
            told += [(edges[i], edges[i + 1] - 1, peak) for i, peak in enumerate(by_bin) if peak >= 0]
            text = batch.text(0, position)
            records += [
                {
                    "layer": layer,
                    "position": position,
                    "token": text,
                    "dim": first,
                    "last_dim": last,
                    "magnitude": magnitude,
                    "massive": first == last and (position, first) in massive,
                }
                for first, last, magnitude in sorted(told)
            ]
        peak = found.top[0]
        place = Place(sequence=0, position=peak.position, token=batch.text(0, peak.position), dim=peak.dim)
        return _View(layer=layer, found=found, place=place, records=tuple(records))

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        if self.view is None:
            raise MeasurementError("no hidden state was seen, so there is no landscape; name layers of this model")
        found, layers = self.view.found, self.context.layers
        peak = abs(found.top[0].value)
        values = {
            "layer": float(self.view.layer),
            "top": peak,
            "median": found.median,
            "ratio": ratio(peak, found.median),
            "entries": float(len(found.hits)),
            "dims": float(len({entry.dim for entry in found.hits})),
            "tokens": float(len({entry.position for entry in found.hits})),
        }
        return Reading(
            kind="landscape",
            quantities={
                name: Quantity(name=name, values=(value,), places=(self.view.place,) if name == "top" else ())
                for name, value in values.items()
            },
            records=self.view.records,
            notes=() if found.hits else (nothing_massive(layers[0], layers[-1], self.nearest),),
        )


LANDSCAPE = MeasurementRecipe(
    name="landscape",
    summary="The magnitudes over tokens and dims of one short text, at the first massive layer.",
    sites=("block.out",),
    quantities=(
        QuantitySpec(
            name="layer",
            meaning="the layer looked at: the first massive one, or the one of largest ratio where none is",
        ),
        QuantitySpec(name="top", meaning="largest |x| of the layer"),
        QuantitySpec(name="median", meaning="lower median of |h| over all tokens and dims of the layer"),
        QuantitySpec(name="ratio", meaning="top over median"),
        QuantitySpec(name="entries", meaning="entries of the layer that meet the strict criterion; 0 without one"),
        QuantitySpec(name="dims", meaning="distinct dims among them"),
        QuantitySpec(name="tokens", unit="tokens", meaning="distinct tokens among them"),
    ),
    parameters=(
        Parameter(
            name="bins",
            schema={"type": "integer", "minimum": 1, "maximum": 128},
            default=48,
            meaning=f"into how many stretches of neighbouring dims the rest is put, for at most {LONGEST} tokens",
        ),
    ),
    takes_tokens=False,
    start=_LandscapeFold,
)
