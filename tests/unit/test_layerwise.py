from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hidden_states import batch, context, noise

from maprobe.measurements.layerwise import LAYERWISE
from maprobe.readings import Reading
from maprobe.recipes import Tap
from maprobe.sites import ALL_LAYERS, LayerRange

# The largest entry of layers 0 to 4, at token 0 and dim 7; None for plain noise.
RISE_AND_FALL = (None, None, 5000.0, 4000.0, None)


def state(layer: int, sequence: int, peaks: Sequence[float | None]) -> torch.Tensor:
    hidden = noise(seed=10 * layer + sequence)
    if peaks[layer] is not None:
        hidden[0, 0, 7] = -float(peaks[layer] or 0)
    return hidden


def measure(
    *by_sequence: Sequence[float | None], order: str = "per-sequence", layers: LayerRange = ALL_LAYERS, size: int = 1
) -> Reading:
    """Measure a model of four blocks on sequences whose peaks are given, ``size`` of them in a batch."""
    fold = LAYERWISE.start(context(LAYERWISE, layers=layers, order=order, sequences=len(by_sequence)))
    for start in range(0, len(by_sequence), size):
        rows = range(start, min(start + size, len(by_sequence)))
        for tap in fold.taps:
            hidden = torch.cat([state(tap.layer, row, by_sequence[row]) for row in rows])
            fold.observe(tap, hidden, batch(len(rows), first=start))
    return fold.finish({})


class TestByLayer:
    def test_the_three_largest_and_the_median_are_means_over_the_sequences(self) -> None:
        reading = measure(RISE_AND_FALL, RISE_AND_FALL)
        for layer in range(1, 5):
            flat = [state(layer, sequence, RISE_AND_FALL).abs().flatten() for sequence in (0, 1)]
            tops = torch.stack([entries.topk(3).values for entries in flat]).double().mean(0).tolist()
            assert tops == pytest.approx([reading[f"top{rank}"].at(layer=layer) for rank in (1, 2, 3)])
            medians = [float(entries.median()) for entries in flat]
            assert sum(medians) / 2 == pytest.approx(reading["median"].at(layer=layer))
            ratios = [float(entries.max() / entries.median()) for entries in flat]
            assert sum(ratios) / 2 == pytest.approx(reading["ratio"].at(layer=layer))

    def test_the_layers_told_are_those_asked_for(self) -> None:
        assert (1, 2, 3, 4) == measure(RISE_AND_FALL)["top1"].axes[0].labels
        assert (2, 3) == measure(RISE_AND_FALL, layers=LayerRange(2, -2))["top1"].axes[0].labels

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_batches_do_not_change_it(self, size: int) -> None:
        sequences = (RISE_AND_FALL, (None,) * 5, RISE_AND_FALL)
        assert measure(*sequences).to_dict() == measure(*sequences, size=size).to_dict()


