from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hidden_states import batch, context, noise

from maprobe.cases import InterveneRequest
from maprobe.edits import WeightEdit
from maprobe.errors import InterventionError, MeasurementError
from maprobe.interventions.super_weight import SUPER_WEIGHT
from maprobe.measurements.super_weights import SUPER_WEIGHTS
from maprobe.readings import Reading
from maprobe.recipes import Tap

CHANNELS, WIDTH, LENGTH = 48, 32, 6
ZERO = InterveneRequest(target="super-weight", at="largest", options=(("top", 1),))


def measure(
    spikes: dict[int, tuple[int, int, float, dict[int, float]]],
    *,
    bad: str = "",
    experts: bool = False,
    spike: float = 50,
) -> Reading:
    """Two sequences; ``spikes``: by layer, token, channel and value of the input, and the output by row."""
    fold = SUPER_WEIGHTS.start(context(SUPER_WEIGHTS, sequences=2, spike=spike))
    for layer in range(1, 5):
        hidden, added = noise(2, LENGTH, CHANNELS, seed=layer), noise(2, LENGTH, WIDTH, seed=10 + layer)
        if layer in spikes:
            token, channel, value, rows = spikes[layer]
            hidden[:, token, channel] = value
            for row, written in rows.items():
                added[:, token, row] = torch.tensor([written, 1.25 * written])
        if bad == "hidden" and layer == 3:
            hidden[1, 2, 3] = math.inf
        if bad == "added" and layer == 3:
            added[1, 2, 3] = math.nan
        shown = hidden.reshape(-1, CHANNELS) if experts else hidden
        fold.observe(Tap("block.mlp.hidden", layer), shown, batch(2))
        fold.observe(Tap("block.mlp.out", layer), added, batch(2))
    return fold.finish({})


PLANTED = {2: (0, 9, -300.0, {5: 4000.0, 7: 60.0}), 4: (0, 3, 200.0, {5: -2000.0})}


def weights(reading: Reading, arm: str = "edited") -> list[tuple[object, ...]]:
    return [(r["layer"], r["row"], r["column"]) for r in reading.records if r["arm"] == arm]


def test_weights_lie_where_a_spike_of_the_input_meets_spikes_of_the_output_largest_first() -> None:
    reading = measure(PLANTED)
    assert [(2, 5, 9), (4, 5, 3), (2, 7, 9)] == weights(reading)
    assert (3, 2, 5, 9, 2) == tuple(
        reading[name].value for name in ("weights", "layer", "row", "column", "first_layer")
    )
    first = reading.records[0]
    assert (-300.0, 5000.0, 2, 1) == (first["input"], first["output"], first["sequences"], first["sequence"])


def test_peaks_are_the_largest_magnitudes_of_each_layer() -> None:
    reading = measure(PLANTED)
    plain = [float(noise(2, LENGTH, CHANNELS, seed=layer).abs().max()) for layer in (1, 3)]
    assert [plain[0], 300.0, plain[1], 200.0] == pytest.approx(list(reading["input_peak"].values))
    assert [5000.0, 2500.0] == pytest.approx([reading["output_peak"].values[layer] for layer in (1, 3)])
    assert "dim 5  token 0" in str(reading["output_peak"].places[1])


def test_a_spike_of_the_output_at_another_token_is_no_super_weight() -> None:
    fold = SUPER_WEIGHTS.start(context(SUPER_WEIGHTS))
    for layer in range(1, 5):
        hidden, added = noise(1, LENGTH, CHANNELS), noise(1, LENGTH, WIDTH)
        hidden[0, 2, 9], added[0, 4, 5] = 300.0, 4000.0
        fold.observe(Tap("block.mlp.hidden", layer), hidden, batch())
        fold.observe(Tap("block.mlp.out", layer), added, batch())
    assert fold.finish({}).absent is not None


def test_without_a_spike_of_both_the_reading_is_absent_and_names_the_nearest_layer() -> None:
    absent = measure({2: (0, 9, 30.0, {5: 45.0})}).absent
    assert absent is not None
    assert "no super weight here" in absent
    assert "nearest: layer 2, input 30, output 56.25" in absent


def test_the_threshold_is_a_parameter() -> None:
    assert [(2, 5, 9)] == weights(measure({2: (0, 9, 30.0, {5: 45.0})}, spike=20))


def test_controls_are_ordinary_rows_of_the_same_column() -> None:
    control = weights(measure(PLANTED), "control")
    assert {(2, 9), (4, 3)} == {(layer, column) for layer, _, column in control}
    assert not {row for _, row, _ in control} & {5, 7}


@pytest.mark.parametrize("site", ["hidden", "added"])
def test_a_layer_that_is_not_finite_leaves_the_question_open(site: str) -> None:
    with pytest.raises(MeasurementError, match="layer 3 takes in or gives out entries that are not finite"):
        measure(PLANTED, bad=site)


def test_experts_are_told_as_such() -> None:
    with pytest.raises(MeasurementError, match="layer 1 consists of experts"):
        measure(PLANTED, experts=True)


def edits(arm: str, **more: object) -> list[tuple[int, int, int, float]]:
    found = SUPER_WEIGHT.edits(measure(PLANTED), replace(ZERO, **more), arm)
    assert all(isinstance(edit, WeightEdit) for edit in found)
    return [(edit.layer, edit.row, edit.column, edit.value) for edit in found]


def test_the_weight_with_the_largest_output_is_set_to_zero() -> None:
    assert [(2, 5, 9, 0.0)] == edits("edited")


def test_several_weights_or_those_of_one_layer_are_set_where_it_says_so() -> None:
    assert [(2, 5, 9, 0.0), (4, 5, 3, 0.0)] == edits("edited", options=(("top", 2),))
    assert [(4, 5, 3, 0.0)] == edits("edited", at=4)
    assert [(2, 5, 9, 1.5)] == edits("edited", set="value", value=1.5)


def test_the_control_arm_edits_as_many_weights_of_the_same_columns() -> None:
    ((layer, row, column, value),) = edits("control")
    assert (2, 9, 0.0) == (layer, column, value)
    assert row not in (5, 7)
    assert 3 == len(edits("control", options=(("top", 3),)))


def test_a_layer_without_one_is_refused_and_those_with_one_are_named() -> None:
    with pytest.raises(InterventionError, match="layer 3 has no super weight; allowed under `at`: largest.*2, 4"):
        edits("edited", at=3)


def test_a_row_of_which_nothing_is_written_can_be_the_control() -> None:
    fold = SUPER_WEIGHTS.start(context(SUPER_WEIGHTS, sequences=1, spike=50))
    hidden, added = torch.zeros(1, LENGTH, CHANNELS), torch.zeros(1, LENGTH, WIDTH)
    hidden[0, 0, 9], added[0, 0, 5] = 300.0, 4000.0
    for layer in range(1, 5):
        fold.observe(Tap("block.mlp.hidden", layer), hidden, batch(1))
        fold.observe(Tap("block.mlp.out", layer), added, batch(1))
    reading = fold.finish({})
    assert {5} == {row for _, row, _ in weights(reading)}
    assert {0} == {row for _, row, _ in weights(reading, "control")}
