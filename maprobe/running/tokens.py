"""Texts to token ids and back: what a tokenizer adds by itself, and what a BOS policy makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maprobe.cases import BosPolicy
from maprobe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

__all__ = ["Frame", "Vocabulary", "frame"]

Ids = tuple[int, ...]

_DELIMITERS = frozenset((".", ",", "'"))
_NEUTRAL = "a"
_SAMPLE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The special tokens around each sequence, or at the head of a stream before it is cut.

    Attributes:
        prefix: ids before the text.
        suffix: ids after it.
        bos: the id that must not stand twice where the text itself starts with it; None where nothing is dropped.
        head: whether the prefix goes to the head of the stream, and to no later sequence.
        told: what was added, in words.
    """

    prefix: Ids = ()
    suffix: Ids = ()
    bos: int | None = None
    head: bool = False
    told: str = "none added"


class Vocabulary:
    """A tokenizer as inputs need it. The texts of single tokens are remembered for those that were asked for.

    Attributes:
        label: the checkpoint's label, for messages.
        bos: id of the beginning-of-sequence token, or of ``[CLS]`` where there is none; None without either.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, label: str) -> None:
        self.label = label
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._delimiters: dict[int, bool] = {}
        # Not tokenizer.bos_token_id: where it is not set, some versions write an error to the log.
        named: Mapping[str, object] = tokenizer.special_tokens_map
        token = named.get("bos_token") or named.get("cls_token")
        self.bos = None if token is None else _id_of(str(token), tokenizer)

    def encode(self, text: str, place: str, *, special: bool = False) -> list[int]:
        """Return the token ids of a text, by one call of the tokenizer.

        Args:
            text: the text, of any length.
            place: where it is from, for messages.
            special: whether the tokenizer adds the special tokens that it adds by itself.

        Raises:
            InputError: the tokenizer fails.
        """
        try:
            # `verbose` would log that a stream is longer than the model takes; it is cut before the model sees it.
            encoded = self._tokenizer(
                text, add_special_tokens=special, padding=False, truncation=False, return_tensors=None, verbose=False
            )
        except Exception as error:
            first = (str(error).strip().splitlines() or ["no message"])[0]
            raise InputError(
                f"{place} cannot be tokenised: the tokenizer of {self.label} failed with {type(error).__name__}: "
                f"{first}; try another text, to see which of the two is at fault"
            ) from error
        return [int(token) for token in encoded["input_ids"]]

    def own_frame(self, text: str, place: str) -> tuple[Ids, Ids]:
        """Return the special tokens that the tokenizer by itself puts before and after every text.

        They are found by comparing the ids of one text with and without them, which every kind of tokenizer allows.
        A short text without special tokens of its own is tried first, then ``text``.

        Raises:
            InputError: the tokenizer puts special tokens within the text.
        """
        for sample in (_NEUTRAL, text[:_SAMPLE], text):
            try:
                bare = self.encode(sample, place)
            except InputError:
                if sample == text:
                    raise
                continue  # a small vocabulary may have no letters; what matters is that it takes the text
            if bare:
                break
        else:
            raise InputError(f"{place} is empty: it holds no token; write a text, or leave it out")
        full = self.encode(sample, place, special=True)
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start]), tuple(full[start + len(bare) :])
        raise InputError(
            f"the tokenizer of {self.label} does not add its special tokens before and after the text, so it cannot "
            f"be told what it would add to a sequence; write `bos: never`"
        )

    def text(self, token: int) -> str:
        """Return the text of one token id, as decoded by itself."""
        if token not in self._texts:
            self._texts[token] = str(self._tokenizer.decode([token]))
        return self._texts[token]

    def is_delimiter(self, token: int) -> bool:
        """Return whether a token reads as ``.``, ``,``, ``'`` or line breaks, once white space around it is gone."""
        if token not in self._delimiters:
            # Decoded here rather than by text(), which would keep a text for every token that is asked about.
            text = self._texts.get(token) or str(self._tokenizer.decode([token]))
            bare = text.strip()
            self._delimiters[token] = bare in _DELIMITERS or (not bare and ("\n" in text or "\r" in text))
        return self._delimiters[token]

    def names(self, tokens: Ids) -> str:
        """Return the names of special tokens, such as ``[CLS]``."""
        return " ".join(str(token) for token in self._tokenizer.convert_ids_to_tokens(list(tokens)))


def _id_of(token: str, tokenizer: PreTrainedTokenizerBase) -> int | None:
    found = tokenizer.convert_tokens_to_ids(token)
    # A token that is named but not in the vocabulary has the id of the unknown token.
    return found if isinstance(found, int) and tokenizer.convert_ids_to_tokens(found) == token else None


def frame(policy: BosPolicy, vocabulary: Vocabulary, text: str, place: str, *, stream: bool) -> Frame:
    """Return the special tokens that a BOS policy puts around sequences.

    Args:
        policy: the policy.
        vocabulary: the tokenizer.
        text: a text of the inputs, by which the tokenizer's own special tokens are found.
        place: where it is from, for messages.
        stream: whether the text will be cut into several sequences.

    Raises:
        InputError: BOS is required and the tokenizer has none, or its own special tokens cannot be told.
    """
    if policy == "never":
        return Frame()
    if policy == "require" and vocabulary.bos is None:
        raise InputError(
            f"`bos: require` cannot be met: the tokenizer of {vocabulary.label} has no beginning-of-sequence token; "
            f"write `bos: auto`, or restrict the probe with `when: {{has_bos: true}}`"
        )
    prefix, suffix = vocabulary.own_frame(text, place)
    if policy == "first":
        told = f"{vocabulary.names(prefix)} at the start of {'the stream' if stream else 'each'}"
        return Frame(prefix=prefix, head=True, told=told) if prefix else Frame(head=True)
    if policy == "require" and vocabulary.bos is not None and prefix[:1] != (vocabulary.bos,):
        prefix = (vocabulary.bos, *prefix)
    ends = ((prefix, "at the start"), (suffix, "at the end"))
    added = " and ".join(f"{vocabulary.names(tokens)} {where}" for tokens, where in ends if tokens)
    return Frame(
        prefix=prefix,
        suffix=suffix,
        bos=vocabulary.bos if policy == "require" else None,
        told=f"{added} of each" if added else "none added",
    )
