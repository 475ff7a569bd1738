from __future__ import annotations

import math

import pytest
import torch
from hidden_states import batch, context, noise

from maprobe.measurements.outliers import OUTLIERS
from maprobe.readings import Reading

LENGTH, WIDTH, DEPTH = 50, 32, 4


def states(layer: int, sequence: int, *, column: int = 0, every: int = 1, spike: bool = False) -> torch.Tensor:
    """Noise; up to layer ``column`` dim 3 is large at one in ``every`` tokens; from layer 2 on (0, 7) is massive."""
    hidden = noise(1, LENGTH, WIDTH, seed=100 * layer + sequence)[0].clamp(-4, 4)
    if layer <= column:
        hidden[::every, 3] = -8.0
    if spike and layer >= 2:
        hidden[0, 7] = 5000.0
    return hidden


def measure(*, sequences: int = 2, size: int = 1, bad: float | None = None, **planted: int) -> Reading:
    options = {name: planted.pop(name) for name in ("threshold", "layer_share", "token_share") if name in planted}
    fold = OUTLIERS.start(context(OUTLIERS, sequences=sequences, depth=DEPTH, **options))
    for start in range(0, sequences, size):
        rows = range(start, min(start + size, sequences))
        for tap in fold.taps:
            hidden = torch.stack([states(tap.layer, row, **planted) for row in rows])
            if bad is not None and tap.layer == 3:
                hidden[0, 1, 1] = bad
            fold.observe(tap, hidden, batch(len(rows), LENGTH, start))
    return fold.finish({})


class TestFeatures:
    def test_a_column_that_is_large_throughout_is_an_outlier_feature(self) -> None:
        reading = measure(column=4)
        assert (1.0, 1 / WIDTH) == (reading["features"].value, reading["width_share"].value)
        (record,) = reading.records
        assert (3, True, False, 1.0, 1.0) == tuple(record.values())

    def test_without_a_planted_column_there_is_none(self) -> None:
        assert 0.0 == measure()["features"].value

    def test_one_massive_entry_is_no_outlier_feature(self) -> None:
        reading = measure(spike=True)
        assert (0.0, 1.0, 0.0, 0.0) == tuple(
            reading[name].value for name in ("features", "massive_dims", "overlap", "jaccard")
        )

    @pytest.mark.parametrize(("layers", "features"), [(1, 1.0), (0, 0.0)])
    def test_a_quarter_of_the_layers_is_enough(self, layers: int, features: float) -> None:
        assert features == measure(column=layers)["features"].value

    @pytest.mark.parametrize(("share", "features"), [(0.25, 1.0), (0.26, 0.0)])
    def test_the_share_of_layers_can_be_written(self, share: float, features: float) -> None:
        assert features == measure(column=1, layer_share=share)["features"].value  # type: ignore[arg-type]

    @pytest.mark.parametrize(("every", "features"), [(10, 1.0), (25, 0.0)])
    def test_6_percent_of_the_tokens_of_all_layers_are_needed(self, every: int, features: float) -> None:
        assert features == measure(column=4, every=every)["features"].value

    def test_the_tokens_are_those_of_all_layers_and_not_of_the_layers_with_a_large_entry(self) -> None:
        # One token in ten in half of the layers is one in twenty over all of them.
        assert 0.0 == measure(column=2, every=10)["features"].value
        assert 1.0 == measure(column=2, every=5)["features"].value

    @pytest.mark.parametrize(("threshold", "features"), [(8, 1.0), (8.001, 0.0)])
    def test_an_entry_at_the_threshold_is_large(self, threshold: float, features: float) -> None:
        assert features == measure(column=4, threshold=threshold)["features"].value  # type: ignore[arg-type]


class TestOverlap:
    def test_a_dim_that_is_both_overlaps(self) -> None:
        fold = OUTLIERS.start(context(OUTLIERS, depth=DEPTH))
        for tap in fold.taps:
            hidden = states(tap.layer, 0, column=4)
            hidden[0, 3] = 5000.0
            hidden[:, 9] = 7.0
            fold.observe(tap, hidden[None], batch(1, LENGTH))
        reading = fold.finish({})
        assert (2.0, 1.0, 1.0, 0.5) == tuple(
            reading[name].value for name in ("features", "massive_dims", "overlap", "jaccard")
        )

    def test_dims_apart_do_not(self) -> None:
        reading = measure(column=4, spike=True)
        assert (0.0, 0.0) == (reading["overlap"].value, reading["jaccard"].value)
        assert [(7, False, True), (3, True, False)] == [tuple(row.values())[:3] for row in reading.records]

    def test_without_a_massive_activation_it_is_absent_and_the_count_is_not(self) -> None:
        reading = measure(column=4)
        assert (reading["overlap"].absent or "").startswith("nothing massive here: in layers 1..4")
        assert reading["jaccard"].absent is not None
        assert 0.0 == reading["massive_dims"].value


class TestWithoutThreshold:
    def test_kurtosis_and_max_over_median_are_what_plain_torch_gives(self) -> None:
        reading = measure(column=2, spike=True)
        for layer in range(1, 5):
            both = torch.cat([states(layer, sequence, column=2, spike=True) for sequence in (0, 1)]).double()
            squares = both.square().mean(0)
            kurtosis = float(squares.square().mean() / squares.mean() ** 2)
            assert kurtosis == pytest.approx(reading["kurtosis"].at(layer=layer), rel=1e-9)
            ratios = both.abs().amax(1) / both.abs().median(1).values
            assert float(ratios.mean()) == pytest.approx(reading["max_median"].at(layer=layer), rel=1e-6)

    def test_one_dim_that_has_all_gives_the_number_of_dims_and_equal_dims_give_one(self) -> None:
        fold = OUTLIERS.start(context(OUTLIERS, depth=DEPTH))
        for tap in fold.taps:
            hidden = torch.zeros(1, LENGTH, WIDTH) if tap.layer == 1 else torch.ones(1, LENGTH, WIDTH)
            hidden[..., 0] = 1
            fold.observe(tap, hidden, batch(1, LENGTH))
        reading = fold.finish({})
        assert (WIDTH, 1.0) == (reading["kurtosis"].at(layer=1), reading["kurtosis"].at(layer=2))
        assert (math.inf, 1.0) == (reading["max_median"].at(layer=1), reading["max_median"].at(layer=2))


@pytest.mark.parametrize("size", [2, 3])
def test_batches_do_not_change_it(size: int) -> None:
    one, many = measure(sequences=3, column=2, spike=True), measure(sequences=3, size=size, column=2, spike=True)
    assert one.to_dict() == many.to_dict()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_layer_that_is_not_finite_leaves_the_whole_unknown_and_not_absent(bad: float) -> None:
    reading = measure(column=4, spike=True, bad=bad)
    assert math.isnan(reading["kurtosis"].at(layer=3))
    assert math.isnan(reading["max_median"].at(layer=3))
    assert not math.isnan(reading["kurtosis"].at(layer=2))
    for name in ("features", "width_share", "massive_dims", "overlap", "jaccard"):
        assert reading[name].absent is None
        assert math.isnan(reading[name].value)
