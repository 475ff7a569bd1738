"""Several checkpoints of one training behind one ``--model``, in their order.

org/name@{step1,step1000,main}   revisions of a repository of the Hugging Face Hub
runs/{step-100,final}            folders, or .gguf files, written out
runs/                            a folder without config.json, of whose folders some are checkpoints
short-name                       a name set in configuration that stands for one of these
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from maprobe.errors import OptionError, did_you_mean
from maprobe.references import CheckpointReference, KnownCheckpoint, parse_reference, safe_label

__all__ = ["Member", "Series", "parse_series", "step_of", "taken_apart"]

LAST = "final"
_CONFIG = "config.json"
_FEW = 5
_PAIR = 2  # of two members, a single number would be no scale
_ENDS = r"(?![\d.]*[A-Za-z0-9])"  # 100k, 7b and 0.5 are no numbers of steps
_NAMED = re.compile(rf"(?:step|checkpoint|ckpt|iter|iteration|epoch)[-_=]?(\d+){_ENDS}", re.IGNORECASE)
_ANY = re.compile(r"\d+")
_ALONE = re.compile(rf"(?<![\d.])(\d+){_ENDS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One checkpoint of a series.

    Attributes:
        reference: a reference like any other; its label begins with that of the series.
        name: what tells it from the other members: the revision, or the name of the folder.
        step: the number in its name; where names have none, its position, from 1.
    """

    reference: CheckpointReference
    name: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Checkpoints of one training, in order.

    Attributes:
        text: as the user wrote it.
        label: short and safe in a shell; stands in the ids of trend cases.
        members: in order, with steps that never fall.
        numbered: whether steps are numbers of the names; otherwise they are positions.
    """

    text: str
    label: str
    members: tuple[Member, ...]
    numbered: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the members."""
        return tuple(member.reference.label for member in self.members)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        members = [
            {"checkpoint": member.reference.label, "name": member.name, "step": member.step} for member in self.members
        ]
        return {"label": self.label, "reference": self.text, "numbered": self.numbered, "members": members}


def parse_series(text: str, known: Mapping[str, KnownCheckpoint]) -> Series | None:
    """Return the series that a text after ``--model`` stands for; None where it is one checkpoint.

    Looks at the file system only to find a folder and the names within it.

    Raises:
        OptionError: braces are empty, unbalanced or name a member twice, or the order of a folder's checkpoints cannot
            be told.
    """
    written = known[text].reference if text in known else text
    path = Path(written).expanduser()
    if "{" not in written and "}" not in written:
        names = _checkpoints(path) if written else []
        found = _in_folder(written, path, names) if names else None
    else:
        found = None if path.is_dir() or path.is_file() else _in_braces(written)
    if found is None or text not in known:
        return found
    return _labelled(replace(found, text=text), safe_label(text))


def step_of(name: str) -> int | None:
    """Return the number of steps in a name: the one behind ``step``, ``checkpoint`` or the like, else the only one."""
    named = _NAMED.search(name)
    alone = _ALONE.search(name) if len(_ANY.findall(name)) == 1 else None
    match = named or alone
    return int(match[1]) if match else None


def taken_apart(given: Sequence[str], paths: Sequence[str]) -> str:
    """Return what a shell made several words of, as it was to be written; empty if nothing looks like that.

    Of ``--model a@{x,y}`` bash makes ``--model a@x a@y``, and what follows the first is taken for paths of tests.

    Args:
        given: what stands after ``--model``.
        paths: what is taken for paths of tests.
    """
    for text in given:
        stem = text[: (text.find("@") if "@" in text else text.rfind("/")) + 1]
        others = [path for path in paths if stem and path.startswith(stem) and path != text]
        others = [path for path in others if _is_checkpoint(path, like=text)]
        if others:
            return stem + "{" + ",".join(word.removeprefix(stem) for word in (text, *others)) + "}"
    return ""


def _is_checkpoint(path: str, *, like: str) -> bool:
    """Whether a path of tests is none, but a sibling of a checkpoint."""
    if "@" in like:
        return not Path(path.partition("::")[0]).exists()
    return (Path(path) / _CONFIG).is_file() and (Path(like) / _CONFIG).is_file()


def _checkpoints(path: Path) -> list[str]:
    """Return the names of the checkpoints in a folder that is none itself; empty if it has none."""
    if not path.is_dir() or (path / _CONFIG).exists():
        return []
    try:
        return sorted(entry.name for entry in path.iterdir() if (entry / _CONFIG).is_file())
    except OSError as error:
        raise OptionError(f"--model {str(path)!r} cannot be looked into: {error.strerror or error}") from error


