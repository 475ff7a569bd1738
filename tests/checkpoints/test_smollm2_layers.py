"""SmolLM2-135M-Instruct: layers, tokens, constancy and outlier features, each recomputed by a few lines of torch."""

from __future__ import annotations

import pydoc_data.topics
import statistics
import sys

import pytest
import torch
from ground_truth import Truth, massive

from maprobe.readings import Reading
from maprobe.reporting.report import PropertyReport

# The text of pydoc_data.topics changes with the Python version, so figures on it are those of one version.
same_text = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="figures on the documentation of Python 3.11")


def reading(report: PropertyReport, probe: str) -> Reading:
    found = next(verdict for verdict in report.verdicts if verdict.probe == probe)
    assert found.reading is not None, found.reason
    return found.reading


def sequences(truth: Truth, count: int, length: int, skipped: int) -> list[torch.Tensor]:
    ids = truth.tokenizer("\n".join(pydoc_data.topics.topics.values()), add_special_tokens=False)["input_ids"]
    return [torch.tensor([ids[start * length : (start + 1) * length]]) for start in range(skipped, skipped + count)]


@pytest.fixture(scope="module")
def largest(truth: Truth) -> tuple[torch.Tensor, torch.Tensor]:
    """The three largest entries (sequence, layer, rank) and the median (sequence, layer), by sorting."""
    tops, medians = [], []
    for ids in sequences(truth, 10, 512, 5):
        ordered = [hidden.abs().flatten().sort(descending=True).values for hidden in truth.stream(ids)]
        tops.append(torch.stack([values[:3] for values in ordered]))
        medians.append(torch.stack([values[len(values) // 2] for values in ordered]))
    return torch.stack(tops).double(), torch.stack(medians).double()


class TestLayerwise:
    def test_tops_and_medians_are_the_means_of_plain_sorting(
        self, shipped: PropertyReport, largest: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        found, (tops, medians) = reading(shipped, "emerge-at-once"), largest
        for rank in (1, 2, 3):
            assert tops[:, :, rank - 1].mean(0).tolist() == pytest.approx(list(found[f"top{rank}"].values), rel=1e-5)
        assert medians.mean(0).tolist() == pytest.approx(list(found["median"].values), rel=1e-5)

    @pytest.mark.parametrize(("order", "probe"), [("per-sequence", "persist"), ("mean-first", "persist-in-the-mean")])
    def test_massive_layers_are_those_of_the_criterion_in_either_order(
        self, shipped: PropertyReport, largest: tuple[torch.Tensor, torch.Tensor], order: str, probe: str
    ) -> None:
        found, (tops, medians) = reading(shipped, probe), largest
        top = tops[:, :, 0]
        if order == "per-sequence":
            share = ((top > 100) & (top >= 1000 * medians)).double().mean(0)
            ratio = (top / medians).mean(0)
        else:
            share = ((top.mean(0) > 100) & (top.mean(0) >= 1000 * medians.mean(0))).double()
            ratio = top.mean(0) / medians.mean(0)
        assert share.tolist() == list(found["massive"].values)
        assert ratio.tolist() == pytest.approx(list(found["ratio"].values), rel=1e-5)
        layers = [layer for layer, value in enumerate(share.tolist(), start=1) if value >= 0.5]
        assert layers == list(range(layers[0], layers[-1] + 1))
        names = ("massive_layers", "emergence_layer", "vanishing_layer", "persistence")
        expected = (len(layers), layers[0], layers[-1] + 1, len(layers))
        assert expected == tuple(found[name].value for name in names)

    def test_they_emerge_at_once_in_layer_12_stay_as_they_are_and_vanish_in_layer_29(
        self, shipped: PropertyReport, largest: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        found, top = reading(shipped, "keep-their-size"), largest[0][:, :, 0].mean(0)
        assert (12, 29, 17) == tuple(
            found[name].value for name in ("emergence_layer", "vanishing_layer", "persistence")
        )
        assert 17 / 30 == found["persistence_share"].value
        assert float(top[11] / top[10]) == pytest.approx(found["emergence_jump"].value, rel=1e-5)
        assert float(top[11:28].min() / top[11:28].max()) == pytest.approx(found["steadiness"].value, rel=1e-5)

    @same_text
    def test_the_largest_entry_grows_208_fold_in_layer_12(self, shipped: PropertyReport) -> None:
        found = reading(shipped, "emerge-at-once")
        assert (110.0, 22900.0) == pytest.approx((found["top1"].at(layer=11), found["top1"].at(layer=12)), rel=0.01)
        assert (208.2, 0.983) == pytest.approx((found["emergence_jump"].value, found["steadiness"].value), rel=0.01)


class TestTokens:
    def test_only_the_first_token_of_each_sequence_carries_them(self, shipped: PropertyReport, truth: Truth) -> None:
        found = reading(shipped, "on-known-tokens")
        hits = {
            (number, position)
            for number, ids in enumerate(truth.sequences)
            for hidden in truth.stream(ids)
            for position, _ in massive(hidden).tolist()
        }
        assert {(number, 0) for number in range(4)} == hits
        assert (4, 1, 1, 1) == tuple(found[name].value for name in ("tokens", "first", "first_token_only", "group"))
        texts = {truth.tokenizer.decode(ids[0, :1]) for ids in truth.sequences}
        assert texts == {row["token"] for row in found.records}


@pytest.fixture(scope="module")
def first_and_last(truth: Truth) -> tuple[torch.Tensor, torch.Tensor]:
    """Layer 12 at the first and at the last token of a hundred short sequences, each (sequence, dim)."""
    states = [truth.stream(ids)[11] for ids in sequences(truth, 100, 32, 80)]
    return torch.stack([state[0] for state in states]).double(), torch.stack([state[-1] for state in states]).double()


class TestConstancy:
    def test_mean_deviation_and_variation_are_those_of_plain_torch(
        self, shipped: PropertyReport, first_and_last: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        found, value = reading(shipped, "constant-value"), first_and_last[0][:, 507]
        assert (12, 100) == (found["layer"].value, found["sequences"].value)
        assert 507 == found["value_mean"].places[0].dim
        assert float(value.mean()) == pytest.approx(found["value_mean"].value, rel=1e-5)
        assert float(value.std()) == pytest.approx(found["value_std"].value, rel=1e-4)
        assert float(value.std() / value.mean()) == pytest.approx(found["value_cv"].value, rel=1e-4)

    def test_ordinary_entries_are_those_of_plain_torch(
        self, shipped: PropertyReport, first_and_last: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        found = reading(shipped, "constant-value")
        dims = {row["dim"] for row in found.records if str(row["column"]).startswith("massive")}
        assert {507, 247} == dims
        for name, values in zip(("ordinary_cv", "elsewhere_cv"), first_and_last, strict=True):
            variation = (values.std(0) / values.mean(0).abs()).tolist()
            median = statistics.median_low([cv for dim, cv in enumerate(variation) if dim not in dims])
            assert median == pytest.approx(found[name].value, rel=1e-3)

    @same_text
    def test_the_value_is_steady_and_so_is_every_dim_of_that_token(self, shipped: PropertyReport) -> None:
        found = reading(shipped, "constant-value")
        assert 23245 == pytest.approx(found["value_mean"].value, rel=0.01)
        assert (0.0539, 0.0766, 6.04) == pytest.approx(
            tuple(found[name].value for name in ("value_cv", "ordinary_cv", "elsewhere_cv")), rel=0.02
        )
        assert 0.01 > found["elsewhere_ratio"].value
        assert 0.5 < found["cv_ratio"].value < 1


@pytest.fixture(scope="module")
def streams(truth: Truth) -> torch.Tensor:
    """Every block output of all sequences, (layer, token, dim)."""
    return torch.stack([torch.cat(layer) for layer in zip(*map(truth.stream, truth.sequences), strict=True)])


class TestOutliers:
    def test_every_dim_is_an_outlier_feature_as_ordinary_entries_pass_the_threshold(
        self, shipped: PropertyReport, streams: torch.Tensor
    ) -> None:
        found = reading(shipped, "apart-from-outlier-features")
        large = streams.abs() >= 6
        features = (large.any(1).double().mean(0) >= 0.25) & (large.double().mean((0, 1)) >= 0.06)
        assert int(features.sum()) == found["features"].value == 576
        assert (1, 2, 2) == tuple(found[name].value for name in ("width_share", "massive_dims", "overlap"))
        assert 2 / 576 == found["jaccard"].value
        assert float(streams[-1].abs().median()) > 6

    def test_kurtosis_and_max_over_median_are_those_of_plain_torch(
        self, shipped: PropertyReport, streams: torch.Tensor
    ) -> None:
        found = reading(shipped, "apart-from-outlier-features")
        squares = streams.double().square().mean(1)
        kurtosis = squares.square().mean(1) / squares.mean(1).square()
        assert kurtosis.tolist() == pytest.approx(list(found["kurtosis"].values), rel=1e-6)
        magnitudes = streams.abs().double()
        ratios = (magnitudes.amax(2) / magnitudes.median(2).values).mean(1)
        assert ratios.tolist() == pytest.approx(list(found["max_median"].values), rel=1e-6)
