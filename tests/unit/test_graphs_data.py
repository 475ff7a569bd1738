"""Molecules as graphs, penalised logP, files of SMILES, the published data sets, and missing packages."""

from __future__ import annotations

import gzip
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from maprobe.errors import CheckpointError, InputError
from maprobe.graphs import datasets, published
from maprobe.graphs.configs import GraphConfig
from maprobe.graphs.datasets import load_data
from maprobe.graphs.loop import loss_of
from maprobe.graphs.models import fresh_model
from maprobe.graphs.molecules import ATOM_TYPES, BOND_TYPES, graph_of, parsed
from maprobe.graphs.neighbours import LargeGraph, NodePart
from maprobe.graphs.penalised_logp import PenalisedLogP, parts_of
from maprobe.graphs.smiles import Line, read_smiles
from maprobe.progress import Silent

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def molecule(smiles: str) -> Any:
    return parsed(Line(smiles=smiles, path=Path("hand"), number=1))


def shape(smiles: str) -> tuple[str, dict[tuple[int, int], str]]:
    """A molecule's atoms by name, and its bonds by the atoms that they join."""
    graph = graph_of(molecule(smiles), [0.0])
    atoms = " ".join(ATOM_TYPES[number] for number in graph.nodes.flatten().tolist())
    bonds = dict(zip(map(tuple, graph.edge_index.T.tolist()), graph.edges.flatten().tolist(), strict=True))
    assert bonds == {(other, one): kind for (one, other), kind in bonds.items()}, "each bond is an edge both ways"
    return atoms, {pair: BOND_TYPES[kind] for pair, kind in bonds.items() if pair[0] < pair[1]}


class TestMolecules:
    def test_ethanol_acetonitrile_and_nitromethane_are_what_they_are(self) -> None:
        assert ("C C O", {(0, 1): "single", (1, 2): "single"}) == shape("CCO")
        assert ("C C N", {(0, 1): "single", (1, 2): "triple"}) == shape("CC#N")
        assert ("C N+ O O-", {(0, 1): "single", (1, 2): "double", (1, 3): "single"}) == shape("C[N+](=O)[O-]")

    def test_an_aromatic_ring_is_single_and_double_bonds_in_turn(self) -> None:
        atoms, bonds = shape("c1ccccc1")
        assert "C C C C C C" == atoms
        ring = [bonds[tuple(sorted((at, (at + 1) % 6)))] for at in range(6)]
        assert ring in (["single", "double"] * 3, ["double", "single"] * 3)

    def test_what_is_not_listed_is_other(self) -> None:
        atoms, bonds = shape("[Fe+2]<-[OH2]")
        assert "other O" == atoms
        assert {(0, 1): "other"} == bonds

    def test_there_are_as_many_types_as_in_the_benchmark_s_zinc(self) -> None:
        assert (28, 4) == (len(ATOM_TYPES), len(BOND_TYPES))
        assert 28 == len(set(ATOM_TYPES))

    def test_the_molecule_is_left_as_it_was(self) -> None:
        benzene = molecule("c1ccccc1")
        graph_of(benzene, [0.0])
        assert all(bond.GetIsAromatic() for bond in benzene.GetBonds())


class TestPenalisedLogP:
    def test_aspirin_is_made_of_its_parts(self) -> None:
        """1.3101 is Crippen's logP of aspirin; 1.580 its synthetic accessibility; its ring has six atoms."""
        parts = parts_of(molecule(ASPIRIN))
        assert (1.3101, 1.58004, 0.0) == pytest.approx((parts.logp, parts.sa, parts.cycles), abs=1e-4)
        assert 1.3101 - 1.58004 == pytest.approx(parts.plain, abs=1e-4)
        by_hand = (1.3101 - 2.45710) / 1.43432 + (-1.58004 + 3.05258) / 0.83352 + (0 + 0.04857) / 0.28602
        assert by_hand == pytest.approx(parts.standardised, abs=1e-3)

    @pytest.mark.parametrize(
        ("smiles", "over"), [("C1CCCCC1", 0), ("C1CCCCCC1", 1), ("C1CCCCCCCCC1", 4), ("CCCCCCCCC", 0)]
    )
    def test_rings_are_penalised_by_their_atoms_above_six(self, smiles: str, over: int) -> None:
        assert over == parts_of(molecule(smiles)).cycles

    def test_fused_rings_count_by_the_smallest_of_them(self) -> None:
        assert 0 == parts_of(molecule("c1ccc2ccccc2c1")).cycles

    def test_each_part_moves_it_the_way_it_should(self) -> None:
        start = PenalisedLogP(logp=2.0, sa=3.0, cycles=0.0)
        assert start.standardised < PenalisedLogP(logp=3.0, sa=3.0, cycles=0.0).standardised
        assert start.standardised > PenalisedLogP(logp=2.0, sa=4.0, cycles=0.0).standardised
        assert start.standardised > PenalisedLogP(logp=2.0, sa=3.0, cycles=1.0).standardised


