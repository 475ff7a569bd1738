"""From a text to token ids, a part of it held out, and from there to the batches of a step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from maprobe.corpora import CORPORA
from maprobe.errors import InputError

__all__ = ["END", "SINK", "Data", "Tokens", "batch_of", "byte_level", "read_texts", "split", "tokenised", "with_sink"]

END = "<|endoftext|>"
SINK = "<|sink|>"
_HELD_OUT = 0.1  # of the text, at its end
_LETTERS = 256  # bytes, of which a byte-level vocabulary has one entry each
IGNORED = -100  # a target that no loss is taken of, as torch has it

Tokens = Any  # a numpy array of token ids, in memory or on disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Token ids to learn from and token ids held out, with what they came from.

    Attributes:
        train: ids to learn from, shape (tokens,).
        held_out: ids that nothing is learned from.
        tokenizer: without a sink token.
        name: where the text is from.
        sha256: its digest.
    """

    train: Tokens
    held_out: Tokens
    tokenizer: PreTrainedTokenizerFast
    name: str
    sha256: str

    @property
    def end(self) -> int:
        """Id of the token that ends a document."""
        number = self.tokenizer.convert_tokens_to_ids(END)
        assert isinstance(number, int), "one token has one id"
        return number


def read_texts(paths: Sequence[Path]) -> tuple[str, str]:
    """Return a text and its name: the files joined by line breaks, or python-docs where none is named.

    Raises:
        InputError: a file cannot be read as UTF-8.
    """
    if not paths:
        corpus = next(corpus for corpus in CORPORA if corpus.name == "python-docs")
        text = corpus.load()
        assert isinstance(text, str), "it is a corpus of texts"
        return text, corpus.name
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"--text {path} is not text in UTF-8; convert it, or name another file") from None
        except OSError as error:
            raise InputError(f"--text {path} cannot be read: {error.strerror or error}; name a text file") from None
    return "\n".join(texts), ", ".join(str(path) for path in paths)


def split(text: str) -> tuple[str, str]:
    """Return the part to learn from and the part held out, which is the last tenth."""
    cut = len(text) - round(len(text) * _HELD_OUT)
    return text[:cut], text[cut:]


def byte_level(text: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on a text; it adds no special token by itself.

    Raises:
        InputError: the text is too short to fill the vocabulary.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text], trainer)
    if backend.get_vocab_size() != vocabulary:
        raise InputError(
            f"the text has pieces for {backend.get_vocab_size()} entries of a vocabulary, and {vocabulary} are asked "
            f"for; lower --vocabulary, or name more text with --text"
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def with_sink(tokenizer: PreTrainedTokenizerFast, number: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one entry more, the sink token, which it puts before every text as its BOS token.

    Args:
        tokenizer: without it.
        number: the id that the sink gets; entries between are named and never used.
    """
    backend = Tokenizer.from_str(cast("Any", tokenizer).backend_tokenizer.to_str())
    unused = [f"<|unused-{id_}|>" for id_ in range(backend.get_vocab_size(), number)]
    backend.add_special_tokens([*unused, SINK])
    backend.post_processor = processors.TemplateProcessing(single=f"{SINK} $A", special_tokens=[(SINK, number)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=SINK, eos_token=END)


def tokenised(text: str, name: str, vocabulary: int) -> Data:
    """Return a text as data, with a tokenizer trained on the part to learn from.

    Raises:
        InputError: the text is too short.
    """
    train, held_out = split(text)
    tokenizer = byte_level(train, vocabulary)

    def ids(part: str) -> Tokens:
        return numpy.array(tokenizer(part, verbose=False)["input_ids"], dtype=numpy.uint16)

    digest = hashlib.sha256(text.encode()).hexdigest()
    return Data(train=ids(train), held_out=ids(held_out), tokenizer=tokenizer, name=name, sha256=digest)


def batch_of(
    tokens: Tokens, starts: Sequence[int], block: int, sink: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids of some sequences and the id that follows each, shape (sequences, block).

    Args:
        tokens: the ids of a text.
        starts: where in them each sequence begins.
        block: tokens in a sequence.
        sink: id of the sink token, which is put before each sequence; nothing is to be predicted at its place.
    """
    rows = torch.from_numpy(numpy.stack([tokens[start : start + block + 1] for start in starts]).astype(numpy.int64))
    ids, targets = rows[:, :-1], rows[:, 1:]
    if sink is None:
        return ids, targets
    column = torch.ones_like(ids[:, :1])
    return torch.cat((column * sink, ids), dim=1), torch.cat((column * IGNORED, targets), dim=1)
