"""From the inputs a probe asks for to sequences of token ids, and to the batches that a model is called on.

Nothing is padded: sequences of unequal length never share a batch. See docs/inputs.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from maprobe.errors import InputError
from maprobe.running.choices import read_questions, sequences_of
from maprobe.running.cutting import cut_each, cut_stream
from maprobe.running.image_inputs import ImageBatch, ImageInputs, prepare_images
from maprobe.running.masks import at_positions
from maprobe.running.mixtures import described_domains, read_pairs, requests_of
from maprobe.running.own_inputs import InputSets, OwnBatch, OwnInputs, prepare_own
from maprobe.running.sequences import check_ids, check_length, digest_of, in_lengths
from maprobe.running.texts import Texts, read_texts
from maprobe.running.tokens import Ids, Vocabulary, frame

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from maprobe.cases import InputsRequest
    from maprobe.facts import CheckpointFacts
    from maprobe.recipes import Choice, Corpus, GradedPair
    from maprobe.running.images import ImageReader
    from maprobe.sites import TokenSet

__all__ = ["AnyInputs", "Inputs", "TokenBatch", "batches", "count_batches", "digest_of", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Sequences of token ids, ready to be run, and what is recorded of them.

    Attributes:
        sequences: the token ids of each sequence, special tokens included.
        description: the inputs in words, for example ``"4 x 512 tokens of python-docs"``.
        digest: sha256 of the sequences; see :func:`digest_of`.
        bos: the BOS policy and what it did, for example ``"auto: none added"``.
        vocabulary: the tokenizer that made them.
        choices: the options that the sequences predict, where they are multiple-choice questions; else empty.
        groups: the domain of each sequence, where they are of several; else empty.
        pairs: which sequences belong together, where they are graded pairs; else empty.
    """

    sequences: tuple[Ids, ...] = field(repr=False)
    description: str
    digest: str
    bos: str
    vocabulary: Vocabulary = field(repr=False, compare=False)
    choices: tuple[Choice, ...] = field(default=(), repr=False)
    groups: tuple[str, ...] = field(default=(), repr=False)
    pairs: tuple[GradedPair, ...] = field(default=(), repr=False)

    @property
    def labels(self) -> tuple[int, ...]:
        """Texts have no class."""
        return ()

    @property
    def alike(self) -> tuple[int, ...]:
        """For each sequence, what those that may share a batch have in common: the number of tokens."""
        return tuple(map(len, self.sequences))

    @property
    def tokens(self) -> int:
        """Number of tokens in all sequences."""
        return sum(map(len, self.sequences))

    @property
    def length(self) -> int:
        """Number of tokens of the longest sequence."""
        return max(map(len, self.sequences))

    def batch(self, numbers: tuple[int, ...], device: torch.device) -> TokenBatch:
        """Return the batch of the sequences of these numbers, which are of one length."""
        rows = tuple(self.sequences[number] for number in numbers)
        ids = torch.tensor(rows, dtype=torch.long).to(device)
        return TokenBatch(sequences=numbers, ids=ids, rows=rows, vocabulary=self.vocabulary)


