"""``attention.bias``: massive activations as an implicit bias of attention (arXiv:2402.17762, section 4.3).

The output of a head at query k is a sum of values, and splits into the part from the tokens C with massive activations
and the part from the rest (equation 2 there):

    u_k = sum over j in C of p_kj v_j      r_k = sum over j not in C of p_kj v_j

The claim is that u_k is nearly the same for every k, as a bias is. The paper shows it in pictures; here it is a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.massive import unattended
from maprobe.measurements.survey import ratio, survey
from maprobe.readings import Axis, Quantity, Reading
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["BIAS"]

_PARTS = ("bias", "rest", "random")
_SEED = 2402


@dataclass
class _Under:
    """One layer of the sequences under way: values, token sets, and the parts of the outputs seen so far."""

    values: torch.Tensor
    sets: torch.Tensor
    parts: list[torch.Tensor] = field(default_factory=list)


@dataclass
class _BiasFold:
    context: FoldContext
    positions: dict[int, list[set[int]]] = field(default_factory=dict)
    under: dict[int, _Under] = field(default_factory=dict)
    # By layer: sums over heads and sequences of the variation of each part, and of the share of the bias.
    totals: dict[int, list[float]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        taps: list[Tap] = []
        for layer in self.context.layers:
            taps += [Tap("block.out", layer - 1), Tap("block.attn.values", layer), Tap("block.attn.probs", layer)]
        return tuple(taps)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        if tap.site == "block.out":
            # What a block attends to is what the one before gave out.
            self.positions[tap.layer + 1] = [
                {entry.position for entry in survey(value[row], tap, sequence, self.context.memo).hits}
                for row, sequence in enumerate(batch.sequences)
            ]
        elif tap.site == "block.attn.values":
            if any(self.positions[tap.layer]):
                self.under[tap.layer] = _Under(value.float(), self._sets(tap.layer, value.shape[2], value.device))
        elif tap.layer in self.under:
            self._split(tap.layer, value.float())
            if offset + value.shape[2] == value.shape[3]:
                self._complete(tap.layer, self.under.pop(tap.layer))

    def _sets(self, layer: int, length: int, device: torch.device) -> torch.Tensor:
        """Return which tokens are of C, of the rest, of a random set as large as C: (3, sequences, tokens)."""
        import torch

        sets = torch.zeros(3, len(self.positions[layer]), length, dtype=torch.float32)
        generator = torch.Generator().manual_seed(_SEED + layer)
        for row, massive in enumerate(self.positions[layer]):
            chosen = sorted(massive)
            others = [position for position in range(min(length, self._burn_in)) if position not in massive]
            drawn = torch.randperm(len(others), generator=generator)[: len(chosen)].tolist()
            sets[0, row, chosen] = 1
            sets[1, row] = 1 - sets[0, row]
            sets[2, row, [others[index] for index in drawn]] = 1
        return sets.to(device)

    @property
    def _burn_in(self) -> int:
        return int(self.context.request.option("burn_in"))  # type: ignore[arg-type]

    def _split(self, layer: int, probabilities: torch.Tensor) -> None:
        under = self.under[layer]
        repeated = probabilities.shape[1] // under.values.shape[1]
        values = under.values.repeat_interleave(repeated, dim=1)
        under.parts.append((probabilities * under.sets[:, :, None, None, :]) @ values)

    def _complete(self, layer: int, under: _Under) -> None:
        import torch

        # (3, sequences, heads, queries, dims): queries before the burn-in have few tokens to choose from.
        parts = torch.cat(under.parts, dim=3)[:, :, :, self._burn_in :].double()
        if not parts.shape[3]:
            return
        mean = parts.mean(dim=3, keepdim=True)
        spread = (parts - mean).norm(dim=-1).mean(dim=3)
        level = mean.norm(dim=-1).squeeze(3)
        variation = spread / level
        size = parts.norm(dim=-1).mean(dim=3)
        share = size[0] / (size[0] + size[1])
        rows = [row for row, massive in enumerate(self.positions[layer]) if massive]
        sums = [float(variation[part, rows].sum()) for part in range(len(_PARTS))] + [float(share[rows].sum())]
        self.totals[layer] = [a + b for a, b in zip(self.totals.get(layer, [0.0] * 4), sums, strict=True)]
        self.counts[layer] = self.counts.get(layer, 0) + len(rows) * parts.shape[2]

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        massive = companions["massive"]
        if massive.absent is not None:
            return Reading(kind="attention.bias", absent=massive.absent)
        layers = tuple(sorted(self.totals))
        if not layers:
            reason = f"{unattended(massive, self.context.depth)}, with more than {self._burn_in} tokens"
            return Reading(kind="attention.bias", absent=reason)
        means = {layer: [total / self.counts[layer] for total in self.totals[layer]] for layer in layers}
        axis = (Axis("layer", layers),)
        names = (*(f"{part}_variation" for part in _PARTS), "bias_share")
        by_layer = {name: tuple(means[layer][index] for layer in layers) for index, name in enumerate(names)}
        variations = zip(by_layer["rest_variation"], by_layer["bias_variation"], strict=True)
        constant = tuple(ratio(rest, bias) for rest, bias in variations)
        quantities = [
            *(Quantity(name=name, values=values, axes=axis) for name, values in by_layer.items()),
            Quantity(name="constancy", values=constant, axes=axis),
            Quantity(name="mean_constancy", values=(sum(constant) / len(constant),)),
        ]
        return Reading(
            kind="attention.bias",
            quantities={quantity.name: quantity for quantity in quantities},
            notes=(f"over the queries from position {self._burn_in} on; random sets from the positions before it",),
        )


BIAS = MeasurementRecipe(
    name="attention.bias",
    summary="Whether what massive tokens add to attention is the same for every query, as a bias is.",
    sites=("block.attn.probs",),
    quantities=(
        QuantitySpec(
            name="bias_variation",
            axes=("layer",),
            meaning="mean over k of |u_k - mean u| / |mean u|, of the massive tokens; mean over heads, sequences",
        ),
        QuantitySpec(name="rest_variation", axes=("layer",), meaning="the same of what all other tokens add"),
        QuantitySpec(
            name="random_variation",
            axes=("layer",),
            meaning="the same of as many random tokens from before the burn-in",
        ),
        QuantitySpec(
            name="bias_share",
            axes=("layer",),
            meaning="mean |u_k| over mean |u_k| + mean |r_k|: how much of the output the bias is",
        ),
        QuantitySpec(name="constancy", axes=("layer",), meaning="rest_variation / bias_variation"),
        QuantitySpec(name="mean_constancy", meaning="mean of constancy over the layers"),
    ),
    parameters=(
        Parameter(
            name="burn_in",
            schema={"type": "integer", "minimum": 2},
            default=8,
            meaning="queries before this position are left out, and random token sets are drawn from them",
        ),
    ),
    takes_tokens=False,
    companions=("massive",),
    start=_BiasFold,
)
