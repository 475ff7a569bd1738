"""Which pictures a report has, and hanging them in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from maprobe.errors import ReportError
from maprobe.interventions.untrained import UNTRAINED
from maprobe.readings import Reading
from maprobe.reporting.plots import biases, edges, heads, layers, maps, relief
from maprobe.reporting.plots.canvas import SUFFIXES, Undrawable, require_matplotlib, save, styled
from maprobe.reporting.report import PictureLink, PropertyReport, ReadingUse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Hanging", "Picture", "check_folder", "hang", "pictures"]

# The name in the file, and what draws it, by kind of measurement.
_KINDS: dict[str, tuple[str, Callable[[ReadingUse], Figure]]] = {
    "magnitude": ("layerwise", layers.draw),
    "layerwise": ("layerwise", layers.draw),
    "landscape": ("landscape", relief.draw),
    "attention.map": ("map", maps.draw),
    "attention.sink": ("heads", heads.draw),
    "attention.concentration": ("heads", heads.draw),
    "constancy": ("constancy", biases.draw),
    "edge.ratios": ("ratios", edges.draw_curves),
    "edge.distribution": ("distribution", edges.draw_histograms),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A Reading that is to be drawn, and the file's path in the folder, without a suffix."""

    use: ReadingUse
    stem: str
    draw: Callable[[ReadingUse], Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hanging:
    """What became of the pictures of a report: links to those that were written, and a sentence for each other one."""

    links: tuple[PictureLink, ...] = ()
    lacking: tuple[str, ...] = ()
    failed: bool = False


def pictures(report: PropertyReport) -> tuple[Picture, ...]:
    """Return the pictures that a report may have, in its order, each with a path of its own."""
    found: list[Picture] = []
    taken: set[str] = set()
    uses = report.readings()
    for use in uses:
        # What an intervention compares is no Reading of these kinds: it has its own quantities.
        if use.reading.kind not in _KINDS or "untouched" in use.reading.quantities:
            continue
        name, draw = _KINDS[use.reading.kind]
        probe = _safe(use.probes[0])
        plain = f"{_safe(use.checkpoint)}/{probe if probe.endswith(name) else f'{probe}-{name}'}"
        number, stem = 1, plain
        while stem.lower() in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.lower())
        if use.reading.kind == "edge.ratios":
            draw = partial(edges.draw_curves, before=_before_training(use, uses))
        found.append(Picture(use=use, stem=stem, draw=draw))
    return tuple(found)


def _before_training(use: ReadingUse, uses: Iterable[ReadingUse]) -> Reading | None:
    """Return what the same measurement found on the same checkpoint with its untrained weights, if that was asked."""
    here = use.reading.circumstances
    for other in uses:
        there = other.reading.circumstances
        if other.checkpoint == use.checkpoint and here is not None and there is not None:
            alike = (here.measure, here.digest) == (there.measure, there.digest)
            if alike and there.edit.startswith(UNTRAINED.name):
                return other.reading
    return None


def _safe(name: str) -> str:
    """Return a name that is one part of a path on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".") or "unnamed"


def check_folder(folder: Path) -> None:
    """Find what is wrong with the folder for pictures, as far as it can be known before anything is measured.

    Raises:
        ReportError: matplotlib is missing; the folder is a file, or can be neither written to nor made.
    """
    require_matplotlib()
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ReportError(f"pictures cannot be written to {folder}: {nearest} is no folder; choose another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ReportError(
            f"pictures cannot be written to {folder}: the folder {nearest} may not be written to; change its "
            f"permissions, or choose another one"
        )


def hang(report: PropertyReport, folder: Path) -> Hanging:
    """Draw every picture of a report into a folder, which is made where there is none.

    A picture that cannot be drawn or written hinders no other.

    Raises:
        ReportError: as :func:`check_folder` does.
    """
    check_folder(folder)
    links: list[PictureLink] = []
    lacking: list[str] = []
    failed = False
    for picture in pictures(report):
        use = picture.use
        try:
            links.append(_written(picture, folder))
        except Undrawable as why:
            lacking.append(f"no picture of {use.probes[0]} on {use.checkpoint}: {why}")
        except Exception as error:  # noqa: BLE001 - drawing is the work of another library; the others are drawn
            failed = True
            told = str(error) if isinstance(error, ReportError) else f"{type(error).__name__}: {error}"
            lacking.append(f"picture of {use.probes[0]} on {use.checkpoint} NOT written: {told}")
    return Hanging(links=tuple(links), lacking=tuple(lacking), failed=failed)


def _written(picture: Picture, folder: Path) -> PictureLink:
    path = folder / f"{picture.stem}{SUFFIXES[0]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"the folder {path.parent} cannot be made: {error.strerror or error}") from error
    with styled():
        figure = picture.draw(picture.use)
        for suffix in SUFFIXES:
            save(figure, path.with_name(path.name.removesuffix(SUFFIXES[0]) + suffix))
    title = f"{picture.use.checkpoint}: {picture.use.probes[0]}, {picture.stem.rpartition('-')[2]}"
    return PictureLink(
        checkpoint=picture.use.checkpoint, reading=picture.use.reading, title=title, path=path.as_posix()
    )
