"""``published``: where the massive activations are, beside where a model card says that others found them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maprobe.errors import MeasurementError
from maprobe.measurements.survey import nothing_massive, ratio, survey, unknown
from maprobe.reading.cards import Card, Figure, find_card, located
from maprobe.readings import Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap
from maprobe.sites import TokenSet

if TYPE_CHECKING:
    import torch

__all__ = ["CARD", "PUBLISHED", "own_card"]

_FOLDER = "model_cards"
_COMPARED = ("exists", "dims", "tokens", "first_layer", "last_layer", "top")


@dataclass
class _Found:
    """What one pass found: the layers, dims and groups of tokens with a hit, and the largest |x| of each layer.

    Attributes:
        tops: for each layer, the largest |x| of each sequence.
        nearest: the layer, |x| and ratio that come nearest to the strict criterion.
    """

    layers: set[int] = field(default_factory=set)
    dims: set[int] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    tops: dict[int, list[float]] = field(default_factory=dict)
    nearest: tuple[int, float, float] = (0, 0.0, -1.0)

    @property
    def top(self) -> float:
        """The largest, over the layers with a hit (or over all if none has), of the mean over the sequences."""
        return max(sum(self.tops[layer]) / len(self.tops[layer]) for layer in self.layers or self.tops)


@dataclass
class _PublishedFold:
    context: FoldContext
    found: _Found = field(default_factory=_Found)
    bos: set[bool] = field(default_factory=set)
    broken: tuple[int, int] | None = None

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.out", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        delimiters = batch.mask(TokenSet("delimiter"))
        self.bos.update(batch.mask(TokenSet("bos"))[:, 0].tolist())
        for row, sequence in enumerate(batch.sequences):
            seen = survey(value[row], tap, sequence, self.context.memo)
            if math.isnan(seen.median):
                self.broken = self.broken or (tap.layer, sequence)
                continue
            peak = abs(seen.top[0].value)
            self.found.tops.setdefault(tap.layer, []).append(peak)
            near = (tap.layer, peak, ratio(peak, seen.median))
            self.found.nearest = max(self.found.nearest, near, key=lambda entry: entry[2])
            for entry in seen.hits:
                self.found.layers.add(tap.layer)
                self.found.dims.add(entry.dim)
                late = "delimiter" if bool(delimiters[row, entry.position]) else "other"
                self.found.tokens.add(late if entry.position else "first")

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        facts = self.context.facts
        card, reason = own_card(self.context)
        if card is None:
            return Reading(kind="published", absent=reason)
        bos = self.bos.pop() if len(self.bos) == 1 else None
        figures = {name: card.fitting(f"massive.{name}", bos=bos) for name in _COMPARED}
        published = {name: figure for name, figure in figures.items() if figure}
        inputs = {True: "with BOS", False: "without BOS", None: "with BOS in some sequences only"}[bos]
        if not published:
            setting = f" for inputs {inputs}" if any(card.of(f"massive.{name}") for name in _COMPARED) else ""
            reason = f"{card.file} has no published figure of massive activations{setting}"
            return Reading(kind="published", absent=reason)
        if self.broken:
            raise MeasurementError(unknown(*self.broken))
        _require_same_shape(card, published.values(), depth=self.context.depth, width=int(facts["hidden_size"]))
        values = {name: figure.value for name, figure in published.items()}
        return Reading(
            kind="published",
            quantities={name: _quantity(name, self.found, values, card.file, inputs) for name in _COMPARISONS},
            records=tuple(_record(name, figure, self.found) for name, figure in published.items()),
            notes=(f"held to {card.file}, for inputs {inputs}",),
        )


def own_card(context: FoldContext) -> tuple[Card | None, str]:
    """Return the card of the checkpoint under test, or None and why there is none.

    Raises:
        MeasurementError: the card or folder that the probe names does not exist.
    """
    path, facts = str(context.request.option("card")), context.facts
    place = located(path)
    if place is None and path != _FOLDER:
        raise MeasurementError(f"there is no {path} in the working directory or above; name a card, or a folder")
    card = find_card(place, (facts.reference, facts.label)) if place else None
    where = f"none in {place} is of {facts.reference}" if place else f"there is no folder {path} here or above"
    return card, "" if card else f"no card: {where}"


def _require_same_shape(card: Card, figures: Iterable[Figure], *, depth: int, width: int) -> None:
    """Refuse a card whose places do not exist in this model: it is another model's.

    Raises:
        MeasurementError: naming the figure and its line.
    """
    for figure in figures:
        limit = {"massive.dims": width - 1, "massive.first_layer": depth, "massive.last_layer": depth}
        highest = max(figure.value) if isinstance(figure.value, tuple) else figure.value
        if figure.quantity in limit and highest > limit[figure.quantity]:
            raise MeasurementError(
                f"{figure.mark}: {figure.quantity} is {highest}, and this model has {depth} blocks of width {width}, "
                f"so {card.file} is the card of another model; name the right one with `card`"
            )


def _offset(name: str) -> Callable[[_Found, Any], float]:
    end = min if name == "first_layer" else max
    return lambda found, value: end(found.layers) - value


# For each quantity: the figure it is held to, whether it needs a massive activation, and how it comes about.
_COMPARISONS: Mapping[str, tuple[str, bool, Callable[[_Found, Any], float]]] = {
    "existence": ("exists", False, lambda found, value: bool(found.layers) == value),
    "dims_jaccard": ("dims", False, lambda found, value: len(found.dims & set(value)) / len(found.dims | set(value))),
    "dims_missing": ("dims", False, lambda found, value: len(set(value) - found.dims)),
    "dims_extra": ("dims", False, lambda found, value: len(found.dims - set(value))),
    "tokens_missing": ("tokens", False, lambda found, value: len(set(value) - found.tokens)),
    "tokens_extra": ("tokens", False, lambda found, value: len(found.tokens - set(value))),
    "first_layer_offset": ("first_layer", True, _offset("first_layer")),
    "last_layer_offset": ("last_layer", True, _offset("last_layer")),
    "top_ratio": ("top", False, lambda found, value: found.top / value),
}


def _quantity(name: str, found: _Found, values: Mapping[str, Any], file: str, inputs: str) -> Quantity:
    held_to, needs_massive, compare = _COMPARISONS[name]
    if held_to not in values:
        return Quantity(name=name, absent=f"{file} has no published massive.{held_to} for inputs {inputs}")
    if needs_massive and not found.layers:
        reason = nothing_massive(min(found.tops), max(found.tops), found.nearest)
        return Quantity(name=name, absent=reason)
    return Quantity(name=name, values=(float(compare(found, values[held_to])),))


def _record(name: str, figure: Figure, found: _Found) -> dict[str, Scalar]:
    measured: dict[str, Scalar] = {
        "exists": bool(found.layers),
        "dims": _told(sorted(found.dims)),
        "tokens": _told(sorted(found.tokens)),
        "first_layer": min(found.layers, default=None),
        "last_layer": max(found.layers, default=None),
        "top": found.top,
    }
    value = figure.value
    return {
        "figure": figure.quantity,
        "published": _told(value) if isinstance(value, tuple) else value,
        "measured": measured[name],
        "where": ", ".join(f"{key}: {setting}" for key, setting in figure.where.items()),
        "source": figure.source,
        "sure": figure.sure,
        "line": figure.mark.line,
    }


def _told(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"


CARD = Parameter(
    name="card",
    schema={"type": "string", "minLength": 1},
    default=_FOLDER,
    meaning="a card, or a folder from which the card of the checkpoint is taken",
)

PUBLISHED = MeasurementRecipe(
    name="published",
    summary="Where the massive activations are, beside the published figures of the checkpoint's model card.",
    sites=("block.out",),
    quantities=(
        QuantitySpec(name="existence", meaning="1 where it is as published whether any is massive, else 0"),
        QuantitySpec(name="dims_jaccard", meaning="dims both published and hit, over dims either published or hit"),
        QuantitySpec(name="dims_missing", meaning="published dims without a hit"),
        QuantitySpec(name="dims_extra", meaning="dims with a hit that are not published"),
        QuantitySpec(name="tokens_missing", meaning="published groups of tokens without a hit"),
        QuantitySpec(name="tokens_extra", meaning="groups of tokens with a hit that are not published"),
        QuantitySpec(name="first_layer_offset", meaning="first layer with a hit - the published one"),
        QuantitySpec(name="last_layer_offset", meaning="last layer with a hit - the published one"),
        QuantitySpec(
            name="top_ratio", meaning="largest |x| of a layer, mean over the sequences, over the published one"
        ),
    ),
    parameters=(CARD,),
    takes_layers=False,
    takes_tokens=False,
    start=_PublishedFold,
)
