"""Named corpora: texts with a fixed protocol of how sequences are cut from them, and pictures."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec
from itertools import islice
from typing import Any

from maprobe.drawings import TEST_IMAGES
from maprobe.errors import InputError
from maprobe.recipes import Corpus

__all__ = ["CORPORA"]

_LOGGERS = ("datasets", "huggingface_hub")
_INSTEAD = "or name a local text with `file` or `jsonl`"


@dataclass(frozen=True, slots=True, kw_only=True)
class _HubText:
    """Which texts of which dataset of the hub are joined to one.

    Attributes:
        corpus: name of the corpus, for messages.
        dataset: the dataset's id on the hub.
        config: its configuration; None for its only one.
        split: its split.
        join: what stands between two texts.
        count: how many texts from the head of the split; None for all of them.
        streamed: whether only the texts taken are fetched. A dataset that is small is fetched whole instead, so that
            it is found in the cache of ``datasets`` where there is no network.
    """

    corpus: str
    dataset: str
    config: str | None = None
    split: str
    join: str
    count: int | None = None
    streamed: bool = False

    def load(self) -> str:
        """Return the joined text.

        Raises:
            InputError: ``datasets`` is missing, the hub cannot be reached, or the dataset is not as expected.
        """
        return _joined(self)

    def read(self) -> str:
        """Fetch the texts and join them."""
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise InputError(
                f"corpus {self.corpus} needs the package `datasets`, which cannot be imported ({error}); install it "
                f"with `pip install 'maprobe[data]'`, {_INSTEAD}"
            ) from None
        try:
            with _hushed():
                rows = load_dataset(self.dataset, self.config, split=self.split, streaming=self.streamed)
                texts = _texts(rows, self.count)
        except Exception as error:
            first = (str(error).strip().splitlines() or ["no message"])[0]
            raise InputError(
                f"corpus {self.corpus} cannot be read: the hub's dataset {self.dataset} ({self.split}) failed with "
                f"{type(error).__name__}: {first}; it takes network and access to the hub: check both, {_INSTEAD}"
            ) from error
        if not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"corpus {self.corpus} cannot be read: the hub's dataset {self.dataset} ({self.split}) has no field "
                f"`text` of texts, as its protocol expects; take it up with the dataset's owner, {_INSTEAD}"
            )
        if len(texts) < (self.count or 1):
            raise InputError(
                f"corpus {self.corpus} cannot be read: the hub's dataset {self.dataset} ({self.split}) holds "
                f"{len(texts)} texts, and its protocol takes {self.count or 'at least 1'}; clear the cache of "
                f"`datasets` and try again, {_INSTEAD}"
            )
        return self.join.join(texts)


@contextmanager
def _hushed() -> Iterator[None]:
    """Drop warnings, which must not fail a session that makes errors of them, and the log lines of each retry."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@cache
def _joined(text: _HubText) -> str:
    return text.read()


def _texts(rows: Iterable[Mapping[str, Any]], count: int | None) -> list[Any]:
    return [row.get("text") for row in islice(rows, count)]


@cache
def _python_docs() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "corpus python-docs cannot be read: this Python comes without the module pydoc_data.topics of the standard "
            "library; install a complete Python, or name a local text with `file`"
        ) from None
    return "\n".join(topics.values())


# Modules of one file each, in every Python that maprobe runs on.
_MODULES = (
    "argparse, bisect, calendar, cmd, configparser, contextlib, csv, dataclasses, difflib, fractions, functools, "
    "heapq, operator, queue, random, shlex, statistics, textwrap, timeit, tokenize"
)


@cache
def _python_source() -> str:
    return "\n".join(map(_source_of, _MODULES.split(", ")))


def _source_of(module: str) -> str:
    # Not imported, and so not run: only the text is wanted.
    spec = find_spec(module)
    loader = spec.loader if spec else None
    text = loader.get_source(module) if isinstance(loader, InspectLoader) else None
    if not text:
        raise InputError(
            f"corpus python-source cannot be read: this Python comes without the source of the module {module} of the "
            f"standard library; install a complete Python, or name a local text with `file`"
        )
    return text


CORPORA: tuple[Corpus, ...] = (
    Corpus(
        name="python-docs",
        summary="the help topics of Python's own documentation, which come with every Python (no network)",
        protocol="the values of pydoc_data.topics.topics in their order, joined by a line break; the text differs "
        "between versions of Python, and the digest tells",
        load=_python_docs,
        sequences=4,
        length=512,
        bos="auto",
    ),
    Corpus(
        name="python-source",
        summary="the source of twenty modules of Python's standard library, which come with every Python (no network)",
        protocol=f"the source of {_MODULES}, joined by a line break; the text differs between versions of "
        f"Python, and the digest tells",
        load=_python_source,
        sequences=4,
        length=512,
        bos="auto",
    ),
    Corpus(
        name="wikitext2-sun",
        summary="the test split of WikiText-2, cut as for the perplexities of arXiv:2402.17762 (hub)",
        protocol="Salesforce/wikitext, wikitext-2-raw-v1, test: all texts joined by two line breaks, no special "
        "tokens, every whole sequence of 4096 tokens (arXiv:2402.17762, lib/load_data.py of its code)",
        load=_HubText(
            corpus="wikitext2-sun",
            dataset="Salesforce/wikitext",
            config="wikitext-2-raw-v1",
            split="test",
            join="\n\n",
        ).load,
        sequences="all",
        length=4096,
        bos="never",
    ),
    Corpus(
        name="c4-sun",
        summary="the first 5000 documents of C4-10k, cut as for the perplexities of arXiv:2402.17762 (hub)",
        protocol="NeelNanda/c4-10k, train: the first 5000 texts joined by a space, the tokenizer's own BOS at the "
        "head of the stream only, the first 100 sequences of 4096 tokens (arXiv:2402.17762, lib/load_data.py of its "
        "code)",
        load=_HubText(
            corpus="c4-sun",
            dataset="NeelNanda/c4-10k",
            split="train",
            join=" ",
            count=5000,
        ).load,
        sequences=100,
        length=4096,
        bos="first",
    ),
    Corpus(
        name="pg19-sun",
        summary="the first five validation books of PG-19, cut as for the perplexities of arXiv:2402.17762 (hub)",
        protocol="emozilla/pg19, validation: the first 5 texts joined by a space, the tokenizer's own BOS at the head "
        "of the stream only, the first 100 sequences of 4096 tokens (arXiv:2402.17762, lib/load_data.py of its code)",
        load=_HubText(
            corpus="pg19-sun",
            dataset="emozilla/pg19",
            split="validation",
            join=" ",
            count=5,
            streamed=True,
        ).load,
        sequences=100,
        length=4096,
        bos="first",
    ),
    TEST_IMAGES,
)
