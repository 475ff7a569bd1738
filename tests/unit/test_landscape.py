"""The landscape of one hidden state, on tensors made by hand and on a tiny Llama."""

from __future__ import annotations

import math

import pytest
import torch
from hidden_states import PlainBatch, batch, context, noise
from tiny_models import tiny

from maprobe.errors import MeasurementError
from maprobe.measurements.landscape import LANDSCAPE
from maprobe.measurements.prompts import LONGEST
from maprobe.readings import Place, Reading
from maprobe.recipes import Tap
from maprobe.running.discovery import discover
from maprobe.running.recorder import Recorder
from maprobe.sites import LayerRange

WIDTH, LENGTH = 32, 6


def planted(*entries: tuple[int, int, float]) -> torch.Tensor:
    """Noise with the entries (position, dim, value)."""
    hidden = noise(1, LENGTH, WIDTH)
    for position, dim, value in entries:
        hidden[0, position, dim] = value
    return hidden


def measure(by_layer: dict[int, torch.Tensor], *, sequences: int = 1, **options: object) -> Reading:
    layers = LayerRange(min(by_layer), max(by_layer))
    fold = LANDSCAPE.start(context(LANDSCAPE, layers=layers, sequences=sequences, **options))
    for layer, hidden in by_layer.items():
        fold.observe(Tap("block.out", layer), hidden, batch(len(hidden), hidden.shape[1]))
    return fold.finish({})


def heights(reading: Reading) -> dict[tuple[object, ...], object]:
    return {(row["position"], row["dim"], row["last_dim"]): row["magnitude"] for row in reading.records}


class TestLayer:
    def test_it_is_the_first_massive_one(self) -> None:
        later = planted((0, 7, -9000.0))
        reading = measure({1: planted(), 2: planted((0, 7, -4000.0)), 3: later, 4: planted()})
        assert (2.0, 4000.0, 1.0) == (reading["layer"].value, reading["top"].value, reading["entries"].value)
        assert {2} == {row["layer"] for row in reading.records}
        assert () == reading.notes

    def test_without_one_it_is_that_of_the_largest_ratio_and_a_note_says_so(self) -> None:
        reading = measure({1: planted(), 2: planted((4, 5, 60.0)), 3: planted()})
        assert (2.0, 60.0, 0.0) == (reading["layer"].value, reading["top"].value, reading["entries"].value)
        assert (Place(sequence=0, position=4, token="<7>", dim=5),) == reading["top"].places
        assert "nothing massive here: in layers 1..3" in reading.notes[0]
        assert not any(row["massive"] for row in reading.records)

    def test_one_that_is_not_finite_leaves_the_question_open(self) -> None:
        with pytest.raises(MeasurementError, match="layer 1 holds entries that are not finite"):
            measure({1: planted((2, 2, math.nan))})


class TestRecords:
    def test_massive_dims_are_told_one_by_one_and_the_rest_by_bins(self) -> None:
        hidden = planted((0, 7, -4000.0), (3, 7, 3500.0), (3, 20, 2500.0))
        reading = measure({1: hidden}, bins=4)
        found = heights(reading)
        magnitudes = hidden[0].abs()
        for position in range(LENGTH):
            for dim in (7, 20):
                assert float(magnitudes[position, dim]) == found.pop((position, dim, dim))
            for first in range(0, WIDTH, 8):
                rest = [float(magnitudes[position, dim]) for dim in range(first, first + 8) if dim not in (7, 20)]
                assert max(rest) == found.pop((position, first, first + 7))
        assert {} == found
        massive = {(row["position"], row["dim"]) for row in reading.records if row["massive"]}
        assert {(0, 7), (3, 7), (3, 20)} == massive
        assert (3.0, 2.0, 2.0) == tuple(reading[name].value for name in ("entries", "dims", "tokens"))

    def test_a_bin_of_massive_dims_alone_is_left_out(self) -> None:
        reading = measure({1: planted((0, 7, 4000.0))}, bins=WIDTH)
        assert WIDTH * LENGTH == len(reading.records)
        assert 1 == sum(row["position"] == 0 and row["dim"] == 7 for row in reading.records)

    def test_there_are_no_more_bins_than_dims(self) -> None:
        assert WIDTH * LENGTH == len(measure({1: planted((0, 7, 4000.0))}, bins=128).records)

    def test_tokens_have_their_texts(self) -> None:
        reading = measure({1: planted((0, 7, 4000.0))}, bins=2)
        assert {0: "<3>", 5: "<8>"}.items() <= {row["position"]: row["token"] for row in reading.records}.items()


class TestInputs:
    def test_a_long_text_is_refused(self) -> None:
        measure({1: noise(1, LONGEST, WIDTH)})
        with pytest.raises(
            MeasurementError, match=r"one text of at most 32 tokens.*1 sequence, the first of 33 tokens"
        ):
            measure({1: noise(1, LONGEST + 1, WIDTH)})

    def test_several_texts_are_refused(self) -> None:
        with pytest.raises(MeasurementError, match=r"the inputs have 2 sequences.*write a short `text`"):
            measure({1: noise(2, LENGTH, WIDTH)}, sequences=2)


def test_on_a_tiny_llama_it_is_what_transformers_calls_hidden_states() -> None:
    anatomy = discover(tiny("llama"), {})
    ids = torch.tensor([[5, 9, 2, 7, 11]])
    fold = LANDSCAPE.start(context(LANDSCAPE, layers=LayerRange(2, 2), depth=3, bins=32))
    with Recorder(anatomy, [fold]) as recorder:
        recorder.run(PlainBatch(ids, (0,)))
    with torch.inference_mode():
        hidden = anatomy.model(ids, output_hidden_states=True, use_cache=False).hidden_states[2][0].abs()
    reading = fold.finish({})
    found = [row["magnitude"] for row in reading.records]
    assert hidden.flatten().tolist() == pytest.approx(found)
    assert float(hidden.flatten().median()) == pytest.approx(reading["median"].value)
