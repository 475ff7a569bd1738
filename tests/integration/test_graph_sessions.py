"""Sessions of the shipped probes of graphs on folders of graph transformers: verdicts, what an extra lacks, series."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from inner_sessions import Inner, printed, told

from maprobe.graphs import GraphConfig, GraphSet, fresh_model, save_model
from maprobe.graphs.batches import Graph

PROBES = Path(__file__).parents[2] / "probes" / "graphs"
KINDS = ["other", "single", "double", "triple"]
DATA = {"name": "rings", "task": "regression", "node_types": [*"CNOS"], "edge_types": KINDS}
QUICK = ("-k", "not attack and not learnt-noise and not smaller-gain")


def config(*, explicit_bias: bool = False) -> GraphConfig:
    return GraphConfig(
        model="gt",
        node_types=(4,),
        edge_types=(4,),
        layers=2,
        heads=2,
        width=12,
        readout="mean",
        edge_stream=True,
        use_bias=explicit_bias,
        explicit_bias=explicit_bias,
    )


def ring(number: int) -> Graph:
    generator = torch.Generator().manual_seed(number)
    count = 5 + number % 4
    pairs = [(at, (at + 1) % count) for at in range(count)]
    kinds = [1 + (at + number) % 3 for at in range(count)]
    return Graph(
        nodes=torch.randint(4, (count, 1), generator=generator),
        edge_index=torch.tensor([both for one, other in pairs for both in ((one, other), (other, one))]).T,
        edges=torch.tensor([[kind] for kind in kinds for _ in range(2)]),
        targets=torch.randn(1, 1, generator=generator),
    )


def planted(folder: Path, *, loud: float, explicit_bias: bool = False) -> Path:
    """Write step-0 and final, the second with one channel of edges that much louder; return the folder."""
    shape = config(explicit_bias=explicit_bias)
    graphs = GraphSet.of(ring(number) for number in range(10))
    model = fresh_model(shape, seed=41)
    save_model(folder / "step-0", model, DATA, training={"steps": 0, "epochs": 0, "seed": 41}, test=graphs)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.edge.weight[3] *= loud  # type: ignore[union-attr,operator,index]
            layer.attention.query.weight[3] *= loud  # type: ignore[union-attr,operator,index]
    save_model(folder / "final", model, DATA, training={"steps": 7, "epochs": 1, "seed": 41}, test=graphs)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    planted(folder / "loud", loud=300.0)
    planted(folder / "bias", loud=1.0, explicit_bias=True)
    return folder


def test_a_planted_massive_edge_is_found_and_its_twin_before_training_has_none(inner: Inner, runs: Path) -> None:
    result = inner.run(PROBES, *QUICK, "--property-report=report.json", model=runs / "loud")
    found = inner.statuses()
    assert ("passed", "passed") == (found["exists-of-its-edge[loud@final]"], found["finite[loud@final]"])
    assert "passed" == found["none-before-training[loud@step-0]"]
    assert "not-applicable" == found["exists-of-its-edge[loud@step-0]"]
    assert "not-applicable" == found["none-with-explicit-bias-of-its-edge[loud@final]"]
    assert "edge" in printed(result)


def test_an_unplanted_model_is_told_to_have_none(inner: Inner, runs: Path) -> None:
    planted(inner.path / "quiet", loud=2.0)
    inner.run(PROBES, *QUICK, "--property-report=report.json", model=inner.path / "quiet" / "final")
    found = inner.statuses()
    assert "failed" == found["exists-of-its-edge[final]"]
    assert "absent" == found["zeroing-matters-at-1000[final]"]
    verdicts = {verdict["probe"]: verdict for verdict in inner.report()["verdicts"]}
    assert "warn" == verdicts["exists-of-its-edge"]["severity"]


def test_two_models_as_a_series_are_compared(inner: Inner, runs: Path) -> None:
    model = Path(str(runs / "{loud,bias}" / "final"))
    asked = (PROBES / "explicit_bias.probe.yaml", "-k", "smaller-ratios", "--property-report=report.json")
    result = inner.run(*asked, model=model)
    assert {"passed"} == {verdict["status"] for verdict in inner.report()["verdicts"] if verdict["members"]}
    assert "highest decreasing" in told(result)
    inner.run(*asked, model=Path(str(runs / "{bias,loud}" / "final")))
    assert {"failed"} == {verdict["status"] for verdict in inner.report()["verdicts"] if verdict["members"]}


def test_without_scipy_one_sentence_says_what_to_install_and_the_rest_runs(
    inner: Inner, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    result = inner.run(PROBES, *QUICK, "--property-report=report.json", model=runs / "loud" / "final")
    found = inner.statuses()
    assert {"unmeasured"} == {found["distribution[final]"], found["departs-from-gamma[final]"]}
    assert "pip install 'maprobe[graphs]'" in told(result)
    others = {name: status for name, status in found.items() if "distribution" not in name and "gamma" not in name}
    assert "unmeasured" not in others.values()
    assert "passed" == found["exists-of-its-edge[final]"]


def test_without_rdkit_and_torch_geometric_a_stored_model_is_measured_all_the_same(
    inner: Inner, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rdkit", "rdkit.Chem", "rdkit.rdBase", "torch_geometric", "ogb"):
        monkeypatch.setitem(sys.modules, name, None)
    inner.run(PROBES, *QUICK, "--property-report=report.json", model=runs / "loud" / "final")
    assert "unmeasured" not in inner.statuses().values()


def test_graphs_that_are_not_stored_need_what_makes_them_again(
    inner: Inner, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rdkit", "rdkit.Chem", "rdkit.rdBase"):
        monkeypatch.setitem(sys.modules, name, None)
    model = fresh_model(config(), seed=1)
    file = inner.write("molecules.smi", "\n".join("C" * (3 + at) for at in range(12)) + "\n")
    data = {**DATA, "name": "molecules.smi", "path": str(file), "molecules": 12}
    save_model(inner.path / "bare", model, data, training={"steps": 1, "epochs": 1, "seed": 1})
    result = inner.run(PROBES, *QUICK, "--property-report=report.json", model=inner.path / "bare")
    assert {"unmeasured"} == {status for name, status in inner.statuses().items() if not name.startswith("smaller")}
    assert "needs the package rdkit" in told(result)
    assert "pip install 'maprobe[graphs]'" in told(result)


def test_probes_of_texts_do_not_apply_to_graphs_nor_those_of_graphs_to_texts(inner: Inner, runs: Path) -> None:
    inner.write(
        "texts.probe.yaml",
        "version: 1\nsuite: s\nprobes:\n"
        "  - {id: a, claim: c, inputs: {text: a fox}, measure: {kind: magnitude}}\n"
        "  - {id: b, claim: c, measure: {kind: perplexity}}\n"
        "  - {id: c, claim: c, measure: {kind: magnitude, tokens: first}}\n",
    )
    inner.run("texts.probe.yaml", "--property-report=report.json", model=runs / "loud" / "final")
    assert {"not-applicable"} == {*inner.statuses().values()}
    inner.run(PROBES, "--property-report=report.json", model=inner.checkpoints.planted)
    assert {"not-applicable"} == {*inner.statuses().values()}
