"""docs/training.md tells the variants and recipes that the code has, and its example runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pages import columns, names, page

import maprobe.training
from maprobe.builtin import builtin_registry
from maprobe.reading.parsing import parse_text
from maprobe.training.curricula import CURRICULA
from maprobe.training.instructions import read_instructions
from maprobe.training.presets import PRESETS, config_settings
from maprobe.training.variants import ARCHITECTURES, VARIANTS, fresh_model

PAGE = page("training.md")


def test_the_variants_are_those_of_the_code() -> None:
    told = {
        names(variant)[0]: set(names(types))
        for variant, types in columns(PAGE.section("The variants", 2).table(), 0, 1)
    }
    settings = {name: config_settings(PRESETS["small"], name, 0) for name in ARCHITECTURES}
    assert told == {
        variant: {fresh_model(variant, name, settings[name], seed=0).config.model_type for name in ARCHITECTURES}
        for variant in VARIANTS
    }


def test_the_recipes_are_those_of_the_code() -> None:
    rows = dict(columns(PAGE.section("Training a model", 2).table(), 0, 1))
    assert [*PRESETS] == [names(cell)[0] for cell in rows]
    for (_, cell), settings in zip(rows.items(), PRESETS.values(), strict=True):
        assert f"{settings.layers} blocks, {settings.heads} heads, width {settings.width}" in cell


def test_the_probe_file_can_be_read() -> None:
    shown = PAGE.section("Text", 3).example("yaml").text
    probes = parse_text(shown, builtin_registry(), name="training.md")
    assert ["held-out", "largest", "sinks", "shares"] == [probe.id for probe in probes]


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(PAGE.section("The variants", 2).example("python").text, scope)
    assert isinstance(scope["model"], maprobe.training.LlamaExplicitBiasForCausalLM)


def test_the_curricula_are_those_of_the_code() -> None:
    rows = columns(PAGE.section("MacDrop", 2).table(), 0)
    assert [*CURRICULA] == [names(cell)[0] for cell in rows]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # peft's and the trainer's own
def test_the_example_of_macdrop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(PAGE.section("MacDrop", 2).example("python").text, scope)
    assert 8 == scope["callback"].steps
    assert 2 == scope["callback"].found.layer
    assert 5 == len(scope["callback"].found.channels)


def test_the_number_of_instructions_is_that_of_the_file() -> None:
    found = read_instructions(None)
    count = len(found.train) + len(found.held_out)
    assert f"{count} short instructions" in "".join(PAGE.section("Comparing with and without", 3).lines)
