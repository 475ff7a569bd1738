"""How far ratios are from a gamma distribution: against scipy on samples whose distribution is known."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from edge_graphs import flat, graphs, measure, ratios
from scipy import stats

from maprobe.errors import MeasurementError
from maprobe.measurements.edge_distribution import EDGE_DISTRIBUTION, negative_log
from maprobe.measurements.gamma import Fit, fitted

FITTED = ("shape", "loc", "scale", "log_likelihood", "ks")
KNOWN = stats.gamma(6.0, -2.5, 0.4)
pers = pytest.mark.parametrize("per", ["edge", "layer"])


def sample(count: int = 20_000, seed: int = 0) -> np.ndarray:
    return np.sort(KNOWN.rvs(count, random_state=np.random.default_rng(seed)))


def fit_of(values: np.ndarray, most: int = 100_000) -> Fit:
    found = fitted(np.sort(values), most)
    assert found is not None
    return found


class TestFit:
    def test_the_parameters_of_a_gamma_sample_are_recovered(self) -> None:
        found = fit_of(sample())
        assert pytest.approx(6.0, rel=0.1) == found.shape
        assert pytest.approx(-2.5, abs=0.1) == found.loc
        assert pytest.approx(0.4, rel=0.06) == found.scale
        assert found.ks < 1.36 / math.sqrt(20_000)
        # The likeliest distribution is at least as likely as the one the sample was drawn from.
        assert KNOWN.logpdf(sample()).mean() <= found.log_likelihood + 1e-6

    def test_a_sample_of_two_humps_is_far_from_it(self) -> None:
        random = np.random.default_rng(1)
        humps = np.concatenate([random.normal(-3, 0.2, 5000), random.normal(2, 0.2, 5000)])
        assert 10 * fit_of(sample(10_000)).ks < 0.1 < fit_of(humps).ks

    @pytest.mark.parametrize("seed", [0, 1])
    def test_distance_and_likelihood_are_those_of_scipy(self, seed: int) -> None:
        values = np.sort(np.random.default_rng(seed).normal(size=3000))
        found = fit_of(values)
        own = (found.shape, found.loc, found.scale)
        assert pytest.approx(stats.kstest(values, "gamma", args=own).statistic) == found.ks
        assert pytest.approx(stats.gamma.logpdf(values, *own).mean()) == found.log_likelihood

    def test_fewer_values_change_it_little_and_all_of_them_are_asked_how_well_it_goes(self) -> None:
        values = sample(50_000)
        whole, thinned = fit_of(values), fit_of(values, 5000)
        own = (thinned.shape, thinned.loc, thinned.scale)
        assert pytest.approx((whole.shape, whole.loc, whole.scale), rel=0.05) == own
        assert pytest.approx(whole.ks, abs=2e-3) == thinned.ks
        assert pytest.approx(whole.log_likelihood, abs=1e-3) == thinned.log_likelihood
        assert pytest.approx(stats.kstest(values, "gamma", args=own).statistic) == thinned.ks

    def test_the_lowest_value_has_a_density_however_few_are_searched_with(self) -> None:
        values = np.sort(np.append(sample(20_000), -4.5))
        assert fit_of(values, 200).loc < -4.5

    @pytest.mark.parametrize("skew", [0.3, 1.0, 1.8])
    def test_where_scipy_s_search_succeeds_it_is_the_same(self, skew: float) -> None:
        values = np.sort(stats.gamma(4 / skew**2, 1.0, 2.0).rvs(4000, random_state=np.random.default_rng(5)))
        found = fit_of(values)
        parameters = stats.gamma.fit(values)
        assert pytest.approx(parameters, rel=0.02, abs=0.02) == (found.shape, found.loc, found.scale)
        assert pytest.approx(stats.gamma.logpdf(values, *parameters).mean(), abs=1e-5) == found.log_likelihood

    @pytest.mark.parametrize(
        "odd",
        [
            np.append(np.random.default_rng(6).gamma(5, 0.2, 20_000), [15.65] * 30),  # a few zeros
            -np.random.default_rng(7).gamma(2, 1, 20_000),  # skewed to the left
            np.append(np.random.default_rng(8).normal(size=20_000), [-12.0] * 40),  # massive entries
            np.random.default_rng(9).normal(size=20_000),
        ],
        ids=["far", "left", "massive", "normal"],
    )
    def test_none_that_scipy_finds_is_likelier(self, odd: np.ndarray) -> None:
        found = fit_of(odd)
        own = stats.gamma.logpdf(np.sort(odd), *stats.gamma.fit(odd)).mean()
        assert own - 1e-5 <= found.log_likelihood
        assert pytest.approx(found.log_likelihood, abs=1e-4) == (
            stats.gamma.logpdf(odd, found.shape, found.loc, found.scale).mean()
        )

    def test_a_sample_skewed_to_the_left_has_the_distance_of_a_normal_distribution(self) -> None:
        values = np.sort(-np.random.default_rng(7).gamma(2, 1, 20_000))
        normal = stats.kstest(values, "norm", args=(values.mean(), values.std())).statistic
        assert pytest.approx(normal, abs=2e-3) == fit_of(values).ks

    def test_values_without_spread_have_no_fit(self) -> None:
        assert fitted(np.full(50, 2.0), 100) is None

    def test_two_values_far_apart_have_one_without_a_warning(self) -> None:
        assert fit_of(np.array([0.0] * 500 + [9.0] * 500)).ks > 0.2


class TestReading:
    @pers
    def test_it_is_the_fit_of_all_ratios(self, per: str) -> None:
        features = graphs(40, 30, 50)
        reading = measure(EDGE_DISTRIBUTION, features, per=per, over=4.0)
        for layer in (1, 2):
            own = ratios(features, layer, per)
            values = -np.log10(own.ravel() + np.finfo(float).eps)
            found = {name: reading[name].at(layer=layer) for name in FITTED}
            parameters = (found["shape"], found["loc"], found["scale"])
            assert pytest.approx(stats.gamma.fit(values), rel=1e-2) == parameters
            assert pytest.approx(stats.kstest(values, "gamma", args=parameters).statistic, abs=1e-9) == found["ks"]
            assert pytest.approx(stats.gamma.logpdf(values, *parameters).mean()) == found["log_likelihood"]
            assert (own > 4).mean() == reading["left"].at(layer=layer) == (values < -math.log10(4)).mean()
        assert ("nats", ()) == (reading["log_likelihood"].unit, reading.notes)

    def test_ratios_of_a_gamma_distribution_are_near_one_and_others_are_not(self) -> None:
        random = np.random.default_rng(3)
        plain = 10.0 ** -KNOWN.rvs((500, 8), random_state=random)
        humps = 10.0 ** random.choice([-1.5, 1.5], (500, 8)) * random.uniform(0.8, 1.2, (500, 8))
        features = {1: [torch.tensor(plain)], 2: [torch.tensor(humps)]}
        near, far = measure(EDGE_DISTRIBUTION, features, per="layer")["ks"].values
        assert (True, True) == (near < 0.025, far > 0.15)

    def test_a_planted_massive_entry_lies_left_and_its_twin_does_not(self) -> None:
        features = graphs(40, 30)
        assert 0.0 == measure(EDGE_DISTRIBUTION, features)["left"].at(layer=2)
        features[2][1][3, 5] = 90_000.0
        assert (0.0, 1 / 560) == measure(EDGE_DISTRIBUTION, features)["left"].values

    def test_the_histogram_is_that_of_numpy(self) -> None:
        features = graphs(40, 30)
        reading = measure(EDGE_DISTRIBUTION, features, over=50)
        values = negative_log(ratios(features, 2, "edge"))
        densities, bounds = np.histogram(values, bins=60, density=True)
        rows = [record for record in reading.records if 2 == record["layer"]]
        assert pytest.approx(densities) == [row["density"] for row in rows]
        assert pytest.approx(bounds) == [row["left"] for row in rows] + [rows[-1]["right"]]
        assert {50.0} == {row["over"] for row in rows}

    def test_the_order_of_the_graphs_does_not_matter(self) -> None:
        features = graphs(20, 30, 25)
        turned = {layer: all_[::-1] for layer, all_ in features.items()}
        first, second = (measure(EDGE_DISTRIBUTION, each) for each in (features, turned))
        assert (first.quantities, first.records) == (second.quantities, second.records)

    def test_edges_and_values_bound_the_work(self) -> None:
        features = graphs(40, 30)
        reading = measure(EDGE_DISTRIBUTION, features, edges=40, values=100)
        cut = {layer: all_[:1] for layer, all_ in features.items()}
        assert measure(EDGE_DISTRIBUTION, cut, values=100).quantities == reading.quantities
        assert measure(EDGE_DISTRIBUTION, cut)["shape"].values != reading["shape"].values
        assert ("only the first 40 of the 70 edges were looked at; `edges` says how many",) == reading.notes


class TestNoFit:
    def test_an_entry_that_is_not_finite_leaves_its_layer_unknown(self) -> None:
        features = graphs(40, 30)
        features[1][1][2, 3] = math.inf
        reading = measure(EDGE_DISTRIBUTION, features)
        for name in (*FITTED, "left"):
            assert [True, False] == [math.isnan(value) for value in reading[name].values], name
        assert "layer 1 has 1 entry that is not finite (the first: sequence 1, edge 2, channel 3)" in reading.notes[0]
        assert {2} == {record["layer"] for record in reading.records}

    def test_infinite_ratios_have_a_share_and_no_fit(self) -> None:
        features = graphs(40, 30)
        features[2][0][7] = torch.tensor([0.0] * 6 + [0.1, 0.2])
        reading = measure(EDGE_DISTRIBUTION, features)
        assert 2 / 560 == reading["left"].at(layer=2)
        assert [False, True] == [math.isnan(value) for value in reading["ks"].values]
        told = "layer 2 has no fit: 2 entries have ratios that cannot be counted, for the median is 0"
        assert told == reading.notes[-1]
        assert {1} == {record["layer"] for record in reading.records}

    def test_ratios_that_are_all_the_same_have_no_fit(self) -> None:
        reading = measure(EDGE_DISTRIBUTION, {1: [torch.full((5, 4), -3.0)]})
        assert all(math.isnan(reading[name].at(layer=1)) for name in FITTED)
        assert 0.0 == reading["left"].at(layer=1)
        assert ("layer 1 has no fit: all of its ratios are the same",) == reading.notes

    def test_an_edge_of_zeros_is_told_and_lies_at_the_right_end(self) -> None:
        features = graphs(40, 30)
        features[1][0][0] = 0.0
        reading = measure(EDGE_DISTRIBUTION, features)
        assert ("layer 1 has 8 entries that are 0 and have a median of 0: such a ratio counts as 0",) == reading.notes
        end = max(record["right"] for record in reading.records if 1 == record["layer"])
        assert pytest.approx(-math.log10(sys.float_info.epsilon)) == end
        assert 0.0 < reading["ks"].at(layer=1) < 1.0
        assert 560 == flat(features, 1).size

    def test_without_scipy_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measure(EDGE_DISTRIBUTION, graphs(40))
        for name in [name for name in sys.modules if name == "scipy" or name.startswith("scipy.")]:
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MeasurementError, match=r"with the package scipy.*pip install 'maprobe\[graphs\]'"):
            measure(EDGE_DISTRIBUTION, graphs(40))
