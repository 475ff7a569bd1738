"""Every error that maprobe raises on purpose, and how it is worded.

Each message is one sentence that names the place, the fault and what is allowed, followed where there is one
by the next step. Errors of this module end at the edge (pytest, the console script) as that text, never as a
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maprobe.source import SourceMark

__all__ = [
    "CheckpointError",
    "DiscoveryError",
    "Fault",
    "InputError",
    "InterventionError",
    "MaprobeError",
    "MeasurementError",
    "OptionError",
    "PlanError",
    "ProbeFileError",
    "PruningError",
    "RegistryError",
    "ReportError",
    "TrainingError",
    "allowed_names",
    "did_you_mean",
]


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest allowed name, or the empty string."""
    lowered = {candidate.lower(): candidate for candidate in allowed}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[near[0]]!r}?)" if near else ""


def allowed_names(names: Iterable[str]) -> str:
    """Return the names sorted and joined for the ``allowed:`` part of a message."""
    return ", ".join(sorted(names)) or "nothing"


class MaprobeError(Exception):
    """The base of every error below; its text is meant for the user as it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong in a probe file, with the place where it is."""

    mark: SourceMark
    message: str

    def __str__(self) -> str:
        path = f"{self.mark.path}: " if self.mark.path else ""
        return f"{self.mark}: {path}{self.message}"


class ProbeFileError(MaprobeError):
    """A probe file cannot be used. Carries every fault, in the order of files and lines."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.mark.file, fault.mark.line, fault.mark.column)))
        super().__init__("\n".join(str(fault) for fault in self.faults))


class OptionError(MaprobeError):
    """An option on the command line or in the configuration cannot be used."""


class RegistryError(MaprobeError):
    """A recipe could not be registered: two plugins use one name, or the recipe is malformed."""


class CheckpointError(MaprobeError):
    """A checkpoint could not be found, fetched, verified or loaded."""


class DiscoveryError(MaprobeError):
    """The parts of a model could not be found, or what was found did not stand the proof."""


class InputError(MaprobeError):
    """The inputs a probe asks for could not be made."""


class MeasurementError(MaprobeError):
    """A measurement cannot be made on this checkpoint with these inputs."""


class InterventionError(MaprobeError):
    """An intervention could not be applied, or did not change its site."""


class PlanError(MaprobeError):
    """The plan cannot be made, or costs more than was allowed."""


class ReportError(MaprobeError):
    """A report or card could not be written or read."""


class TrainingError(MaprobeError):
    """A model cannot be trained as it was asked for, or its run cannot be written or gone on with."""


class PruningError(MaprobeError):
    """A model cannot be pruned as it was asked for, or what came of it cannot be written."""