class TestFiles:
    @pytest.mark.parametrize("name", ["few.smi", "few.smi.gz", "few.csv", "few.csv.gz", "quoted.csv", "column.csv"])
    def test_every_form_is_read_with_its_lines(self, name: str, tmp_path: Path) -> None:
        text = {
            "few.smi": "CCO ethanol\n\nCC#N\n",
            "few.csv": "SMILES\nCCO\n\nCC#N\n",
            "quoted.csv": 'name,Smiles\n"a, b",CCO\nnone,\nc,CC#N\n',
            "column.csv": "SMILES\nCCO\n\n  CC#N\n",
        }[name.removesuffix(".gz")]
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        lines = read_smiles(path)
        first = 1 if ".smi" in name else 2
        assert ["CCO", "CC#N"] == [lines[at].smiles for at in range(len(lines))]
        assert [first, first + 2] == [lines[at].number for at in range(len(lines))]

    def test_files_stand_one_behind_another(self, tmp_path: Path) -> None:
        for name, text in (("a.smi", "C\nCC\n"), ("b.smi", "CCC\n"), ("c.smi", "CCCC\nO\n")):
            (tmp_path / name).write_text(text)
        joined = read_smiles(tmp_path / "a.smi") + read_smiles(tmp_path / "b.smi") + read_smiles(tmp_path / "c.smi")
        assert ["a.smi:1", "a.smi:2", "b.smi:1", "c.smi:1", "c.smi:2"] == [
            f"{joined[at].path.name}:{joined[at].number}" for at in range(len(joined))
        ]

    @pytest.mark.parametrize(
        ("name", "raw", "sentence"),
        [
            ("a.txt", b"CCO", "a.txt is not a file of SMILES by its name; allowed endings: .smi, .csv, .smi.gz"),
            ("a.smi", b"\n\n", "a.smi holds no SMILES; name a file with at least one"),
            ("a.smi", b"\xff\xfeC", "a.smi is not text in UTF-8"),
            ("a.csv", b"name,molecule\nx,CCO\n", "a.csv:1: no column is named smiles (there are 'name', 'molecule')"),
            ("a.csv.gz", b"SMILES\nCCO", "a.csv.gz cannot be read (Not a gzipped file"),
            ("a.smi.gz", gzip.compress(b"CCO" * 99, mtime=0)[:-9], "a.smi.gz cannot be read (Compressed file ended"),
        ],
    )
    def test_what_is_none_is_told_in_one_sentence(self, name: str, raw: bytes, sentence: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(InputError) as error:
            read_smiles(tmp_path / name)
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_line_that_is_no_molecule_is_told_by_its_number(self, tmp_path: Path, capfd: Any) -> None:
        path = tmp_path / "few.smi"
        path.write_text("\n".join(["CCO"] * 6 + ["C1CC("] + ["CCN"] * 6))
        with pytest.raises(InputError) as error:
            load_data(str(path), None, tmp_path, Silent())
        assert f"{path}:7: 'C1CC(' is not a SMILES of a molecule that RDKit can read" in str(error.value)
        assert "" == capfd.readouterr().err


class TestParts:
    def make(self, tmp_path: Path, count: int | None = None, text: str = "") -> datasets.GraphData:
        path = tmp_path / "chains.smi"
        path.write_text(text or "".join(f"{'C' * length}O\n" for length in range(2, 42)) + "C\n")
        return load_data(str(path), count, tmp_path, Silent())

    def test_eight_tenths_are_learned_from_and_no_molecule_is_in_two_parts(self, tmp_path: Path) -> None:
        data = self.make(tmp_path)
        parts: list[Any] = [data.train, data.valid, data.test]
        assert [32, 4, 4] == [len(part) for part in parts]
        sizes = [size for part in parts for size in part.node_counts.tolist()]
        assert list(range(3, 43)) == sorted(sizes)
        assert {"train": 32, "valid": 4, "test": 4} == data.about["graphs"]

    def test_a_molecule_without_a_bond_is_left_out_and_counted(self, tmp_path: Path) -> None:
        assert (41, 1) == tuple(self.make(tmp_path).about[name] for name in ("molecules", "without_bonds"))
        with pytest.raises(InputError, match="no molecule has a bond, so there is nothing to learn from"):
            self.make(tmp_path, text="C\n" * 12)

    def test_the_draw_is_the_same_each_time(self, tmp_path: Path) -> None:
        one, same, more = self.make(tmp_path, 20), self.make(tmp_path, 20), self.make(tmp_path, 21)
        assert one.about == same.about
        assert one.about["smiles_sha256"] != more.about["smiles_sha256"]
        assert isinstance(one.train, datasets.GraphSet)
        assert isinstance(same.train, datasets.GraphSet)
        assert torch.equal(one.train.nodes, same.train.nodes)

    def test_too_many_and_too_few_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="chains.smi has 41 molecules, and 42 are asked for; lower --molecules"):
            self.make(tmp_path, 42)
        with pytest.raises(InputError, match="3 molecules cannot be parted; at least 10 are needed"):
            self.make(tmp_path, text="CC\nCCC\nCCCC\n")

    def test_targets_are_the_molecules_own(self, tmp_path: Path) -> None:
        data = self.make(tmp_path)
        assert isinstance(data.test, datasets.GraphSet)
        for at, size in enumerate(data.test.node_counts.tolist()):
            expected = parts_of(molecule("C" * (size - 1) + "O")).standardised
            assert expected == pytest.approx(float(data.test.targets[at, 0]), abs=1e-5)