AnyInputs = Inputs | ImageInputs | OwnInputs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """The sequences that one forward call carries; the ``Batch`` that folds are shown.

    Attributes:
        sequences: their numbers within the inputs, from 0.
        ids: token ids, shape (sequences, tokens), on the device of the model.
        rows: the same ids as plain numbers, so that reading one does not wait for the device.
        vocabulary: the tokenizer.
    """

    sequences: tuple[int, ...]
    ids: torch.Tensor
    rows: tuple[Ids, ...]
    vocabulary: Vocabulary
    _masks: dict[TokenSet, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def given(self) -> torch.Tensor:
        """What the model is called on: the ids."""
        return self.ids

    @property
    def shape(self) -> tuple[int, int]:
        """Number of sequences, and of tokens in each."""
        return len(self.rows), len(self.rows[0])

    def mask(self, tokens: TokenSet) -> torch.Tensor:
        """Return which tokens belong to the set: bool, shape (sequences, tokens), not to be changed.

        Raises:
            MeasurementError: a position lies outside the sequences.
        """
        if tokens not in self._masks:
            self._masks[tokens] = self._mask(tokens)
        return self._masks[tokens]

    def text(self, row: int, position: int) -> str:
        """Return the text of one token of the batch, decoded by itself."""
        return self.vocabulary.text(self.rows[row][position])

    def _mask(self, tokens: TokenSet) -> torch.Tensor:
        if tokens.kind == "all":
            return torch.ones_like(self.ids, dtype=torch.bool)
        if tokens.kind == "delimiter":
            hits = [[self.vocabulary.is_delimiter(token) for token in row] for row in self.rows]
            return torch.tensor(hits, dtype=torch.bool).to(self.ids.device)
        if tokens.kind == "bos" and self.vocabulary.bos is not None:
            return self.ids == self.vocabulary.bos
        positions = (0,) if tokens.kind == "first" else tokens.positions  # none for what only images have
        return at_positions(positions, self.shape, self.ids.device, sequence=self.sequences[0])


def prepare(
    request: InputsRequest,
    tokenizer: PreTrainedTokenizerBase | None,
    facts: CheckpointFacts,
    corpora: Mapping[str, Corpus],
    reader: ImageReader | None = None,
    own: InputSets | None = None,
) -> AnyInputs:
    """Read the inputs that a probe asks for, and tokenise and cut its texts, or process its images.

    Args:
        request: the inputs as asked for.
        tokenizer: the checkpoint's tokenizer.
        facts: the checkpoint's facts, which bound the length of a sequence and the ids.
        corpora: the registered corpora.
        reader: the checkpoint's way with images; None for a model of texts.
        own: inputs that the checkpoint brings itself.

    Raises:
        InputError: they cannot be made, or do not fit the checkpoint.
    """
    if request.source == "own":
        return prepare_own(request, own or {}, facts)
    named = corpora.get(request.value[0]) if request.source == "corpus" else None
    if request.source == "images" or (named is not None and named.modality == "image"):
        return prepare_images(request, reader, facts, corpora)
    return _prepare_texts(request, tokenizer, facts, corpora)


def _prepare_texts(
    request: InputsRequest,
    tokenizer: PreTrainedTokenizerBase | None,
    facts: CheckpointFacts,
    corpora: Mapping[str, Corpus],
) -> Inputs:
    if request.source == "domains":
        parts = {name: _prepare_texts(one, tokenizer, facts, corpora) for name, one in requests_of(request)}
        return _mixed(parts)
    if tokenizer is None:
        raise InputError(
            f"{facts.label} has no tokenizer, so no text can be made into tokens; put the files of its tokenizer "
            f"beside its weights, or pass the tokenizer"
        )
    vocabulary = Vocabulary(tokenizer, facts.label)
    if request.source == "token":
        return _token(vocabulary, facts)
    if request.source == "choices":
        return _questions(request, vocabulary, facts)
    if request.source == "pairs":
        read, pairs = read_pairs(request)
        found = _of_texts(read, 0, vocabulary, facts)
        count = f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} of {request.value[0]}"
        return replace(found, description=f"{count}, {in_lengths(found.sequences)} each", pairs=pairs)
    return _of_texts(read_texts(request, corpora), request.skip, vocabulary, facts)


def _of_texts(texts: Texts, skip: int, vocabulary: Vocabulary, facts: CheckpointFacts) -> Inputs:
    if texts.length is not None:
        check_length(texts.length, facts)
    first = texts.passages[min(skip, len(texts.passages) - 1)]
    around = frame(texts.bos, vocabulary, first.text, first.place, stream=texts.stream)
    cut = cut_stream if texts.stream else cut_each
    sequences = tuple(cut(texts, skip, vocabulary, around))
    check_length(max(map(len, sequences)), facts)
    check_ids(sequences, facts)
    lost = ", in a skipped sequence" if around.head and around.prefix and texts.stream and skip else ""
    return Inputs(
        sequences=sequences,
        description=_described(texts, sequences, skip),
        digest=digest_of(sequences),
        bos=f"{texts.bos}: {around.told}{lost}",
        vocabulary=vocabulary,
    )


