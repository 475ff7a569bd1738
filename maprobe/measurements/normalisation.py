"""``attention.norms``: what normalisation makes of massive tokens on their way into attention.

The claim (arXiv:2402.17762, section 4 and appendix B.2): the norm before attention takes the size of massive
activations away and leaves their direction, so that massive tokens enter attention as nearly the same sparse vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.massive import unattended
from maprobe.measurements.survey import Entry, ratio, survey
from maprobe.readings import Axis, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["NORMS"]

_SITES = {
    "block.out": "stream",
    "block.attn.in": "input",
    "block.attn.queries": "query",
    "block.attn.keys": "key",
    "block.attn.values": "value",
}


@dataclass
class _Sums:
    """What is kept of one layer; each list holds a figure of massive tokens and one of all others."""

    norms: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    units: list[torch.Tensor] = field(default_factory=list)
    squares: float = 0.0
    inside: float = 0.0

    def ratio(self, name: str) -> float:
        """Return the mean norm of massive tokens over that of the others."""
        massive, rest = (
            total / count if count else float("nan")
            for total, count in zip(self.norms[name], self.tokens[name], strict=True)
        )
        return ratio(massive, rest)

    def cosine(self, group: int) -> float:
        """Return the mean cosine over all pairs of a group, from the sum of its unit vectors."""
        count = self.tokens["input"][group]
        if count < 2:  # noqa: PLR2004 - a pair takes two
            return float("nan")
        return (float(self.units[group].square().sum()) - count) / (count * (count - 1))


@dataclass
class _NormsFold:
    context: FoldContext
    hits: dict[int, list[tuple[Entry, ...]]] = field(default_factory=dict)
    sums: dict[int, _Sums] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        taps: list[Tap] = []
        for layer in self.context.layers:
            taps += [Tap(site, layer - (site == "block.out")) for site in _SITES]
        return tuple(taps)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        layer = tap.layer
        if tap.site == "block.out":
            layer += 1  # what a block attends to is what the one before gave out
            self.hits[layer] = [
                survey(value[row], tap, sequence, self.context.memo).hits
                for row, sequence in enumerate(batch.sequences)
            ]
        if not any(self.hits[layer]):
            return
        # Heads beside one another are one long vector for each token.
        flat = value.transpose(1, 2).flatten(2) if value.dim() == 4 else value  # noqa: PLR2004 - the heads' axis
        for row, hits in enumerate(self.hits[layer]):
            if hits:
                self._take(layer, _SITES[tap.site], flat[row].float(), hits)

    def _take(self, layer: int, name: str, tokens: torch.Tensor, hits: tuple[Entry, ...]) -> None:
        import torch

        sums = self.sums.setdefault(layer, _Sums())
        massive = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        massive[[entry.position for entry in hits]] = True
        norms = tokens.norm(dim=1).double()
        totals, counts = sums.norms.setdefault(name, [0.0, 0.0]), sums.tokens.setdefault(name, [0, 0])
        for group, mask in enumerate((massive, ~massive)):
            totals[group] += float(norms[mask].sum())
            counts[group] += int(mask.sum())
        if name == "input":
            units = tokens.double() / norms[:, None].clamp_min(torch.finfo(torch.float32).tiny)
            both = [units[massive].sum(dim=0), units[~massive].sum(dim=0)]
            sums.units = [a + b for a, b in zip(sums.units, both, strict=True)] if sums.units else both
            sums.squares += float(tokens[massive].double().square().sum())
            sums.inside += sum(float(tokens[entry.position, entry.dim]) ** 2 for entry in hits)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        massive = companions["massive"]
        if massive.absent is not None:
            return Reading(kind="attention.norms", absent=massive.absent)
        if not self.sums:
            return Reading(kind="attention.norms", absent=unattended(massive, self.context.depth))
        layers = tuple(sorted(self.sums))
        axes = (Axis("layer", layers),)
        values = {f"{name}_ratio": [self.sums[layer].ratio(name) for layer in layers] for name in _SITES.values()}
        values["massive_cosine"] = [self.sums[layer].cosine(0) for layer in layers]
        values["rest_cosine"] = [self.sums[layer].cosine(1) for layer in layers]
        values["sparsity"] = [ratio(self.sums[layer].inside, self.sums[layer].squares) for layer in layers]
        pairs = self.sums[layers[0]].tokens["input"][0]
        return Reading(
            kind="attention.norms",
            quantities={name: Quantity(name=name, values=tuple(entry), axes=axes) for name, entry in values.items()},
            notes=(f"{pairs} massive tokens in layer {layers[0]}, of all sequences together",),
        )


NORMS = MeasurementRecipe(
    name="attention.norms",
    summary="What normalisation makes of massive tokens: their size beside other tokens', before and after it.",
    sites=("block.attn.in",),
    quantities=(
        *(
            QuantitySpec(
                name=f"{name}_ratio",
                axes=("layer",),
                meaning=f"mean norm of massive tokens over that of all others: {what}",
            )
            for name, what in (
                ("stream", "the residual stream that the block takes in"),
                ("input", "the same after the norm, as attention takes it in"),
                ("query", "queries, all heads together"),
                ("key", "keys, all heads together"),
                ("value", "values, all heads together"),
            )
        ),
        QuantitySpec(
            name="massive_cosine",
            axes=("layer",),
            meaning="mean cosine of what attention takes in, over all pairs of massive tokens of all sequences",
        ),
        QuantitySpec(name="rest_cosine", axes=("layer",), meaning="the same over all pairs of other tokens"),
        QuantitySpec(
            name="sparsity",
            axes=("layer",),
            meaning="share of the squared norm of massive tokens that their massive dims hold, after the norm",
        ),
    ),
    takes_tokens=False,
    companions=("massive",),
    start=_NormsFold,
)
