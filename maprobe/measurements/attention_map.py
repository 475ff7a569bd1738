"""``attention.map``: attention before and after the softmax, query by key, on one short text.

arXiv:2402.17762, section 4.1, shows the logits of attention, q.k / sqrt(d), averaged over the heads of a layer: low for
ordinary keys, high for massive tokens, in the layers after massive activations emerged and not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.measurements.prompts import demand_short
from maprobe.readings import Axis, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["MAP"]

_OFF = 0.02  # half precision; the wrong scaling or mask is off by far more
_QUANTITIES = ("massive_logit", "other_logit", "massive_probability", "other_probability")


@dataclass
class _MapFold:
    context: FoldContext
    # Rows by layer, query after query, each of (logits, probabilities): means over heads by key, None where masked.
    rows: dict[int, list[tuple[list[float | None], list[float]]]] = field(default_factory=dict)
    scores: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap(site, layer) for layer in self.context.layers for site in _SITES)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        demand_short(self.context, batch)
        if tap.site == _SITES[0]:
            self.texts = tuple(batch.text(0, position) for position in range(value.shape[3]))
            self.scores[tap.layer, offset] = value[0].detach().clone()
            return
        scores = self.scores.pop((tap.layer, offset)).double()
        probabilities = value[0].double()
        _confirm(tap.layer, scores, probabilities)
        logits = scores.mean(dim=0).tolist()
        shares = probabilities.mean(dim=0).tolist()
        rows = self.rows.setdefault(tap.layer, [])
        for row, share in zip(logits, shares, strict=True):
            rows.append(([None if logit == -float("inf") else logit for logit in row], share))

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        massive = companions["massive"]
        layers, note = _chosen(tuple(sorted(self.rows)), massive)
        axes = (Axis("layer", layers),)
        positions = frozenset(int(record["position"] or 0) for record in massive.records if record["arm"] == "edited")
        if massive.absent is not None:
            quantities = [Quantity(name=name, absent=massive.absent) for name in (*_QUANTITIES, "emergence_layer")]
        else:
            means = [self._means(layer, positions) for layer in layers]
            quantities = [
                Quantity(name=name, values=tuple(values), axes=axes)
                for name, values in zip(_QUANTITIES, zip(*means, strict=True), strict=True)
            ]
            quantities.append(Quantity(name="emergence_layer", values=(massive["first_layer"].value,)))
        return Reading(
            kind="attention.map",
            quantities={quantity.name: quantity for quantity in quantities},
            records=tuple(record for layer in layers for record in self._records(layer, positions)),
            notes=(note,),
        )

    def _records(self, layer: int, massive: frozenset[int]) -> list[dict[str, Scalar]]:
        return [
            {
                "layer": layer,
                "query": query,
                "query_token": self.texts[query],
                "key": key,
                "key_token": self.texts[key],
                "logit": logit,
                "probability": probabilities[key],
                "massive": key in massive,
            }
            for query, (logits, probabilities) in enumerate(self.rows[layer])
            for key, logit in enumerate(logits)
            if logit is not None
        ]

    def _means(self, layer: int, massive: frozenset[int]) -> tuple[float, ...]:
        """Return means over pairs of an ordinary query and another token as its key; nan where there is none."""
        pairs = [
            (key in massive, logit, probabilities[key])
            for query, (logits, probabilities) in enumerate(self.rows[layer])
            for key, logit in enumerate(logits)
            if logit is not None and key != query and query not in massive
        ]
        return tuple(
            _mean([pair[column] for pair in pairs if pair[0] is of_massive])
            for column in (1, 2)
            for of_massive in (True, False)
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _confirm(layer: int, scores: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Check that the scores are those that the probabilities were made from.

    Attention that has learnable sinks beside its keys leaves rows that sum to less than 1; they are compared as shares.
    """
    shares = probabilities / probabilities.sum(dim=-1, keepdim=True)
    off = float((scores.softmax(dim=-1) - shares).abs().max())
    if off > _OFF:
        raise MeasurementError(
            f"the logits of attention in layer {layer} cannot be had: those worked out from queries, keys and mask "
            f"give probabilities that are off by {off:.2g}, so this model does more to them than is known; measure "
            f"attention.concentration, which reads the probabilities alone"
        )


def _chosen(layers: tuple[int, ...], massive: Reading) -> tuple[tuple[int, ...], str]:
    """Return the layers that are told, and why: the attention of block l reads layer l-1."""
    ends = tuple(dict.fromkeys((layers[0], layers[-1])))
    if massive.absent is not None:
        return ends, f"told are the first and the last layer asked for: {massive.absent}"
    first, last = int(massive["first_layer"].value), int(massive["last_layer"].value)
    before = [layer for layer in layers if layer <= first][-1:]
    after = [layer for layer in layers if first < layer <= last + 1][:1]
    if not before and not after:
        return ends, f"none of the layers asked for reads a massive layer or stands before layer {first}"
    return (
        *before,
        *after,
    ), f"massive activations emerge in layer {first}, which block {first + 1} is the first to read"


_SITES = ("block.attn.scores", "block.attn.probs")

MAP = MeasurementRecipe(
    name="attention.map",
    summary="Attention before and after the softmax, query by key, before and after massive activations emerge.",
    sites=_SITES[:1],
    quantities=(
        QuantitySpec(
            name="massive_logit",
            axes=("layer",),
            meaning="mean logit of other tokens' queries with the keys of massive tokens",
        ),
        QuantitySpec(
            name="other_logit",
            axes=("layer",),
            meaning="mean logit of the same queries with the keys of the other tokens, their own left out",
        ),
        QuantitySpec(name="massive_probability", axes=("layer",), meaning="the same pairs' mean probability"),
        QuantitySpec(name="other_probability", axes=("layer",), meaning="the other pairs' mean probability"),
        QuantitySpec(name="emergence_layer", meaning="first layer with a massive activation; absent without one"),
    ),
    takes_tokens=False,
    companions=("massive",),
    start=_MapFold,
)
