"""A bound on the work that one file can cause, whatever its aliases, parameters and overrides multiply."""

from __future__ import annotations

from maprobe.reading.faults import FaultList
from maprobe.source import SourceMark

__all__ = ["MAX_READ", "MAX_VALUES", "Budget"]

MAX_VALUES = 20_000
MAX_READ = 200_000


class Budget:
    """How many more values may be read; to exceed it ends the reading of the file."""

    def __init__(self, faults: FaultList, values: int, counted: str) -> None:
        self._faults = faults
        self._values = values
        self._counted = counted
        self._left = values

    @property
    def spent(self) -> int:
        """How many values have been read."""
        return self._values - self._left

    def spend(self, values: int, mark: SourceMark) -> None:
        """Count values that are about to be read.

        Raises:
            ProbeFileError: they are too many; carries the faults found so far as well.
        """
        self._left -= values
        if self._left < 0:
            self._faults.add(
                mark, f"too many values: over {self._values:,}, {self._counted}; divide the file, or write less in one"
            )
            self._faults.raise_if_any()
