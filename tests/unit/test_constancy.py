from __future__ import annotations

import math
import statistics

import pytest
import torch
from hidden_states import PlainBatch, context, noise

from maprobe.errors import MeasurementError
from maprobe.measurements.constancy import CONSTANCY
from maprobe.readings import Reading
from maprobe.recipes import Tap
from maprobe.sites import ALL_LAYERS, ALL_TOKENS, LayerRange, TokenSet

NOTHING = Reading(kind="massive", absent="nothing massive here")
LENGTH, WIDTH, SEQUENCES = 6, 32, 20
VALUES = [-5000.0 + 10 * (number % 7) for number in range(SEQUENCES)]


def massive(layers: tuple[int, ...] = (2,) * SEQUENCES, dims: tuple[int, ...] = (7,)) -> Reading:
    """The companion's Reading: the layer at which each sequence has its first, on the given dims."""
    records = tuple(
        {"arm": arm, "layer": layer, "sequence": sequence, "position": 0, "dim": dim if arm == "edited" else 11}
        for sequence, layer in enumerate(layers)
        for dim in dims
        for arm in ("edited", "control")
    )
    return Reading(kind="massive", records=records)


def ids(sequence: int) -> torch.Tensor:
    """Distinct ids from 3 on; every third sequence has a full stop (id 2) at position 4, the others at position 2."""
    found = torch.arange(3 + sequence * LENGTH, 3 + (sequence + 1) * LENGTH)
    found[4 if sequence % 3 == 0 else 2] = 2
    return found


def states(layer: int, sequence: int, *, plant: bool = True) -> torch.Tensor:
    hidden = noise(1, LENGTH, WIDTH, seed=100 * layer + sequence)[0]
    if plant and layer in (2, 3):
        hidden[0, 7] = VALUES[sequence]
    return hidden


def measure(
    *,
    companion: Reading | None = None,
    sequences: int = SEQUENCES,
    size: int = 1,
    tokens: TokenSet = ALL_TOKENS,
    layers: LayerRange = ALL_LAYERS,
    same_start: bool = False,
    bad: float | None = None,
) -> Reading:
    fold = CONSTANCY.start(context(CONSTANCY, sequences=sequences, tokens=tokens, layers=layers))
    for start in range(0, sequences, size):
        rows = tuple(range(start, min(start + size, sequences)))
        tokens_of = torch.stack([ids(row) for row in rows])
        if same_start:
            tokens_of[:, 0] = 1
        for tap in fold.taps:
            hidden = torch.stack([states(tap.layer, row) for row in rows])
            if bad is not None:
                hidden[0, 0, 5] = bad
            fold.observe(tap, hidden, PlainBatch(tokens_of, rows))
    return fold.finish({"massive": companion or massive()})


def plain_cv(values: list[float]) -> float:
    return statistics.stdev(values) / abs(statistics.fmean(values))


class TestValue:
    def test_a_planted_constant_has_its_mean_with_sign_and_its_deviation(self) -> None:
        reading = measure()
        assert statistics.fmean(VALUES) == pytest.approx(reading["value_mean"].value)
        assert statistics.stdev(VALUES) == pytest.approx(reading["value_std"].value)
        assert plain_cv(VALUES) == pytest.approx(reading["value_cv"].value)
        assert (2.0, 20.0) == (reading["layer"].value, reading["sequences"].value)

    def test_it_varies_far_less_than_ordinary_entries(self) -> None:
        reading = measure()
        assert 0.01 > reading["value_cv"].value
        assert 0.01 > reading["cv_ratio"].value
        assert 0.01 > reading["elsewhere_ratio"].value

    def test_an_ordinary_dim_in_its_place_varies_like_the_others(self) -> None:
        reading = measure(companion=massive(dims=(3,)))
        assert reading["value_cv"].value > 1
        assert reading["elsewhere_ratio"].value > 0.1

    def test_the_ordinary_ones_are_the_median_over_the_other_dims_at_this_and_at_the_last_token(self) -> None:
        reading = measure()
        for name, position in (("ordinary_cv", 0), ("elsewhere_cv", LENGTH - 1)):
            cvs = [
                plain_cv([float(states(2, sequence)[position, dim]) for sequence in range(SEQUENCES)])
                for dim in range(WIDTH)
                if dim != 7
            ]
            assert statistics.median_low(cvs) == pytest.approx(reading[name].value, rel=1e-9)
        assert reading["value_cv"].value / reading["ordinary_cv"].value == reading["cv_ratio"].value

    def test_of_several_massive_dims_the_largest_is_told_and_all_are_recorded(self) -> None:
        reading = measure(companion=massive(dims=(3, 7)))
        assert statistics.fmean(VALUES) == pytest.approx(reading["value_mean"].value)
        assert ["massive 1", "massive 2", "top 1 %", "median"] == [row["column"] for row in reading.records]
        assert [7, 3] == [row["dim"] for row in reading.records][:2]
        assert 7 == reading["value_mean"].places[0].dim

    @pytest.mark.parametrize("size", [2, 3, 20])
    def test_batches_do_not_change_it(self, size: int) -> None:
        assert measure().to_dict() == measure(size=size).to_dict()


