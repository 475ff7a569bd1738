"""The texts that pruning looks at, and those that its effect is measured on, which it must not have looked at."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from maprobe.cases import InputsRequest
from maprobe.errors import InputError, OptionError, allowed_names, did_you_mean
from maprobe.running.inputs import Inputs, digest_of, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from maprobe.facts import CheckpointFacts
    from maprobe.recipes import Corpus

__all__ = ["CORPUS", "Calibration", "held_out"]

CORPUS = "python-docs"
_LENGTH = 512
_HELD_OUT = (5, 4)  # skipped, taken: the sequences of the shipped probes
_SKIP = 16  # behind every sequence that a shipped probe reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibration inputs as asked for.

    Attributes:
        text: name of a corpus, or path of a text file or a JSONL file with the field ``text``.
        sequences: how many sequences.
        length: tokens in each; None is 512, or as many as the model was made for if those are fewer.
        skip: how many sequences to leave out at the head of the text; None is 16 for python-docs, and 0 for others.
        seed: the sequences are drawn at random from those that follow; None takes the first of them.
    """

    text: str = CORPUS
    sequences: int = 16
    length: int | None = None
    skip: int | None = None
    seed: int | None = None

    def inputs(
        self, tokenizer: PreTrainedTokenizerBase | None, facts: CheckpointFacts, corpora: Mapping[str, Corpus]
    ) -> Inputs:
        """Read, tokenise and cut them.

        Raises:
            OptionError: there is no such corpus or file.
            InputError: they cannot be made, or do not fit the checkpoint.
        """
        request = self._request(facts, corpora)
        if self.seed is None:
            return _texts(request, tokenizer, facts, corpora)
        there = _texts(replace(request, sequences="all"), tokenizer, facts, corpora)
        count = len(there.sequences)
        if count < self.sequences:
            raise InputError(
                f"{self.text} has {count} sequences of {request.length} tokens after {request.skip} skipped ones, and "
                f"--sequences {self.sequences} are to be drawn; lower --sequences, --length or --skip"
            )
        drawn = random.Random(self.seed).sample(range(count), self.sequences)  # noqa: S311 - no secret
        sequences = tuple(there.sequences[number] for number in drawn)
        return replace(
            there,
            sequences=sequences,
            description=f"{self.sequences} of {there.description}, drawn by seed {self.seed}",
            digest=digest_of(sequences),
        )

    def check_apart(self, facts: CheckpointFacts) -> None:
        """Refuse calibration on the text that :func:`held_out` returns.

        Raises:
            OptionError: some of its tokens may be among those calibrated on.
        """
        if self.text != CORPUS:
            return
        first, count = _HELD_OUT
        size, length = _fitting(facts), self.length or _fitting(facts)
        start = self._skip() * length
        end = float("inf") if self.seed is not None else start + self.sequences * length
        if start < (first + count) * size and first * size < end:
            raise OptionError(
                f"--compare measures perplexity on sequences {first + 1} to {first + count} of {CORPUS}, and "
                f"calibration reads some of them; raise --skip to {-(-(first + count) * size // length)} or more, or "
                f"name another text with --calibration"
            )

    def _skip(self) -> int:
        if self.skip is not None:
            return self.skip
        return _SKIP if self.text == CORPUS else 0

    def _request(self, facts: CheckpointFacts, corpora: Mapping[str, Corpus]) -> InputsRequest:
        request = InputsRequest(
            value=(self.text,),
            sequences=self.sequences,
            length=self.length or _fitting(facts),
            skip=self._skip(),
            folder=str(Path.cwd()),
        )
        texts = {name: corpus for name, corpus in corpora.items() if corpus.modality == "text"}
        if self.text in texts:
            return request
        path = Path(self.text)
        if not path.is_file():
            raise OptionError(
                f"--calibration {self.text!r} is no corpus of texts and no file{did_you_mean(self.text, texts)}; "
                f"allowed: a text file, a JSONL file with the field `text`, or a corpus ({allowed_names(texts)})"
            )
        return replace(request, source="jsonl" if path.suffix == ".jsonl" else "file")


def held_out(
    tokenizer: PreTrainedTokenizerBase | None, facts: CheckpointFacts, corpora: Mapping[str, Corpus]
) -> Inputs:
    """Return the inputs that perplexity is compared on: those of the shipped probes, 4 x 512 tokens of python-docs.

    Where the model was made for shorter sequences, they are as long as it can take.

    Raises:
        InputError: they cannot be made, or do not fit the checkpoint.
    """
    skip, count = _HELD_OUT
    request = InputsRequest(value=(CORPUS,), sequences=count, length=_fitting(facts), skip=skip)
    return _texts(request, tokenizer, facts, corpora)


def _fitting(facts: CheckpointFacts) -> int:
    limit = int(facts["max_position_embeddings"] or 0)
    return min(_LENGTH, limit) if limit > 0 else _LENGTH


def _texts(
    request: InputsRequest,
    tokenizer: PreTrainedTokenizerBase | None,
    facts: CheckpointFacts,
    corpora: Mapping[str, Corpus],
) -> Inputs:
    inputs = prepare(request, tokenizer, facts, corpora)
    assert isinstance(inputs, Inputs), "texts were asked for"
    return inputs
