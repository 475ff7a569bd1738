"""Attention query by key: the fold on tensors made by hand, and on tiny models whose logits are worked out here."""

from __future__ import annotations

import math

import pytest
import torch
from hidden_states import PlainBatch, batch, context
from tiny_models import tiny

from maprobe.errors import MeasurementError
from maprobe.measurements.attention_map import MAP
from maprobe.readings import Quantity, Reading
from maprobe.recipes import Tap
from maprobe.running.discovery import discover
from maprobe.running.recorder import Recorder
from maprobe.sites import ALL_LAYERS, LayerRange

LENGTH, HEADS = 5, 2
IDS = torch.tensor([[5, 9, 2, 7, 11, 3]])
NOTHING = Reading(kind="massive", absent="nothing massive here")


def massive(first: int = 2, last: int = 3, positions: tuple[int, ...] = (0,)) -> Reading:
    values = {"first_layer": first, "last_layer": last}
    return Reading(
        kind="massive",
        quantities={name: Quantity(name=name, values=(float(value),)) for name, value in values.items()},
        records=(
            *({"arm": "edited", "layer": first, "position": position} for position in positions),
            {"arm": "control", "layer": first, "position": 4},
        ),
    )


def logits(seed: int = 0, *, causal: bool = True) -> torch.Tensor:
    scores = torch.randn(1, HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -math.inf) if causal else scores


def measure(
    companion: Reading,
    *,
    layers: LayerRange = ALL_LAYERS,
    step: int = LENGTH,
    causal: bool = True,
    probabilities: torch.Tensor | None = None,
) -> Reading:
    """Measure four layers, whose logits are those of their number as a seed."""
    fold = MAP.start(context(MAP, layers=layers))
    for layer in layers.resolve(4, site="block.attn.scores"):
        scores = logits(layer, causal=causal)
        shares = scores.softmax(-1) if probabilities is None else probabilities
        for start in range(0, LENGTH, step):
            rows = slice(start, start + step)
            for site, value in (("scores", scores), ("probs", shares)):
                tap = Tap(f"block.attn.{site}", layer)
                fold.observe(tap, value[:, :, rows], batch(1, LENGTH), offset=start)
    return fold.finish({"massive": companion})


def told(reading: Reading, column: str, layer: int) -> dict[tuple[object, object], object]:
    return {(row["query"], row["key"]): row[column] for row in reading.records if row["layer"] == layer}


class TestFold:
    def test_each_pair_that_is_not_masked_has_its_means_over_heads(self) -> None:
        reading = measure(massive())
        for layer in (2, 3):
            mean, shares = logits(layer)[0].mean(0), logits(layer)[0].softmax(-1).mean(0)
            pairs = [(query, key) for query in range(LENGTH) for key in range(query + 1)]
            assert {pair: pytest.approx(float(mean[pair])) for pair in pairs} == told(reading, "logit", layer)
            assert {pair: pytest.approx(float(shares[pair])) for pair in pairs} == told(reading, "probability", layer)

    def test_without_a_mask_every_pair_is_told(self) -> None:
        assert LENGTH**2 == len(told(measure(massive(), causal=False), "logit", 2))

    def test_tokens_have_their_texts_and_massive_keys_are_marked(self) -> None:
        records = measure(massive(positions=(0, 3))).records
        assert {0: "<3>", 4: "<7>"}.items() <= {row["query"]: row["query_token"] for row in records}.items()
        assert {0: "<3>", 4: "<7>"}.items() <= {row["key"]: row["key_token"] for row in records}.items()
        assert {0, 3} == {row["key"] for row in records if row["massive"]}

    def test_queries_in_blocks_give_the_same(self) -> None:
        assert measure(massive()) == measure(massive(), step=2)

    def test_the_means_are_over_other_tokens_queries_and_leave_their_own_keys_out(self) -> None:
        reading = measure(massive(positions=(0, 3)))
        mean = logits(2)[0].double().mean(0)
        pairs = [(query, key) for query in (1, 2, 4) for key in range(query)]
        for name, keys in (("massive_logit", (0, 3)), ("other_logit", (1, 2))):
            wanted = [float(mean[pair]) for pair in pairs if pair[1] in keys]
            assert sum(wanted) / len(wanted) == pytest.approx(reading[name].values[0])
        assert 1 > reading["massive_probability"].values[0] > 0
        assert 2.0 == reading["emergence_layer"].value

    def test_a_mean_over_no_pair_is_unknown(self) -> None:
        assert math.isnan(measure(massive(positions=tuple(range(LENGTH))))["other_logit"].values[0])

    def test_probabilities_that_do_not_follow_from_the_logits_are_refused(self) -> None:
        with pytest.raises(MeasurementError, match=r"the logits of attention in layer 1 cannot be had.*off by 0\."):
            measure(massive(), probabilities=logits(9).softmax(-1))

    def test_rows_that_share_with_a_learnt_sink_are_compared_as_shares(self) -> None:
        layers = LayerRange(2, 2)
        reading = measure(massive(), layers=layers, probabilities=0.5 * logits(2).softmax(-1))
        assert 0.5 == pytest.approx(told(reading, "probability", 2)[0, 0])

    def test_a_long_text_is_refused(self) -> None:
        fold = MAP.start(context(MAP))
        with pytest.raises(MeasurementError, match="attention.map keeps something of every token"):
            fold.observe(Tap("block.attn.scores", 1), torch.zeros(1, 1, 33, 33), batch(1, 33))


