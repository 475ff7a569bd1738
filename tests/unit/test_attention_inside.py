"""The sink metric, the implicit bias and the norms on the way into attention, on tensors made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hidden_states import batch, context, noise

from maprobe.errors import MeasurementError
from maprobe.measurements.implicit_bias import BIAS
from maprobe.measurements.normalisation import NORMS
from maprobe.measurements.sinks import SINK
from maprobe.readings import Quantity, Reading
from maprobe.recipes import Tap
from maprobe.sites import LayerRange

LENGTH, WIDTH, HEADS, SIZE = 16, 32, 2, 8
NOTHING = Reading(kind="massive", absent="nothing massive here")
MASSIVE = Reading(
    kind="massive",
    quantities={name: Quantity(name=name, values=(1.0,)) for name in ("first_layer", "last_layer")},
)


def uniform(rows: int = 1, heads: int = HEADS, length: int = LENGTH) -> torch.Tensor:
    """Causal attention that every query spreads evenly, shape (rows, heads, queries, keys)."""
    lower = torch.ones(length, length).tril()
    return (lower / lower.sum(-1, keepdim=True)).expand(rows, heads, length, length).clone()


def sunk(rows: int = 1, length: int = LENGTH, share: float = 0.9) -> torch.Tensor:
    """The same, but for head 1, which gives a share of its attention to token 0 from query 1 on."""
    probabilities = uniform(rows, length=length)
    probabilities[:, 1] *= 1 - share
    probabilities[:, 1, :, 0] += share
    return probabilities


class TestSink:
    def measure(self, probabilities: torch.Tensor, *, step: int = LENGTH, **options: object) -> Reading:
        fold = SINK.start(context(SINK, depth=2, layers=LayerRange(1, 2), sequences=len(probabilities), **options))
        for tap in fold.taps:
            for query in range(0, LENGTH, step):
                fold.observe(
                    tap, probabilities[:, :, query : query + step], batch(len(probabilities), LENGTH), offset=query
                )
        return fold.finish({})

    def test_a_planted_sink_head_is_found_and_its_twin_is_not(self) -> None:
        reading = self.measure(sunk())
        assert (0.0, 1.0, 0.0, 1.0) == reading["share"].values
        assert (0.5, 0.5, 0.5) == (*reading["layer_sinks"].values, reading["sinks"].value)
        assert 0.0 == self.measure(uniform())["sinks"].value

    def test_alpha_is_the_mean_over_the_queries_that_can_see_the_token(self) -> None:
        expected = float(uniform()[0, 0, :, 0].mean())
        assert expected == pytest.approx(self.measure(uniform())["importance"].values[0])
        later = float(uniform()[0, 0, 5:, 5].mean())
        assert later == pytest.approx(self.measure(uniform(), position=5)["importance"].values[0])

    def test_queries_in_blocks_give_the_same(self) -> None:
        whole, parts = self.measure(sunk()), self.measure(sunk(), step=5)
        assert whole["importance"].values == pytest.approx(parts["importance"].values)
        assert whole["share"].values == parts["share"].values

    def test_the_share_counts_sequences_and_not_their_mean(self) -> None:
        both = torch.cat([sunk(share=0.9), uniform()])
        assert (0.0, 0.5) == self.measure(both)["share"].values[:2]

    def test_epsilon_decides(self) -> None:
        assert (0.5, 0.0) == (
            self.measure(sunk(share=0.5), epsilon=0.3)["sinks"].value,
            self.measure(sunk(share=0.5), epsilon=0.9)["sinks"].value,
        )

    def test_attention_that_is_not_a_number_is_unknown(self) -> None:
        probabilities = sunk()
        probabilities[0, 0, 3, 0] = math.nan
        assert math.isnan(self.measure(probabilities)["sinks"].value)

    def test_a_position_outside_the_sequence_is_refused(self) -> None:
        with pytest.raises(MeasurementError, match=r"`position` 16 is out of range: sequence 0 has 16 tokens"):
            self.measure(uniform(), position=16)


def stream(*, plant: bool, rows: int = 1) -> torch.Tensor:
    hidden = noise(rows, LENGTH, WIDTH)
    if plant:
        hidden[:, 0, 7] = 5000.0
    return hidden


class TestBias:
    def measure(
        self, probabilities: torch.Tensor, values: torch.Tensor, *, plant: bool = True, step: int = LENGTH
    ) -> Reading:
        fold = BIAS.start(context(BIAS, layers=LayerRange(2, 2), burn_in=4))
        assert (Tap("block.out", 1), Tap("block.attn.values", 2), Tap("block.attn.probs", 2)) == fold.taps
        one = batch(len(values), LENGTH)
        fold.observe(fold.taps[0], stream(plant=plant, rows=len(values)), one)
        fold.observe(fold.taps[1], values, one)
        for query in range(0, LENGTH, step):
            fold.observe(fold.taps[2], probabilities[:, :, query : query + step], one, offset=query)
        return fold.finish({"massive": MASSIVE if plant else NOTHING})

    def values(self, rows: int = 1, heads: int = HEADS) -> torch.Tensor:
        return torch.randn(rows, heads, LENGTH, SIZE, generator=torch.Generator().manual_seed(3))

    def test_a_constant_share_of_one_token_is_a_bias(self) -> None:
        probabilities = torch.zeros(1, HEADS, LENGTH, LENGTH)
        probabilities[..., 0] = 0.5
        probabilities += 0.5 * uniform().roll(1, dims=-1) * (torch.arange(LENGTH) > 0)
        reading = self.measure(probabilities, self.values())
        assert 0 == pytest.approx(reading["bias_variation"].values[0], abs=1e-6)
        assert reading["rest_variation"].values[0] > 0.1

    def test_a_share_that_changes_from_query_to_query_is_none(self) -> None:
        probabilities = torch.zeros(1, HEADS, LENGTH, LENGTH)
        probabilities[..., 0] = torch.linspace(0, 1, LENGTH)
        probabilities[..., 1] = 1 - probabilities[..., 0]
        assert self.measure(probabilities, self.values())["bias_variation"].values[0] > 0.3

    def test_the_figures_are_those_of_the_equations(self) -> None:
        probabilities, values = sunk(), self.values()
        reading = self.measure(probabilities, values)
        variations, shares = [], []
        for head in range(HEADS):
            u = torch.stack([probabilities[0, head, k, 0] * values[0, head, 0] for k in range(4, LENGTH)])
            r = torch.stack([probabilities[0, head, k, 1:] @ values[0, head, 1:] for k in range(4, LENGTH)])
            mean = u.mean(0)
            variations.append(float(((u - mean).norm(dim=1)).mean() / mean.norm()))
            shares.append(float(u.norm(dim=1).mean() / (u.norm(dim=1).mean() + r.norm(dim=1).mean())))
        assert sum(variations) / HEADS == pytest.approx(reading["bias_variation"].values[0], rel=1e-5)
        assert sum(shares) / HEADS == pytest.approx(reading["bias_share"].values[0], rel=1e-5)

    def test_values_that_several_heads_share_are_used_by_each(self) -> None:
        probabilities, shared = sunk(), self.values(heads=1)
        expected = self.measure(probabilities, shared.repeat(1, HEADS, 1, 1))
        assert expected["rest_variation"].values == self.measure(probabilities, shared)["rest_variation"].values

    def test_queries_in_blocks_give_the_same(self) -> None:
        whole, parts = (self.measure(sunk(), self.values(), step=step) for step in (LENGTH, 3))
        for name in ("bias_variation", "rest_variation", "random_variation", "bias_share"):
            assert whole[name].values == pytest.approx(parts[name].values), name

    def test_without_a_massive_token_there_is_nothing_to_split(self) -> None:
        assert "nothing massive here" == self.measure(sunk(), self.values(), plant=False).absent

    def test_layers_that_attend_to_none_are_named(self) -> None:
        fold = BIAS.start(context(BIAS, layers=LayerRange(4, 4)))
        reading = fold.finish({"massive": MASSIVE})
        assert "those are layers 2..2" in str(reading.absent)


class TestNorms:
    def measure(self, inputs: torch.Tensor, *, plant: bool = True) -> Reading:
        rows = len(inputs)
        fold = NORMS.start(context(NORMS, layers=LayerRange(2, 2), sequences=rows))
        heads = inputs.reshape(rows, LENGTH, 4, WIDTH // 4).transpose(1, 2)
        values = {"block.out": stream(plant=plant, rows=rows), "block.attn.in": inputs}
        for tap in fold.taps:
            fold.observe(tap, values.get(tap.site, heads), batch(rows, LENGTH))
        return fold.finish({"massive": MASSIVE if plant else NOTHING})

    def normed(self, rows: int = 2) -> torch.Tensor:
        hidden = stream(plant=True, rows=rows)
        return hidden / hidden.square().mean(-1, keepdim=True).sqrt()

    def test_a_norm_takes_the_size_away_and_leaves_one_sparse_direction(self) -> None:
        reading = self.measure(self.normed())
        assert reading["stream_ratio"].values[0] > 500
        assert 1 == pytest.approx(reading["input_ratio"].values[0], rel=1e-4)
        assert 1 == pytest.approx(reading["massive_cosine"].values[0], abs=1e-3)
        assert 1 == pytest.approx(reading["sparsity"].values[0], abs=1e-3)
        assert abs(reading["rest_cosine"].values[0]) < 0.1

    def test_tokens_that_do_not_look_alike_have_no_such_cosine(self) -> None:
        reading = self.measure(noise(2, LENGTH, WIDTH, seed=5))
        assert abs(reading["massive_cosine"].values[0]) < 0.6
        assert reading["sparsity"].values[0] < 0.3

    def test_the_norms_of_heads_are_those_of_all_heads_together(self) -> None:
        inputs = self.normed()
        norms = inputs.norm(dim=-1)
        expected = float(norms[:, 0].mean() / norms[:, 1:].mean())
        reading = self.measure(inputs)
        for name in ("input_ratio", "query_ratio", "key_ratio", "value_ratio"):
            assert expected == pytest.approx(reading[name].values[0], rel=1e-6), name

    def test_the_cosine_is_the_mean_over_all_pairs(self) -> None:
        inputs = noise(2, LENGTH, WIDTH, seed=5)
        others = torch.nn.functional.normalize(inputs[:, 1:].flatten(0, 1), dim=1)
        pairs = others @ others.T
        count = len(others)
        expected = float((pairs.sum() - pairs.trace()) / (count * (count - 1)))
        assert expected == pytest.approx(self.measure(inputs)["rest_cosine"].values[0], abs=1e-6)

    def test_one_massive_token_has_no_pair(self) -> None:
        assert math.isnan(self.measure(self.normed(rows=1))["massive_cosine"].values[0])

    def test_without_a_massive_token_it_is_absent(self) -> None:
        assert "nothing massive here" == self.measure(self.normed(), plant=False).absent
