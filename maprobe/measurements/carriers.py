"""``massive.tokens``: which tokens carry massive activations, told by what they read."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.survey import known, nearer, nothing_massive
from maprobe.readings import Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["CARRIERS", "WEAK_WORDS", "token_class"]

# The paper names "and", "from", "of" and "2"; the others are the like of them: the commonest function words.
WEAK_WORDS = frozenset(
    ("a", "an", "and", "as", "at", "by", "for", "from", "in", "is", "of", "on", "or", "that", "the", "to", "with")
)
_CLASSES = ("first", "strong_delimiter", "other_delimiter", "weak_word", "other")


def token_class(text: str) -> str:
    """Return the class of a token that is not the first of its sequence, by its text.

    Args:
        text: the token, decoded by itself.
    """
    bare = text.strip()
    if bare == "." or (not bare and ("\n" in text or "\r" in text)):
        return "strong_delimiter"
    # P is the punctuation of Unicode, and S its symbols, such as = and `.
    if bare and all(unicodedata.category(letter)[0] in "PS" for letter in bare):
        return "other_delimiter"
    if bare.lower() in WEAK_WORDS or (len(bare) == 1 and bare.isdecimal()):
        return "weak_word"
    return "other"


@dataclass(frozen=True, slots=True)
class _Token:
    """One token of the inputs that carries a massive activation in some layer."""

    sequence: int
    position: int
    text: str
    kind: str
    first_strong: bool


@dataclass
class _CarriersFold:
    context: FoldContext
    tokens: dict[tuple[int, int], _Token] = field(default_factory=dict)
    entries: Counter[tuple[int, int]] = field(default_factory=Counter)
    strong: dict[int, int | None] = field(default_factory=dict)
    nearest: tuple[int, float, float] = (0, 0.0, -1.0)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.out", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        for row, sequence in enumerate(batch.sequences):
            found = known(value[row], tap, sequence, self.context.memo)
            if not found.hits:
                self.nearest = nearer(self.nearest, tap.layer, found)
            for entry in found.hits:
                key = (sequence, entry.position)
                self.entries[key] += 1
                if key not in self.tokens:
                    self.tokens[key] = self._token(batch, row, sequence, entry.position)

    def _token(self, batch: Batch, row: int, sequence: int, position: int) -> _Token:
        text = batch.text(row, position)
        if position == 0:
            return _Token(sequence, position, text, "first", first_strong=False)
        kind = token_class(text)
        if kind == "strong_delimiter" and sequence not in self.strong:
            texts = (batch.text(row, place) for place in range(1, batch.shape[1]))
            places = (place for place, word in enumerate(texts, start=1) if token_class(word) == "strong_delimiter")
            self.strong[sequence] = next(places, None)
        return _Token(sequence, position, text, kind, first_strong=self.strong.get(sequence) == position)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        if not self.tokens:
            layers = self.context.layers
            return Reading(kind="massive.tokens", absent=nothing_massive(layers[0], layers[-1], self.nearest))
        tokens = [self.tokens[key] for key in sorted(self.tokens)]
        kinds = Counter(token.kind for token in tokens)
        sequences = len({token.sequence for token in tokens})
        values = {
            "tokens": float(len(tokens)),
            **{kind: kinds[kind] / len(tokens) for kind in _CLASSES},
            "first_token_only": float(kinds["first"] == len(tokens)),
            "group": float(_group(tokens)),
            "tokens_per_sequence": len(tokens) / sequences,
        }
        odd = next((token for token in tokens if token.kind == "other"), None)
        place = (Place(sequence=odd.sequence, position=odd.position, token=odd.text),) if odd else ()
        share = sequences / self.context.sequences
        return Reading(
            kind="massive.tokens",
            quantities={
                name: Quantity(name=name, values=(value,), places=place if name in ("other", "group") else ())
                for name, value in values.items()
            },
            records=self._records(tokens),
            notes=()
            if share == 1
            else (f"{sequences} of {self.context.sequences} sequences have a massive activation in these layers",),
        )

    def _records(self, tokens: list[_Token]) -> tuple[dict[str, Scalar], ...]:
        """Return one row for each class and text, the commonest first; the first strong delimiter apart."""
        counts: Counter[tuple[str, str, bool]] = Counter()
        entries: Counter[tuple[str, str, bool]] = Counter()
        for token in tokens:
            row = (token.kind, token.text, token.first_strong)
            counts[row] += 1
            entries[row] += self.entries[token.sequence, token.position]
        order = sorted(counts, key=lambda row: (_CLASSES.index(row[0]), -counts[row], row[1], row[2]))
        return tuple(
            {
                "class": kind,
                "token": text,
                "first_strong": first_strong,
                "tokens": counts[kind, text, first_strong],
                "hits": entries[kind, text, first_strong],
            }
            for kind, text, first_strong in order
        )


def _group(tokens: list[_Token]) -> int:
    """Return the narrowest of the groups that holds all tokens; 4 where some are of none of the paper's classes."""
    if all(token.kind == "first" for token in tokens):
        return 1
    if all(token.kind == "first" or token.first_strong for token in tokens):
        return 2
    return 4 if any(token.kind == "other" for token in tokens) else 3


CARRIERS = MeasurementRecipe(
    name="massive.tokens",
    summary="Which tokens carry massive activations: the first, delimiters, weak words, or others.",
    sites=("block.out",),
    quantities=(
        QuantitySpec(name="tokens", unit="tokens", meaning="tokens with a massive activation in some layer"),
        QuantitySpec(name="first", meaning="share of these tokens that stand at position 0"),
        QuantitySpec(name="strong_delimiter", meaning="share that are a full stop or a line break"),
        QuantitySpec(name="other_delimiter", meaning="share that are other punctuation or symbols"),
        QuantitySpec(name="weak_word", meaning="share that are a weak word or a single digit"),
        QuantitySpec(name="other", meaning="share of all others"),
        QuantitySpec(name="first_token_only", meaning="1 where all of them stand at position 0, else 0"),
        QuantitySpec(
            name="group",
            meaning="1: position 0 only; 2: and the first strong delimiter; 3: delimiters and weak words; 4: others",
        ),
        QuantitySpec(
            name="tokens_per_sequence", unit="tokens", meaning="such tokens in a sequence that has one, in the mean"
        ),
    ),
    takes_tokens=False,
    modality="text",
    start=_CarriersFold,
)
