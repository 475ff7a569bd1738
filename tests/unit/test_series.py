"""Which checkpoints, in which order, a text after --model stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from maprobe.errors import OptionError
from maprobe.reading.names import known_checkpoints
from maprobe.references import KnownCheckpoint, parse_reference
from maprobe.series import Series, parse_series, step_of, taken_apart


def folders(root: Path, *names: str, without: tuple[str, ...] = ()) -> Path:
    for name in (*names, *without):
        (root / name).mkdir(parents=True)
        if name not in without:
            (root / name / "config.json").write_text("{}")
    return root


def series(text: str | Path, known: dict[str, KnownCheckpoint] | None = None) -> Series:
    found = parse_series(str(text), known or {})
    assert found is not None
    return found


def refusal(text: str | Path) -> str:
    with pytest.raises(OptionError) as error:
        parse_series(str(text), {})
    assert "\n" not in str(error.value)
    return str(error.value)


def names(found: Series) -> list[str]:
    return [member.name for member in found.members]


def steps(found: Series) -> list[int]:
    return [member.step for member in found.members]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-100", 100),
        ("step_0020", 20),
        ("step1000", 1000),
        ("stage1-step140000-tokens294B", 140000),
        ("global_step1000_hf", 1000),
        ("iter_0000100", 100),
        ("epoch=3", 3),
        ("1200", 1200),
        ("v2", 2),
        ("step-1k", None),
        ("epoch-0.5", None),
        ("main", None),
        ("a1-b2", None),
        ("70m", None),
    ],
)
def test_the_step_of_a_name_is_its_number_if_it_has_one_of_its_own(name: str, step: int | None) -> None:
    assert step == step_of(name)


@pytest.mark.parametrize("text", ["org/name", "org/name@main", "./nowhere", "a.gguf", "pypi:a==1#b", ""])
def test_a_reference_without_braces_is_no_series(text: str) -> None:
    assert parse_series(text, {}) is None


class TestBraces:
    def test_revisions_of_a_repository_are_members_in_the_order_written(self) -> None:
        found = series("org/name@{step1,step10,main}")
        assert ["org/name@step1", "org/name@step10", "org/name@main"] == list(found.labels)
        assert [("hub", "org/name", name) for name in names(found)] == [
            (member.reference.kind, member.reference.location, member.reference.revision) for member in found.members
        ]
        assert ("org/name", [1, 10, 10], True) == (found.label, steps(found), found.numbered)

    def test_a_revision_has_the_label_that_it_has_alone(self) -> None:
        for member in series("org/name@{step1,refs/pr/3}").members:
            assert parse_reference(member.reference.text, {}).label == member.reference.label

    def test_folders_are_called_after_the_folder_they_lie_in(self, tmp_path: Path) -> None:
        folders(tmp_path / "runs", "step-100", "step-20")
        found = series(f"{tmp_path}/runs/step-{{20,100}}")
        assert ("runs", ["step-20", "step-100"], [20, 100]) == (found.label, names(found), steps(found))
        assert ["runs@step-20", "runs@step-100"] == list(found.labels)
        assert {found.text} == {member.reference.series for member in found.members}

    def test_folders_of_one_name_are_told_apart_by_what_the_braces_say(self, tmp_path: Path) -> None:
        folders(tmp_path, "a/model", "b/model")
        assert ["a", "b"] == names(series(f"{tmp_path}/{{a,b}}/model"))

    @pytest.mark.parametrize(
        "members", ["step0,main", "step10,step1", "main,step1,step2", "step1,best,step2", "step1,step1-hf"]
    )
    def test_steps_are_positions_where_numbers_do_not_rise(self, members: str) -> None:
        found = series(f"org/name@{{{members}}}")
        assert (list(range(1, len(members.split(",")) + 1)), False) == (steps(found), found.numbered)

    def test_files_of_llama_cpp_may_be_members(self) -> None:
        found = series("runs/m-{100,200}.gguf")
        assert (["m-100", "m-200"], {"gguf"}) == (names(found), {member.reference.kind for member in found.members})

    def test_a_folder_whose_name_has_braces_is_that_folder(self, tmp_path: Path) -> None:
        folders(tmp_path, "run{a,b}", "runa", "runb")
        assert parse_series(f"{tmp_path}/run{{a,b}}", {}) is None
        assert ["runa", "runb"] == names(series(f"{tmp_path}/run{{a, b}}"))

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("org/a@{}", "nothing stands in the braces; allowed: one pair of braces"),
            ("org/a@{x,}", "a member in the braces is empty"),
            ("org/a@{x", "the braces do not match"),
            ("org/a@x}", "the braces do not match"),
            ("org/a@}x{", "the braces do not match"),
            ("org/{a,b}@{x,y}", "the braces do not match"),
            ("org/a@{x,{y,z}}", "the braces do not match"),
            ("org/a@{x,y,x}", "names x twice; name each member once"),
            ("org/a@{1..3}", "1..3 is not spelled out"),
            ("org/a@{x y,z}", "is not a checkpoint reference"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, text: str, fault: str) -> None:
        assert fault in refusal(text)

    def test_a_misspelt_folder_is_not_looked_for_on_the_hub(self, tmp_path: Path) -> None:
        folders(tmp_path, "step-100", "final")
        (tmp_path / "here").symlink_to(tmp_path)
        assert "step-100" in names(series(f"{tmp_path}/{{step-100,final}}"))

    def test_a_misspelt_folder_is_told_with_the_nearest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folders(tmp_path / "runs", "step-100", "final")
        monkeypatch.chdir(tmp_path)
        assert "there is no folder runs/fnal (did you mean 'final'?), unlike runs/step-100" in refusal(
            "runs/{step-100,fnal}"
        )


class TestFolders:
    def test_checkpoints_are_ordered_by_their_number_and_the_final_one_is_last(self, tmp_path: Path) -> None:
        folders(tmp_path / "runs", "checkpoint-900", "checkpoint-1000", "checkpoint-20", "final", without=("logs",))
        found = series(tmp_path / "runs")
        assert ["checkpoint-20", "checkpoint-900", "checkpoint-1000", "final"] == names(found)
        assert ([20, 900, 1000, 1000], True, "runs") == (steps(found), found.numbered, found.label)
        assert str(tmp_path / "runs" / "final") == found.members[-1].reference.location

    def test_a_folder_with_a_config_is_one_checkpoint_whatever_lies_in_it(self, tmp_path: Path) -> None:
        folders(tmp_path, "run", "run/checkpoint-1")
        assert parse_series(str(tmp_path / "run"), {}) is None

    def test_a_folder_without_checkpoints_is_left_to_those_who_load_it(self, tmp_path: Path) -> None:
        folders(tmp_path, without=("logs", "step-1"))
        assert parse_series(str(tmp_path), {}) is None

    def test_a_checkpoint_whose_place_is_not_told_is_refused_with_a_way_to_write_it(self, tmp_path: Path) -> None:
        told = refusal(folders(tmp_path / "runs", "step-1", "best"))
        assert "the place of best in their order is not told by a number" in told
        assert told.endswith("runs/{best,step-1}'")

    def test_two_of_one_number_are_refused(self, tmp_path: Path) -> None:
        assert "checkpoint-1 and step-1 have the same number" in refusal(folders(tmp_path, "step-1", "checkpoint-1"))

    def test_one_that_is_half_written_is_refused(self, tmp_path: Path) -> None:
        told = refusal(folders(tmp_path, "step-1", "step-2", without=("step-3",)))
        assert "step-3 in it is named like a checkpoint and has no config.json" in told

    def test_a_single_checkpoint_is_a_series_of_one(self, tmp_path: Path) -> None:
        assert [7] == steps(series(folders(tmp_path, "checkpoint-7")))


class TestShortNames:
    def test_one_may_stand_for_a_series_and_its_members_are_called_after_it(self) -> None:
        found = series("pythia", known_checkpoints(["pythia = org/name@{step1,main}"]))
        assert ("pythia", "pythia") == (found.text, found.label)
        assert ("pythia@step1", "pythia@main") == found.labels
        assert {"pythia"} == {member.reference.series for member in found.members}

    def test_a_malformed_one_is_refused_with_its_line(self) -> None:
        with pytest.raises(OptionError, match="maprobe_checkpoints: 'a = org/b@{}'.*nothing stands in the braces"):
            known_checkpoints(["a = org/b@{}"])


class TestTakenApart:
    def test_a_revision_among_the_tests_is_a_pair_of_braces_taken_apart(self) -> None:
        assert "a/b@{x,y,z}" == taken_apart(["a/b@x"], ["a/b@y", "a/b@z", "probes"])
        assert "a/b@{refs/pr/1,main}" == taken_apart(["a/b@refs/pr/1"], ["a/b@main"])

    def test_a_checkpoint_beside_another_is_too(self, tmp_path: Path) -> None:
        folders(tmp_path, "one", "two")
        assert f"{tmp_path}/{{one,two}}" == taken_apart([f"{tmp_path}/one"], [f"{tmp_path}/two"])

    def test_a_folder_of_tests_is_none(self, tmp_path: Path) -> None:
        folders(tmp_path, "one", without=("probes",))
        assert "" == taken_apart([f"{tmp_path}/one"], [f"{tmp_path}/probes"])
        assert "" == taken_apart(["org/a@x", "smollm2-135m"], ["probes/", "tests/a.py::test"])