class TestLayers:
    @pytest.mark.parametrize(
        ("companion", "asked", "shown"),
        [
            (massive(2, 3), ALL_LAYERS, (2, 3)),
            (massive(1, 3), ALL_LAYERS, (1, 2)),
            (massive(4, 4), ALL_LAYERS, (4,)),
            (massive(2, 3), LayerRange(1, 1), (1,)),
            (massive(2, 3), LayerRange(4, 4), (4,)),
            (massive(1, 1), LayerRange(3, 4), (3, 4)),
            (NOTHING, ALL_LAYERS, (1, 4)),
            (NOTHING, LayerRange(2, 2), (2,)),
        ],
    )
    def test_told_are_the_last_before_and_the_first_after_they_emerge(
        self, companion: Reading, asked: LayerRange, shown: tuple[int, ...]
    ) -> None:
        reading = measure(companion, layers=asked)
        assert shown == tuple(dict.fromkeys(row["layer"] for row in reading.records))

    def test_where_nothing_is_massive_the_maps_are_there_and_the_numbers_are_absent(self) -> None:
        reading = measure(NOTHING)
        assert {"nothing massive here"} == {quantity.absent for quantity in reading.quantities.values()}
        assert None is reading.absent
        assert "the first and the last layer asked for: nothing massive here" in reading.notes[0]


def shown(family: str, *layers: int, implementation: str = "sdpa") -> Reading:
    """Measure a tiny model on one sequence."""
    model = tiny(family)
    model.config._attn_implementation = implementation
    fold = MAP.start(context(MAP, layers=LayerRange(layers[0], layers[-1]), depth=3))
    with Recorder(discover(model, {}), [fold]) as recorder:
        recorder.run(PlainBatch(IDS, (0,)))
    assert recorder.failure(fold) is None
    return fold.finish({"massive": massive(1, 3)})


class TestModels:
    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    def test_the_logits_of_llama_are_those_of_its_weights(self, implementation: str) -> None:
        model, length, heads, width = tiny("llama"), IDS.shape[1], 4, 8
        with torch.inference_mode():
            block = model.model.layers[1]
            normed = block.input_layernorm(model(IDS, output_hidden_states=True, use_cache=False).hidden_states[1])[0]
            angles = torch.arange(length)[:, None] / 10000.0 ** (torch.arange(0, width, 2) / width)

            def turned(weight: torch.Tensor) -> torch.Tensor:
                """Project, split into heads, and turn each pair of dims by its angle."""
                rows = (normed @ weight.T).view(length, -1, width).transpose(0, 1)
                left, right = rows[..., : width // 2], rows[..., width // 2 :]
                cos, sin = angles.cos(), angles.sin()
                return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

            query, key = turned(block.self_attn.q_proj.weight), turned(block.self_attn.k_proj.weight)
            scores = query @ key.repeat_interleave(heads // 2, dim=0).mT / math.sqrt(width)
        expected, reading = scores.mean(0), shown("llama", 2, implementation=implementation)
        pairs = [(query, key) for query in range(length) for key in range(query + 1)]
        found = told(reading, "logit", 2)
        assert [float(expected[pair]) for pair in pairs] == pytest.approx([found[pair] for pair in pairs], abs=1e-5)

    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    @pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "qwen3", "gpt2", "gpt_neox", "opt", "bert"])
    def test_probabilities_are_those_that_the_model_returns(self, family: str, implementation: str) -> None:
        model = tiny(family)
        model.config._attn_implementation = "eager"
        with torch.inference_mode():
            maps = model(IDS, output_attentions=True).attentions
        found = told(shown(family, 2, implementation=implementation), "probability", 2)
        expected = maps[1][0].mean(0)
        assert {pair: pytest.approx(float(expected[pair]), abs=1e-5) for pair in found} == found
        hidden = {(i, j) for i in range(6) for j in range(6)} - set(found)
        assert all(float(expected[pair]) == 0 for pair in hidden)

    def test_a_cap_on_the_logits_is_that_of_the_model(self) -> None:
        model = tiny("gemma2")
        model.config.attn_logit_softcapping = 0.01
        model.config._attn_implementation = "eager"
        for block in model.model.layers:
            block.self_attn.attn_logit_softcapping = 0.01
        fold = MAP.start(context(MAP, layers=LayerRange(2, 2), depth=3))
        with Recorder(discover(model, {}), [fold]) as recorder:
            recorder.run(PlainBatch(IDS, (0,)))
        assert None is recorder.failure(fold)
        assert 0.01 >= max(abs(row["logit"]) for row in fold.finish({"massive": NOTHING}).records)

    def test_a_model_that_shows_its_maps_alone_is_told_so(self) -> None:
        fold = MAP.start(context(MAP, layers=LayerRange(2, 2), depth=3))
        with Recorder(discover(tiny("mpt"), {}), [fold]) as recorder:
            recorder.run(PlainBatch(IDS, (0,)))
        assert "block.attn.scores of layer 2 cannot be read in this model: it computes attention by itself" in str(
            recorder.failure(fold)
        )
