"""docs/graphs.md tells the models, data sets and presets that the code has, and its example runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pages import columns, names, page

import maprobe.graphs
from maprobe.graphs import GraphConfig, GraphSet, fresh_model, save_model
from maprobe.graphs.batches import Graph
from maprobe.graphs.checkpoints import open_checkpoint
from maprobe.graphs.configs import MODELS
from maprobe.graphs.datasets import DATASETS
from maprobe.graphs.models import GraphModel
from maprobe.graphs.presets import PRESETS

PAGE = page("graphs.md")


def test_the_models_are_those_of_the_code() -> None:
    told = [(names(kind)[0], names(name)[0]) for kind, name in columns(PAGE.section("The models", 2).table(), 0, 1)]
    assert [*MODELS] == [kind for kind, _ in told]
    for kind, name in told:
        model = getattr(maprobe.graphs, name)
        assert issubclass(model, GraphModel)
        assert kind == model.kind


def test_the_pooling_of_a_model_is_that_of_its_presets() -> None:
    for kind, pooling in columns(PAGE.section("The models", 2).table(), 0, 3):
        presets = PRESETS[next(model for model in MODELS if model == names(kind)[0])]
        assert {pooling, "nodes"} == {preset.readout for preset in presets.values()}


def test_the_data_sets_are_those_of_the_code() -> None:
    told = [
        names(cell)[0]
        for (cell,) in ([cell] for cell in columns(PAGE.section("The data", 2).table(), 0))
        if "`" in cell
    ]
    assert sorted(DATASETS) == sorted(told)


def test_the_presets_are_those_of_the_code() -> None:
    table = PAGE.section("Training a model", 2).table()
    for at, model in enumerate(MODELS, start=1):
        rows = columns(table, 0, at)
        assert [*PRESETS[model]] == [names(cell)[0] for cell, _ in rows]
        for (_, cell), preset in zip(rows, PRESETS[model].values(), strict=True):
            assert cell.startswith(
                f"{preset.layers} layers, {preset.heads} heads, width {preset.width}; batch {preset.batch}, rate "
                f"{preset.rate:g}, patience {preset.patience}"
            )
            assert bool(preset.dropout) == (f"dropout {preset.dropout:g}" in cell)


def test_the_epochs_of_the_small_preset_are_told() -> None:
    words = PAGE.section("Training a model", 2).words
    for presets in PRESETS.values():
        small = presets["small"]
        assert small.molecules is not None
        assert f"{small.molecules * 8 // 10} of {small.molecules} molecules of `{small.data}`" in words
        assert f"at most {small.epochs} times over" in words


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(PAGE.section("In Python", 3).example("python").text, scope)
    assert "torch.Size([1, 1]) torch.Size([4, 32])\n" == capsys.readouterr().out
    model, again = scope["model"], scope["again"]
    assert isinstance(model, GraphModel)
    assert isinstance(again, GraphModel)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder gt/final with twenty graphs of three atoms, where the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAPROBE_CACHE", str(tmp_path / "cache"))
    config = GraphConfig(
        model="gt", node_types=(2,), edge_types=(2,), layers=2, heads=2, width=8, readout="mean", edge_stream=True
    )
    one = Graph(
        nodes=torch.tensor([[0], [0], [1]]),
        edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
        edges=torch.tensor([[1], [1], [0], [0]]),
        targets=torch.tensor([[0.5]]),
    )
    data = {"name": "made", "task": "regression", "node_types": ["C", "O"], "edge_types": ["other", "single"]}
    training = {"steps": 6, "epochs": 2, "seed": 1}
    model = fresh_model(config, seed=2)
    save_model("gt/final", model, data, training=training, test=GraphSet.of([one] * 20))
    return tmp_path / "gt" / "final"


def test_the_example_of_probing_runs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.is_dir()
    exec(PAGE.section("Probing from Python", 3).example("python").text, {})
    told = capsys.readouterr().out
    assert told.startswith("6\ngraph 17 ('C', 'C', 'O') tensor(")


def test_the_sites_are_those_of_the_code(trained: Path) -> None:
    rows = columns(PAGE.section("Probing from Python", 3).table(), 0, 1)
    told = {site: names(module)[0] for sites, module in rows for site in names(sites)}
    assert open_checkpoint(trained).load().sites == told


def test_the_files_are_those_that_are_written(trained: Path) -> None:
    told = [names(cell)[0] for cell in columns(PAGE.section("In Python", 3).table(), 0)]
    assert sorted(path.name for path in trained.iterdir()) == sorted(told)