class TestWholeModel:
    def test_planted_layers_are_where_they_emerge_stay_and_vanish(self) -> None:
        reading = measure(RISE_AND_FALL)
        names = ("massive_layers", "emergence_layer", "vanishing_layer", "persistence", "persistence_share")
        assert (2.0, 2.0, 4.0, 2.0, 0.5) == tuple(reading[name].value for name in names)
        assert 0.8 == pytest.approx(reading["steadiness"].value)
        before = float(state(1, 0, RISE_AND_FALL).abs().max())
        assert 5000 / before == pytest.approx(reading["emergence_jump"].value)

    def test_without_a_planted_entry_there_is_none_and_the_nearest_layer_is_named(self) -> None:
        reading = measure((None,) * 5)
        assert 0.0 == reading["massive_layers"].value
        assert (0.0,) * 4 == reading["massive"].values
        for name in ("emergence_layer", "vanishing_layer", "persistence", "emergence_jump", "steadiness"):
            assert (reading[name].absent or "").startswith("nothing massive here: of layers 1..4, layer ")

    def test_the_longest_run_counts_and_a_gap_ends_it(self) -> None:
        reading = measure((None, 5000.0, None, 5000.0, 5000.0))
        assert (3.0, 1.0, 2.0) == tuple(
            reading[name].value for name in ("massive_layers", "emergence_layer", "persistence")
        )

    def test_a_last_layer_that_is_still_massive_leaves_no_layer_where_they_vanish(self) -> None:
        reading = measure((None, None, None, 5000.0, 5000.0))
        assert "layer 4, the last block, is still massive" == reading["vanishing_layer"].absent
        asked = measure(RISE_AND_FALL, layers=LayerRange(1, 3))
        assert "layer 3, the last layer asked for, is still massive" == asked["vanishing_layer"].absent

    def test_what_emerges_in_the_first_layer_is_compared_with_the_one_before_it(self) -> None:
        peaks = (20.0, 5000.0, None, None, None)
        assert 250.0 == pytest.approx(measure(peaks)["emergence_jump"].value)
        assert 250.0 == pytest.approx(measure(peaks, layers=LayerRange(1, 1))["emergence_jump"].value)

    def test_before_the_embedding_output_there_is_nothing_to_compare_with(self) -> None:
        reading = measure((5000.0, None, None, None, None), layers=LayerRange(0, -1))
        assert "no layer stands before layer 0" == reading["emergence_jump"].absent
        assert 0.0 == reading["emergence_layer"].value

    def test_gradual_growth_has_a_small_jump(self) -> None:
        assert 2.0 == pytest.approx(measure((None, 2000.0, 2000.0, 1000.0, 500.0))["steadiness"].value ** -1)
        reading = measure((None, 90.0, 900.0, 1800.0, 3600.0))
        assert reading["emergence_jump"].value == pytest.approx(reading["top1"].at(layer=2) / 90)


class TestOrder:
    # One sequence is far above the criterion, and two are below it.
    SEQUENCES = ((None, None, 9000.0, None, None), (None, None, 300.0, None, None), (None, None, 300.0, None, None))

    def test_one_sequence_far_above_carries_the_mean_but_not_the_majority(self) -> None:
        each, mean = (measure(*self.SEQUENCES, order=order) for order in ("per-sequence", "mean-first"))
        assert 1 / 3 == pytest.approx(each["massive"].at(layer=2))
        assert (0.0, 1.0) == (each["massive_layers"].value, mean["massive_layers"].value)
        assert 1.0 == mean["massive"].at(layer=2)
        assert each["emergence_layer"].absent is not None
        assert "33% of the sequences have a massive activation there" in each["emergence_layer"].absent

    def test_two_of_three_carry_the_majority(self) -> None:
        strong, weak = (None, None, 1200.0, None, None), (None, None, 100.0, None, None)
        each = measure(strong, strong, weak, order="per-sequence")
        assert (2 / 3, 2.0) == pytest.approx((each["massive"].at(layer=2), each["emergence_layer"].value))

    def test_the_ratio_is_of_the_means_where_the_means_come_first(self) -> None:
        mean = measure(*self.SEQUENCES, order="mean-first")
        assert mean["ratio"].at(layer=2) == pytest.approx(mean["top1"].at(layer=2) / mean["median"].at(layer=2))

    @pytest.mark.parametrize("order", ["per-sequence", "mean-first"])
    def test_the_reading_names_its_order(self, order: str) -> None:
        assert measure(RISE_AND_FALL, order=order).notes[0].startswith(f"order {order}: ")


@pytest.mark.parametrize("order", ["per-sequence", "mean-first"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_layer_that_is_not_finite_leaves_the_whole_unknown_and_not_absent(order: str, bad: float) -> None:
    reading = measure(RISE_AND_FALL, (None, None, None, bad, None), order=order)
    assert all(math.isnan(reading[name].at(layer=3)) for name in ("top1", "median", "ratio", "massive"))
    assert reading["top1"].at(layer=2) > 1000
    for name in ("massive_layers", "emergence_layer", "persistence", "steadiness", "emergence_jump"):
        assert reading[name].absent is None
        assert math.isnan(reading[name].value)


def test_only_the_layers_asked_for_and_the_one_before_are_tapped() -> None:
    fold = LAYERWISE.start(context(LAYERWISE, layers=LayerRange(3, 4)))
    assert (Tap("block.out", 2), Tap("block.out", 3), Tap("block.out", 4)) == fold.taps
