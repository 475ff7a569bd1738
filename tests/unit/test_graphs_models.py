"""Graph transformers: their equations against dense ones, the edge scores by hand, batches, presets, saving."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from maprobe.errors import CheckpointError, InputError, TrainingError
from maprobe.graphs import (
    EdgeScores,
    GraphBatch,
    GraphConfig,
    GraphModel,
    GraphSet,
    fresh_model,
    load_model,
    save_model,
    saving,
)
from maprobe.graphs.batches import Graph
from maprobe.graphs.presets import PRESETS

GT = GraphConfig(
    model="gt", node_types=(5,), edge_types=(4,), layers=2, heads=2, width=8, readout="mean", edge_stream=True
)
GRAPHIT = replace(GT, model="graphit", readout="sum", edge_stream=False)
SAN = replace(GRAPHIT, model="san", heads=4)
CONFIGS = [replace(c, use_bias=b, explicit_bias=b) for c in (GT, GRAPHIT, SAN) for b in (False, True)]
NAMES = [f"{c.model}{'-explicit-bias' if c.explicit_bias else ''}" for c in CONFIGS]
BY_BIAS = replace(GRAPHIT, use_bias=True, explicit_bias=True, bias_weights="bias")
VARIOUS = pytest.mark.parametrize("config", CONFIGS, ids=NAMES)


def graph(nodes: list[int], bonds: dict[tuple[int, int], int], target: float = 0.0) -> Graph:
    pairs = [pair for one, other in bonds for pair in ((one, other), (other, one))]
    return Graph(
        nodes=torch.tensor(nodes).unsqueeze(1),
        edge_index=torch.tensor(pairs).T,
        edges=torch.tensor([kind for kind in bonds.values() for _ in range(2)]).unsqueeze(1),
        targets=torch.tensor([[target]]),
    )


GRAPHS = GraphSet.of(
    [
        graph([0, 1, 2, 1], {(0, 1): 1, (1, 2): 2, (2, 3): 1, (3, 0): 3}, 0.5),
        graph([4, 3], {(0, 1): 2}, -1.0),
        graph([1, 1, 0, 2, 0], {(0, 1): 1, (1, 2): 1, (1, 3): 2, (3, 4): 1}, 2.0),  # node 0 of it has one neighbour
    ]
)


def model_of(config: GraphConfig) -> GraphModel:
    """A model whose batch norms have seen something, in eval mode."""
    model = fresh_model(config, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model.eval()


def pooled(model: GraphModel, batch: GraphBatch) -> torch.Tensor:
    """What comes out of the layers, before the small network whose ReLUs may hide it."""
    seen: list[torch.Tensor] = []
    handle = model.readout.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(batch)
    handle.remove()
    return seen[0].detach()


def densely(model: GraphModel, batch: GraphBatch, *, training: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes out of the layers, and the predictions, by matrices over all pairs of nodes.

    They are query[t], key[s], and edge[t, s] where an edge leads from s to t.
    """
    weights, config = model.state_dict(), model.config
    count, heads = len(batch.nodes), config.heads
    joined = torch.zeros(count, count, dtype=torch.bool)
    kinds = torch.zeros(count, count, dtype=torch.long)
    for (source, target), kind in zip(batch.edge_index.T.tolist(), batch.edges.flatten().tolist(), strict=True):
        joined[target, source], kinds[target, source] = True, kind
    h = weights["node_embedding.tables.0.weight"][batch.nodes.flatten()]
    e = weights["edge_embedding.tables.0.weight"][kinds]

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        y = x @ weights[f"{name}.weight"].T
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def norm(name: str, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        if training:
            mean, variance = x[rows].mean(0), x[rows].var(0, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def after(name: str, x: torch.Tensor, taken: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        middle = norm(f"{name}.norm1", x * config.residual + linear(f"{name}.out", taken), rows)
        added = linear(f"{name}.down", linear(f"{name}.up", middle).clamp(min=0))
        return norm(f"{name}.norm2", middle * config.residual + added, rows)

    for number in range(config.layers):
        at = f"layers.{number}.attention"
        q, k, v = (linear(f"{at}.{part}", h).reshape(count, heads, -1) for part in ("query", "key", "value"))
        size = q.shape[2]
        w = linear(f"{at}.edge", e).reshape(count, count, heads, size)
        scores = torch.einsum("thd,shd,tshd->tshd", q, k, w) / size**0.5
        if config.explicit_bias:
            bias = torch.einsum("thd,hd->th", q, weights[f"{at}.scores.key_bias"]) / size**0.5
            scores = scores + bias[:, None, :, None] * weights[f"{at}.scores.edge_bias"]
            v = v + weights[f"{at}.value_bias"]
        sums = bias[:, None, :] if config.bias_weights == "bias" else scores.sum(3)
        a = sums.clamp(-5, 5).exp() * joined[:, :, None]
        taken = torch.einsum("tsh,shd->thd", a, v) / (a.sum(1)[:, :, None] + 1e-6)
        if config.edge_stream:
            e = after(f"layers.{number}.edges", e, scores.reshape(count, count, -1), joined)
        h = after(f"layers.{number}.nodes", h, taken.reshape(count, -1), torch.ones(count, dtype=torch.bool))
    if config.readout != "nodes":
        parts = [h[batch.graph == number] for number in range(batch.count)]
        h = torch.stack([x.mean(0) if config.readout == "mean" else x.sum(0) for x in parts])
    return h, linear("readout.4", linear("readout.2", linear("readout.0", h).clamp(min=0)).clamp(min=0))


def holds(model: GraphModel, batch: GraphBatch, expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.testing.assert_close(pooled(model, batch), expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(batch), expected[1], atol=1e-5, rtol=1e-5)


class TestEquations:
    @VARIOUS
    def test_predictions_are_those_of_dense_matrices(self, config: GraphConfig) -> None:
        model, batch = model_of(config), GRAPHS.batch([0, 1, 2])
        holds(model, batch, densely(model, batch))

    @VARIOUS
    def test_in_training_norms_take_the_statistics_of_the_batch(self, config: GraphConfig) -> None:
        model, batch = model_of(config), GRAPHS.batch([0, 2])
        expected = densely(model, batch, training=True)
        holds(model.train(), batch, expected)

    @pytest.mark.parametrize("config", [replace(GT, residual=False, edge_stream=False), replace(SAN, residual=False)])
    def test_nodes_are_predicted_without_pooling_and_residuals_can_be_left_out(self, config: GraphConfig) -> None:
        model, batch = model_of(replace(config, readout="nodes", outputs=3)), GRAPHS.batch([0, 2])
        assert (9, 3) == model(batch).shape
        holds(model, batch, densely(model, batch))

    def test_weighed_by_the_bias_alone_predictions_are_those_of_dense_matrices(self) -> None:
        model, batch = model_of(BY_BIAS), GRAPHS.batch([0, 1, 2])
        holds(model, batch, densely(model, batch))

    def test_weighed_by_the_bias_alone_the_scores_have_no_part_in_what_comes_out(self) -> None:
        """As in the published code of GraphiT and SAN; no gradient reaches what only scores are made of."""
        for config, without in ((BY_BIAS, True), (replace(BY_BIAS, bias_weights="scores"), False)):
            model = model_of(config)
            model(GRAPHS.batch([0])).sum().backward()
            for layer in model.layers:
                attention: Any = layer.attention
                for name in ("key.weight", "edge.weight", "scores.edge_bias"):
                    gradient = attention.get_parameter(name).grad
                    assert without == (gradient is None or not bool(gradient.any())), name
                assert bool(attention.value.weight.grad.any())

    def test_the_explicit_bias_changes_what_comes_out(self) -> None:
        batch = GRAPHS.batch([0])
        with_bias = model_of(replace(GT, use_bias=True, explicit_bias=True))
        for name in ("scores.key_bias", "scores.edge_bias", "value_bias"):
            other = model_of(with_bias.config)
            with torch.no_grad():
                other.layers[0].attention.get_parameter(name).zero_()
            assert not torch.allclose(pooled(with_bias, batch), pooled(other, batch), atol=1e-4), name

    @VARIOUS
    def test_the_order_of_nodes_and_edges_does_not_matter(self, config: GraphConfig) -> None:
        model, batch = model_of(config), GRAPHS.batch([0, 1, 2])
        nodes, edges = torch.randperm(len(batch.nodes)), torch.randperm(len(batch.edges))
        place = nodes.argsort()
        moved = replace(
            batch,
            nodes=batch.nodes[nodes],
            graph=batch.graph[nodes],
            edge_index=place[batch.edge_index][:, edges],
            edges=batch.edges[edges],
        )
        torch.testing.assert_close(pooled(model, batch), pooled(model, moved), atol=1e-5, rtol=1e-5)

    def test_a_node_that_no_edge_leads_to_takes_in_nothing(self) -> None:
        attention: Any = model_of(GRAPHIT).layers[0].attention
        taken, _ = attention(torch.randn(3, 8), torch.randn(1, 8), torch.tensor([[0], [1]]))
        assert [True, False, True] == [bool((row == 0).all()) for row in taken]


class TestEdgeScores:
    """Three nodes in a row, 0 - 1 - 2, one head of two channels; the scale is 1 / sqrt(2)."""

    INDEX = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    QUERIES = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    KEYS = torch.tensor([[1.0, -1.0], [2.0, 0.5], [-3.0, 1.0]])
    EDGES = torch.tensor([[1.0, 1.0], [2.0, -1.0], [0.5, 0.0], [10.0, 1.0]])

    def test_they_are_those_worked_out_by_hand(self) -> None:
        scores = EdgeScores(1, 2, explicit_bias=False)(self.QUERIES, self.KEYS, self.EDGES, self.INDEX)
        # 0 -> 1: key 0 (1, -1) x query 1 (3, 4) x edge (1, 1), and so on.
        expected = torch.tensor([[3.0, -4.0], [2 * 1 * 2, 0.5 * 2 * -1], [2 * 5 * 0.5, 0.0], [-3 * 3 * 10, 1 * 4 * 1]])
        torch.testing.assert_close(scores, expected / 2**0.5)

    def test_the_explicit_bias_adds_the_query_s_share_in_every_channel(self) -> None:
        module = EdgeScores(1, 2, explicit_bias=True)
        assert module.key_bias is not None
        assert module.edge_bias is not None
        with torch.no_grad():
            module.key_bias.copy_(torch.tensor([[1.0, -2.0]]))
            module.edge_bias.copy_(torch.tensor([[0.5, 3.0]]))
        plain = EdgeScores(1, 2, explicit_bias=False)(self.QUERIES, self.KEYS, self.EDGES, self.INDEX)
        # Query 1: 3 - 2 * 4 = -5; query 0: 1 - 2 * 2 = -3; query 2: 5 - 2 * 6 = -7; times e = (0.5, 3).
        added = torch.tensor([[-2.5, -15.0], [-1.5, -9.0], [-3.5, -21.0], [-2.5, -15.0]]) / 2**0.5
        found = module(self.QUERIES, self.KEYS, self.EDGES, self.INDEX)
        torch.testing.assert_close(found, plain + added)

    def test_weights_are_the_exponential_of_the_clamped_sum(self) -> None:
        attention: Any = model_of(replace(GRAPHIT, heads=1, width=4)).layers[0].attention
        nodes, edges = torch.randn(3, 4), torch.randn(4, 4)
        index, values = self.INDEX, attention.value(nodes)
        attention.scores.register_forward_hook(
            lambda module, args, output: torch.tensor(
                [[9.0, 1, 0, 0], [0.0, 0, 0, 0], [-40.0, 0, 0, 0], [0.5, 0.5, 0, 0]]
            )
        )
        taken, _ = attention(nodes, edges, index)
        first, last = torch.tensor(5.0).exp(), torch.tensor(1.0).exp()
        middle = (first * values[0] + last * values[2]) / (first + last + 1e-6)
        torch.testing.assert_close(
            taken, torch.stack([values[1] / (1 + 1e-6), middle, values[1] * 0.99985], dim=0), atol=1e-4, rtol=1e-4
        )

    @VARIOUS
    def test_a_hook_on_one_module_of_each_layer_sees_edges_by_channels(self, config: GraphConfig) -> None:
        model, seen = model_of(config), []
        for layer in model.layers:
            found = [module for module in layer.modules() if isinstance(module, EdgeScores)]
            assert 1 == len(found)
            found[0].register_forward_hook(lambda module, args, output: seen.append(output))
        batch = GRAPHS.batch([0, 1, 2])
        model(batch)
        assert [(18, 8)] * 2 == [tuple(scores.shape) for scores in seen]

    @VARIOUS
    def test_what_a_hook_puts_in_their_place_is_what_the_model_goes_on_with(self, config: GraphConfig) -> None:
        model, batch = model_of(config), GRAPHS.batch([0])
        before = pooled(model, batch)
        handle = model.layers[0].attention.scores.register_forward_hook(lambda module, args, output: output * 3)
        assert not torch.allclose(before, pooled(model, batch), atol=1e-3)
        handle.remove()
        assert torch.equal(before, pooled(model, batch))


class TestBatches:
    @VARIOUS
    def test_a_graph_is_predicted_alike_alone_and_among_others(self, config: GraphConfig) -> None:
        model = model_of(config)
        together = pooled(model, GRAPHS.batch([2, 0, 1]))
        alone = torch.cat([pooled(model, GRAPHS.batch([number])) for number in (2, 0, 1)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)

    def test_a_batch_has_the_graphs_in_the_order_asked_for(self) -> None:
        batch = GRAPHS.batch([1, 0])
        assert [4, 3, 0, 1, 2, 1] == batch.nodes.flatten().tolist()
        assert [0, 0, 1, 1, 1, 1] == batch.graph.tolist()
        assert [[0, 1, 2, 3, 3, 4, 4, 5, 5, 2], [1, 0, 3, 2, 4, 3, 5, 4, 2, 5]] == batch.edge_index.tolist()
        assert [2, 2, 1, 1, 2, 2, 1, 1, 3, 3] == batch.edges.flatten().tolist()
        assert [[-1.0], [0.5]] == batch.targets.tolist()

    def test_a_subset_keeps_what_belongs_to_its_graphs(self) -> None:
        part = GRAPHS.subset([2, 1])
        for name in ("nodes", "edge_index", "edges", "graph", "targets"):
            assert torch.equal(getattr(GRAPHS.batch([2, 1]), name), getattr(part.batch([0, 1]), name)), name

    def test_several_columns_of_types_are_summed(self) -> None:
        config = replace(GRAPHIT, node_types=(5, 3), edge_types=(4, 2))
        model, batch = model_of(config), GRAPHS.batch([1])
        two = replace(batch, nodes=torch.tensor([[4, 0], [3, 2]]), edges=torch.tensor([[2, 1], [2, 0]]))
        tables: Any = model.node_embedding.tables
        expected = tables[0].weight[[4, 3]] + tables[1].weight[[0, 2]]
        torch.testing.assert_close(expected, model.node_embedding(two.nodes))
        assert (1, 1) == model(two).shape

    def test_edges_may_carry_numbers(self) -> None:
        model = model_of(replace(GRAPHIT, edge_types=(), edge_numbers=3))
        batch = replace(GRAPHS.batch([1]), edges=torch.randn(2, 3))
        assert (1, 1) == model(batch).shape


class TestStart:
    @pytest.mark.parametrize("config", [GT, GRAPHIT, SAN])
    def test_variants_of_one_seed_begin_with_the_same_weights_where_they_share_them(self, config: GraphConfig) -> None:
        plain = fresh_model(config, seed=7).state_dict()
        biased = fresh_model(replace(config, use_bias=True, explicit_bias=True), seed=7).state_dict()
        assert len(plain) < len(biased)
        assert all(torch.equal(tensor, biased[name]) for name, tensor in plain.items())
        other = fresh_model(config, seed=8).state_dict()
        assert not torch.equal(plain["layers.0.attention.query.weight"], other["layers.0.attention.query.weight"])

    def test_the_explicit_bias_begins_normally_distributed(self) -> None:
        model = fresh_model(replace(GT, width=512, heads=2, use_bias=True, explicit_bias=True), seed=0)
        for name in ("scores.key_bias", "scores.edge_bias", "value_bias"):
            values = model.layers[1].attention.get_parameter(name).detach()
            assert (2, 256) == values.shape
            assert 0.0 == pytest.approx(float(values.mean()), abs=0.15)
            assert 1.0 == pytest.approx(float(values.std()), abs=0.1)

    def test_torch_s_random_state_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        fresh_model(GT, seed=1)
        assert torch.equal(before, torch.get_rng_state())


class TestConfigs:
    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ({"model": "graphitt"}, "model 'graphitt' is none of the graph transformers (did you mean 'graphit'?)"),
            ({"readout": "max"}, "readout 'max' is unknown; allowed: mean, nodes, sum"),
            ({"layers": 0}, "layers is 0; allowed: whole numbers from 1"),
            ({"heads": True}, "heads is True; allowed: whole numbers from 1"),
            ({"width": 9}, "width 9 cannot be shared by 2 heads; choose a multiple of 2"),
            ({"edge_types": ()}, "edges either types (edge_types) or numbers (edge_numbers)"),
            ({"edge_numbers": 2}, "edges either types (edge_types) or numbers (edge_numbers)"),
            ({"node_types": (0,)}, "must have at least one type"),
            ({"dropout": 1.0}, "dropout is 1.0; allowed: numbers from 0, below 1"),
            ({"model": "san"}, "edge_stream is for the model gt; san reads the same edge features in each layer"),
            ({"explicit_bias": True}, "explicit_bias goes with use_bias; set both"),
            ({"bias_weights": "both"}, "bias_weights 'both' is unknown; allowed: bias, scores"),
            ({"bias_weights": "bias"}, "bias_weights 'bias' is for graphit and san with explicit_bias; leave it out"),
        ],
    )
    def test_each_fault_is_told_in_one_sentence(self, wrong: dict[str, Any], sentence: str) -> None:
        with pytest.raises(InputError) as error:
            replace(GT, **wrong)
        assert sentence in str(error.value)

    def test_plain_data_make_the_same_config(self) -> None:
        data = json.loads(json.dumps(GT.to_dict()))
        assert GT == GraphConfig.from_dict(data)
        with pytest.raises(InputError, match="'layrs' is not part of a graph transformer's config \\(did you mean"):
            GraphConfig.from_dict({**data, "layrs": 3})
        del data["heads"]
        with pytest.raises(InputError, match="config is not complete: .* 'heads'"):
            GraphConfig.from_dict(data)

    def test_the_paper_s_presets_have_its_sizes_and_rates(self) -> None:
        """Against the configurations in the code of arXiv:2409.03463."""
        found = {
            f"{model}-{name}": (p.layers, p.heads, p.width, p.batch, p.rate, p.patience, p.min_rate, p.dropout)
            for model, presets in PRESETS.items()
            for name, p in presets.items()
            if name != "small"
        }
        assert {
            "gt-zinc": (10, 8, 64, 128, 7e-4, 15, 1e-6, 0.0),
            "gt-tox21": (10, 12, 444, 128, 7e-4, 15, 1e-6, 0.0),
            "gt-proteins": (3, 8, 64, 512, 7e-4, 15, 1e-6, 0.0),
            "graphit-zinc": (10, 8, 64, 32, 3e-4, 25, 1e-6, 0.0),
            "graphit-tox21": (10, 8, 88, 256, 7e-4, 25, 1e-6, 0.5),
            "graphit-proteins": (3, 8, 88, 768, 7e-4, 25, 1e-5, 0.5),
            "san-zinc": (10, 8, 56, 32, 7e-4, 25, 1e-6, 0.0),
            "san-tox21": (10, 8, 88, 128, 7e-4, 25, 1e-6, 0.5),
            "san-proteins": (3, 8, 88, 512, 7e-4, 25, 1e-5, 0.5),
        } == found
        assert {1000} == {p.epochs for presets in PRESETS.values() for name, p in presets.items() if name != "small"}

    def test_models_have_as_many_weights_as_the_maps_of_the_published_code(self) -> None:
        """Counted by hand for ZINC: 28 types of atoms, 4 of bonds, width 64, 10 layers."""
        attention, out, norms, forward = 4 * 64 * 64, 64 * 64 + 64, 2 * 2 * 64, 2 * 64 * 128 + 128 + 64
        ends = (28 + 4) * 64 + (64 * 32 + 32) + (32 * 16 + 16) + (16 + 1)
        biases = 4 * 64 + 3 * 64
        gt = replace(GT, node_types=(28,), layers=10, heads=8, width=64)
        graphit = replace(gt, model="graphit", edge_stream=False)
        for config, streams in ((gt, 2), (graphit, 1)):
            expected = 10 * (attention + streams * (out + norms + forward)) + ends
            assert expected == sum(weights.numel() for weights in fresh_model(config, seed=0).parameters())
            biased = fresh_model(replace(config, use_bias=True, explicit_bias=True), seed=0)
            assert expected + 10 * biases == sum(weights.numel() for weights in biased.parameters())


class TestSaving:
    ABOUT: ClassVar = {"name": "hand-made", "node_types": ["a", "b", "c", "d", "e"]}

    @VARIOUS
    def test_a_loaded_model_is_the_saved_one_bit_by_bit(self, config: GraphConfig, tmp_path: Path) -> None:
        model, batch = model_of(config), GRAPHS.batch([0, 1, 2])
        save_model(tmp_path / "model", model, self.ABOUT)
        assert ["config.json", "model.safetensors"] == sorted(path.name for path in (tmp_path / "model").iterdir())
        loaded, about = load_model(tmp_path / "model")
        assert (config, self.ABOUT, False) == (loaded.config, about, loaded.training)
        assert type(model) is type(loaded)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name]), name
        assert torch.equal(model(batch), loaded(batch))

    def test_what_was_there_stays_until_the_new_is_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = model_of(GT)
        save_model(tmp_path / "model", first, self.ABOUT)

        def fail(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(saving, "save_file", fail)
            with pytest.raises(TrainingError, match="model cannot be written \\(No space left on device\\); make room"):
                save_model(tmp_path / "model", fresh_model(GT, seed=9), self.ABOUT)
        assert torch.equal(first(GRAPHS.batch([0])), load_model(tmp_path / "model")[0](GRAPHS.batch([0])))
        save_model(tmp_path / "model", fresh_model(GT, seed=9), {})
        assert ["model"] == [path.name for path in tmp_path.iterdir()]

    def test_what_is_no_graph_transformer_is_told_in_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="config.json cannot be read \\(No such file or directory\\); name a"):
            load_model(tmp_path)
        config = tmp_path / "config.json"
        config.write_text("{")
        with pytest.raises(CheckpointError, match="config.json is not JSON"):
            load_model(tmp_path)
        config.write_text('{"model_type": "llama"}')
        with pytest.raises(CheckpointError, match="is not of a graph transformer \\(no 'maprobe_graph_model' in it\\)"):
            load_model(tmp_path)
        config.write_text('{"maprobe_graph_model": 99}')
        with pytest.raises(CheckpointError, match="is of version 99, and this maprobe reads version 1; update maprobe"):
            load_model(tmp_path)
        config.write_text(json.dumps({"maprobe_graph_model": 1, "config": {**GT.to_dict(), "heads": 3}, "data": {}}))
        with pytest.raises(CheckpointError, match="config.json: width 8 cannot be shared by 3 heads"):
            load_model(tmp_path)

    def test_weights_that_are_damaged_or_do_not_fit_are_told(self, tmp_path: Path) -> None:
        save_model(tmp_path / "model", model_of(GT), self.ABOUT)
        path = tmp_path / "model" / "config.json"
        about = json.loads(path.read_text())
        path.write_text(json.dumps({**about, "config": {**about["config"], "layers": 3}}))
        with pytest.raises(CheckpointError, match="model.safetensors does not fit config.json beside it") as error:
            load_model(tmp_path / "model")
        assert "\n" not in str(error.value)
        weights = tmp_path / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        with pytest.raises(CheckpointError, match="model.safetensors cannot be read .*; train the model again"):
            load_model(tmp_path / "model")
