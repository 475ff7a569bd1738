"""docs/python-models.md: its example runs as it is printed, and its tables are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from pages import columns, names, page

from maprobe.python_models import ModelInput, PythonModel
from maprobe.running.own_sites import NAMEABLE

pytest_plugins = ["pytester"]
PAGE = page("python-models.md")


def _block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_runs_as_it_is_printed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(my_models=_block("python"))
    folder = pytester.mkdir("probes")
    Path(folder, "points.probe.yaml").write_text(_block("yaml"), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = pytester.runpytest_subprocess(
        "--model", "python:my_models:trained", "--maprobe-allow-python", "probes/", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(passed=5)


@pytest.mark.parametrize("name", ["PythonModel", "ModelInput"])
def test_the_fields_are_those_of_the_code(name: str) -> None:
    kind = {"PythonModel": PythonModel, "ModelInput": ModelInput}[name]
    told = [names(cell)[0] for (cell,) in ([row[0]] for row in PAGE.section(name, 2).table())]
    assert [field.name for field in fields(kind)] == told


def test_the_sites_that_can_be_named_are_those_of_the_code() -> None:
    told = [name for cell, _ in columns(PAGE.section("Sites", 2).table(), 0, 1) for name in names(cell)]
    assert {*NAMEABLE, "own.NAME"} == {*told}
