"""Which kinds of edges the massive ones are of, against a few lines of numpy."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from edge_graphs import graphs, lower_median, measure, ratios, words

from maprobe.errors import MeasurementError
from maprobe.measurements.edge_kinds import EDGE_KINDS

SIZES = (6, 4, 9, 5)
KINDS = np.array([word for size in SIZES for word in words(size)])
pers = pytest.mark.parametrize("per", ["edge", "layer"])


class TestNumbers:
    @pers
    @pytest.mark.parametrize("asked", [(), ("double",), ("single", "triple")])
    def test_they_are_those_of_numpy(self, per: str, asked: tuple[str, ...]) -> None:
        features = graphs(*SIZES, layers=3)
        reading = measure(EDGE_KINDS, features, per=per, kinds=asked, over=4.0)
        largest = [ratios(features, layer, per).max(axis=1) for layer in (1, 2, 3)]
        massive = np.array(largest) > 4
        chosen = np.isin(KINDS, asked or KINDS)
        within = massive[:, chosen].sum() / massive.sum()
        expected = {
            "massive": massive.sum(),
            "kinds_hit": len(set(KINDS[massive.any(axis=0)])),
            "within": within,
            "edges_within": chosen.mean(),
            "lift": within / chosen.mean(),
        }
        assert 1 < massive.sum() < massive.size
        assert pytest.approx(expected) == {name: reading[name].value for name in expected}

    def test_each_kind_has_a_row_in_each_layer(self) -> None:
        features = graphs(*SIZES)
        reading = measure(EDGE_KINDS, features, over=4.0)
        assert [(layer, kind) for layer in (1, 2) for kind in ("double", "other", "single", "triple")] == [
            (record["layer"], record["kind"]) for record in reading.records
        ]
        for record in reading.records:
            own = ratios(features, record["layer"], "edge").max(axis=1)[KINDS == record["kind"]]
            assert (len(own), (own > 4).sum()) == (record["edges"], record["massive"])
            expected = ((own > 4).mean(), lower_median(own), own.max())
            assert pytest.approx(expected) == (record["share"], record["median"], record["largest"])

    def test_the_order_of_the_graphs_does_not_matter(self) -> None:
        features = graphs(*SIZES)
        turned = {layer: all_[::-1] for layer, all_ in features.items()}
        first, second = (measure(EDGE_KINDS, each, over=4.0, kinds=("single",)) for each in (features, turned))
        assert (first.quantities, first.records) == (second.quantities, second.records)

    def test_the_first_edges_alone_are_looked_at(self) -> None:
        reading = measure(EDGE_KINDS, graphs(*SIZES), edges=3)
        assert ["double", "single"] == [record["kind"] for record in reading.records if 1 == record["layer"]]
        assert ("only the first 3 of the 24 edges were looked at; `edges` says how many",) == reading.notes


class TestPlanted:
    def test_a_massive_edge_is_counted_under_its_kind(self) -> None:
        features = graphs(*SIZES)
        features[2][2][3, 5] = -9000.0  # a triple bond
        reading = measure(EDGE_KINDS, features, kinds=("triple",))
        told = {name: reading[name].value for name in ("massive", "kinds_hit", "within", "edges_within")}
        assert {"massive": 1, "kinds_hit": 1, "within": 1, "edges_within": pytest.approx(4 / 24)} == told
        assert pytest.approx(6) == reading["lift"].value
        (row,) = (record for record in reading.records if record["massive"])
        assert (2, "triple", 4, 1, 0.25) == tuple(row[key] for key in ("layer", "kind", "edges", "massive", "share"))
        assert (0.0, 0.0) == tuple(
            measure(EDGE_KINDS, features, kinds=("single", "double"))[name].value for name in ("within", "lift")
        )

    def test_without_it_shares_are_absent_and_the_nearest_is_told(self) -> None:
        features = graphs(*SIZES)
        reading = measure(EDGE_KINDS, features, kinds=("triple",))
        assert (0.0, 0.0) == (reading["massive"].value, reading["kinds_hit"].value)
        assert pytest.approx(4 / 24) == reading["edges_within"].value
        peaks = {layer: ratios(features, layer, "edge").max(axis=1) for layer in (1, 2)}
        layer = max(peaks, key=lambda layer: peaks[layer].max())
        kind = KINDS[peaks[layer].argmax()]
        for name in ("within", "lift"):
            assert (
                f"no edge has an entry more than 1000 times its edge's median; the largest is "
                f"{peaks[layer].max():.4g} times it (layer {layer}, {str(kind)!r})"
            ) == reading[name].absent


class TestUnfit:
    def test_a_kind_that_no_edge_has_is_refused_with_those_there_are(self) -> None:
        sentence = (
            "`kinds` names 'tripel', which no edge looked at is (did you mean 'triple'?); "
            "there are: double, other, single, triple"
        )
        with pytest.raises(MeasurementError, match=re.escape(sentence)):
            measure(EDGE_KINDS, graphs(*SIZES), kinds=("single", "tripel"))

    def test_edges_without_words_have_no_kinds(self) -> None:
        with pytest.raises(MeasurementError, match="the edges have no kinds: the model says no word for any of them"):
            measure(EDGE_KINDS, graphs(2), named=[["", ""]])

    def test_an_entry_that_is_not_finite_leaves_counts_unknown(self) -> None:
        features = graphs(*SIZES)
        features[1][0][3, 0] = math.nan
        reading = measure(EDGE_KINDS, features, over=4.0, kinds=("single",))
        assert all(math.isnan(reading[name].value) for name in ("massive", "kinds_hit", "within", "lift"))
        assert pytest.approx((KINDS == "single").mean()) == reading["edges_within"].value
        assert {True} == {math.isnan(record["massive"]) for record in reading.records if 1 == record["layer"]}
        assert {False} == {math.isnan(record["massive"]) for record in reading.records if 2 == record["layer"]}
        assert "layer 1 has 1 entry that is not finite" in reading.notes[0]
