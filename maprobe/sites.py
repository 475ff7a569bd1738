"""Places in a model, in architecture-neutral words: sites, layers, token sets.

A layer is the output of the block of that number, counted from 1 as in the papers; 0 is the embedding
output, which is the residual stream before the first block and therefore a layer of ``block.out`` only.
Negative numbers count from the last block, which is -1. Ranges include both ends: ``2..-2``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from maprobe.errors import MeasurementError

__all__ = [
    "ALL_LAYERS",
    "ALL_TOKENS",
    "ATTRIBUTION",
    "LOSS",
    "OWN_PATTERN",
    "OWN_SITES",
    "SITES",
    "STREAMS",
    "TOKEN_CLASSES",
    "LayerRange",
    "Site",
    "TokenSet",
    "is_own",
    "site_named",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A kind of place in a model.

    Attributes:
        name: the word used in probe files.
        axes: names of the axes of its values, in order.
        per_layer: whether every block has one.
        meaning: one line for the documentation.
    """

    name: str
    axes: tuple[str, ...]
    per_layer: bool
    meaning: str


LOSS = "loss"  # the one site that a model's own code computes
ATTRIBUTION = "block.attribution"  # the one site that is read by a gradient pass
STREAMS = ("block.out", "block.attn.out", "block.mlp.out", "embed.out", "final.norm.out")
OWN_SITES = "own.*"  # stands, among the sites of a recipe, for those that a model from Python code names itself
OWN_PATTERN = r"^own\.[A-Za-z0-9_][A-Za-z0-9_.-]*$"

_STREAM = ("sequence", "token", "dim")
_HEADS = ("sequence", "head", "token", "dim")

SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site(
            name="block.out",
            axes=_STREAM,
            per_layer=True,
            meaning="the residual stream (hidden state) after the block; layer 0 is the embedding output",
        ),
        Site(
            name="block.mid",
            axes=_STREAM,
            per_layer=True,
            meaning="the residual stream between the attention and the MLP of a block, where one follows the other",
        ),
        Site(
            name="block.attn.out",
            axes=_STREAM,
            per_layer=True,
            meaning="what the attention sub-layer adds to the residual stream",
        ),
        Site(
            name="block.mlp.out",
            axes=_STREAM,
            per_layer=True,
            meaning="what the MLP (or the experts) adds to the residual stream",
        ),
        Site(
            name="block.mlp.in",
            axes=_STREAM,
            per_layer=True,
            meaning="what the MLP is called on: the normed residual stream (in post-norm models, the residual stream "
            "itself)",
        ),
        Site(
            name="block.mlp.hidden",
            axes=("sequence", "token", "channel"),
            per_layer=True,
            meaning="the input of the MLP's down projection; for experts, rows are the routed tokens",
        ),
        Site(
            name="block.attn.in",
            axes=_STREAM,
            per_layer=True,
            meaning="what the attention sub-layer is called on: the normed residual stream (in post-norm models, the "
            "residual stream itself)",
        ),
        Site(
            name="block.attn.queries",
            axes=_HEADS,
            per_layer=True,
            meaning="queries as they enter attention, after any rotary embedding",
        ),
        Site(
            name="block.attn.keys",
            axes=_HEADS,
            per_layer=True,
            meaning="keys as they enter attention, after any rotary embedding; one head for each group of queries",
        ),
        Site(
            name="block.attn.values",
            axes=_HEADS,
            per_layer=True,
            meaning="values as they enter attention; one head for each group of queries",
        ),
        Site(
            name="block.attn.scores",
            axes=("sequence", "head", "query", "key"),
            per_layer=True,
            meaning="attention before the softmax: products of queries and keys, scaled, capped and biased as the "
            "model does it, -inf where masked; handed over in blocks of queries",
        ),
        Site(
            name="block.attn.probs",
            axes=("sequence", "head", "query", "key"),
            per_layer=True,
            meaning="attention after the softmax, handed over in blocks of queries",
        ),
        Site(
            name=ATTRIBUTION,
            axes=("sequence", "weight"),
            per_layer=True,
            meaning="the size of w x dD/dw for each weight w of the block's linear layers, D being the largest "
            "next-token logit at the last position; handed over in chunks of weights, from the last block to the first",
        ),
        Site(
            name="embed.out",
            axes=_STREAM,
            per_layer=False,
            meaning="the residual stream before the first block",
        ),
        Site(
            name="final.norm.out",
            axes=_STREAM,
            per_layer=False,
            meaning="the residual stream after the final norm",
        ),
        Site(
            name="logits",
            axes=("sequence", "token", "vocabulary"),
            per_layer=False,
            meaning="the output of the language-model head",
        ),
        Site(
            name="class.logits",
            axes=("sequence", "class"),
            per_layer=False,
            meaning="the output of the image-classification head",
        ),
        Site(
            name="edge.attn",
            axes=("sequence", "edge", "channel"),
            per_layer=True,
            meaning="the features of each edge of a graph in attention: its scores before they are summed over the "
            "channels of a head (arXiv:2409.03463)",
        ),
        Site(
            name="edge.embed",
            axes=("sequence", "edge", "channel"),
            per_layer=False,
            meaning="the features of the edges of a graph before the first block",
        ),
        Site(
            name=LOSS,
            axes=("sequence",),
            per_layer=False,
            meaning="the loss of each input, where a model from Python code brings one",
        ),
    )
}

