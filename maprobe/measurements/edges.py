"""The features of edges in attention, and how many times a median they are: arXiv:2409.03463."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.measurements.survey import lower_median
from maprobe.readings import Place
from maprobe.recipes import Batch, FoldContext, Parameter, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["EDGES", "OVER", "PER", "SITE", "EdgeLayer", "Edges"]

SITE = "edge.attn"

PER = Parameter(
    name="per",
    schema={"enum": ["edge", "layer"]},
    default="edge",
    meaning="whose median an entry is divided by: that of its own edge, or that of the whole layer",
)
EDGES = Parameter(
    name="edges",
    schema={"type": "integer", "minimum": 1},
    default=50_000,
    meaning="how many edges of each layer are looked at, the first ones of the inputs",
)
OVER = Parameter(
    name="over",
    schema={"type": "number", "exclusiveMinimum": 0},
    default=1000,
    meaning="the ratio above which an entry is massive",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLayer:
    """One layer: the magnitudes of its edges, beside the medians of each edge and of all of them.

    Ratios are those of two numbers of single precision, taken in double precision. A zero is 0 times its median
    even where that is 0 as well; any other entry is then infinitely many times its median.

    Attributes:
        number: the layer.
        magnitudes: |a|, float32, shape (edges, channels).
        medians: the lower median of each edge, float64 on the CPU, shape (edges,).
        median: the lower median of all entries; nan where one of them is not finite.
        unknown: which entry is not finite, the first of them, as its edge and its channel; None where all are.
    """

    number: int
    magnitudes: torch.Tensor
    medians: torch.Tensor
    median: float
    unknown: tuple[int, int] | None = None

    @classmethod
    def of(cls, number: int, magnitudes: torch.Tensor) -> EdgeLayer:
        """Take the medians of a layer's magnitudes."""
        finite = magnitudes.isfinite()
        medians = magnitudes.median(dim=1).values.cpu().double()
        if bool(finite.all()):
            return cls(number=number, magnitudes=magnitudes, medians=medians, median=lower_median(magnitudes))
        edge, channel = divmod(int((~finite).flatten().int().argmax()), magnitudes.shape[1])
        return cls(number=number, magnitudes=magnitudes, medians=medians, median=float("nan"), unknown=(edge, channel))

    def largest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the largest |a| of each edge, float64, and its channel; both on the CPU, shape (edges,)."""
        found = self.magnitudes.max(dim=1)
        return found.values.cpu().double(), found.indices.cpu()

    def ratios(self, per: str, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return magnitudes over their medians, ``per`` edge or layer; float64 on the CPU, first axis edges."""
        divided = magnitudes.cpu().double()
        medians = self.medians.reshape(-1, *[1] * (divided.dim() - 1))
        return (divided / (medians if per == "edge" else self.median)).where(divided > 0, 0.0)

    def entries_over(self, bound: float) -> int:
        """Return how many entries are more than so many times the median of the layer."""
        largest, _ = self.largest()
        # Few edges have such an entry, so few are looked at whole.
        chosen = self.ratios("layer", largest) > bound
        return int((self.ratios("layer", self.magnitudes[chosen.to(self.magnitudes.device)]) > bound).sum())

    def zeros(self, per: str) -> int:
        """Return how many entries are 0 and have a median of 0."""
        dead = self.medians == 0 if per == "edge" else self.medians.new_full(self.medians.shape, self.median) == 0
        return int((self.magnitudes[dead.to(self.magnitudes.device)] == 0).sum())


@dataclass
class Edges:
    """What folds of edges keep of a pass: the magnitudes of the first edges, layer by layer, and what they are called.

    Attributes:
        context: what the fold may know before the pass.
        worded: whether it is kept what edges are called.
    """

    context: FoldContext
    worded: bool = True
    seen: dict[int, int] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    parts: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)  # of each graph, by the number of its sequence

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The places to be shown."""
        return tuple(Tap(SITE, layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        """Take in the edges of one graph in one layer, shape (1, edges, channels)."""
        del offset
        limit = int(self.context.request.option("edges"))  # type: ignore[arg-type]
        for row, sequence in enumerate(batch.sequences):
            start = self.seen.get(tap.layer, 0)
            self.seen[tap.layer] = start + value.shape[1]
            room = min(limit - start, value.shape[1])
            if room <= 0:
                continue
            self.parts.setdefault(tap.layer, []).append(value[row, :room].float().abs())
            if sequence not in self.starts:
                self.starts[sequence] = start
                if self.worded:
                    self.words += self._words(batch, row, sequence, room)

    def _words(self, batch: Batch, row: int, sequence: int, count: int) -> tuple[str, ...]:
        memo, key = self.context.memo, ("edges", sequence, count)
        if key not in memo:
            memo[key] = tuple(batch.text(row, edge) for edge in range(count))
        found: tuple[str, ...] = memo[key]
        return found

    def layers(self) -> Iterator[EdgeLayer]:
        """Yield the layers in order; what was kept of each is let go of.

        Raises:
            MeasurementError: no graph has an edge.
        """
        import torch

        if not self.parts:
            raise MeasurementError(f"no edge was seen at {SITE}; name inputs that are graphs with edges")
        for number in sorted(self.parts):
            yield EdgeLayer.of(number, torch.cat(self.parts.pop(number)))

    def place(self, edge: int, channel: int) -> Place:
        """Return where an edge lies, counted over all graphs."""
        first = list(self.starts.values())
        graph = bisect_right(first, edge) - 1
        return Place(
            sequence=list(self.starts)[graph],
            position=edge - first[graph],
            token=(self.words[edge] or None) if self.worded else None,
            dim=channel,
            unit="edge",
        )

    def notes(self) -> tuple[str, ...]:
        """Say how many edges were left out, if any."""
        limit = int(self.context.request.option("edges"))  # type: ignore[arg-type]
        most = max(self.seen.values(), default=0)
        if most <= limit:
            return ()
        return (f"only the first {limit} of the {most} edges were looked at; `edges` says how many",)

    def doubts(self, layer: EdgeLayer, per: str) -> tuple[str, ...]:
        """Say which entries of a layer have no ratio, or have one by agreement only."""
        if layer.unknown is not None:
            place = self.place(*layer.unknown)
            count = int((~layer.magnitudes.isfinite()).sum())
            what = "1 entry that is" if count == 1 else f"{count} entries that are"
            where = f"sequence {place.sequence}, edge {place.position}, channel {place.dim}"
            return (f"layer {layer.number} has {what} not finite (the first: {where}), so its ratios are unknown",)
        zeros = layer.zeros(per)
        if not zeros:
            return ()
        what = "1 entry that is 0 and has" if zeros == 1 else f"{zeros} entries that are 0 and have"
        return (f"layer {layer.number} has {what} a median of 0: such a ratio counts as 0",)