class TestTargets:
    HEADER = "mol,SMILES,NR-AR,SR-p53\n"

    def make(self, tmp_path: Path, cells: list[str], targets: tuple[str, ...] = ("NR-AR", "SR-p53")) -> Any:
        path = tmp_path / "labels.csv"
        path.write_text(self.HEADER + "".join(f"m,{'C' * (at + 2)}O,{cell}\n" for at, cell in enumerate(cells)))
        return load_data(str(path), None, tmp_path, Silent(), targets)

    def test_zeros_and_ones_are_labels_and_empty_cells_are_not_known(self, tmp_path: Path) -> None:
        data = self.make(tmp_path, ["0,1", ",0", "1,"] * 10)
        assert ("multi-label", 2, ["NR-AR", "SR-p53"]) == (data.task, data.outputs, data.about["targets"])
        for part in (data.train, data.valid, data.test):
            for size, row in zip(part.node_counts.tolist(), part.targets.tolist(), strict=True):
                expected = [[0.0, 1.0], [math.nan, 0.0], [1.0, math.nan]][(size - 3) % 3]
                assert expected == pytest.approx(row, nan_ok=True)

    def test_other_numbers_are_numbers(self, tmp_path: Path) -> None:
        data = self.make(tmp_path, ["0.5,1"] * 12, targets=("NR-AR",))
        assert ("regression", 1, 0.5) == (data.task, data.outputs, float(data.train.targets[0, 0]))

    @pytest.mark.parametrize(
        ("cells", "targets", "sentence"),
        [
            (
                ["0,1"] * 12,
                ("NR-ER",),
                "labels.csv:1: no column is named 'NR-ER' (did you mean 'NR-AR'?); there are 'mol'",
            ),
            (["0,1"] * 3 + ["x,1"] * 9, ("NR-AR",), "labels.csv:5: 'x' is not a number; write one, or leave the cell"),
            (["0,inf"] * 12, ("SR-p53",), "labels.csv:2: 'inf' is not a number"),
            (["0,"] * 12, ("NR-AR", "SR-p53"), "labels.csv: too few numbers are known in 'SR-p53' to learn from"),
        ],
    )
    def test_each_fault_is_told_in_one_sentence(
        self, cells: list[str], targets: tuple[str, ...], sentence: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError) as error:
            self.make(tmp_path, cells, targets)
        assert sentence in str(error.value)

    def test_only_tables_have_targets_of_one_s_own(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="--targets is for .csv files; molsets has targets of its own"):
            load_data("molsets", None, tmp_path, Silent(), ["NR-AR"])
        (tmp_path / "a.smi").write_text("CCO\n")
        with pytest.raises(InputError, match="a.smi has no columns of targets, only a .csv file has; leave --targets"):
            load_data(str(tmp_path / "a.smi"), None, tmp_path, Silent(), ["NR-AR"])


