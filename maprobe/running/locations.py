"""Where the files of a checkpoint are, once fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maprobe.errors import CheckpointError, did_you_mean
from maprobe.progress import Progress
from maprobe.references import CheckpointReference
from maprobe.running.hub import fetch_files
from maprobe.running.storage import cache_folder
from maprobe.running.wheels import fetch_member, receipt

__all__ = ["Location", "locate"]

# Everything but the weights, which are fetched when the model is loaded.
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A folder with a checkpoint in it.

    Attributes:
        folder: a folder in transformers' layout, or the one a GGUF file lies in.
        gguf: name of the GGUF file; empty for other layouts.
        resolved: exactly what this is: path, commit, or wheel and member.
        repository: id of the hub repository that the weights are still to be fetched from; empty if there is none.
        commit: its commit.
    """

    folder: Path
    resolved: str
    gguf: str = ""
    repository: str = ""
    commit: str = ""

    def __str__(self) -> str:
        return self.repository or str(self.folder / self.gguf)


def locate(reference: CheckpointReference, progress: Progress, *, with_code: bool = False) -> Location:
    """Return where a checkpoint is, and fetch what it takes to read its config and tokenizer.

    Args:
        reference: what the user wrote.
        progress: where to show downloads.
        with_code: whether to fetch Python files of a hub repository too.

    Raises:
        CheckpointError: it does not exist or cannot be fetched.
    """
    if reference.kind == "hub":
        return _on_hub(reference, progress, with_code=with_code)
    if reference.kind == "pypi":
        return _in_wheel(reference, progress)
    path = Path(reference.location).absolute()
    if reference.kind == "gguf" and not path.is_file():
        raise CheckpointError(f"{reference.text}: there is no such file{_near(path)}")
    if reference.kind == "folder" and not path.is_dir():
        raise CheckpointError(
            f"{reference.text}: there is no such folder{_near(path)}; a repository of the hub is written org/name"
        )
    return _at(path, str(path))


def _at(path: Path, resolved: str) -> Location:
    if path.is_file():
        return Location(folder=path.parent, gguf=path.name, resolved=resolved)
    return Location(folder=path, resolved=resolved)


def _on_hub(reference: CheckpointReference, progress: Progress, *, with_code: bool) -> Location:
    patterns = (*_SMALL_FILES, "*.py") if with_code else _SMALL_FILES
    folder = fetch_files(reference.location, reference.revision, patterns, progress)
    return Location(
        folder=folder,
        resolved=f"{reference.location}@{folder.name}",
        repository=reference.location,
        commit=folder.name,
    )


def _in_wheel(reference: CheckpointReference, progress: Progress) -> Location:
    path = fetch_member(
        reference.location,
        reference.revision,
        reference.member,
        sha256=reference.sha256,
        cache=cache_folder(),
        progress=progress,
    )
    if path.is_file() and path.suffix != ".gguf":
        raise CheckpointError(
            f"{reference.text}: {reference.member} is neither a folder nor a .gguf file; name the folder it is in"
        )
    wheel = receipt(path, reference.member)
    return _at(path, f"{wheel.wheel} (sha256 {wheel.sha256}), {reference.member}")


def _near(path: Path) -> str:
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return did_you_mean(path.name, names)
