from __future__ import annotations

import math
import re

import pytest
import torch
from hidden_states import PlainBatch, batch, context, noise

from maprobe.errors import MeasurementError
from maprobe.measurements.attention import CONCENTRATION
from maprobe.measurements.finite import FINITE
from maprobe.measurements.magnitude import MAGNITUDE
from maprobe.measurements.massive import MASSIVE
from maprobe.measurements.perplexity import PERPLEXITY
from maprobe.readings import Place, Quantity, Reading
from maprobe.recipes import Tap
from maprobe.sites import ALL_LAYERS, ALL_TOKENS, LayerRange, TokenSet

FIRST = TokenSet("first")
NOTHING = Reading(kind="massive", absent="nothing massive here")


def planted(layer: int, *, length: int = 6, width: int = 32, rows: int = 1, seed: int = 0) -> torch.Tensor:
    """Noise with one massive entry at token 0, dim 7, from layer 2 to layer 3."""
    hidden = noise(rows, length, width, seed=seed + layer)
    if layer in (2, 3):
        hidden[:, 0, 7] = -5000.0
    return hidden


def magnitude(*, tokens: TokenSet = ALL_TOKENS, layers: LayerRange = ALL_LAYERS, plant: bool = True) -> Reading:
    fold = MAGNITUDE.start(context(MAGNITUDE, tokens=tokens, layers=layers, sequences=2))
    for tap in fold.taps:
        for sequence in range(2):
            hidden = planted(tap.layer, seed=sequence) if plant else noise(seed=tap.layer + sequence)
            fold.observe(tap, hidden, batch(first=sequence))
    return fold.finish({})


class TestMagnitude:
    def test_planted_layers_are_the_layers_with_hits(self) -> None:
        reading = magnitude()
        assert (0.0, 2.0, 2.0, 0.0) == reading["hits"].values
        assert (2.0, 3.0) == (reading["first_layer"].value, reading["last_layer"].value)
        assert (1.0, 1.0, 1.0) == (
            reading["dims"].value,
            reading["first_token_share"].value,
            reading["first_token_sequences"].value,
        )

    def test_the_largest_entry_comes_with_its_place(self) -> None:
        quantity = magnitude()["top"]
        assert 5000.0 == quantity.at(layer=2)
        assert Place(sequence=quantity.places[1].sequence, position=0, token="<3>", dim=7) == quantity.places[1]

    def test_without_a_planted_entry_nothing_is_found_and_the_nearest_layer_is_named(self) -> None:
        reading = magnitude(plant=False)
        assert (0.0, 0.0, 0.0, 0.0) == reading["hits"].values
        assert 0.0 == reading["layers_hit"].value
        assert reading["first_layer"].absent is not None
        assert re.search(r"exceeds \d\.\d+ x its median \(layer \d, \|x\| = \d\.\d+\)", reading["first_layer"].absent)

    def test_counts_of_a_stream_that_is_not_finite_are_unknown_and_not_zero(self) -> None:
        fold = MAGNITUDE.start(context(MAGNITUDE))
        for tap in fold.taps:
            hidden = planted(tap.layer)
            if tap.layer == 3:
                hidden[0, 2, 5] = math.inf
            fold.observe(tap, hidden, batch())
        reading = fold.finish({})
        assert (0.0, 1.0) == reading["hits"].values[:2]
        assert math.isnan(reading["hits"].at(layer=3))
        assert all(math.isnan(reading[name].value) for name in ("layers_hit", "first_layer", "dims"))

    def test_the_median_is_over_all_tokens_even_where_only_some_are_asked_for(self) -> None:
        assert magnitude()["median"].values[1] in {
            float(planted(2, seed=sequence).abs().median()) for sequence in range(2)
        }
        expected = {float(planted(2, seed=sequence).abs().median()) for sequence in range(2)}
        assert magnitude(tokens=FIRST)["median"].values[1] in expected

    def test_tokens_outside_the_set_do_not_count(self) -> None:
        reading = magnitude(tokens=TokenSet("index", (1, 2)))
        assert (0.0, 0.0, 0.0, 0.0) == reading["hits"].values
        assert reading["top"].at(layer=2) < 10
        assert {1, 2} >= {place.position for place in reading["top"].places}

    def test_only_the_layers_asked_for_are_tapped(self) -> None:
        fold = MAGNITUDE.start(context(MAGNITUDE, layers=LayerRange(2, -2)))
        assert (Tap("block.out", 2), Tap("block.out", 3)) == fold.taps

    def test_a_token_class_that_no_token_belongs_to_is_absent(self) -> None:
        reading = magnitude(tokens=TokenSet("bos"))
        assert "no token of the inputs is of class bos" == reading.absent

    def test_a_hidden_state_that_is_not_finite_makes_the_ratio_unknown(self) -> None:
        fold = MAGNITUDE.start(context(MAGNITUDE, layers=LayerRange(1, 1)))
        hidden = noise()
        hidden[0, 1, 1] = math.nan
        fold.observe(Tap("block.out", 1), hidden, batch())
        assert math.isnan(fold.finish({})["ratio"].values[0])

    def test_records_list_as_many_entries_as_asked_for(self) -> None:
        fold = MAGNITUDE.start(context(MAGNITUDE, layers=LayerRange(2, 2), top=5))
        fold.observe(Tap("block.out", 2), planted(2), batch())
        records = fold.finish({}).records
        assert [1, 2, 3, 4, 5] == [record["rank"] for record in records]
        assert (-5000.0, True) == (records[0]["value"], records[0]["massive"])
        assert records[1]["massive"] is False


