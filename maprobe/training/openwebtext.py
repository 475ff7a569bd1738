"""OpenWebText as token ids on disk, made once from the hub's copy with GPT-2's tokenizer."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from maprobe.errors import InputError
from maprobe.training.texts import END, Data

__all__ = ["openwebtext"]

DATASET = "Skylion007/openwebtext"
TOKENIZER = "openai-community/gpt2"
_INSTEAD = (
    "it takes network and access to the hub (54 GB), and the package `datasets` (`pip install 'maprobe[data]'`); train "
    "on text of your own with --text, or with --recipe small"
)
_HELD_OUT = 2000  # one document of so many is held out, as many as in nanoGPT's split
_DOCUMENTS = 1000  # tokenised at a time
_TOLD = 100_000  # documents between two lines of progress


def openwebtext(cache: Path) -> Data:
    """Return OpenWebText's token ids; documents end with GPT-2's end of text, and every 2000th is held out.

    Args:
        cache: folder that the ids are kept in, 18 GB.

    Raises:
        InputError: the dataset or the tokenizer cannot be had, or the folder cannot be written.
    """
    folder = cache / "tokens" / "openwebtext"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(TOKENIZER)
        if not folder.is_dir():
            _make(folder, tokenizer)
        note = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
        train, held_out = (
            numpy.memmap(folder / f"{part}.bin", dtype=numpy.uint16, mode="r") for part in ("train", "held-out")
        )
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise InputError(
            f"OpenWebText cannot be had from the hub ({DATASET}) with GPT-2's tokenizer: {type(error).__name__}: "
            f"{first}; {_INSTEAD}"
        ) from error
    return Data(train=train, held_out=held_out, tokenizer=tokenizer, name="openwebtext", sha256=note["train"])


def _make(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    from datasets import load_dataset

    rows = load_dataset(DATASET, split="train")
    beside = folder.with_name(".writing-openwebtext")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    digests = {part: hashlib.sha256() for part in ("train", "held-out")}
    end = tokenizer.convert_tokens_to_ids(END)
    with (beside / "train.bin").open("wb") as train, (beside / "held-out.bin").open("wb") as held_out:
        files = {"train": train, "held-out": held_out}
        number = 0
        for texts in _grouped(rows):
            for ids in tokenizer(texts, verbose=False)["input_ids"]:
                part = "held-out" if number % _HELD_OUT == 0 else "train"
                raw = numpy.array([*ids, end], dtype=numpy.uint16).tobytes()
                files[part].write(raw)
                digests[part].update(raw)
                number += 1
                if number % _TOLD == 0:
                    sys.stderr.write(f"tokenised {number} documents\n")
    note = {part: digest.hexdigest() for part, digest in digests.items()}
    (beside / "digests.json").write_text(json.dumps(note), encoding="utf-8")
    beside.replace(folder)


def _grouped(rows: Iterable[Any]) -> Iterator[list[str]]:
    group: list[str] = []
    for row in rows:
        group.append(row["text"])
        if len(group) == _DOCUMENTS:
            yield group
            group = []
    if group:
        yield group
