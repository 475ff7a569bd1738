"""Which files hold the weights, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny_checkpoints import save_gguf, save_llama, save_pickled_llama, save_sharded_llama

from maprobe.errors import CheckpointError
from maprobe.progress import Progress, Silent
from maprobe.running import weights
from maprobe.running.locations import Location
from maprobe.running.weights import WeightFiles, needed_memory, safetensors_dtype, weight_files


def files(folder: Path, *, stated: str = "", allow_pickle: bool = False, repository: str = "") -> WeightFiles:
    location = Location(folder=folder, resolved="x", repository=repository, commit="c0ffee" if repository else "")
    return weight_files(location, stated=stated, allow_pickle=allow_pickle, progress=Silent())


def names(found: WeightFiles) -> list[str]:
    return [path.name for path in found.paths]


def test_one_file_or_the_shards_of_the_index(tmp_path: Path) -> None:
    assert names(files(save_llama(tmp_path / "one"))) == ["model.safetensors"]
    shards = names(files(save_sharded_llama(tmp_path / "many")))
    assert len(shards) > 2
    assert all(name.startswith("model-0000") for name in shards)


def test_safetensors_come_before_pickle_even_where_pickle_is_allowed(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    (folder / "pytorch_model.bin").touch()
    found = files(folder, allow_pickle=True)
    assert (names(found), found.pickled) == (["model.safetensors"], False)


def test_pickle_is_read_only_where_the_user_allows_it(tmp_path: Path) -> None:
    folder = save_pickled_llama(tmp_path)
    with pytest.raises(CheckpointError, match=r"as pickle only \(pytorch_model.bin\).* pass --maprobe-allow-pickle"):
        files(folder)
    found = files(folder, allow_pickle=True)
    assert (names(found), found.pickled) == (["pytorch_model.bin"], True)


@pytest.mark.parametrize(
    ("present", "wording"),
    [
        ((), "holds no weights that can be read; allowed: model.safetensors or model.safetensors.index.json"),
        (("tf_model.h5",), r"holds no weights that can be read \(it has tf_model.h5\)"),
        (("a.gguf",), r"name the file itself: .*a\.gguf"),
    ],
)
def test_a_folder_without_weights_says_what_it_has(tmp_path: Path, present: tuple[str, ...], wording: str) -> None:
    for name in present:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=wording):
        files(tmp_path)


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "wording"),
    [
        (Path.unlink, r"lacks 1 of the \d weight files that its index names, such as model-00001-of"),
        (cut, r"model-00001-of-\d+.safetensors is damaged or cut off \(.*\); fetch it again"),
        (lambda path: path.write_bytes(b""), r"model-00001-of-\d+.safetensors is damaged or cut off"),
        (lambda path: path.write_bytes(b"\xff" * 99), r"model-00001-of-\d+.safetensors is damaged or cut off"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
    ],
)
def test_a_faulty_shard_is_named(tmp_path: Path, damage: Callable[[Path], object], wording: str) -> None:
    folder = save_sharded_llama(tmp_path)
    damage(first_shard(folder))
    with pytest.raises(CheckpointError, match=wording):
        files(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_a_faulty_index_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json is not an index of weights"):
        files(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "a.bin", "a\\..\\b.safetensors"])
def test_an_index_names_safetensors_files_of_its_own_folder_only(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=r"as a file of its weights; allowed: \.safetensors files inside"):
        files(tmp_path)


def test_a_config_may_name_the_file_but_no_pickle_and_no_other_folder(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert names(files(folder, stated="other.safetensors")) == ["other.safetensors"]
    for stated in ("adapter_model.bin", "../other.safetensors"):
        with pytest.raises(CheckpointError, match=r"as a file of its weights; allowed: .safetensors files inside"):
            files(folder, stated=stated, allow_pickle=True)


def test_a_gguf_file_is_known_by_how_it_begins(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    location = Location(folder=tmp_path, gguf="tiny.gguf", resolved="x")
    assert names(weight_files(location, stated="", allow_pickle=False, progress=Silent())) == ["tiny.gguf"]
    path.write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"tiny.gguf is not a GGUF file: it begins with b'<htm'"):
        weight_files(location, stated="", allow_pickle=False, progress=Silent())


class Hub:
    """A repository of the hub that holds the files of a folder, of which those with the config were fetched."""

    def __init__(self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.cache, self.reachable = folder, cache, True
        self.fetched: list[str] = []
        monkeypatch.setattr(weights, "fetch_files", self.fetch)
        monkeypatch.setattr(weights, "has_file", self.has)
        cache.mkdir()
        self.copy(path.name for path in folder.glob("*.json"))

    def copy(self, names: Sequence[str]) -> None:
        for name in names:
            (self.cache / name).write_bytes((self.folder / name).read_bytes())

    def fetch(self, repository: str, revision: str, names: Sequence[str], progress: Progress) -> Path:
        self.fetched += names
        self.copy(names)
        return self.cache

    def has(self, repository: str, revision: str, name: str) -> bool | None:
        return (self.folder / name).is_file() if self.reachable else None


@pytest.mark.parametrize("save", [save_llama, save_sharded_llama])
def test_exactly_the_files_of_a_repository_that_hold_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Path], Path]
) -> None:
    folder = save(tmp_path / "folder")
    (folder / "pytorch_model.bin").touch()
    (folder / "consolidated.safetensors").touch()
    hub = Hub(folder, tmp_path / "cache", monkeypatch)
    found = files(hub.cache, repository="org/name")
    assert hub.fetched == names(found) == sorted(path.name for path in folder.glob("model*.safetensors"))


def test_pickle_is_not_even_fetched_unless_the_user_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(save_pickled_llama(tmp_path / "folder"), tmp_path / "cache", monkeypatch)
    with pytest.raises(CheckpointError, match="org/name holds its weights as pickle only"):
        files(hub.cache, repository="org/name")
    assert hub.fetched == []
    assert names(files(hub.cache, repository="org/name", allow_pickle=True)) == ["pytorch_model.bin"]


def test_a_hub_that_cannot_be_asked_is_not_taken_for_one_without_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(save_llama(tmp_path / "folder"), tmp_path / "cache", monkeypatch)
    hub.reachable = False
    with pytest.raises(
        CheckpointError, match="org/name: its weights are not in the hub's cache, and the hub cannot be"
    ):
        files(hub.cache, repository="org/name")
    (hub.folder / "model.safetensors").unlink()
    hub.reachable = True
    with pytest.raises(CheckpointError, match="org/name holds no weights that can be read"):
        files(hub.cache, repository="org/name")


def test_the_memory_needed_is_that_of_the_dtype_asked_for(tmp_path: Path) -> None:
    found = files(save_sharded_llama(tmp_path))
    assert needed_memory(found, "float32") == 2 * needed_memory(found, "bfloat16") == 6896 * 4


def test_the_dtype_of_the_weights_is_read_from_their_header(tmp_path: Path) -> None:
    assert safetensors_dtype(save_llama(tmp_path / "a")) == "float32"
    assert safetensors_dtype(tmp_path) == ""
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert safetensors_dtype(tmp_path) == ""
