"""Folders of trained graph transformers as checkpoints: stored graphs, inputs, sites, the untrained twin, facts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_graphs_models import GRAPHS, GT, SAN, VARIOUS, graph, model_of
from test_graphs_training import SMILES, TINY

from maprobe.errors import CheckpointError
from maprobe.facts import FACTS
from maprobe.graphs import GraphBatch, GraphConfig, GraphModel, GraphSet, fresh_model, save_model, train
from maprobe.graphs.checkpoints import facts_of_folder, is_graph_checkpoint, open_checkpoint
from maprobe.graphs.inputs import NODES, GraphInputs, NodeInputs
from maprobe.graphs.kept_parts import read_part, write_part
from maprobe.graphs.losses import loss_of
from maprobe.graphs.molecules import ATOM_TYPES, BOND_TYPES
from maprobe.graphs.neighbours import LargeGraph, NodePart
from maprobe.progress import Silent
from maprobe.running import digests
from maprobe.running.discovery import discover
from maprobe.running.proofs import prove

DATA = {"name": "hand-made", "task": "regression", "node_types": ["C", "N", "O", "F", "S"], "edge_types": [*"-=#~"]}
TRAINING = {"steps": 12, "epochs": 3, "seed": 3}


def same(one: GraphSet | GraphBatch, other: GraphSet | GraphBatch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return all(torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def saved(folder: Path, config: GraphConfig = GT, **changes: Any) -> GraphModel:
    model = model_of(config)
    arguments: dict[str, Any] = {"data": DATA, "training": TRAINING, "test": GRAPHS, **changes}
    save_model(folder, model, **arguments)
    return model


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command on a file of molecules: step-0, step-8 and final."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "chains.smi").write_text(SMILES)
    arguments = ("--model=gt", f"--data={folder / 'chains.smi'}", f"--out={folder / 'out'}", "--epochs=3")
    assert 0 == train.main([*arguments, "--save-every=2", "--seed=7", *TINY])
    return folder


class TestStoredGraphs:
    @pytest.mark.parametrize("most", [0, 2**20, 2**40])
    def test_they_come_back_bit_by_bit(self, most: int, tmp_path: Path) -> None:
        part = replace(GRAPHS, targets=torch.tensor([[0.1], [torch.nan], [-3e8]]))
        columns = torch.cat([part.nodes, torch.full_like(part.nodes, most)], dim=1)
        part = replace(part, nodes=columns)
        noted = write_part(tmp_path, part)
        config = replace(GT, node_types=(5, most + 1))
        again = read_part(tmp_path, noted, config)
        assert torch.equal(part.targets.view(torch.int32), again.targets.view(torch.int32))
        assert same(replace(part, targets=part.node_counts), replace(again, targets=part.node_counts))
        stored = load_file(tmp_path / "test.safetensors")
        expected = {0: torch.int16, 2**20: torch.int32, 2**40: torch.int64}[most]
        assert (expected, torch.int16) == (stored["nodes"].dtype, stored["edge_index"].dtype)
        assert 3 == noted["graphs"]

    def test_numbers_on_edges_come_back_too(self, tmp_path: Path) -> None:
        part = replace(GRAPHS, edges=torch.randn(len(GRAPHS.edges), 8))
        config = replace(GT, edge_types=(), edge_numbers=8)
        assert same(part, read_part(tmp_path, write_part(tmp_path, part), config))

    def test_a_run_stores_the_same_graphs_beside_each_of_its_models(self, run: Path) -> None:
        stored = {
            name: (run / "out" / name / "test.safetensors").read_bytes() for name in ("step-0", "step-8", "final")
        }
        assert 1 == len(set(stored.values()))
        noted = json.loads((run / "out" / "final" / "config.json").read_text())
        assert hashlib.sha256(stored["final"]).hexdigest() == noted["test"]["sha256"]
        assert str(run / "chains.smi") == noted["data"]["path"]

    def test_another_file_is_told(self, tmp_path: Path) -> None:
        saved(tmp_path / "model")
        path = tmp_path / "model" / "test.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        with pytest.raises(CheckpointError, match="test.safetensors is not the file that was written beside this") as e:
            open_checkpoint(tmp_path / "model")
        assert "\n" not in str(e.value)
        rewritten(tmp_path / "model", lambda about: about.update(test=3))
        with pytest.raises(CheckpointError, match="is not the file that was written beside this model"):
            open_checkpoint(tmp_path / "model")

    def test_a_missing_file_is_told(self, tmp_path: Path) -> None:
        saved(tmp_path / "model")
        (tmp_path / "model" / "test.safetensors").unlink()
        with pytest.raises(CheckpointError, match="test.safetensors cannot be read .No such file.* put it back"):
            open_checkpoint(tmp_path / "model")

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: {**t, "nodes": t["nodes"] + 5},
            lambda t: {**t, "edge_index": t["edge_index"] + 4},
            lambda t: {**t, "edge_index": t["edge_index"].float()},
            lambda t: {**t, "node_counts": t["node_counts"][:2]},
            lambda t: {**t, "targets": t["targets"].expand(-1, 2).contiguous()},
            lambda t: {"nodes": t["nodes"]},
        ],
    )
    def test_graphs_that_do_not_fit_are_told(
        self, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], tmp_path: Path
    ) -> None:
        saved(tmp_path / "model")
        path = tmp_path / "model" / "test.safetensors"
        save_file(change(load_file(path)), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rewritten(tmp_path / "model", lambda about: about["test"].update(sha256=digest))
        with pytest.raises(CheckpointError, match="does not hold graphs that fit config.json beside it"):
            open_checkpoint(tmp_path / "model")


class TestMadeAgain:
    """Folders of before graphs were stored."""

    @pytest.fixture
    def older(self, run: Path, tmp_path: Path) -> Path:
        folder = tmp_path / "final"
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((run / "out" / "final" / name).read_bytes())
        rewritten(folder, lambda about: [about.pop(name) for name in ("test", "training")])
        return folder

    def test_they_are_those_that_would_have_been_stored(self, run: Path, older: Path) -> None:
        stored, made = (open_checkpoint(folder).inputs["test"] for folder in (run / "out" / "final", older))
        assert 4 == len(stored) == len(made)
        assert all(same(one.given, other.given) for one, other in zip(stored, made, strict=True))

    def test_other_molecules_are_told(self, older: Path, tmp_path: Path) -> None:
        (tmp_path / "chains.smi").write_text(SMILES.replace("CCO\n", "CCF\n"))
        rewritten(older, lambda about: about["data"].update(path=str(tmp_path / "chains.smi")))
        with pytest.raises(CheckpointError, match="are not those that the model was trained beside .smiles_sha256"):
            open_checkpoint(older)

    def test_fewer_molecules_are_told(self, older: Path, tmp_path: Path) -> None:
        (tmp_path / "chains.smi").write_text(SMILES[:90])
        rewritten(older, lambda about: about["data"].update(path=str(tmp_path / "chains.smi")))
        with pytest.raises(CheckpointError, match="the graphs cannot be made again: chains.smi has .* molecules, and"):
            open_checkpoint(older)

    def test_a_file_that_is_not_there_is_told(self, older: Path) -> None:
        rewritten(older, lambda about: about["data"].update(path="/nowhere/chains.smi"))
        with pytest.raises(CheckpointError, match="were made of /nowhere/chains.smi, which is not there"):
            open_checkpoint(older)
        rewritten(older, lambda about: about["data"].pop("path"))
        with pytest.raises(CheckpointError, match="names no file that the graphs of 'chains.smi' could be made of"):
            open_checkpoint(older)

    def test_proteins_need_their_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ogb", None)
        saved(tmp_path / "model", test=None, data={"name": "ogbn-proteins", "task": "multi-label"})
        with pytest.raises(CheckpointError, match="cannot be made again: --data ogbn-proteins needs the package ogb"):
            open_checkpoint(tmp_path / "model")


class TestInputs:
    def test_each_graph_is_one_with_the_names_of_its_types(self) -> None:
        inputs = GraphInputs(GRAPHS, DATA["node_types"], DATA["edge_types"])
        assert ["graph 0", "graph 1", "graph 2"] == [item.name for item in inputs]
        assert {"token": ("S", "F"), "edge": ("#", "#")} == inputs[1].rows
        assert all(same(GRAPHS.batch([number]), inputs[number].given) for number in range(3))
        assert "graph 2" == inputs[-1].name
        assert ["graph 1", "graph 2"] == [item.name for item in inputs[1:]]
        with pytest.raises(IndexError):
            inputs[3]

    def test_types_of_a_run_have_the_names_of_atoms_and_bonds(self, run: Path) -> None:
        item = open_checkpoint(run / "out" / "final").inputs["test"][0]
        assert {"C"} < set(item.rows["token"]) < set(ATOM_TYPES)
        assert {"single"} <= set(item.rows["edge"]) < set(BOND_TYPES)
        assert [len(item.given.nodes), len(item.given.edges)] == [len(item.rows[row]) for row in ("token", "edge")]

    def test_names_of_columns_are_no_names_of_types(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", data={**DATA, "node_types": ["atomic_num"], "edge_types": None})
        assert {} == open_checkpoint(tmp_path / "model").inputs["test"][0].rows

    def test_joined_they_are_the_batch_of_all(self) -> None:
        inputs = GraphInputs(GRAPHS)
        assert same(GRAPHS.batch([2, 0, 1]), GraphBatch.joined([inputs[number].given for number in (2, 0, 1)]))
        pairs = [GRAPHS.batch([2, 0]), GRAPHS.batch([1])]
        assert same(GRAPHS.batch([2, 0, 1]), GraphBatch.joined(pairs))
        assert not same(GRAPHS.batch([2, 0, 1]), GraphBatch.joined(pairs[::-1]))

    @VARIOUS
    def test_alone_a_graph_comes_out_as_among_others(self, config: GraphConfig) -> None:
        model, inputs = model_of(config), GraphInputs(GRAPHS)
        together = model(GraphBatch.joined([item.given for item in inputs])).detach()
        alone = torch.cat([model(item.given).detach() for item in inputs])
        assert float((together - alone).abs().max()) <= 1e-6 * max(1.0, float(together.abs().max()))

    def test_nodes_of_a_large_graph_are_drawn_the_same_each_time(self) -> None:
        generator = torch.Generator().manual_seed(1)
        index = torch.randint(0, 200, (2, 900), generator=generator).unique(dim=1)
        large = LargeGraph.of(torch.zeros(200, 1).long(), torch.rand(200, 2), index, torch.rand(index.shape[1], 8))
        inputs = NodeInputs(NodePart(large, torch.arange(150), [3, 2]))
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first, again = inputs[1], inputs[1]
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(first.given.edge_index, again.given.edge_index)
        known = [int((~item.given.targets[:, 0].isnan()).sum()) for item in inputs]
        assert [NODES, NODES, 150 - 2 * NODES] == known
        seen = torch.cat([item.given.targets[:count] for item, count in zip(inputs, known, strict=True)])
        assert torch.equal(large.targets[:150].sort(0).values, seen.sort(0).values)


class TestOpening:
    @VARIOUS
    def test_what_is_opened_is_what_was_saved(self, config: GraphConfig, tmp_path: Path) -> None:
        model = saved(tmp_path / "model", config)
        checkpoint = open_checkpoint(tmp_path / "model")
        opened = checkpoint.load()
        assert not opened.module.training
        assert all(torch.equal(w, opened.module.state_dict()[n]) for n, w in model.state_dict().items())
        assert opened.input_sets["test"] is checkpoint.inputs["test"]
        assert str(tmp_path / "model") == opened.resolved
        raw = (tmp_path / "model" / "model.safetensors").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == opened.weights_digest
        item = opened.input_sets["test"][0]
        assert opened.loss is not None
        expected = float((model(item.given).detach() - 0.5).abs())
        assert expected == pytest.approx(float(opened.loss(opened.module(item.given), item.given).detach()))

    @VARIOUS
    def test_each_site_is_what_it_is_said_to_be(self, config: GraphConfig, tmp_path: Path) -> None:
        saved(tmp_path / "model", config)
        opened = open_checkpoint(tmp_path / "model").load()
        batch = opened.input_sets["test"][0].given
        got: dict[str, torch.Tensor] = {}
        for site, path in opened.sites.items():
            assert isinstance(path, str)
            module = opened.module.get_submodule(path.replace("*", "1"))
            if site in ("block.mid", "block.mlp.in", "block.mlp.hidden", "block.attn.in"):
                module.register_forward_pre_hook(lambda m, a, site=site: got.update({site: a[0]}))
            else:
                module.register_forward_hook(
                    lambda m, a, o, site=site: got.update({site: o[0] if isinstance(o, tuple) else o})
                )
        opened.module(batch)
        weights = opened.module.state_dict()

        def norm(value: torch.Tensor, name: str) -> torch.Tensor:
            prefix = f"layers.1.nodes.{name}"
            mean, var = weights[f"{prefix}.running_mean"], weights[f"{prefix}.running_var"]
            return (value - mean) / (var + 1e-5).sqrt() * weights[f"{prefix}.weight"] + weights[f"{prefix}.bias"]

        middle = norm(got["block.attn.in"] + got["block.attn.out"], "norm1")
        assert torch.allclose(middle, got["block.mid"], atol=1e-5)
        assert torch.equal(got["block.mlp.in"], got["block.mid"])
        assert torch.allclose(norm(middle + got["block.mlp.out"], "norm2"), got["block.out"], atol=1e-5)
        down = got["block.mlp.hidden"] @ weights["layers.1.nodes.down.weight"].T + weights["layers.1.nodes.down.bias"]
        assert torch.allclose(down, got["block.mlp.out"], atol=1e-5)
        nodes, edges, width = len(batch.nodes), len(batch.edges), config.width
        shapes = {site: (edges if site.startswith("edge.") else nodes, width) for site in opened.sites}
        assert shapes | {"block.mlp.hidden": (nodes, 2 * width)} == {s: tuple(v.shape) for s, v in got.items()}
        assert torch.equal(weights["node_embedding.tables.0.weight"][batch.nodes[:, 0]], got["embed.out"])
        assert torch.equal(weights["edge_embedding.tables.0.weight"][batch.edges[:, 0]], got["edge.embed"])

    @VARIOUS
    def test_what_is_found_in_it_stands_the_proofs(self, config: GraphConfig, tmp_path: Path) -> None:
        saved(tmp_path / "model", replace(config, width=32))  # in narrower ones a ReLU may hide what is nudged
        opened = open_checkpoint(tmp_path / "model").load()
        proofs = prove(discover(opened.module, {}, opened))
        assert [] == [proof for proof in proofs if proof.holds is False]
        assert {True} == {proof.holds for proof in proofs if proof.name.startswith("block.in + attention + MLP")}
        reads = {proof.name.split()[0] for proof in proofs if proof.name.endswith("reading it changes nothing")}
        assert {*opened.sites} <= reads

    def test_without_residuals_nothing_is_added_to_a_stream(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", replace(GT, residual=False))
        sites = open_checkpoint(tmp_path / "model").load().sites
        assert {"block.out", "edge.attn", "block.mlp.in"} <= set(sites)
        assert set() == {"block.mid", "block.attn.out", "block.mlp.out"} & set(sites)

    def test_labels_have_their_loss(self, tmp_path: Path) -> None:
        part = replace(GRAPHS, targets=torch.tensor([[1.0], [0.0], [torch.nan]]))
        saved(tmp_path / "model", data={**DATA, "task": "multi-label"}, test=part)
        opened = open_checkpoint(tmp_path / "model").load()
        batch, output = part.batch([0, 1, 2]), torch.tensor([[2.0], [1.0], [9.0]])
        assert opened.loss is not None
        expected = loss_of(output, batch.targets, "multi-label")
        assert torch.equal(expected, opened.loss(output, batch))
        assert float(expected) != pytest.approx(float(loss_of(output, batch.targets, "regression")))
        rewritten(tmp_path / "model", lambda about: about["data"].update(task="ranking"))
        with pytest.raises(CheckpointError, match="the task 'ranking' is unknown; allowed: regression, multi-label"):
            open_checkpoint(tmp_path / "model")

    def test_where_the_data_lay_is_no_part_of_the_config(self, run: Path, tmp_path: Path) -> None:
        config = open_checkpoint(run / "out" / "final").load().config
        about = json.loads((run / "out" / "final" / "config.json").read_text())
        assert about["data"].pop("path")
        assert about == config
        assert digests.config_digest(about) == digests.config_digest(config)

    def test_neither_rdkit_nor_torch_geometric_is_imported(self, run: Path) -> None:
        code = (
            "import sys; from maprobe.graphs.checkpoints import is_graph_checkpoint, open_checkpoint\n"
            f"folder = {str(run / 'out' / 'final')!r}\n"
            "assert is_graph_checkpoint(folder)\n"
            "model = open_checkpoint(folder).load(); model.untrained()\n"
            "model.module(model.input_sets['test'][0].given)\n"
            "print(sorted({'rdkit', 'torch_geometric', 'ogb', 'transformers'} & set(sys.modules)))"
        )
        found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert "[]\n" == found.stdout


class TestWhatIsAGraphCheckpoint:
    def test_a_folder_of_the_format_is_one_whatever_else_is_wrong_with_it(self, run: Path, tmp_path: Path) -> None:
        assert is_graph_checkpoint(run / "out" / "step-0")
        (tmp_path / "config.json").write_text('{"maprobe_graph_model": 99}')
        assert is_graph_checkpoint(tmp_path)

    @pytest.mark.parametrize("text", [None, b"{", b'{"model_type": "llama"}', b"[1]", b"\xff\xfe", b"[" * 100_000])
    def test_no_other_is(self, text: bytes | None, tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / "config.json").write_bytes(text)
        assert not is_graph_checkpoint(tmp_path)
        assert not is_graph_checkpoint(tmp_path / "nowhere")
        for read in (open_checkpoint, facts_of_folder):
            with pytest.raises(CheckpointError) as error:
                read(tmp_path)
            assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["config", "data", "training"])
    def test_a_part_of_the_config_that_is_no_mapping_is_told(self, name: str, tmp_path: Path) -> None:
        saved(tmp_path / "model")
        rewritten(tmp_path / "model", lambda about: about.update({name: [1]}))
        with pytest.raises(CheckpointError, match=f"config.json: '{name}' is no mapping; train the model again"):
            open_checkpoint(tmp_path / "model")


class TestUntrained:
    def test_the_twin_beside_it_is_taken_and_is_what_the_seed_makes(self, run: Path, tmp_path: Path) -> None:
        opened = open_checkpoint(run / "out" / "final").load()
        assert opened.untrained is not None
        beside = open_checkpoint(run / "out" / "step-0").load().module.state_dict()
        made = fresh_model(opened.module.config, seed=7).state_dict()  # type: ignore[arg-type]
        twin = opened.untrained()
        assert not twin.training
        for name, weight in twin.state_dict().items():
            assert torch.equal(beside[name], weight), name
            assert torch.equal(made[name], weight), name
        assert any(not torch.equal(beside[name], weight) for name, weight in opened.module.state_dict().items())

    @pytest.mark.parametrize("other", ["none", "another config", "another seed", "damaged"])
    def test_without_one_of_its_own_it_is_made(self, other: str, tmp_path: Path) -> None:
        saved(tmp_path / "final")
        if other != "none":
            seeds = {"training": {**TRAINING, "seed": 4}} if other == "another seed" else {}
            saved(tmp_path / "step-0", SAN if other == "another config" else GT, **seeds)
        if other == "damaged":
            (tmp_path / "step-0" / "config.json").write_text("{")
        untrained = open_checkpoint(tmp_path / "final").load().untrained
        assert untrained is not None
        made = fresh_model(GT, seed=3).state_dict()
        assert all(torch.equal(made[name], weight) for name, weight in untrained().state_dict().items())

    def test_of_an_older_folder_the_usual_seed_is_taken(self, tmp_path: Path) -> None:
        saved(tmp_path / "final", training=None)
        untrained = open_checkpoint(tmp_path / "final").load().untrained
        assert untrained is not None
        made = fresh_model(GT, seed=41).state_dict()
        assert all(torch.equal(made[name], weight) for name, weight in untrained().state_dict().items())


class TestFacts:
    def test_they_are_told_by_the_config_alone(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", replace(SAN, use_bias=True, explicit_bias=True))
        expected = {
            "model_type": "san",
            "architectures": ["SAN"],
            "num_hidden_layers": 2,
            "hidden_size": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 16,
            "dtype": "float32",
            "modality": "graph",
            "training_steps": 12,
            "explicit_bias": True,
        }
        checkpoint = open_checkpoint(tmp_path / "model")
        assert expected == checkpoint.facts == checkpoint.load().facts
        for name in ("model.safetensors", "test.safetensors"):
            (tmp_path / "model" / name).unlink()
        assert expected == facts_of_folder(tmp_path / "model")
        assert set(expected) < set(FACTS)

    def test_a_run_states_its_steps(self, run: Path) -> None:
        told = {name: facts_of_folder(run / "out" / name) for name in ("step-0", "step-8", "final")}
        assert {"step-0": 0, "step-8": 8, "final": 12} == {n: facts["training_steps"] for n, facts in told.items()}
        noted = json.loads((run / "out" / "step-8" / "config.json").read_text())
        assert {"steps": 8, "epochs": 2, "seed": 7} == noted["training"]
        assert {False} == {facts["explicit_bias"] for facts in told.values()}

    def test_an_older_folder_states_none(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", training=None)
        assert -1 == facts_of_folder(tmp_path / "model")["training_steps"]


def test_opening_takes_well_under_a_second(tmp_path: Path) -> None:
    many = GraphSet.of([graph([0, 1, 2, 1] * 5, {(n, n + 1): 1 for n in range(19)}) for _ in range(500)])
    saved(tmp_path / "model", test=many)
    began = time.process_time()
    opened = open_checkpoint(tmp_path / "model", Silent()).load()
    assert 500 == len(opened.input_sets["test"])
    assert 0.5 > time.process_time() - began
