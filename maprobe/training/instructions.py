"""Instructions with their responses: read from JSON lines, a tenth held out, made into token ids to learn from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from maprobe.errors import InputError
from maprobe.running.tokens import Vocabulary, frame
from maprobe.training.texts import IGNORED

__all__ = ["OWN", "Example", "Instruction", "Instructions", "batch_of", "encoded", "read_instructions"]

OWN = Path(__file__).parent / "data" / "instructions.jsonl"

_FIELDS = ("instruction", "response")
_EVERY = 10  # one of so many is held out
_PROMPT = "Instruction: {}\nResponse:"

Example = tuple[tuple[int, ...], tuple[int, ...]]  # ids, and the targets among them; elsewhere IGNORED


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """An instruction, the response to learn, and where both are from, in words that a message can start with."""

    instruction: str
    response: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """What is learned from and what is held out, with the digest of the file that both are from."""

    train: tuple[Instruction, ...]
    held_out: tuple[Instruction, ...]
    name: str
    sha256: str


def read_instructions(path: Path | None) -> Instructions:
    """Read a file of JSON objects, one a line, with texts as ``instruction`` and ``response``; every tenth is held out.

    Args:
        path: the file; None for the one that comes with maprobe.

    Raises:
        InputError: the file cannot be read, a line is not such an object, or there are fewer than ten.
    """
    file = OWN if path is None else path
    name = "the instructions of maprobe" if path is None else f"--data {path}"
    try:
        raw = file.read_bytes()
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{name} is not text in UTF-8; convert it, or name another file") from None
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}; name a file of JSON lines") from None
    items = [_read(line, f"{name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if len(items) < _EVERY:
        raise InputError(
            f"{name} holds {len(items)} instructions, of which every {_EVERY}th is held out; name at least {_EVERY}"
        )
    return Instructions(
        train=tuple(item for number, item in enumerate(items, 1) if number % _EVERY),
        held_out=tuple(item for number, item in enumerate(items, 1) if not number % _EVERY),
        name="maprobe" if path is None else str(path),
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def encoded(item: Instruction, vocabulary: Vocabulary, *, end: int | None, length: int) -> Example:
    """Return an instruction with its response as token ids, and the targets: the response and the end of the text.

    What the tokenizer puts before every text by itself stands before it, its end-of-text token after it.

    Args:
        item: the instruction.
        vocabulary: the tokenizer.
        end: id of the token that ends a text; None where there is none.
        length: the most tokens; the rest is left out.

    Raises:
        InputError: nothing of the response is left within the length, or the text cannot be tokenised.
    """
    prompt = _PROMPT.format(item.instruction)
    around = frame("auto", vocabulary, prompt, item.place, stream=False)
    before = (*around.prefix, *vocabulary.encode(prompt, item.place))
    response = (*vocabulary.encode(f" {item.response}", item.place), *(() if end is None else (end,)))
    if len(before) >= length:
        raise InputError(
            f"{item.place}: the instruction takes {len(before)} tokens, and --length {length} leaves none to the "
            f"response; raise --length, or shorten the instruction"
        )
    ids = (*before, *response)[:length]
    return ids, (*[IGNORED] * len(before), *response)[:length]


def batch_of(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Return examples as one batch: filled up at the right with what is neither attended to nor learned."""
    longest = max(len(ids) for ids, _ in examples)
    rows = [(ids, targets, longest - len(ids)) for ids, targets in examples]
    return {
        "input_ids": torch.tensor([[*ids, *[0] * rest] for ids, _, rest in rows]),
        "attention_mask": torch.tensor([[*[1] * len(ids), *[0] * rest] for ids, _, rest in rows]),
        "labels": torch.tensor([[*targets, *[IGNORED] * rest] for _, targets, rest in rows]),
    }


def _read(line: str, place: str) -> Instruction:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place} is not JSON ({error}); write one JSON object on each line") from None
    if not isinstance(record, dict):
        raise InputError(f'{place} is no JSON object; write {{"instruction": ..., "response": ...}}')
    for field in _FIELDS:
        if field not in record:
            raise InputError(
                f"{place} has no field `{field}` (it has {', '.join(map(str, record)) or 'none'}); each line needs "
                f"`instruction` and `response`"
            )
        if not isinstance(record[field], str) or not record[field].strip():
            raise InputError(f"{place}: `{field}` is not a text; write one between quotes that is not empty")
    return Instruction(instruction=record["instruction"], response=record["response"], place=place)