class TestMolsets:
    def test_its_three_files_are_drawn_from(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("train", "test", "test_scaffolds"):
            (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(b"SMILES\n" + b"CCO\nCCN\nCCS\nCCF\n"))
        asked: list[Any] = []

        def fetch(name: str, version: str, member: str, **rest: Any) -> Path:
            asked.append((name, version, member, rest["sha256"][:8]))
            return tmp_path

        monkeypatch.setattr(datasets, "fetch_member", fetch)
        data = load_data("molsets", None, tmp_path, Silent())
        assert [("molsets", "0.3.1", "moses/dataset/data", "7f4450e3")] == asked
        assert ("molsets", 12) == (data.about["name"], data.about["molecules"])

    def test_where_it_cannot_be_had_the_package_index_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        with pytest.raises(CheckpointError, match="pypi:molsets==0.3.1#moses/dataset/data: "):
            load_data("molsets", 10, tmp_path / "cache", Silent())

    def test_a_name_that_is_nothing_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match="--data zink is neither a file nor a data set; allowed: molsets, ogbn-prot"
        ):
            load_data("zink", None, tmp_path, Silent())
        with pytest.raises(InputError, match="--molecules is for molsets and files of SMILES; zinc is taken whole"):
            load_data("zinc", 100, tmp_path, Silent())


