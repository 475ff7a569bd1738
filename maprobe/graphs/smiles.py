"""Files of molecules, written as SMILES."""

from __future__ import annotations

import bisect
import csv
import gzip
import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maprobe.errors import InputError, did_you_mean

__all__ = ["Line", "Lines", "is_smiles_file", "read_smiles"]

_Row = tuple[str, int, tuple[float, ...]]
_ENDINGS = (".smi", ".csv", ".smi.gz", ".csv.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A SMILES, where it stands, and the numbers that stand beside it, NaN where there is none."""

    smiles: str
    path: Path
    number: int
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


class Lines:
    """The SMILES of some files, one file after another. A :class:`Line` is made when it is asked for.

    Args:
        files: for each file its path and its rows: SMILES, number of the line, numbers beside it.
    """

    def __init__(self, files: Sequence[tuple[Path, list[_Row]]]) -> None:
        self._files = tuple(files)
        self._ends = list(itertools.accumulate(len(rows) for _, rows in self._files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Line:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect.bisect_right(self._ends, index)
        path, rows = self._files[file]
        smiles, number, values = rows[index - (self._ends[file - 1] if file else 0)]
        return Line(smiles=smiles, path=path, number=number, values=values)

    def __add__(self, other: Lines) -> Lines:
        return Lines((*self._files, *other._files))


def is_smiles_file(path: Path) -> bool:
    """Tell whether a file has one of the endings .smi, .csv, .smi.gz, .csv.gz."""
    return path.name.lower().endswith(_ENDINGS)


def read_smiles(path: Path, columns: Sequence[str] = ()) -> Lines:
    """Return the SMILES of a file, not yet looked into.

    In a .smi file a SMILES is the first word of a line. A .csv file has a column named ``smiles``, in whatever case.
    Empty lines are passed over. Both may be packed with gzip.

    Args:
        path: the file.
        columns: names of columns of a .csv file whose numbers are read too; an empty cell is NaN.

    Raises:
        InputError: the file cannot be read, is not one of these, or holds none; a column is missing, or a cell of one
            is no number.
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
    if columns and not table:
        raise InputError(f"{path} has no columns of targets, only a .csv file has; leave --targets out, or name one")
    found = _of_table(text, path, columns) if table else _of_lines(text)
    if not found:
        raise InputError(f"{path} holds no SMILES; name a file with at least one")
    return Lines([(path, found)])


def _of_lines(text: str) -> list[_Row]:
    words = ((line.split(maxsplit=1), number) for number, line in enumerate(text.splitlines(), start=1))
    return [(found[0], number, ()) for found, number in words if found]


def _of_table(text: str, path: Path, columns: Sequence[str]) -> list[_Row]:
    lines = text.splitlines()
    rows = csv.reader(lines)
    header = [name.strip() for name in next(rows, [])]
    try:
        column = [name.lower() for name in header].index("smiles")
    except ValueError:
        raise InputError(
            f"{path}:1: no column is named smiles (there are {', '.join(map(repr, header))}); name the one that holds "
            f"the molecules so"
        ) from None
    for name in columns:
        if name not in header:
            raise InputError(
                f"{path}:1: no column is named {name!r}{did_you_mean(name, header)}; there are "
                f"{', '.join(map(repr, header))}"
            )
    if len(header) == 1 and '"' not in text:
        # Millions of lines of one column need no reader of tables.
        return [(line.strip(), number, ()) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    places = [header.index(name) for name in columns]
    found = []
    try:
        for row in rows:
            cell = row[column].strip() if len(row) > column else ""
            if cell:
                values = tuple(_number(row, place, f"{path}:{rows.line_num}") for place in places)
                found.append((cell, rows.line_num, values))
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: this line is not CSV ({error}); correct or remove it") from None
    return found


def _number(row: list[str], place: int, where: str) -> float:
    cell = row[place].strip() if len(row) > place else ""
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise InputError(f"{where}: {cell!r} is not a number; write one, or leave the cell empty where none is known")
    return value
