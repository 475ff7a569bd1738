"""Attention query by key, before and after the softmax: arXiv:2402.17762, the figure of section 4.1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from maprobe.readings import Reading, Scalar, unplain
from maprobe.reporting.plots.canvas import GREY, RED, Undrawable, sheet, titled
from maprobe.reporting.plots.captions import taken, visible
from maprobe.reporting.report import ReadingUse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["draw"]

_KINDS = {"logit": "logit (mean over heads)", "probability": "probability (mean over heads)"}
_BLANK = "#f0f0f0"
_CROWDED = 14  # tokens from which their texts are set smaller

Records = Sequence[Mapping[str, Scalar]]


def draw(use: ReadingUse) -> Figure:
    """Return the picture of an ``attention.map`` Reading: logits above probabilities, a column for each layer.

    Raises:
        Undrawable: there is no pair of tokens with a number.
    """
    records = use.reading.records
    if not any(math.isfinite(_number(row["logit"])) for row in records):
        raise Undrawable(use.reading.absent or "no pair of tokens has a logit that is a number")
    layers = sorted({int(_number(row["layer"])) for row in records})
    tokens = {int(_number(row["key"])): str(row["key_token"]) for row in records}
    tokens.update({int(_number(row["query"])): str(row["query_token"]) for row in records})
    massive = frozenset(int(_number(row["key"])) for row in records if row["massive"])
    side = max(2.1, 0.13 * len(tokens) + 0.4)
    figure = sheet(1.7 + len(layers) * (side + 0.15), 2 * (side + 0.1) + 1.1)
    grid = figure.subplots(len(_KINDS), len(layers), squeeze=False, sharex=True, sharey=True)
    for row, (kind, label) in enumerate(_KINDS.items()):
        image = None
        low, high = _limits(records, kind)
        for column, layer in enumerate(layers):
            axes = grid[row, column]
            cells = _cells([record for record in records if record["layer"] == layer], kind, len(tokens))
            colours = "RdBu_r" if kind == "logit" else "cividis"
            image = axes.imshow(cells, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
            axes.set_facecolor(_BLANK)
            _name_tokens(axes, tokens, massive)
            if row == 0:
                axes.set_title(f"layer {layer}\n{_reads(use.reading, layer)}")
            if column == 0:
                axes.set_ylabel("query token")
            if row == len(_KINDS) - 1:
                axes.set_xlabel("key token")
        _bar(figure, image, list(grid[row]), label)
    masked = len(records) < len(layers) * len(tokens) ** 2
    titled(figure, _headline(use, layers), [*taken(use), _explained(masked=masked, massive=bool(massive))])
    return figure


def _headline(use: ReadingUse, layers: Sequence[int]) -> str:
    told = f"{use.checkpoint}: attention in layer{'s' * (len(layers) > 1)} {' and '.join(map(str, layers))}"
    return told if use.reading["massive_logit"].values else f"{told}; nothing massive"


def _explained(*, masked: bool, massive: bool) -> str:
    told = ["logits are q\u00b7k as scaled by the model, before the softmax"]
    if masked:
        told.insert(0, "grey: masked")
    if massive:
        told.insert(0, "red: tokens with a massive activation")
    return "; ".join(told)


def _reads(reading: Reading, layer: int) -> str:
    """Say what a block attends to, as the note of the Reading has it."""
    found = reading.quantities["massive_logit"]
    if not found.values:
        return "nothing massive to attend to"
    first = _emergence(reading)
    if first is None:
        return ""
    return f"reads layer {layer - 1}, " + ("before emergence" if layer <= first else "from emergence on")


def _emergence(reading: Reading) -> int | None:
    found = reading.quantities.get("emergence_layer")
    return int(found.value) if found and found.values and math.isfinite(found.value) else None


def _limits(records: Records, kind: str) -> tuple[float, float]:
    """Return the ends of the colours, shared by all layers: probabilities from 0, logits alike on both sides of 0."""
    values = [abs(value) for row in records if math.isfinite(value := _number(row[kind]))]
    highest = max(values, default=1.0) or 1.0
    return (0.0, highest) if kind == "probability" else (-highest, highest)


def _cells(records: Records, kind: str, count: int) -> list[list[float]]:
    """Return the map as rows of queries; nan where a key is masked."""
    cells = [[math.nan] * count for _ in range(count)]
    for row in records:
        cells[int(_number(row["query"]))][int(_number(row["key"]))] = _number(row[kind])
    return cells


def _name_tokens(axes: Axes, tokens: Mapping[int, str], massive: frozenset[int]) -> None:
    places = sorted(tokens)
    texts = [visible(tokens[place]) for place in places]
    small = 8 if len(places) <= _CROWDED else 6
    axes.set_xticks(places, texts, rotation=90, fontsize=small)
    axes.set_yticks(places, texts, fontsize=small)
    axes.tick_params(length=0, pad=2)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for place, text in zip(places, labels, strict=False):  # inner axes have no labels
            if place in massive:
                text.set(color=RED, weight="bold")
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY, linewidth=0.6)


def _bar(figure: Figure, image: AxesImage | None, row: list[Axes], label: str) -> None:
    assert image is not None, "a map has a layer at least"
    bar = figure.colorbar(image, ax=row, shrink=0.9, aspect=18, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.outline.set_visible(False)


def _number(value: Scalar) -> float:
    number = unplain(value)
    return float(number) if isinstance(number, int | float) else math.nan