class TestMassive:
    def found(self, *, plant: bool = True, at: int | str = "first-layer") -> Reading:
        fold = MASSIVE.start(context(MASSIVE, sequences=2, at=at))
        for tap in fold.taps:
            hidden = planted(tap.layer, rows=2) if plant else noise(2, seed=tap.layer)
            fold.observe(tap, hidden, batch(2))
        return fold.finish({})

    def test_each_sequence_is_located_at_its_first_layer_only(self) -> None:
        edited = [record for record in self.found().records if record["arm"] == "edited"]
        assert [(2, 0, 0, 7, -5000.0), (2, 1, 0, 7, -5000.0)] == [
            (r["layer"], r["sequence"], r["position"], r["dim"], r["value"]) for r in edited
        ]

    def test_the_control_is_as_many_near_median_entries_of_the_same_tokens(self) -> None:
        control = [record for record in self.found().records if record["arm"] == "control"]
        assert [0, 0] == [record["position"] for record in control]
        hidden = planted(2, rows=2)
        for record in control:
            row = hidden[record["sequence"], 0].abs()
            median = float(hidden[record["sequence"]].abs().median())
            assert record["dim"] != 7
            assert float((row - median).abs().min()) == pytest.approx(abs(abs(record["value"]) - median), abs=1e-6)

    def test_without_a_planted_entry_it_is_absent(self) -> None:
        reading = self.found(plant=False)
        assert reading.absent is not None
        assert reading.absent.startswith("nothing massive here: in layers 1..4 no entry exceeds")

    def test_a_stream_that_is_not_finite_leaves_the_question_open(self) -> None:
        fold = MASSIVE.start(context(MASSIVE))
        with pytest.raises(MeasurementError, match=r"layer 1 holds entries that are not finite \(sequence 0\)"):
            fold.observe(Tap("block.out", 1), torch.full((1, 6, 32), math.nan), batch())

    @pytest.mark.parametrize(("at", "layer"), [(3, 3), (-2, 3), (2, 2)])
    def test_the_entries_of_one_layer_are_recorded_where_it_is_asked_for(self, at: int, layer: int) -> None:
        reading = self.found(at=at)
        assert {layer} == {record["layer"] for record in reading.records}
        assert {(0, 0, 7), (1, 0, 7)} == {
            (r["sequence"], r["position"], r["dim"]) for r in reading.records if r["arm"] == "edited"
        }
        assert (2.0, 3.0, 1.0) == tuple(reading[name].value for name in ("first_layer", "last_layer", "sequence_share"))

    def test_a_layer_with_nothing_massive_is_absent_and_those_with_something_are_named(self) -> None:
        assert "nothing massive in layer 4; massive activations are in layers 2..3" == self.found(at=4).absent

    def test_a_layer_that_is_none_of_the_model_is_refused(self) -> None:
        with pytest.raises(MeasurementError, match=r"`at: 5` is no layer of this model; allowed: first-layer, 0\.\.4"):
            self.found(at=5)

    def test_first_and_last_layer_are_told(self) -> None:
        reading = self.found()
        assert (2.0, 3.0, 2.0, 1.0) == tuple(
            reading[name].value for name in ("first_layer", "last_layer", "entries", "sequence_share")
        )


class TestPerplexity:
    def measure(self, logits: torch.Tensor, ids: torch.Tensor) -> Reading:
        fold = PERPLEXITY.start(context(PERPLEXITY))
        for row in range(len(ids)):
            fold.observe(Tap("logits"), logits[row : row + 1], PlainBatch(ids[row : row + 1], (row,)))
        return fold.finish({})

    def test_uniform_logits_have_the_perplexity_of_the_vocabulary(self) -> None:
        reading = self.measure(torch.zeros(2, 5, 100), torch.arange(10).reshape(2, 5))
        assert 100.0 == pytest.approx(reading["perplexity"].value)
        assert 8.0 == reading["targets"].value

    def test_it_is_exp_of_the_mean_over_all_targets_not_a_mean_of_perplexities(self) -> None:
        logits, ids = noise(2, 5, 50), torch.arange(10).reshape(2, 5)
        logprobs = logits.double().log_softmax(-1)
        losses = [-float(logprobs[row, t, ids[row, t + 1]]) for row in range(2) for t in range(4)]
        assert math.exp(sum(losses) / 8) == pytest.approx(self.measure(logits, ids)["perplexity"].value, rel=1e-6)

    def test_a_loss_beyond_the_range_of_a_double_is_infinite(self) -> None:
        logits = torch.zeros(1, 3, 10)
        logits[..., 0] = 1e6
        assert math.inf == self.measure(logits, torch.tensor([[1, 2, 3]]))["perplexity"].value

    def test_one_token_has_nothing_to_predict(self) -> None:
        with pytest.raises(MeasurementError, match="at least 2 tokens"):
            self.measure(torch.zeros(1, 1, 10), torch.tensor([[1]]))