_RANGE = re.compile(r"^\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*$")


def is_own(name: str) -> bool:
    """Whether a name is one that models from Python code give to sites of their own: ``own.`` and a word."""
    return re.match(OWN_PATTERN, name) is not None


def site_named(name: str) -> Site:
    """Return the site of a name, which may be a model's own.

    Raises:
        KeyError: there is none.
    """
    if is_own(name):
        axes = ("sequence", "row", "column")
        return Site(name=name, axes=axes, per_layer=True, meaning="a site that the model's own code names")
    return SITES[name]


def _of(site: str) -> str:
    return "modules that its code names for it" if is_own(site) else "blocks"


@dataclass(frozen=True, slots=True)
class LayerRange:
    """Layers as written: ``all``, one number, or an inclusive range. Resolved against a model's depth."""

    first: int = 1
    last: int = -1

    @classmethod
    def parse(cls, value: object) -> LayerRange:
        """Read ``all``, ``7``, ``-1`` or ``"2..-2"``.

        Raises:
            ValueError: with a text that says what is allowed.
        """
        if value == "all":
            return cls()
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(value, value)
        if isinstance(value, str):
            match = _RANGE.match(value)
            if match:
                return cls(int(match[1]), int(match[2]))
        raise ValueError(f"{value!r} is not a layer range; allowed: all, a number, or FIRST..LAST such as 2..-2")

    def resolve(self, depth: int, *, site: str = "block.out") -> tuple[int, ...]:
        """Return the layer numbers for a model of ``depth`` blocks, ascending.

        Raises:
            MeasurementError: an end lies outside the model, or the range is empty.
        """
        lowest = 0 if site == "block.out" else 1
        ends = []
        for end in (self.first, self.last):
            layer = depth + 1 + end if end < 0 else end
            if not lowest <= layer <= depth or (end < 0 and layer < 1):
                raise MeasurementError(
                    f"layer {end} is out of range for {site}: this model has {depth} {_of(site)}; "
                    f"allowed: {lowest}..{depth}, or -{depth}..-1 counted from the last block"
                )
            ends.append(layer)
        if ends[0] > ends[1]:
            raise MeasurementError(
                f"layers {self} are empty in a model of {depth} blocks: {self.first} is layer {ends[0]} and "
                f"{self.last} is layer {ends[1]}; put the lower layer first, or restrict the probe with "
                f"`when: {{num_hidden_layers: {{gte: ...}}}}`"
            )
        return tuple(range(ends[0], ends[1] + 1))

    def __str__(self) -> str:
        if (self.first, self.last) == (1, -1):
            return "all"
        return str(self.first) if self.first == self.last else f"{self.first}..{self.last}"


TokenClass = Literal["all", "first", "bos", "delimiter", "class", "registers", "patches", "index"]

TOKEN_CLASSES: dict[str, str] = {
    "all": "every token",
    "first": "the token at position 0 of each sequence, whatever it is",
    "bos": "every token whose id is the tokenizer's beginning-of-sequence id",
    "delimiter": "every token that reads as . , ' or a line break, spaces stripped (arXiv:2402.17762, section 2)",
    "class": "the class token of each image",
    "registers": "the register tokens of each image (arXiv:2309.16588)",
    "patches": "the tokens of each image that stand for a patch of it",
    "index": "the tokens at the given positions, written {index: [0, 4]}; negative positions count from the end",
}


@dataclass(frozen=True, slots=True)
class TokenSet:
    """A set of tokens as written: a class by name, or positions."""

    kind: TokenClass = "all"
    positions: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"index {list(self.positions)}" if self.kind == "index" else self.kind


ALL_LAYERS = LayerRange()
ALL_TOKENS = TokenSet()
