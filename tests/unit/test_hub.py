"""What the hub's client may answer, each ending as one sentence. Nothing here reaches a network."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, NoReturn

import pytest
from huggingface_hub import constants
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
from maprobe.progress import Silent
from maprobe.running import hub
from maprobe.running.hub import fetch_files, has_file


class Response:
    """As much of an HTTP answer as the client's errors look at; httpx and requests have it in common."""

    def __init__(self, status: int) -> None:
        self.status_code = status
        self.headers: dict[str, str] = {}
        self.request: Any = None


def refuse(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def answer(*arguments: object, **options: object) -> NoReturn:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", answer)
    monkeypatch.setattr(hub, "file_exists", answer)


def http_error(kind: type[HfHubHTTPError], status: int, text: str = "x") -> HfHubHTTPError:
    return kind(text, response=Response(status))


@pytest.mark.parametrize(
    ("error", "wording"),
    [
        (http_error(GatedRepoError, 403), r"org/name is gated: accept its terms at .*, then run `hf auth login`"),
        (http_error(RepositoryNotFoundError, 404), r"is not a repository of the hub that you can see; .*\./org/name"),
        (http_error(RevisionNotFoundError, 404), r"org/name has no revision 'v9'; its branches, tags"),
        (HFValidationError("x"), r"is not a repository id of the hub; allowed: org/name, or a local folder"),
        (http_error(HfHubHTTPError, 503, "busy\nmore"), r"the hub answered 503 \(busy more\); try again later"),
        (LocalEntryNotFoundError("x"), r"cannot be reached and the cache does not hold it; check the network"),
        (ConnectionError("x"), r"cannot be reached and the cache does not hold it"),
        (OSError(errno.ENOSPC, "No space left on device"), r"could not be written .*: No space left .*set HF_HOME"),
    ],
)
def test_a_refusal_is_one_sentence_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, error: Exception, wording: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    refuse(monkeypatch, error)
    with pytest.raises(CheckpointError, match=wording) as caught:
        fetch_files("org/name", "v9", ["*.json"], Silent())
    assert len(str(caught.value).splitlines()) == 1


def test_offline_mode_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refuse(monkeypatch, OfflineModeIsEnabled("x"))
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids to fetch it; unset HF_HUB_OFFLINE, or give"):
        fetch_files("org/name", "", ["*.json"], Silent())


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, AttributeError("x"))
    with pytest.raises(AttributeError):
        fetch_files("org/name", "", ["*.json"], Silent())


def test_the_revision_and_the_patterns_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def answer(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", answer)
    assert fetch_files("org/name", "", ("*.json",), Silent()) == tmp_path
    fetch_files("org/name", "v1", ("a", "b"), Silent())
    assert asked == [("org/name", None, ["*.json"]), ("org/name", "v1", ["a", "b"])]


def test_a_file_is_there_or_not_or_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "file_exists", lambda repository, name, revision: name == "a")
    assert has_file("org/name", "abc", "a") is True
    assert has_file("org/name", "abc", "b") is False
    refuse(monkeypatch, ConnectionError("x"))
    assert has_file("org/name", "abc", "a") is None
