"""``token.trace``: one token through every state of each block, from what enters it to what it hands on.

Source: arXiv:2410.01866, section 3.1 and figure 2, where the token is BOS, alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.traces import ADDED, HIDDEN, STREAM, Peaks, Trace
from maprobe.readings import Axis, Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["TOKEN_TRACE"]

# The states in the order in which a token runs through them, by the quantity that holds their largest entry.
_STATES = {
    "block_in": STREAM,
    "attn_in": "block.attn.in",
    "attn_out": "block.attn.out",
    "mid": "block.mid",
    "mlp_in": "block.mlp.in",
    "mlp_hidden": HIDDEN,
    "mlp_out": ADDED,
    "block_out": STREAM,
}


@dataclass
class _TraceFold:
    context: FoldContext
    trace: Trace = field(default_factory=Trace)

    @property
    def taps(self) -> tuple[Tap, ...]:
        layers = self.context.layers
        sites = dict.fromkeys(site for site in _STATES.values() if site != STREAM)
        inside = tuple(Tap(site, layer, optional=True) for layer in layers for site in sites)
        return tuple(Tap(STREAM, layer) for layer in range(layers[0] - 1, layers[-1] + 1)) + inside

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        self.trace.observe(tap, value, batch, offset)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        axis = (Axis(name="layer", labels=self.context.layers),)
        quantities = {}
        for name, site in _STATES.items():
            largest = [self._largest(name, layer) for layer in self.context.layers]
            if any(peak is None for peak in largest):
                absent = f"{site} cannot be read in every layer of this model"
                quantities[name] = Quantity(name=name, axes=axis, absent=absent)
                continue
            found = [peak for peak in largest if peak is not None]
            places = tuple(Place(sequence=at, position=0, token=one.token, dim=one.dims[0]) for at, one in found)
            values = tuple(one.top for _, one in found)
            quantities[name] = Quantity(name=name, axes=axis, values=values, places=places)
        return Reading(kind="token.trace", quantities=quantities, records=tuple(self._records()))

    def _peaks(self, name: str, layer: int, sequence: int) -> Peaks | None:
        return self.trace.seen.get((_STATES[name], layer - 1 if name == "block_in" else layer, sequence))

    def _largest(self, name: str, layer: int) -> tuple[int, Peaks] | None:
        """Return the state with the largest entry over the sequences, and its sequence."""
        found = [(at, peaks) for at in self.trace.sequences() if (peaks := self._peaks(name, layer, at))]
        return max(found, key=lambda one: one[1].top, default=None)

    def _records(self) -> list[dict[str, Scalar]]:
        records: list[dict[str, Scalar]] = []
        for sequence in self.trace.sequences():
            for layer in self.context.layers:
                for name in _STATES:
                    peaks = self._peaks(name, layer, sequence)
                    if peaks is not None:
                        record: dict[str, Scalar] = {"sequence": sequence, "layer": layer, "state": name}
                        for rank, (dim, value) in enumerate(zip(peaks.dims, peaks.values, strict=True), start=1):
                            record |= {f"dim{rank}": dim, f"value{rank}": value}
                        records.append(record | {"median": peaks.median, "expert": peaks.expert})
        return records


TOKEN_TRACE = MeasurementRecipe(
    name="token.trace",
    summary="The largest entries of one token, the first, in every state that it runs through in each block.",
    sites=(HIDDEN,),
    quantities=tuple(
        QuantitySpec(name=name, axes=("layer",), meaning=f"largest |entry| of {meaning}")
        for name, meaning in (
            ("block_in", "the residual stream that enters the block"),
            ("attn_in", "what attention is called on"),
            ("attn_out", "what attention adds to the residual stream"),
            ("mid", "the residual stream between attention and MLP"),
            ("mlp_in", "what the MLP is called on"),
            ("mlp_hidden", "the input of the MLP's down projection"),
            ("mlp_out", "what the MLP adds to the residual stream"),
            ("block_out", "the residual stream that the block hands on"),
        )
    ),
    takes_tokens=False,
    start=_TraceFold,
)