def _token(vocabulary: Vocabulary, facts: CheckpointFacts) -> Inputs:
    """Return one sequence of the beginning-of-sequence token alone."""
    if vocabulary.bos is None:
        raise InputError(
            f"the tokenizer of {vocabulary.label} has no beginning-of-sequence token, which was to be run alone; name "
            f"a text, or restrict the probe with `when: {{has_bos: true}}`"
        )
    sequences = ((vocabulary.bos,),)
    check_ids(sequences, facts)
    name = vocabulary.names(sequences[0])
    return Inputs(
        sequences=sequences,
        description=f"{name} alone",
        digest=digest_of(sequences),
        bos=f"{name}, and nothing else",
        vocabulary=vocabulary,
    )


def _mixed(parts: Mapping[str, Inputs]) -> Inputs:
    """Return the sequences of several domains one after the other."""
    sequences = tuple(sequence for part in parts.values() for sequence in part.sequences)
    return Inputs(
        sequences=sequences,
        description=described_domains({name: part.description for name, part in parts.items()}),
        digest=digest_of(sequences),
        bos="; ".join(dict.fromkeys(part.bos for part in parts.values())),
        vocabulary=next(iter(parts.values())).vocabulary,
        groups=tuple(name for name, part in parts.items() for _ in part.sequences),
    )


def _questions(request: InputsRequest, vocabulary: Vocabulary, facts: CheckpointFacts) -> Inputs:
    questions, policy = read_questions(request), request.bos or "auto"
    first = questions[0]
    around = frame(policy, vocabulary, first.contexts[0] + first.options[0], first.place, stream=False)
    if around.suffix:  # it would follow what a sequence is cut short of
        told = f"{vocabulary.names(around.prefix)} at the start of each" if around.prefix else "none added"
        around = replace(around, suffix=(), told=told)
    sequences, choices = sequences_of(questions, vocabulary, around)
    check_length(max(map(len, sequences)), facts, hint="leave out the longest question")
    check_ids((*sequences, *(choice.ids for choice in choices)), facts)
    count = f"{len(questions)} question{'' if len(questions) == 1 else 's'} of {request.value[0]}"
    described = f"{count}, {len(choices)} options in {len(sequences)} x {in_lengths(sequences)}"
    return Inputs(
        sequences=sequences,
        description=f"{described} (skipping {request.skip})" if request.skip else described,
        digest=digest_of(sequences),
        bos=f"{policy}: {around.told}",
        vocabulary=vocabulary,
        choices=choices,
    )


def count_batches(inputs: AnyInputs, size: int) -> int:
    """Return how many batches of at most ``size`` sequences the inputs make."""
    return sum(1 for _ in _groups(inputs, size))


def batches(inputs: AnyInputs, *, size: int, device: torch.device) -> Iterator[TokenBatch | ImageBatch | OwnBatch]:
    """Yield the inputs in batches of at most ``size`` sequences, in their order.

    Neighbours of one length share a batch (images of one size); a sequence of another length starts a new one, so that
    nothing is padded and folds see the sequences in the order in which they were asked for.
    """
    for numbers in _groups(inputs, size):
        yield inputs.batch(numbers, device)


def _groups(inputs: AnyInputs, size: int) -> Iterator[tuple[int, ...]]:
    if size < 1:
        raise InputError(f"batches of {size} sequences cannot be made; allowed: 1 or more")
    alike = inputs.alike
    for _, group in groupby(range(len(alike)), key=lambda number: alike[number]):
        same = tuple(group)
        for start in range(0, len(same), size):
            yield same[start : start + size]


def _described(texts: Texts, sequences: Sequence[Ids], skip: int) -> str:
    tokens = in_lengths(sequences)
    count = len(sequences)
    if texts.name:
        described = f"{count} x {tokens} of {texts.name}"
    else:
        described = f"{count} text{'s' if count > 1 else ''} of {tokens}"
    return f"{described} (skipping {skip})" if skip else described
