"""The texts that inputs are made of: written out, in files, or of a named corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maprobe.cases import BosPolicy, InputsRequest
from maprobe.errors import InputError, MaprobeError, allowed_names, did_you_mean
from maprobe.recipes import Corpus, Picture

__all__ = [
    "LINE_JOIN",
    "Passage",
    "Texts",
    "check_characters",
    "check_numbers",
    "json_lines",
    "load_corpus",
    "read_texts",
]

# Between the texts of a JSONL file that are cut as one stream; the papers join documents in the same way.
LINE_JOIN = "\n\n"

_FIELDS_TOLD = 8
_NAMES_TRIED = 10_000


@dataclass(frozen=True, slots=True)
class Passage:
    """One text, and where it is from, in words that a message can start with."""

    text: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a request names, with the source's own protocol filled in where the request leaves it open.

    Attributes:
        name: the source in descriptions; empty for texts written out in the probe file.
        passages: the texts, at least one.
        stream: whether the one passage is tokenised as a whole and cut into consecutive sequences; otherwise each
            passage is a sequence.
        sequences: how many sequences.
        length: tokens in each; None leaves each passage whole.
        bos: the BOS policy.
    """

    name: str
    passages: tuple[Passage, ...]
    stream: bool
    sequences: int | Literal["all"]
    length: int | None
    bos: BosPolicy


def read_texts(request: InputsRequest, corpora: Mapping[str, Corpus]) -> Texts:
    """Read the texts that a request names.

    Raises:
        InputError: a file or corpus cannot be read, or a number of the request is out of range.
    """
    check_numbers(request)
    if request.source == "corpus":
        return _corpus(request, corpora)
    if request.source == "text":
        name = ""
        passages = [Passage(text, f"text {number}") for number, text in enumerate(request.value, 1)]
    elif request.source == "file":
        name = request.value[0]
        passages = [Passage(_read(request), f"text file {name}")]
    else:
        name = request.value[0]
        passages = list(_texts_of_lines(request))
    if not passages:
        raise InputError(f"{name or 'the list of texts'} holds no text; allowed: at least one")
    for passage in passages:
        check_characters(passage)
    stream = request.length is not None and request.source != "text"
    if stream and len(passages) > 1:
        passages = [Passage(LINE_JOIN.join(passage.text for passage in passages), f"JSONL file {name}")]
    return Texts(
        name=name,
        passages=tuple(passages),
        stream=stream,
        sequences="all" if request.sequences is None else request.sequences,
        length=request.length,
        bos=request.bos or "auto",
    )


def check_numbers(request: InputsRequest) -> None:
    """Refuse numbers that are out of range, which only requests made in Python can hold.

    Raises:
        InputError: one of them is.
    """
    numbers = (("length", request.length, 1), ("sequences", request.sequences, 1), ("skip", request.skip, 0))
    for name, number, least in numbers:
        if isinstance(number, int) and number < least:
            raise InputError(f"`{name}: {number}` is not allowed for inputs; allowed: {least} or more")


def check_characters(passage: Passage) -> None:
    """Refuse a text that no tokenizer reads.

    Raises:
        InputError: it holds half a surrogate pair.
    """
    try:
        passage.text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{passage.place} holds half a surrogate pair at character {error.start}, which no tokenizer reads; "
            f"write the whole character"
        ) from None


def _corpus(request: InputsRequest, corpora: Mapping[str, Corpus]) -> Texts:
    name = request.value[0]
    if name not in corpora:
        raise InputError(f"no corpus is named {name!r}{did_you_mean(name, corpora)}; allowed: {allowed_names(corpora)}")
    corpus = corpora[name]
    text = load_corpus(corpus)
    if not isinstance(text, str):
        raise InputError(
            f"corpus {name} cannot be read: its load function returned {type(text).__name__}; allowed: a str"
        )
    passage = Passage(text, f"corpus {name}")
    check_characters(passage)
    return Texts(
        name=name,
        passages=(passage,),
        stream=True,
        sequences=corpus.sequences if request.sequences is None else request.sequences,
        length=corpus.length if request.length is None else request.length,
        bos=request.bos or corpus.bos,
    )


def load_corpus(corpus: Corpus) -> str | Sequence[Picture]:
    """Return what the load function of a corpus returns.

    Raises:
        InputError: it fails.
    """
    try:
        return corpus.load()
    except MaprobeError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise InputError(
            f"corpus {corpus.name} cannot be read: its load function failed with {type(error).__name__}: {first}; "
            f"mend the plugin that brings it, or name a local text with `file`"
        ) from error


def _read(request: InputsRequest) -> str:
    """Return the text of a file, without a byte-order mark, and with LF as its line ends on every platform."""
    path = Path(request.folder) / request.value[0]
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist{_neighbour(path)}; paths start from the folder of the probe file, "
            f"{request.folder or Path.cwd()}"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}; name a file that you may read") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start} (line {line}); "
            f"save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _neighbour(path: Path) -> str:
    try:
        names = [entry.name for _, entry in zip(range(_NAMES_TRIED), path.parent.iterdir(), strict=False)]
    except OSError:
        return ""
    return did_you_mean(path.name, names)


def json_lines(request: InputsRequest) -> Iterator[tuple[int, str, object]]:
    """Yield the number of each line of a file that is not blank, its place in words, and what it holds.

    Raises:
        InputError: the file cannot be read, or a line is not JSON.
    """
    path = Path(request.folder) / request.value[0]
    # Not splitlines(): JSON strings may hold other line separators, such as U+2028.
    for number, line in enumerate(_read(request).split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number} of {path}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{place} is not JSON: {error.msg} at column {error.colno}; allowed: one JSON object a line"
            ) from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place} cannot be read as JSON: {error}; allowed: one JSON object a line") from None
        yield number, place, record


def _texts_of_lines(request: InputsRequest) -> Iterator[Passage]:
    field = request.text_field
    for _, place, record in json_lines(request):
        if not isinstance(record, dict):
            raise InputError(f"{place} is not a JSON object; allowed: one object a line, with the text under {field!r}")
        if field not in record:
            raise InputError(
                f"{place} has no field {field!r}{did_you_mean(field, record)}; name one of its fields with `field`: "
                f"{_fields(record)}"
            )
        if not isinstance(record[field], str):
            raise InputError(
                f"field {field!r} in {place} is {type(record[field]).__name__}, not a text; name a field of text with "
                f"`field`"
            )
        yield Passage(record[field], place)


def _fields(record: Mapping[str, object]) -> str:
    names = list(record)
    rest = f", and {len(names) - _FIELDS_TOLD} more" if len(names) > _FIELDS_TOLD else ""
    return (", ".join(names[:_FIELDS_TOLD]) or "it has none") + rest
