"""``massive``: the massive activations of each sequence where they first appear, or in one layer, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.measurements.survey import Entry, known, nearer, nothing_massive
from maprobe.readings import Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["MASSIVE", "unattended"]


@dataclass
class _MassiveFold:
    context: FoldContext
    records: list[dict[str, Scalar]] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    last: int = 0
    nearest: tuple[int, float, float] = (0, 0.0, -1.0)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.out", layer) for layer in self.context.layers)

    @property
    def at(self) -> int | None:
        """The one layer to take entries of; None where each sequence's first is meant."""
        at = self.context.request.option("at")
        if not isinstance(at, int):
            return None
        depth = self.context.depth
        layer = at if at >= 0 else depth + 1 + at
        if not 0 <= layer <= depth:
            raise MeasurementError(
                f"`at: {at}` is no layer of this model; allowed: first-layer, 0..{depth}, -{depth}..-1"
            )
        return layer

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        for row, sequence in enumerate(batch.sequences):
            found = known(value[row], tap, sequence, self.context.memo)
            if not found.hits:
                self.nearest = nearer(self.nearest, tap.layer, found)
                continue
            self.last = max(self.last, tap.layer)
            self.first.setdefault(sequence, tap.layer)
            if sequence in self.taken or self.at not in (None, tap.layer):
                continue
            self.taken.add(sequence)
            control = _near_median(value[row].float(), found.hits, found.median)
            for arm, entries in (("edited", found.hits), ("control", control)):
                for entry in entries:
                    self.records.append(
                        {
                            "arm": arm,
                            "layer": tap.layer,
                            "sequence": sequence,
                            "position": entry.position,
                            "token": batch.text(row, entry.position),
                            "dim": entry.dim,
                            "value": entry.value,
                            "median": found.median,
                        }
                    )

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        if self.first and not self.records:
            first, last = min(self.first.values()), self.last
            return Reading(
                kind="massive",
                absent=f"nothing massive in layer {self.at}; massive activations are in layers {first}..{last}",
            )
        if not self.records:
            return Reading(
                kind="massive",
                absent=nothing_massive(self.context.layers[0], self.context.layers[-1], self.nearest),
            )
        edited = [record for record in self.records if record["arm"] == "edited"]
        share = len(self.taken) / self.context.sequences
        notes = () if share == 1 else (f"found in {len(self.taken)} of {self.context.sequences} sequences",)
        values = {
            "entries": len(edited),
            "first_layer": min(self.first.values()),
            "last_layer": self.last,
            "sequence_share": share,
        }
        place = edited[0]
        return Reading(
            kind="massive",
            quantities={
                name: Quantity(
                    name=name,
                    values=(float(value),),
                    places=(
                        Place(
                            sequence=int(place["sequence"] or 0),
                            position=int(place["position"] or 0),
                            token=str(place["token"]),
                            dim=int(place["dim"] or 0),
                        ),
                    ),
                )
                for name, value in values.items()
            },
            records=tuple(self.records),
            notes=notes,
        )


def unattended(massive: Reading, depth: int) -> str:
    """Say that none of the blocks asked for takes in a massive activation, and which ones do.

    Args:
        massive: a Reading of this measurement that is not absent.
        depth: number of blocks.
    """
    # A block attends to what the one before it gave out.
    first, last = (int(massive[name].value) + 1 for name in ("first_layer", "last_layer"))
    return f"none of the layers asked for attends to a massive activation; those are layers {first}..{min(last, depth)}"


def _near_median(hidden: torch.Tensor, hits: tuple[Entry, ...], median: float) -> tuple[Entry, ...]:
    """Choose as many entries of near-median magnitude, at the very tokens of the hits.

    Staying on the same tokens leaves size as the one thing in which the control differs.
    """
    chosen: list[Entry] = []
    for position in dict.fromkeys(entry.position for entry in hits):
        taken = {entry.dim for entry in hits if entry.position == position}
        wanted = len(taken)
        order = (hidden[position].abs() - median).abs().argsort(stable=True)[: 2 * wanted].tolist()
        dims = [dim for dim in order if dim not in taken][:wanted]
        chosen.extend(Entry(position, dim, float(hidden[position, dim])) for dim in dims)
    return tuple(chosen)


MASSIVE = MeasurementRecipe(
    name="massive",
    summary="The massive activations of each sequence, where they first appear there or in a layer of choice.",
    sites=("block.out",),
    quantities=(
        QuantitySpec(name="entries", meaning="entries found, over all sequences"),
        QuantitySpec(name="first_layer", meaning="first layer with a massive activation in any sequence"),
        QuantitySpec(name="last_layer", meaning="last layer with a massive activation in any sequence"),
        QuantitySpec(name="sequence_share", meaning="share of the sequences that have one"),
    ),
    parameters=(
        Parameter(
            name="at",
            schema={"anyOf": [{"const": "first-layer"}, {"type": "integer"}]},
            default="first-layer",
            meaning="the layer whose entries are recorded: the first that has any in a sequence, or one by its number",
        ),
    ),
    takes_tokens=False,
    start=_MassiveFold,
)
