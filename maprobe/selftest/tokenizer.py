"""A tokenizer made in memory: a fixed set of whole words, and single bytes for all else."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

__all__ = ["BOS", "make_tokenizer", "pieces"]

BOS = "<s>"
_EOS = "</s>"


def pieces(text: str) -> list[str]:
    """Return the words of a text in byte-level spelling, each with the space before it."""
    return [piece for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)]


def make_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows words, given as :func:`pieces`, and spells all else byte by byte.

    It has a beginning-of-sequence token and does not add it by itself.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys((BOS, _EOS, *alphabet, *words))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    # `ignore_merges` takes a word of the vocabulary whole, so that no merges have to be made up.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=_EOS
    )