class TestConcentration:
    def measure(self, probs: torch.Tensor, *, massive: Reading = NOTHING, burn_in: int = 1, step: int = 3) -> Reading:
        depth, _, length, _ = probs.shape
        fold = CONCENTRATION.start(context(CONCENTRATION, tokens=FIRST, depth=depth, burn_in=burn_in))
        for layer in range(1, depth + 1):
            for query in range(0, length, step):
                block = probs[layer - 1 : layer, :, query : query + step]
                fold.observe(Tap("block.attn.probs", layer), block, batch(length=length), offset=query)
        return fold.finish({"massive": massive})

    def probs(self) -> torch.Tensor:
        return (
            noise(2 * 4, 7, 7).reshape(2, 4, 7, 7).masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf).softmax(-1)
        )

    def test_the_share_is_the_mean_over_queries_after_the_burn_in(self) -> None:
        probs = self.probs()
        reading = self.measure(probs, burn_in=2)
        assert probs[1, 3, 2:, 0].mean().item() == pytest.approx(reading["share"].at(layer=2, head=3), rel=1e-6)
        assert probs[1, :, 2:, 0].mean().item() == pytest.approx(reading["layer_share"].at(layer=2), rel=1e-6)

    @pytest.mark.parametrize("step", [1, 2, 7])
    def test_blocks_of_queries_do_not_change_it(self, step: int) -> None:
        probs = self.probs()
        assert self.measure(probs, step=3)["share"].values == pytest.approx(
            self.measure(probs, step=step)["share"].values
        )

    def test_before_and_after_are_split_at_the_block_that_first_reads_a_massive_layer(self) -> None:
        one = {"first_layer": 1.0, "last_layer": 1.0}
        massive = Reading(kind="massive", quantities={n: Quantity(name=n, values=(v,)) for n, v in one.items()})
        reading = self.measure(self.probs(), massive=massive)
        assert reading["layer_share"].values == (reading["before"].value, reading["after"].value)
        assert reading["rise"].value == reading["after"].value - reading["before"].value

    def test_without_massive_activations_before_and_after_are_absent_and_the_share_is_not(self) -> None:
        reading = self.measure(self.probs())
        assert "nothing massive here" == reading["after"].absent
        assert reading["share"].absent is None

    def test_inputs_shorter_than_the_burn_in_are_refused(self) -> None:
        with pytest.raises(MeasurementError, match="no query stands at position 20 or later"):
            self.measure(self.probs(), burn_in=20)


class TestFinite:
    def measure(self, hidden: torch.Tensor, dtype: str = "float16") -> Reading:
        fold = FINITE.start(context(FINITE, layers=LayerRange(1, 1), dtype=dtype))
        fold.observe(Tap("block.out", 1), hidden, batch())
        return fold.finish({})

    def test_non_finite_entries_are_counted_and_left_out_of_the_largest(self) -> None:
        hidden = noise()
        hidden[0, 0, 0], hidden[0, 1, 1], hidden[0, 2, 2], hidden[0, 3, 3] = math.nan, math.inf, -math.inf, -400.0
        reading = self.measure(hidden)
        assert (3.0, 400.0) == (reading["nonfinite"].values[0], reading["largest"].values[0])
        assert Place(sequence=0, position=3, token="<6>", dim=3) == reading["largest"].places[0]

    def test_the_range_share_passes_one_where_float16_would_overflow(self) -> None:
        hidden = noise()
        hidden[0, 0, 0] = 70000.0
        assert 70000 / 65504 == pytest.approx(self.measure(hidden)["range_share"].values[0])
        assert self.measure(hidden, dtype="bfloat16")["range_share"].values[0] < 1e-30

    def test_a_clean_state_has_no_non_finite_entry(self) -> None:
        assert (0.0,) == self.measure(noise())["nonfinite"].values

    @pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
    def test_the_limits_are_those_of_torch(self, name: str) -> None:
        from maprobe.measurements.finite import LARGEST_FINITE

        assert torch.finfo(getattr(torch, name)).max == LARGEST_FINITE[name]
