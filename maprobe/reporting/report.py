"""The report of a session as a value, and as the plain data that every format is made from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maprobe.errors import ReportError, allowed_names, did_you_mean
from maprobe.readings import Reading
from maprobe.verdicts import Status, Verdict

__all__ = ["VERSION", "PictureLink", "PropertyReport", "ReadingUse"]

VERSION = 1
COUNTED = ("passed", "failed", "warned", "waived", "absent", "not-applicable", "unmeasured")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingUse:
    """One Reading of one checkpoint, and the probes that were judged by it."""

    checkpoint: str
    reading: Reading
    probes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLink:
    """A picture of a Reading of one checkpoint: the path of its PNG; beside it lies an SVG of the same name."""

    checkpoint: str
    reading: Reading
    title: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyReport:
    """Verdicts and Readings of a session, with their provenance.

    Attributes:
        verdicts: in collection order.
        checkpoints: ``Provenance.to_dict()`` of each checkpoint that was loaded, in order of use.
        series: the series that checkpoints belong to, as :meth:`maprobe.series.Series.to_dict` gives them.
        plan: what the planner says of the passes it planned, as plain data.
        command: the command line that repeats the session.
        started: when it began, ISO 8601, UTC.
        seconds: how long it took.
        interrupted: whether it ended before every selected case was judged.
        pictures: those that were drawn of its Readings; paths are seen from the report's folder.
    """

    verdicts: tuple[Verdict, ...]
    checkpoints: tuple[Mapping[str, Any], ...] = ()
    series: tuple[Mapping[str, Any], ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    started: str = ""
    seconds: float = 0.0
    interrupted: bool = False
    pictures: tuple[PictureLink, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data as documented in docs/reports.md; verdicts refer to their Reading by its index."""
        readings: list[dict[str, Any]] = []
        index: dict[str, int] = {}
        verdicts = []
        for verdict in self.verdicts:
            entry = verdict.to_dict()
            if entry["reading"] is not None:
                key = _identity(entry["reading"])
                if key not in index:
                    index[key] = len(readings)
                    readings.append(entry["reading"])
                entry["reading"] = index[key]
            verdicts.append(entry)
        return {
            "maprobe_report": VERSION,
            "command": self.command,
            "started": self.started,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "counts": self.counts(),
            "checkpoints": [dict(checkpoint) for checkpoint in self.checkpoints],
            "series": [dict(series) for series in self.series],
            "plan": dict(self.plan),
            "verdicts": verdicts,
            "readings": readings,
            "pictures": [
                {
                    "checkpoint": picture.checkpoint,
                    "reading": index[_identity(picture.reading.to_dict())],
                    "title": picture.title,
                    "path": picture.path,
                }
                for picture in self.pictures
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PropertyReport:
        """Rebuild a report from :meth:`to_dict`.

        Raises:
            ReportError: the data is no report, of another version, or damaged.
        """
        version = data.get("maprobe_report")
        if version != VERSION:
            fault = "has no key maprobe_report" if version is None else f"is of version {version!r}"
            raise ReportError(
                f"the data {fault}, so it cannot be read as a property report; allowed: version {VERSION}, "
                f"as written by `--property-report FILE.json`"
            )
        try:
            readings = [Reading.from_dict(entry) for entry in data["readings"]]
            return cls(
                verdicts=tuple(_verdict(entry, readings) for entry in data["verdicts"]),
                checkpoints=tuple(dict(entry) for entry in data["checkpoints"]),
                series=tuple(dict(entry) for entry in data.get("series", ())),
                plan=dict(data["plan"]),
                command=data["command"],
                started=data["started"],
                seconds=data["seconds"],
                interrupted=data["interrupted"],
                # Reports of the same version that were written before there were pictures have no such key.
                pictures=tuple(
                    PictureLink(**{**entry, "reading": readings[entry["reading"]]})
                    for entry in data.get("pictures", ())
                ),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ReportError(
                f"the property report is damaged ({type(error).__name__}: {error}); write it anew with "
                f"`--property-report FILE.json`"
            ) from error

    def counts(self) -> dict[str, int]:
        """Return how many cases came out how.

        ``failed`` counts failures of severity error; those of severity warn or info are ``warned``, and those
        that a waiver expects ``waived``.
        """
        found = dict.fromkeys(COUNTED, 0)
        for verdict in self.verdicts:
            found[_outcome(verdict)] += 1
        return found

    def labels(self) -> tuple[str, ...]:
        """Return the labels of the checkpoints that verdicts speak of, in order of appearance."""
        return tuple(dict.fromkeys(verdict.checkpoint for verdict in self.verdicts if not verdict.members))

    def of(self, checkpoint: str) -> PropertyReport:
        """Return the part of the report that speaks of one checkpoint.

        Raises:
            ReportError: the report has no measured checkpoint of that label.
        """
        loaded = [entry for entry in self.checkpoints if entry["label"] == checkpoint]
        if not loaded:
            labels = [str(entry["label"]) for entry in self.checkpoints]
            raise ReportError(
                f"the report holds no measured checkpoint {checkpoint!r}{did_you_mean(checkpoint, labels)}; "
                f"allowed: {allowed_names(labels)}"
            )
        verdicts = tuple(verdict for verdict in self.verdicts if verdict.checkpoint == checkpoint)
        pictures = tuple(picture for picture in self.pictures if picture.checkpoint == checkpoint)
        return replace(self, verdicts=verdicts, checkpoints=tuple(loaded), pictures=pictures, series=())

    def relinked(self, start: Path, end: Path) -> PropertyReport:
        """Return the report with the paths of its pictures, seen from the folder ``start``, as seen from ``end``."""

        def seen(path: str) -> str:
            whole = os.path.abspath(start / path)  # noqa: PTH100 - links are to be left as they are
            try:
                return Path(os.path.relpath(whole, end)).as_posix()
            except ValueError:  # on another drive
                return Path(whole).as_posix()

        return replace(self, pictures=tuple(replace(picture, path=seen(picture.path)) for picture in self.pictures))

    def readings(self) -> tuple[ReadingUse, ...]:
        """Return each distinct Reading of each checkpoint once, in order of first use; none of them is of a trend."""
        uses: dict[tuple[str, str], ReadingUse] = {}
        for verdict in self.verdicts:
            if verdict.reading is None or verdict.members:
                continue
            key = (verdict.checkpoint, _identity(verdict.reading.to_dict()))
            probes = (*uses[key].probes, verdict.probe) if key in uses else (verdict.probe,)
            uses[key] = ReadingUse(checkpoint=verdict.checkpoint, reading=verdict.reading, probes=probes)
        return tuple(uses.values())


def _outcome(verdict: Verdict) -> str:
    if verdict.status is not Status.FAILED:
        return str(verdict.status.value)
    if verdict.waived:
        return "waived"
    return "failed" if verdict.severity == "error" else "warned"


def _identity(reading: Mapping[str, Any]) -> str:
    """Return a text that two Readings share exactly if they say the same."""
    return json.dumps(reading, sort_keys=True)


def _verdict(entry: Mapping[str, Any], readings: list[Reading]) -> Verdict:
    verdict = Verdict.from_dict({**entry, "reading": None})
    return verdict if entry["reading"] is None else replace(verdict, reading=readings[entry["reading"]])
