"""``magnitude``: how large the largest entries of a hidden state are, beside its median."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.survey import Entry, largest, meets, nothing_massive, ratio, survey
from maprobe.readings import Axis, Place, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap
from maprobe.sites import OWN_SITES, STREAMS, site_named

if TYPE_CHECKING:
    import torch

__all__ = ["MAGNITUDE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One layer of one sequence: its largest entries among the tokens asked for, and its strict hits."""

    sequence: int
    median: float
    top: tuple[Entry, ...]
    hits: tuple[Entry, ...]
    texts: Mapping[int, str]
    unit: str

    @property
    def ratio(self) -> float:
        return ratio(abs(self.top[0].value), self.median) if self.top else math.nan

    def place(self, entry: Entry) -> Place:
        return Place(
            sequence=self.sequence,
            position=entry.position,
            token=self.texts.get(entry.position),
            dim=entry.dim,
            unit=self.unit,
        )


@dataclass
class _MagnitudeFold:
    context: FoldContext
    rows: dict[int, list[_Row]] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        site = self.context.request.site
        return tuple(Tap(site, layer) for layer in self.context.layers) or (Tap(site),)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        tokens = self.context.request.tokens
        count = int(self.context.request.option("top"))  # type: ignore[arg-type]
        unit = site_named(tap.site).axes[1]
        mask = None if tokens.kind == "all" else batch.mask(tokens)
        for row, sequence in enumerate(batch.sequences):
            hidden = value[row]
            found = survey(hidden, tap, sequence, self.context.memo)
            top, hits = found.top[:count], found.hits
            if mask is not None or len(top) < count:
                positions = range(len(hidden)) if mask is None else mask[row].nonzero().flatten().tolist()
                chosen = largest(hidden[positions].float(), count) if positions else ()
                top = tuple(Entry(positions[entry.position], entry.dim, entry.value) for entry in chosen)
                allowed = set(positions)
                hits = tuple(entry for entry in hits if entry.position in allowed)
            texts = {entry.position: batch.text(row, entry.position) for entry in (*top, *hits)}
            self.rows.setdefault(tap.layer, []).append(
                _Row(sequence=sequence, median=found.median, top=top, hits=hits, texts=texts, unit=unit)
            )

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        rows = {layer: [row for row in rows if row.top] for layer, rows in sorted(self.rows.items())}
        empty = sum(1 for layer in self.rows.values() for row in layer if not row.top)
        if not any(rows.values()):
            return Reading(kind="magnitude", absent=f"no token of the inputs is of class {self.context.request.tokens}")
        rows = {layer: entries for layer, entries in rows.items() if entries}
        best = {layer: max(entries, key=_decisive) for layer, entries in rows.items()}
        notes = (
            (f"{empty // len(self.rows)} of {self.context.sequences} sequences have no such token",) if empty else ()
        )
        quantities = [*self._by_layer(rows, best), *self._whole(rows, best)]
        return Reading(
            kind="magnitude",
            quantities={quantity.name: quantity for quantity in quantities},
            records=tuple(record for layer, row in best.items() for record in _records(layer, row)),
            notes=notes,
        )

    @staticmethod
    def _by_layer(rows: Mapping[int, list[_Row]], best: Mapping[int, _Row]) -> list[Quantity]:
        axes = (Axis("layer", tuple(rows)),)
        places = tuple(row.place(row.top[0]) for row in best.values())

        def quantity(name: str, values: list[float], *, placed: bool = False) -> Quantity:
            return Quantity(name=name, values=tuple(values), axes=axes, places=places if placed else ())

        return [
            quantity("top", [abs(row.top[0].value) for row in best.values()], placed=True),
            quantity("median", [row.median for row in best.values()]),
            quantity("ratio", [row.ratio for row in best.values()], placed=True),
            quantity("hits", [_count(entries, lambda row: len(row.hits)) for entries in rows.values()]),
            quantity("sequences_hit", [_count(entries, lambda row: bool(row.hits)) for entries in rows.values()]),
        ]

    def _whole(self, rows: Mapping[int, list[_Row]], best: Mapping[int, _Row]) -> list[Quantity]:
        hits = [(layer, row, entry) for layer, entries in rows.items() for row in entries for entry in row.hits]
        layers = sorted({layer for layer, _, _ in hits})
        if any(math.isnan(row.median) for entries in rows.values() for row in entries):
            return [Quantity(name=name, values=(math.nan,)) for name in ("layers_hit", *_WHOLE)]
        count = Quantity(name="layers_hit", values=(float(len(layers)),))
        if not hits:
            reason = _nothing_massive(best)
            return [count, *(Quantity(name=name, absent=reason) for name in _WHOLE)]
        sequences = {row.sequence for _, row, _ in hits}
        first = {row.sequence for _, row, entry in hits if entry.position == 0}
        values = {
            "first_layer": layers[0],
            "last_layer": layers[-1],
            "last_depth": layers[-1] / self.context.depth,
            "first_token_share": sum(1 for _, _, entry in hits if entry.position == 0) / len(hits),
            "first_token_sequences": len(first) / self.context.sequences,
            "sequence_share": len(sequences) / self.context.sequences,
            "dims": len({entry.dim for _, _, entry in hits}),
            "positions": len({(row.sequence, entry.position) for _, row, entry in hits}) / len(sequences),
        }
        return [count, *(Quantity(name=name, values=(float(values[name]),)) for name in _WHOLE)]