def _in_folder(text: str, path: Path, names: Sequence[str]) -> Series:
    """Order the checkpoints of a folder by number, the final one last."""
    unfinished = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and entry.name not in names and _like(entry.name)
    )
    if unfinished:
        raise OptionError(
            f"--model {text!r}: {_list(unfinished)} in it is named like a checkpoint and has no {_CONFIG}; "
            f"complete it, move it away, or write the members out: {_braces(text, names)}"
        )
    steps = {name: step_of(name) for name in names if name.lower() != LAST}
    lost = [name for name, step in steps.items() if step is None]
    if lost:
        raise OptionError(
            f"--model {text!r} is a folder of checkpoints, and the place of {_list(lost)} in their order is not told "
            f"by a number in the name, as in step-100 or checkpoint-200 (the last may be `{LAST}`); write the "
            f"members out in order: {_braces(text, names)}"
        )
    order = sorted(names, key=lambda name: (name.lower() == LAST, steps.get(name) or 0, name))
    for first, second in pairwise(order):
        if steps.get(first) == steps.get(second):
            raise OptionError(
                f"--model {text!r}: {first} and {second} have the same number; write the members out in order: "
                f"{_braces(text, [name for name in order if name != second])}"
            )
    references = [parse_reference(str(path / name), {}) for name in order]
    return _series(text, path.resolve().name, references, order)


def _in_braces(text: str) -> Series:
    """Return the members that braces name, in the order written."""
    before, opened, rest = text.partition("{")
    inside, closed, after = rest.partition("}")
    form = f"allowed: one pair of braces with the members, such as {_example(text)}"
    if not opened or not closed or set("{}") & {*before, *inside, *after}:
        raise OptionError(f"--model {text!r}: the braces do not match; {form}")
    items = [item.strip() for item in inside.split(",")]
    if not all(items):
        fault = "nothing stands in the braces" if len(items) == 1 else "a member in the braces is empty"
        raise OptionError(f"--model {text!r}: {fault}; {form}")
    doubled = sorted({item for item in items if items.count(item) > 1})
    if doubled:
        raise OptionError(f"--model {text!r} names {_list(doubled)} twice; name each member once")
    ranges = [item for item in items if ".." in item]
    if ranges:
        raise OptionError(f"--model {text!r}: {_list(ranges)} is not spelled out; {form}")
    references = [parse_reference(f"{before}{item}{after}", {}) for item in items]
    _require_alike(text, references)
    names = [_name(reference) for reference in references]
    return _series(text, _parent(before, references), references, names if len({*names}) == len(names) else items)


def _require_alike(text: str, references: Sequence[CheckpointReference]) -> None:
    """Refuse a member that is no folder beside one that is: a slip, which would be looked for on the hub."""
    folders = [reference for reference in references if reference.kind == "folder"]
    for reference in references:
        if folders and reference.kind != "folder":
            siblings = Path(folders[0].location).parent
            near = did_you_mean(_name(reference), [entry.name for entry in siblings.iterdir()])
            raise OptionError(
                f"--model {text!r}: there is no folder {reference.text}{near}, unlike {folders[0].text}; "
                f"name folders only, or none"
            )


def _name(reference: CheckpointReference) -> str:
    if reference.kind == "hub":
        return reference.revision or reference.location.rpartition("/")[2]
    return Path(reference.location).stem if reference.kind == "gguf" else reference.label


def _parent(before: str, references: Sequence[CheckpointReference]) -> str:
    """Return what the members of braces are together called: the repository, or the folder that they lie in."""
    if len({reference.location for reference in references}) == 1 and references[0].kind in ("hub", "pypi"):
        return references[0].location
    folder, _, stem = before.rpartition("/")
    if references[0].kind in ("folder", "gguf"):
        return Path(folder or ("/" if "/" in before else ".")).expanduser().resolve().name
    return folder.rpartition("/")[2] or stem.strip("-_.@#:=")


def _series(text: str, label: str, references: Sequence[CheckpointReference], names: Sequence[str]) -> Series:
    """Give the members their steps, those of their names where these rise, and labels that belong together."""
    numbers = [step_of(name) for name in names]
    rising = numbers
    if numbers[-1] is None and len(numbers) > _PAIR:
        # The last one may have no number of its own (main, final): it is where the training has come to.
        rising = numbers[:-1]
        numbers[-1] = rising[-1]
    steps = [step for step in numbers if step is not None]
    numbered = len(steps) == len(names) and all(
        one is not None and two is not None and one < two for one, two in pairwise(rising)
    )
    found = Series(
        text=text,
        label="",
        numbered=numbered,
        members=tuple(
            Member(reference=reference, name=name, step=steps[index] if numbered else index + 1)
            for index, (reference, name) in enumerate(zip(references, names, strict=True))
        ),
    )
    return _labelled(found, safe_label(label))


def _labelled(series: Series, label: str) -> Series:
    members = tuple(
        replace(
            member,
            reference=replace(member.reference, label=safe_label(f"{label}@{member.name}"), series=series.text),
        )
        for member in series.members
    )
    return replace(series, label=label, members=members)


def _like(name: str) -> bool:
    return _NAMED.fullmatch(name) is not None


def _braces(text: str, names: Sequence[str]) -> str:
    shown = ",".join(names[:_FEW]) + (",..." if len(names) > _FEW else "")
    return f"'{text.rstrip('/')}/{{{shown}}}'"


def _example(text: str) -> str:
    return "'org/name@{step100,step200}'" if "@" in text else "'runs/{step-100,final}'"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more