class TestWhere:
    def test_the_layer_is_the_one_where_most_sequences_have_their_first(self) -> None:
        companion = massive(layers=(1, 2, 2, 2) * 5)
        assert 2.0 == measure(companion=companion)["layer"].value
        tie = massive(layers=(3, 2) * 10)
        assert 2.0 == measure(companion=tie)["layer"].value

    def test_a_layer_that_is_named_is_the_one_looked_at(self) -> None:
        assert 3.0 == measure(layers=LayerRange(3, 3))["layer"].value

    def test_an_emergence_outside_the_layers_asked_for_is_absent(self) -> None:
        assert "emerge in layer 2, which is not among the layers asked for, 3..4" in (
            measure(layers=LayerRange(3, 4)).absent or ""
        )

    def test_the_first_token_of_a_class_is_taken_in_each_sequence(self) -> None:
        reading = measure(tokens=TokenSet("delimiter"))
        values = [float(states(2, sequence)[4 if sequence % 3 == 0 else 2, 7]) for sequence in range(SEQUENCES)]
        assert statistics.fmean(values) == pytest.approx(reading["value_mean"].value)
        assert statistics.stdev(values) == pytest.approx(reading["value_std"].value)

    def test_sequences_without_such_a_token_are_left_out_and_told(self) -> None:
        fold = CONSTANCY.start(context(CONSTANCY, sequences=3, tokens=TokenSet("bos")))
        for sequence in range(3):
            tokens = ids(sequence)[None].clone()
            if sequence:
                tokens[0, 1] = 1
            for tap in fold.taps:
                fold.observe(tap, states(tap.layer, sequence)[None], PlainBatch(tokens, (sequence,)))
        reading = fold.finish({"massive": massive()})
        assert 2.0 == reading["sequences"].value
        assert ("1 of 3 sequences have no such token",) == reading.notes

    def test_a_class_that_no_token_belongs_to_is_absent(self) -> None:
        assert "no token of the inputs is of class bos" == measure(tokens=TokenSet("bos")).absent


class TestUnknown:
    def test_one_sequence_has_nothing_to_compare_and_is_told_what_to_do(self) -> None:
        with pytest.raises(MeasurementError, match="needs at least 2 .* raise `sequences`"):
            measure(sequences=1)

    def test_nothing_massive_is_absent(self) -> None:
        assert "nothing massive here" == measure(companion=NOTHING).absent

    def test_the_same_first_token_in_each_sequence_is_constant_for_no_deeper_reason(self) -> None:
        reading = measure(same_start=True)
        assert "each sequence starts with the same token, '<1>'" in (reading["cv_ratio"].absent or "")
        assert reading["elsewhere_ratio"].absent is not None
        assert reading["value_cv"].absent is None
        assert measure(same_start=True, tokens=TokenSet("delimiter"))["cv_ratio"].absent is None

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_an_entry_that_is_not_finite_leaves_the_comparison_unknown(self, bad: float) -> None:
        reading = measure(bad=bad)
        assert reading["ordinary_cv"].absent is None
        assert math.isnan(reading["ordinary_cv"].value)
        assert math.isnan(reading["cv_ratio"].value)

    def test_all_layers_asked_for_are_tapped(self) -> None:
        fold = CONSTANCY.start(context(CONSTANCY, layers=LayerRange(2, 3)))
        assert (Tap("block.out", 2), Tap("block.out", 3)) == fold.taps