class TestPublished:
    def fake(self, monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
        monkeypatch.setattr(published, "needed", lambda module, purpose: modules.get(module.replace(".", "_")))

    def item(self, targets: list[float], edges: int = 2) -> Any:
        return SimpleNamespace(
            x=torch.tensor([[3], [5]]),
            edge_index=torch.tensor([[0, 1], [1, 0]])[:, :edges],
            edge_attr=torch.tensor([1, 1])[:edges],
            y=torch.tensor(targets),
        )

    def test_zinc_keeps_its_own_parts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def zinc(root: str, *, subset: bool, split: str) -> list[Any]:
            assert subset
            return [self.item([float(number)]) for number in range({"train": 5, "val": 2, "test": 3}[split])]

        self.fake(monkeypatch, torch_geometric_datasets=SimpleNamespace(ZINC=zinc))
        data = load_data("zinc", None, tmp_path, Silent())
        assert [5, 2, 3] == [len(part) for part in (data.train, data.valid, data.test)]
        assert ((28,), (4,), "regression", 1) == (data.node_types, data.edge_types, data.task, data.outputs)
        batch = data.train.batch([3, 4])
        assert [[3.0], [4.0]] == batch.targets.tolist()
        assert [[1]] * 4 == batch.edges.tolist()

    def test_tox21_has_labels_that_are_not_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        items = [self.item([1.0, float("nan"), 0.0]) for _ in range(20)] + [self.item([0.0] * 3, edges=0)]
        maps = SimpleNamespace(x_map={"element": list(range(9))}, e_map={"bond": list(range(4))})
        sets = SimpleNamespace(MoleculeNet=lambda root, name: items)
        self.fake(monkeypatch, torch_geometric_datasets=sets, torch_geometric_utils_smiles=maps)
        data = load_data("tox21", None, tmp_path, Silent())
        assert [16, 2, 2] == [len(part) for part in (data.train, data.valid, data.test)]  # one has no edge
        assert ((9,), (4,), "multi-label", 3) == (data.node_types, data.edge_types, data.task, data.outputs)
        assert [True, False, True] == (~data.test.batch([0]).targets.isnan()).flatten().tolist()

    @pytest.mark.parametrize("name", ["zinc", "tox21", "ogbn-proteins"])
    def test_where_one_cannot_be_had_one_sentence_says_what_to_do(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: Any, **options: Any) -> None:
            raise OSError("<urlopen error Name or service not known>\nsecond line")

        sets = SimpleNamespace(ZINC=fail, MoleculeNet=fail)
        self.fake(
            monkeypatch, torch_geometric_datasets=sets, ogb_nodeproppred=SimpleNamespace(NodePropPredDataset=fail)
        )
        with pytest.raises(InputError) as error:
            load_data(name, None, tmp_path, Silent())
        said = str(error.value)
        assert said.startswith(
            f"--data {name} cannot be had: OSError: <urlopen error Name or service not known>; it takes"
        )
        assert "train on molecules by --data molsets, or on a file of SMILES" in said
        assert "\n" not in said

    def test_proteins_are_fetched_once_and_predicted_node_by_node(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        class Fake(list[Any]):
            def __init__(self, *, name: str, root: str) -> None:
                asked.append(name)
                Path(root).mkdir(parents=True, exist_ok=True)
                edges = numpy.array([[0, 1, 2, 3, 4, 5, 0], [1, 0, 1, 1, 5, 4, 5]])
                graph = {
                    "edge_index": edges,
                    "edge_feat": numpy.arange(56.0, dtype=numpy.float32).reshape(7, 8),
                    "node_species": numpy.array([[3702], [9606], [3702], [4932], [9606], [3702]]),
                }
                super().__init__([(graph, numpy.eye(6, 4, dtype=numpy.int64))])

            def get_idx_split(self) -> dict[str, Any]:
                return {"train": numpy.array([1, 5, 0]), "valid": numpy.array([2]), "test": numpy.array([4])}

        self.fake(monkeypatch, ogb_nodeproppred=SimpleNamespace(NodePropPredDataset=Fake))
        load_data("ogbn-proteins", None, tmp_path, Silent())
        data = load_data("ogbn-proteins", None, tmp_path, Silent())
        assert ["ogbn-proteins"] == asked
        assert [3, 1, 1] == [len(part) for part in (data.train, data.valid, data.test)]
        assert ((3,), (), 8, 4) == (data.node_types, data.edge_types, data.edge_numbers, data.outputs)
        config = GraphConfig(
            model="gt",
            node_types=data.node_types,
            edge_types=data.edge_types,
            edge_numbers=data.edge_numbers,
            layers=2,
            heads=2,
            width=8,
            outputs=data.outputs,
            readout="nodes",
            residual=False,
            edge_stream=False,
        )
        batch = data.train.batch([0, 1])
        assert [[0, 1, 0, 0], [0, 0, 0, 0]] == batch.targets[:2].tolist()
        assert bool(batch.targets[2:].isnan().all())
        loss = loss_of(fresh_model(config, seed=1)(batch), batch.targets, data.task)
        assert bool(loss.isfinite())

    def test_drawn_neighbours_are_neighbours(self) -> None:
        generator = torch.Generator().manual_seed(1)
        index = torch.randint(0, 50, (2, 400), generator=generator).unique(dim=1)
        edges = torch.arange(index.shape[1], dtype=torch.float32).unsqueeze(1)
        graph = LargeGraph.of(torch.arange(50).unsqueeze(1), torch.zeros(50, 1), index, edges)
        part = NodePart(graph, torch.tensor([7, 8, 9, 10]), [3, 2])
        known = {tuple(pair): number for number, pair in enumerate(index.T.tolist())}
        torch.manual_seed(5)
        batch = part.batch([1, 3])
        assert [8, 10] == batch.nodes[:2].flatten().tolist()
        pairs = batch.nodes.flatten()[batch.edge_index].T.tolist()
        assert [float(known[tuple(pair)]) for pair in pairs] == batch.edges.flatten().tolist()
        assert len(pairs) == len({tuple(pair) for pair in pairs})
        assert 1 <= sum(pair[1] == 8 for pair in pairs) <= 3
        torch.manual_seed(5)
        assert torch.equal(batch.edge_index, part.batch([1, 3]).edge_index)


class TestMissingPackages:
    @pytest.mark.parametrize(
        ("module", "name", "sentence"),
        [
            ("rdkit", "few.smi", "reading SMILES needs the package rdkit, which cannot be imported"),
            ("torch_geometric", "zinc", "--data zinc needs the package torch_geometric, which cannot be imported"),
            ("ogb", "ogbn-proteins", "--data ogbn-proteins needs the package ogb, which cannot be imported"),
        ],
    )
    def test_each_is_told_in_one_sentence(
        self, module: str, name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for known in [known for known in sys.modules if known.split(".")[0] == module]:
            monkeypatch.delitem(sys.modules, known)
        monkeypatch.setitem(sys.modules, module, None)
        if name == "few.smi":
            (tmp_path / name).write_text("CCO\n" * 12)
            name = str(tmp_path / name)
        with pytest.raises(InputError) as error:
            load_data(name, None, tmp_path, Silent())
        assert str(error.value).startswith(sentence)
        install = "; pip install ogb" if module == "ogb" else "; pip install 'maprobe[graphs]'"
        assert str(error.value).endswith(install)

    def test_the_score_of_synthetic_accessibility_may_be_missing_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        benzene = molecule("c1ccccc1")
        monkeypatch.setitem(sys.modules, "rdkit.Contrib.SA_Score.sascorer", None)
        with pytest.raises(InputError, match="penalised logP needs the package rdkit, which cannot be imported"):
            parts_of(benzene)
