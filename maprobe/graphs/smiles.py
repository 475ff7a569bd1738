"""Files of molecules, written as SMILES."""

from __future__ import annotations

import bisect
import csv
import gzip
import itertools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maprobe.errors import InputError

__all__ = ["Line", "Lines", "is_smiles_file", "read_smiles"]

_ENDINGS = (".smi", ".csv", ".smi.gz", ".csv.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A SMILES and where it stands."""

    smiles: str
    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


class Lines:
    """The SMILES of some files, one file after another. A :class:`Line` is made when it is asked for.

    Args:
        files: for each file its path, the SMILES in it, and the number of the line that each stands in.
    """

    def __init__(self, files: Iterable[tuple[Path, list[str], list[int]]]) -> None:
        self._files = tuple(files)
        self._ends = list(itertools.accumulate(len(smiles) for _, smiles, _ in self._files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Line:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect.bisect_right(self._ends, index)
        path, smiles, numbers = self._files[file]
        at = index - (self._ends[file - 1] if file else 0)
        return Line(smiles=smiles[at], path=path, number=numbers[at])

    def __add__(self, other: Lines) -> Lines:
        return Lines((*self._files, *other._files))


def is_smiles_file(path: Path) -> bool:
    """Tell whether a file has one of the endings .smi, .csv, .smi.gz, .csv.gz."""
    return path.name.lower().endswith(_ENDINGS)


def read_smiles(path: Path) -> Lines:
    """Return the SMILES of a file, not yet looked into.

    In a .smi file a SMILES is the first word of a line. A .csv file has a column named ``smiles``, in whatever case.
    Empty lines are passed over. Both may be packed with gzip.

    Raises:
        InputError: the file cannot be read, is not one of these, or holds none.
    """
    if not is_smiles_file(path):
        raise InputError(f"{path} is not a file of SMILES by its name; allowed endings: {', '.join(_ENDINGS)}")
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); name a file of SMILES that can be") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    table = ".csv" in path.name.lower()[-len(".csv.gz") :]
    found = _of_table(text, path) if table else _of_lines(text)
    if not found:
        raise InputError(f"{path} holds no SMILES; name a file with at least one")
    return Lines([(path, [smiles for smiles, _ in found], [number for _, number in found])])


def _of_lines(text: str) -> list[tuple[str, int]]:
    words = ((line.split(maxsplit=1), number) for number, line in enumerate(text.splitlines(), start=1))
    return [(found[0], number) for found, number in words if found]


def _of_table(text: str, path: Path) -> list[tuple[str, int]]:
    lines = text.splitlines()
    rows = csv.reader(lines)
    try:
        header = next(rows, [])
        column = [name.strip().lower() for name in header].index("smiles")
    except ValueError:
        raise InputError(
            f"{path}:1: no column is named smiles (there are {', '.join(map(repr, header))}); name the one that holds "
            f"the molecules so"
        ) from None
    if len(header) == 1 and '"' not in text:
        # Millions of lines of one column need no reader of tables.
        return [(line.strip(), number) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    found = []
    try:
        for row in rows:
            cell = row[column].strip() if len(row) > column else ""
            if cell:
                found.append((cell, rows.line_num))
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: this line is not CSV ({error}); correct or remove it") from None
    return found