def _count(rows: list[_Row], counted: Callable[[_Row], int]) -> float:
    """Return a sum over the sequences of a layer; unknown where one of them is not finite."""
    return math.nan if any(math.isnan(row.median) for row in rows) else float(sum(map(counted, rows)))


def _decisive(row: _Row) -> tuple[float, float]:
    """Order rows by ratio; a row whose ratio is unknown comes first, so that it cannot be overlooked."""
    return (math.inf if math.isnan(row.ratio) else row.ratio, abs(row.top[0].value))


def _nothing_massive(best: Mapping[int, _Row]) -> str:
    layer, row = max(best.items(), key=lambda item: _decisive(item[1]))
    return nothing_massive(min(best), max(best), (layer, abs(row.top[0].value), row.ratio))


def _records(layer: int, row: _Row) -> list[dict[str, float | int | str | bool | None]]:
    return [
        {
            "layer": layer,
            "rank": rank,
            "value": entry.value,
            "sequence": row.sequence,
            "position": entry.position,
            "token": row.texts.get(entry.position),
            "dim": entry.dim,
            "ratio": ratio(abs(entry.value), row.median),
            "massive": meets(abs(entry.value), row.median),
        }
        for rank, entry in enumerate(row.top, start=1)
    ]


_LAYER: tuple[QuantitySpec, ...] = (
    QuantitySpec(
        name="top",
        axes=("layer",),
        meaning="largest |x| among the tokens, in the sequence where its ratio is largest",
    ),
    QuantitySpec(
        name="median",
        axes=("layer",),
        meaning="lower median of |h| over all tokens and dims of that same sequence",
    ),
    QuantitySpec(name="ratio", axes=("layer",), meaning="top / median, both of that same sequence"),
    QuantitySpec(name="hits", axes=("layer",), meaning="entries that meet the strict criterion, over all sequences"),
    QuantitySpec(name="sequences_hit", axes=("layer",), meaning="sequences with at least one such entry"),
)
_SCALARS: tuple[QuantitySpec, ...] = (
    QuantitySpec(name="first_layer", meaning="first layer with a hit; absent without one"),
    QuantitySpec(name="last_layer", meaning="last layer with a hit; absent without one"),
    QuantitySpec(name="last_depth", meaning="last layer with a hit over the number of blocks"),
    QuantitySpec(name="first_token_share", meaning="share of all hits that lie on the first token"),
    QuantitySpec(name="first_token_sequences", meaning="share of the sequences with a hit on their first token"),
    QuantitySpec(name="sequence_share", meaning="share of the sequences with a hit in some layer"),
    QuantitySpec(name="dims", meaning="number of distinct dims among all hits"),
    QuantitySpec(name="positions", meaning="distinct token positions with a hit, per sequence that has one"),
)
_WHOLE = tuple(spec.name for spec in _SCALARS)

MAGNITUDE = MeasurementRecipe(
    name="magnitude",
    summary="The largest entries of each layer beside its median, and which meet the strict criterion.",
    sites=(*STREAMS, "edge.attn", "edge.embed", OWN_SITES),
    quantities=(
        *_LAYER,
        QuantitySpec(name="layers_hit", meaning="number of layers with a hit; 0 without one"),
        *_SCALARS,
    ),
    headline="",
    parameters=(
        Parameter(
            name="top",
            schema={"type": "integer", "minimum": 1, "maximum": 16},
            default=3,
            meaning="how many of the largest entries of each layer to list",
        ),
    ),
    start=_MagnitudeFold,
)
