from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NoReturn

import pytest
from sample_reports import ONE

from maprobe.errors import ReportError
from maprobe.recipes import Renderer
from maprobe.reporting.formats import RENDERERS
from maprobe.reporting.writing import check_target, replace_file, write_report

BY_SUFFIX = {renderer.suffix: renderer for renderer in RENDERERS}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _raise(error: OSError) -> NoReturn:
    raise error


@pytest.mark.parametrize("name", ["r.json", "r.md", "r.csv", "R.JSON"])
def test_a_report_is_written_in_the_format_of_its_suffix(tmp_path: Path, name: str) -> None:
    write_report(tmp_path / name, ONE, BY_SUFFIX)
    renderer = BY_SUFFIX[Path(name).suffix.lower()]
    assert renderer.render(ONE.to_dict()) == (tmp_path / name).read_text(encoding="utf-8")
    assert [name] == names(tmp_path)


@pytest.mark.parametrize(
    ("name", "wording"),
    [
        ("r.jsn", "the suffix '.jsn' is no report format (did you mean '.json'?); allowed: .csv, .json, .md"),
        ("r", "its name has no suffix; allowed: .csv, .json, .md"),
        ("no/r.md", "the folder {folder}/no does not exist; create it, or choose another path"),
        ("file/r.md", "the folder {folder}/file is not a folder; create it, or choose another path"),
        ("d.md", "this is a folder; name a file, such as {folder}/d.md/report.md"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path, name: str, wording: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "d.md").mkdir()
    path = tmp_path / name
    with pytest.raises(ReportError) as caught:
        check_target(path, BY_SUFFIX)
    assert str(caught.value).startswith(("cannot write", "report"))
    assert str(caught.value).endswith(wording.format(folder=tmp_path))


def test_a_path_that_can_be_written_is_not_touched_by_the_check(tmp_path: Path) -> None:
    check_target(tmp_path / "r.md", BY_SUFFIX)
    assert [] == names(tmp_path)


def test_a_folder_without_permission_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, for whom every folder is open: so the system's answer is given here.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ReportError) as caught:
        check_target(tmp_path / "r.md", BY_SUFFIX)
    assert str(caught.value) == (
        f"cannot write {tmp_path}/r.md: the folder {tmp_path} may not be written to, so what was there is unchanged; "
        f"change its permissions, or choose another path"
    )


@pytest.mark.parametrize(
    ("number", "wording"),
    [
        (errno.ENOSPC, "no space is left in {folder}, so nothing was written and what was there is unchanged; free"),
        (errno.EROFS, "the folder {folder} may not be written to, so what was there is unchanged; change"),
        (errno.EIO, "Input/output error, so nothing was written; choose another path"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_fault_while_writing_keeps_the_old_report_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, wording: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *args: _raise(OSError(number, os.strerror(number))))
        with pytest.raises(ReportError) as caught:
            write_report(path, ONE, BY_SUFFIX)
    assert str(caught.value).startswith(f"cannot write {path}: {wording.format(folder=tmp_path)}")
    assert "old" == path.read_text()
    assert ["r.json"] == names(tmp_path)


def test_a_renderer_that_fails_keeps_the_old_report(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text("old")
    broken = Renderer(suffix=".txt", summary="", render=lambda data: data["no such key"])
    with pytest.raises(KeyError):
        write_report(path, ONE, {".txt": broken})
    assert "old" == path.read_text()
    assert ["r.txt"] == names(tmp_path)


def test_a_file_that_was_there_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "real.md", tmp_path / "link.md"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    replace_file(link, "new")
    assert link.is_symlink()
    assert ("new", 0o640) == (target.read_text(), stat.S_IMODE(target.stat().st_mode))


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path: Path) -> None:
    replace_file(tmp_path / "r.md", "\udc80")
    assert b"\\udc80" == (tmp_path / "r.md").read_bytes()
