"""``edge.kinds``: which kinds of edges the massive ones are of (arXiv:2409.03463)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError, allowed_names, did_you_mean
from maprobe.measurements.edges import EDGES, OVER, PER, SITE, EdgeLayer, Edges
from maprobe.measurements.survey import lower_median
from maprobe.readings import Quantity, Reading
from maprobe.recipes import MeasurementRecipe, Parameter, QuantitySpec

if TYPE_CHECKING:
    pass

__all__ = ["EDGE_KINDS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """The edges of one kind in one layer; the last three are nan where the layer's ratios are unknown."""

    layer: int
    kind: str
    edges: int
    massive: float
    median: float
    largest: float


@dataclass
class _EdgeKindsFold(Edges):
    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        per = str(self.context.request.option("per"))
        cells: list[_Cell] = []
        notes = [*self.notes()]
        chosen: frozenset[str] = frozenset()
        for layer in self.layers():
            chosen = chosen or self._chosen()
            cells += self._cells(layer, per)
            notes += self.doubts(layer, per)
        return Reading(
            kind="edge.kinds",
            quantities={quantity.name: quantity for quantity in self._quantities(cells, chosen, per)},
            records=tuple(
                {
                    "layer": cell.layer,
                    "kind": cell.kind,
                    "edges": cell.edges,
                    "massive": cell.massive if math.isnan(cell.massive) else int(cell.massive),
                    "share": cell.massive / cell.edges,
                    "median": cell.median,
                    "largest": cell.largest,
                }
                for cell in cells
            ),
            notes=tuple(notes),
        )

    def _chosen(self) -> frozenset[str]:
        """Return the kinds asked for.

        Raises:
            MeasurementError: the edges have no words, or none of them is of a kind asked for.
        """
        there = set(self.words)
        if not any(there):
            raise MeasurementError(
                "the edges have no kinds: the model says no word for any of them; give its inputs words for their "
                "edges, or measure `edge.ratios`"
            )
        asked = [str(kind) for kind in self.context.request.option("kinds")]  # type: ignore[union-attr]
        for kind in asked:
            if kind not in there:
                raise MeasurementError(
                    f"`kinds` names {kind!r}, which no edge looked at is{did_you_mean(kind, there)}; there are: "
                    f"{allowed_names(there - {''})}"
                )
        return frozenset(asked or there)

    def _cells(self, layer: EdgeLayer, per: str) -> list[_Cell]:
        import torch

        over = float(self.context.request.option("over"))  # type: ignore[arg-type]
        kinds = {kind: number for number, kind in enumerate(dict.fromkeys(self.words))}
        of = torch.tensor([kinds[word] for word in self.words])
        ratios = layer.ratios(per, layer.largest()[0])
        cells = []
        for kind in sorted(kinds):
            own = ratios[of == kinds[kind]]
            known = layer.unknown is None
            cells.append(
                _Cell(
                    layer=layer.number,
                    kind=kind,
                    edges=len(own),
                    massive=float((own > over).sum()) if known else math.nan,
                    median=lower_median(own) if known else math.nan,
                    largest=float(own.max()) if known else math.nan,
                )
            )
        return cells

    def _quantities(self, cells: list[_Cell], chosen: frozenset[str], per: str) -> list[Quantity]:
        massive = sum(cell.massive for cell in cells)
        within = sum(cell.massive for cell in cells if cell.kind in chosen)
        edges = sum(cell.edges for cell in cells if cell.kind in chosen) / sum(cell.edges for cell in cells)
        hit = math.nan if math.isnan(massive) else float(len({cell.kind for cell in cells if cell.massive}))
        quantities = [
            Quantity(name="massive", values=(massive,), unit="edges"),
            Quantity(name="kinds_hit", values=(hit,)),
        ]
        if massive == 0:
            best = max(cells, key=lambda cell: cell.largest)
            none = (
                f"no edge has an entry more than {self.context.request.option('over'):g} times its {per}'s median; "
                f"the largest is {best.largest:.4g} times it (layer {best.layer}, {best.kind!r})"
            )
            return [
                *quantities,
                Quantity(name="within", absent=none),
                Quantity(name="edges_within", values=(edges,)),
                Quantity(name="lift", absent=none),
            ]
        share = within / massive
        values = {"within": share, "edges_within": edges, "lift": share / edges}
        return [*quantities, *(Quantity(name=name, values=(value,)) for name, value in values.items())]


EDGE_KINDS = MeasurementRecipe(
    name="edge.kinds",
    summary="Which kinds of edges of graphs have massive features in attention.",
    sites=(SITE,),
    quantities=(
        QuantitySpec(
            name="massive",
            unit="edges",
            meaning="edges with an entry more than `over` times the median, over all layers",
        ),
        QuantitySpec(name="kinds_hit", meaning="how many kinds have such an edge in some layer"),
        QuantitySpec(name="within", meaning="share of the massive edges that are of the kinds asked for"),
        QuantitySpec(name="edges_within", meaning="share of all edges that are of these kinds"),
        QuantitySpec(name="lift", meaning="within / edges_within"),
    ),
    parameters=(
        Parameter(
            name="kinds",
            schema={"type": "array", "items": {"type": "string"}},
            default=(),
            meaning="the kinds asked for; all where none is named",
        ),
        PER,
        EDGES,
        OVER,
    ),
    takes_tokens=False,
    modality="own",
    start=_EdgeKindsFold,
)
