"""How many times a median the features of edges are, against a few lines of numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from edge_graphs import flat, graphs, lower_median, measure, ratios, words
from hidden_states import context

from maprobe.errors import MeasurementError
from maprobe.measurements.edge_ratios import EDGE_RATIOS
from maprobe.readings import Place
from maprobe.sites import LayerRange

SIZES = (6, 4, 9, 5)
pers = pytest.mark.parametrize("per", ["edge", "layer"])


def place(index: int, features: dict[int, list[torch.Tensor]]) -> Place:
    """Where an entry of all edges together lies."""
    width = features[1][0].shape[1]
    edge, channel = divmod(index, width)
    for sequence, graph in enumerate(features[1]):
        if edge < len(graph):
            return Place(sequence=sequence, position=edge, token=words(edge + 1)[edge], dim=channel, unit="edge")
        edge -= len(graph)
    raise AssertionError


class TestNumbers:
    @pers
    def test_they_are_those_of_numpy(self, per: str) -> None:
        features = graphs(*SIZES, layers=3)
        reading = measure(EDGE_RATIOS, features, per=per, over=4.0)
        for layer in (1, 2, 3):
            values = flat(features, layer)
            by = {name: ratios(features, layer, name) for name in ("edge", "layer")}
            expected = {
                "top": values.max(),
                "median": lower_median(values),
                "edge_ratio": by["edge"].max(),
                "layer_ratio": by["layer"].max(),
                "peak": by[per].max(),
                "edge_hits": (by["edge"].max(axis=1) > 4).sum(),
                "layer_hits": (by["layer"] > 4).sum(),
                "share": (by[per].max(axis=1) > 4).mean(),
            }
            found = {name: reading[name].at(layer=layer) for name in expected}
            assert pytest.approx(expected) == found
            spot = reading["edge_ratio"].places[layer - 1]
            assert place(int(by["edge"].argmax()), features) == spot
            assert place(int(values.argmax()), features) == reading["top"].places[layer - 1]
            assert place(int(by[per].argmax()), features) == reading["peak"].places[layer - 1]
            assert reading["top"].places == reading["layer_ratio"].places
        peaks = [ratios(features, layer, per).max() for layer in (1, 2, 3)]
        assert pytest.approx(max(peaks)) == reading["highest"].value
        assert reading["peak"].places[int(np.argmax(peaks))] == reading["highest"].places[0]
        assert sum(peak > 4 for peak in peaks) == reading["layers_hit"].value
        assert () == reading.notes

    def test_the_sample_has_hits_of_both_sorts_and_layers_without(self) -> None:
        reading = measure(EDGE_RATIOS, graphs(*SIZES, layers=3), over=4.0)
        assert 0 < sum(reading["edge_hits"].values)
        assert 0 < sum(reading["layer_hits"].values)
        assert [0.0] * 3 == list(measure(EDGE_RATIOS, graphs(*SIZES, layers=3))["edge_hits"].values)

    def test_an_entry_of_exactly_the_bound_is_not_massive(self) -> None:
        features = {1: [torch.tensor([[1.0, -8.0, 1.0, 1.0]])]}
        for over, hits in ((8, 0.0), (7.999, 1.0)):
            reading = measure(EDGE_RATIOS, features, over=over)
            assert (hits, hits, hits) == tuple(reading[n].at(layer=1) for n in ("edge_hits", "layer_hits", "share"))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_any_dtype_is_measured_as_the_numbers_it_holds(self, dtype: torch.dtype) -> None:
        features = {layer: [graph.to(dtype) for graph in all_] for layer, all_ in graphs(*SIZES).items()}
        reading = measure(EDGE_RATIOS, features)
        for layer in (1, 2):
            expected = ratios(features, layer, "edge").max()
            assert pytest.approx(expected, rel=1e-6) == reading["edge_ratio"].at(layer=layer)

    def test_layers_are_those_asked_for(self) -> None:
        features = graphs(*SIZES, layers=3)
        reading = measure(EDGE_RATIOS, features, asked=LayerRange(2, 3))
        assert (2, 3) == reading["top"].axes[0].labels
        assert pytest.approx(flat(features, 2).max()) == reading["top"].at(layer=2)

    @pers
    def test_the_order_of_the_graphs_does_not_matter(self, per: str) -> None:
        features = graphs(*SIZES)
        order = (2, 0, 3, 1)
        turned = {layer: [all_[number] for number in order] for layer, all_ in features.items()}
        first, second = (measure(EDGE_RATIOS, each, per=per, over=5.0) for each in (features, turned))
        assert first.records == second.records
        for name, quantity in first.quantities.items():
            assert quantity.values == second[name].values, name
        for before, after in zip(first["peak"].places, second["peak"].places, strict=True):
            assert before.sequence == order[after.sequence]
            assert (before.position, before.dim) == (after.position, after.dim)

    def test_a_graph_without_edges_is_passed_over(self) -> None:
        features = graphs(6, 0, 4)
        assert flat(features, 1).max() == pytest.approx(measure(EDGE_RATIOS, features)["top"].at(layer=1))


class TestPlanted:
    def planted(self, value: float) -> dict[int, list[torch.Tensor]]:
        features = graphs(*SIZES, layers=3)
        features[2][2][3, 5] = value
        return features

    def test_a_massive_entry_is_found_where_it_was_planted(self) -> None:
        reading = measure(EDGE_RATIOS, self.planted(-9000.0))
        where = Place(sequence=2, position=3, token="triple", dim=5, unit="edge")
        assert (0.0, 1.0, 0.0) == reading["edge_hits"].values
        assert (0.0, 1.0, 0.0) == reading["layer_hits"].values
        assert (0.0, 1 / sum(SIZES), 0.0) == reading["share"].values
        for name in ("top", "edge_ratio", "layer_ratio", "peak"):
            assert where == reading[name].places[1], name
        assert (where, 1.0) == (reading["highest"].places[0], reading["layers_hit"].value)
        assert 1000 < reading["highest"].value == reading["peak"].at(layer=2)

    def test_without_it_there_is_none(self) -> None:
        reading = measure(EDGE_RATIOS, self.planted(0.5))
        assert (0.0, 0.0, 0.0) == reading["edge_hits"].values == reading["layer_hits"].values
        assert 0.0 == reading["layers_hit"].value
        assert reading["highest"].value < 1000

    def test_an_edge_of_small_numbers_has_a_large_ratio_to_itself_alone(self) -> None:
        features = self.planted(0.5)
        features[3][1][0] = torch.tensor([1e-4] * 7 + [0.5])
        reading = measure(EDGE_RATIOS, features)
        assert pytest.approx(5000) == reading["edge_ratio"].at(layer=3)
        assert (1.0, 0.0) == (reading["edge_hits"].at(layer=3), reading["layer_hits"].at(layer=3))
        assert 0.0 == measure(EDGE_RATIOS, features, per="layer")["layers_hit"].value


class TestCurve:
    @pers
    def test_it_is_the_sorted_largest_ratio_of_each_edge(self, per: str) -> None:
        features = graphs(*SIZES)
        records = measure(EDGE_RATIOS, features, per=per).records
        for layer in (1, 2):
            rows = [record for record in records if layer == record["layer"]]
            expected = np.sort(ratios(features, layer, per).max(axis=1))
            assert pytest.approx(list(expected)) == [row["ratio"] for row in rows]
            assert pytest.approx([(i + 1) / 24 for i in range(24)]) == [row["rank"] for row in rows]
        assert {1000.0} == {record["over"] for record in records}

    def test_many_edges_are_thinned_evenly_with_both_ends(self) -> None:
        features = graphs(150, 201, layers=1)
        rows = measure(EDGE_RATIOS, features).records
        expected = np.sort(ratios(features, 1, "edge").max(axis=1))
        assert 101 == len(rows)
        assert pytest.approx((expected[0], expected[-1])) == (rows[0]["ratio"], rows[-1]["ratio"])
        assert (1 / 351, 1.0) == (rows[0]["rank"], rows[-1]["rank"])
        for row in rows:
            assert pytest.approx(expected[round(row["rank"] * 351) - 1]) == row["ratio"]
        steps = np.diff([row["rank"] for row in rows])
        assert steps.max() <= 4.01 / 351


class TestBound:
    def test_the_first_edges_alone_are_looked_at_and_a_note_says_so(self) -> None:
        features = graphs(*SIZES)
        features[1][2][5, 0] = 5000.0  # edge 15 of 24
        reading = measure(EDGE_RATIOS, features, edges=15)
        cut = {layer: [torch.cat(all_)[:15]] for layer, all_ in features.items()}
        whole = measure(EDGE_RATIOS, cut)
        for name in ("top", "median", "edge_ratio", "layer_ratio"):
            assert whole[name].values == reading[name].values, name
        assert ("only the first 15 of the 24 edges were looked at; `edges` says how many",) == reading.notes
        assert 1.0 == measure(EDGE_RATIOS, features, edges=16)["layers_hit"].value
        assert () == measure(EDGE_RATIOS, features, edges=24).notes

    def test_without_any_edge_the_reason_is_told(self) -> None:
        with pytest.raises(MeasurementError, match=r"no edge was seen at edge\.attn"):
            EDGE_RATIOS.start(context(EDGE_RATIOS)).finish({})


class TestUnknown:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_an_entry_that_is_not_finite_leaves_its_layer_unknown(self, value: float) -> None:
        features = graphs(*SIZES)
        features[2][1][2, 6] = value
        reading = measure(EDGE_RATIOS, features)
        where = Place(sequence=1, position=2, token="double", dim=6, unit="edge")
        for name in ("top", "median", "edge_ratio", "layer_ratio", "peak", "edge_hits", "layer_hits", "share"):
            assert [False, True] == [math.isnan(number) for number in reading[name].values], name
        assert where == reading["peak"].places[1]
        assert math.isnan(reading["highest"].value)
        assert math.isnan(reading["layers_hit"].value)
        assert where == reading["highest"].places[0]
        assert {1} == {record["layer"] for record in reading.records}
        told = "layer 2 has 1 entry that is not finite (the first: sequence 1, edge 2, channel 6), so"
        assert (f"{told} its ratios are unknown",) == reading.notes

    def test_one_unknown_layer_is_not_hidden_by_an_infinite_ratio(self) -> None:
        features = graphs(*SIZES)
        features[1][0][0] = torch.tensor([0.0] * 7 + [1.0])
        features[2][0][0, 0] = math.nan
        reading = measure(EDGE_RATIOS, features)
        assert math.inf == reading["peak"].at(layer=1)
        assert math.isnan(reading["highest"].value)

    def test_an_entry_over_a_median_of_0_is_infinitely_large(self) -> None:
        features = graphs(*SIZES)
        features[1][3][4] = torch.tensor([0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0])
        reading = measure(EDGE_RATIOS, features)
        where = Place(sequence=3, position=4, token="single", dim=2, unit="edge")
        assert (math.inf, where) == (reading["edge_ratio"].at(layer=1), reading["edge_ratio"].places[0])
        assert (1.0, 1.0) == (reading["edge_hits"].at(layer=1), reading["layers_hit"].value)
        assert ("layer 1 has 7 entries that are 0 and have a median of 0: such a ratio counts as 0",) == reading.notes

    def test_an_edge_of_zeros_counts_as_0_and_is_told(self) -> None:
        features = graphs(*SIZES)
        features[1][0][1] = 0.0
        reading = measure(EDGE_RATIOS, features)
        assert 0.0 == reading.records[0]["ratio"]
        assert 0.0 == reading["edge_hits"].at(layer=1)
        assert ("layer 1 has 8 entries that are 0 and have a median of 0: such a ratio counts as 0",) == reading.notes
        assert () == measure(EDGE_RATIOS, features, per="layer").notes

    def test_a_layer_of_zeros_has_ratios_of_0(self) -> None:
        reading = measure(EDGE_RATIOS, {1: [torch.zeros(3, 4)]}, per="layer")
        assert (0.0, 0.0, 0.0) == tuple(reading[name].at(layer=1) for name in ("peak", "layer_hits", "share"))
        assert 12 == int(reading.notes[0].split()[3])

    def test_a_model_without_words_for_edges_is_measured(self) -> None:
        reading = measure(EDGE_RATIOS, graphs(3), named=[["", "", ""]])
        assert reading["peak"].places[0].token is None
