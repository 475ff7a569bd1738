"""Sequences of token ids: their digest, their lengths, and whether a checkpoint takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from maprobe.errors import InputError

if TYPE_CHECKING:
    from maprobe.facts import CheckpointFacts
    from maprobe.running.tokens import Ids

__all__ = ["check_ids", "check_length", "digest_of", "in_lengths"]


def digest_of(sequences: Iterable[Sequence[int]]) -> str:
    """Return the sha256 of the ids in decimal, one line a sequence, set apart by one space, each line ended by LF."""
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(f"{' '.join(map(str, sequence))}\n".encode("ascii"))
    return digest.hexdigest()


def check_length(length: int, facts: CheckpointFacts, hint: str = "") -> None:
    """Refuse a sequence that is longer than the checkpoint was made for.

    Raises:
        InputError: it is.
    """
    limit = int(facts["max_position_embeddings"] or 0)
    if 0 < limit < length:
        raise InputError(
            f"a sequence of {length} tokens is longer than {facts.label} was made for (max_position_embeddings: "
            f"{limit}); {hint or f'write `length: {limit}` or less'}"
        )


def check_ids(sequences: Iterable[Ids], facts: CheckpointFacts) -> None:
    """Refuse ids for which the embedding of the checkpoint has no row.

    Raises:
        InputError: there is one.
    """
    rows = int(facts["vocab_size"] or 0)
    highest = max(map(max, sequences))
    if 0 < rows <= highest:
        raise InputError(
            f"token id {highest} has no row in the embedding of {facts.label} (vocab_size: {rows}), so the tokenizer "
            f"does not belong to the model; give it the tokenizer that it was trained with"
        )


def in_lengths(sequences: Sequence[Ids]) -> str:
    """Return the lengths of sequences in words."""
    shortest, longest = min(map(len, sequences)), max(map(len, sequences))
    lengths = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    return f"{lengths} token{'s' if longest > 1 else ''}"
