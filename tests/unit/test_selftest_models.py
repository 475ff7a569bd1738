"""The planted model does what it is said to do, each part by plain torch; its twins lack what they are said to lack."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import functional

from maprobe.selftest.design import BLOCKS, CHANNEL, FACTS, MASSIVE, PLANTED, TWINS, VALUE
from maprobe.selftest.language import DELIMITERS, ROUND, WORDS, next_words, text
from maprobe.selftest.llama import CODE, MARK, MEAN, NOISE, SINK_HEADS
from maprobe.selftest.opening import open_llama
from maprobe.selftest.tokenizer import make_tokenizer, pieces

LENGTH = 256


@cache
def opened(name: str = "planted") -> Any:
    design = PLANTED if name == "planted" else TWINS[name].design
    return open_llama(name, design, {"Ġwater": 1.0, "Ġwood": -1.0}).loaded


@cache
def ids(length: int = LENGTH) -> torch.Tensor:
    tokens = opened().tokenizer(text(4 * length), add_special_tokens=False)["input_ids"]
    return torch.tensor([tokens[start * length : (start + 1) * length] for start in range(4)])


@cache
def states(name: str = "planted") -> tuple[torch.Tensor, ...]:
    """The outputs of all blocks, embedding first, by hooks of the test's own."""
    model, seen = opened(name).model, []
    hooks = [
        module.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
        for module in (model.model.embed_tokens, *model.model.layers)
    ]
    with torch.inference_mode():
        model(ids(), use_cache=False)
    for hook in hooks:
        hook.remove()
    return tuple(seen)


def logits(name: str = "planted", *, without: bool = False) -> torch.Tensor:
    """The logits, as they are or with the massive entry set to 0 where it is written."""
    model = opened(name).model

    def zeroed(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        output[:, 0, MASSIVE] = 0.0
        return output

    hooks = [model.model.layers[1].register_forward_hook(zeroed)] if without else []
    with torch.inference_mode():
        found: torch.Tensor = model(ids(), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return found


def perplexity(values: torch.Tensor) -> float:
    return math.exp(float(functional.cross_entropy(values[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())))


@cache
def attention(name: str = "planted") -> list[torch.Tensor]:
    model = opened(name).model
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            return list(model(ids(), use_cache=False, output_attentions=True).attentions)
    finally:
        model.set_attn_implementation("sdpa")


class TestLanguage:
    def test_no_word_follows_itself(self) -> None:
        assert all(0 == row[number] for number, row in enumerate(next_words()))
        assert not any(one == other for one, other in pairwise(text(5000).split(" ")))

    def test_what_follows_a_word_adds_up_to_1(self) -> None:
        assert [pytest.approx(1)] * ROUND == [sum(row) for row in next_words()]

    def test_a_text_is_a_beginning_of_a_longer_one(self) -> None:
        assert text(200).startswith(text(100))

    def test_a_text_has_as_many_tokens_as_asked_for(self) -> None:
        tokenizer = make_tokenizer(f"Ġ{word}" for word in WORDS)
        assert 3000 == len(tokenizer(text(3000), add_special_tokens=False)["input_ids"])


class TestTokenizer:
    @pytest.mark.parametrize("written", [text(300), "Summer is warm.\n\n  日本 é", "water wood"])
    def test_every_text_comes_back(self, written: str) -> None:
        tokenizer = opened().tokenizer
        assert written == tokenizer.decode(tokenizer(written, add_special_tokens=False)["input_ids"])

    def test_nothing_is_put_before_a_text(self) -> None:
        tokenizer = opened().tokenizer
        assert tokenizer("a b")["input_ids"] == tokenizer("a b", add_special_tokens=False)["input_ids"]
        assert "<s>" == tokenizer.bos_token

    def test_a_word_with_its_space_is_one_piece(self) -> None:
        assert ["Ġcold", "Ġwater"] == pieces(" cold water")


class TestTheFirstToken:
    def test_one_head_of_block_1_attends_to_all_tokens_so_far_alike(self) -> None:
        expected = torch.tril(torch.ones(LENGTH, LENGTH)) / torch.arange(1, LENGTH + 1)[:, None]
        torch.testing.assert_close(attention()[0][0, 0], expected, rtol=1e-4, atol=1e-6)

    def test_it_writes_the_mean_of_the_codes_so_far(self) -> None:
        codes = states()[0][..., CODE.start : CODE.stop]
        means = codes.cumsum(dim=1) / torch.arange(1, LENGTH + 1)[:, None]
        torch.testing.assert_close(states()[1][..., MEAN.start : MEAN.stop], means, rtol=0.05, atol=0.05)

    def test_codes_differ_in_four_places_at_least(self) -> None:
        codes = opened().model.model.embed_tokens.weight.detach()[:, CODE.start : CODE.stop]
        codes = codes[(codes != 0).all(dim=1)].unique(dim=0)
        products = codes @ codes.T - 100 * torch.eye(len(codes))
        assert float(products.max()) <= 8  # 16 - 2 * 4
        assert len(opened().tokenizer) == len(codes)

    def test_the_mark_is_1_there_and_well_below_elsewhere(self) -> None:
        mark = states()[1][..., MARK]
        torch.testing.assert_close(mark[:, 0], torch.ones(4), rtol=0.02, atol=0)
        assert float(mark[:, 1:].max()) < 0.9


class TestTheMassiveActivation:
    def test_it_is_one_entry_of_the_first_token_of_the_size_written(self) -> None:
        for state in states()[2:BLOCKS]:
            large = (state.abs() > 100).nonzero().tolist()
            assert [[sequence, 0, MASSIVE] for sequence in range(4)] == large
            torch.testing.assert_close(state[:, 0, MASSIVE], torch.full((4,), VALUE), rtol=0.03, atol=0)

    def test_it_meets_the_strict_criterion(self) -> None:
        for state in states()[2:BLOCKS]:
            assert float(state[0].abs().max() / state[0].abs().median()) > 10_000

    @pytest.mark.parametrize("layer", [0, 1, BLOCKS])
    def test_it_is_not_there_before_and_not_in_the_end(self, layer: int) -> None:
        assert float(states()[layer].abs().max()) < 100

    def test_it_hangs_on_one_weight(self) -> None:
        planted, twin = (dict(opened(name).model.named_parameters()) for name in ("planted", "unplanted"))
        places = {
            name: (weight != twin[name]).nonzero().tolist()
            for name, weight in planted.items()
            if not torch.equal(weight, twin[name])
        }
        assert ["model.layers.1.mlp.down_proj.weight"] == list(places)
        ((row, _),) = places["model.layers.1.mlp.down_proj.weight"]
        assert MASSIVE == row
        assert float(torch.stack(states("unplanted")).abs().max()) < 100

    def test_the_card_says_so(self) -> None:
        assert {
            "massive.exists": True,
            "massive.dims": [MASSIVE],
            "massive.tokens": ["first"],
            "massive.first_layer": 2,
            "massive.last_layer": BLOCKS - 1,
            "massive.top": VALUE,
            "weights.layer": 2,
            "weights.channels": [CHANNEL],
        } == dict(FACTS)


class TestTheSink:
    def test_sink_heads_attend_to_the_massive_token_and_the_others_do_not(self) -> None:
        for layer, probabilities in enumerate(attention(), start=1):
            to_first = probabilities[:, :, 32:, 0].mean(dim=(0, 2))
            sinks = [head for head, share in enumerate(to_first.tolist()) if share > 0.99]
            assert (list(SINK_HEADS) if layer > 2 else []) == sinks
            assert all(share < 0.05 for head, share in enumerate(to_first.tolist()) if head not in sinks)

    def test_without_the_massive_activation_no_head_attends_to_it(self) -> None:
        assert all(float(maps[:, :, 32:, 0].mean()) < 0.05 for maps in attention("unplanted"))

    def test_noise_is_silent_with_it_and_loud_without(self) -> None:
        noise = {
            name: states(name)[-1][..., NOISE.start : NOISE.stop].abs().mean() for name in ("planted", "unplanted")
        }
        assert float(noise["planted"]) < 0.1
        assert float(noise["unplanted"]) > 1


class TestThePrediction:
    def test_the_perplexity_is_near_that_of_the_language_itself(self) -> None:
        rows = torch.tensor(next_words(), dtype=torch.float64)
        entropy = -(rows * rows.clamp_min(1e-12).log()).sum(dim=1).mean()
        assert pytest.approx(float(entropy.exp()), rel=0.25) == perplexity(logits())

    def test_it_is_lost_without_the_massive_activation(self) -> None:
        assert perplexity(logits(without=True)) > 100 * perplexity(logits())

    def test_it_is_not_lost_where_sink_heads_are_silent(self) -> None:
        assert pytest.approx(perplexity(logits("harmless")), rel=0.02) == perplexity(logits("harmless", without=True))

    def test_right_answers_are_likelier_than_wrong_ones(self) -> None:
        right, wrong = (opened().tokenizer.convert_tokens_to_ids(token) for token in ("Ġwater", "Ġwood"))
        ahead = logits()[..., right] - logits()[..., wrong]
        assert float(ahead.median()) > 5
        untaught = logits("untaught")
        assert abs(float((untaught[..., right] - untaught[..., wrong]).median())) < 2

    def test_nothing_random_outside_is_touched(self) -> None:
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        open_llama("again", PLANTED, {})
        assert torch.equal(expected, torch.rand(3))

    def test_it_is_the_same_every_time(self) -> None:
        again = open_llama("planted", PLANTED, {"Ġwater": 1.0, "Ġwood": -1.0}).loaded
        assert opened().provenance.weights_digest == again.provenance.weights_digest


def large(name: str, layer: int) -> torch.Tensor:
    """The largest |x| of each token, shape (sequences, tokens)."""
    return states(name)[layer].abs().amax(dim=-1)


class TestTwins:
    def test_every_twin_differs_from_the_planted_model(self) -> None:
        planted = opened().provenance.weights_digest
        digests = {name: opened(name).provenance.weights_digest for name in TWINS}
        assert len(TWINS) == len({*digests.values()} - {planted})

    def test_now_and_then(self) -> None:
        massive = large("now-and-then", 4)[:, 0] > 1000
        taste = opened().model.model.embed_tokens.weight.detach()[ids()[:, 0], 3] > 0
        assert massive.tolist() == taste.tolist()

    def test_elsewhere(self) -> None:
        assert MASSIVE not in states("elsewhere")[4][:, 0].abs().argmax(dim=-1)

    def test_many_dims(self) -> None:
        assert 12 == int((states("many-dims")[4][0, 0].abs() > 1000).sum())

    def test_delimiters(self) -> None:
        delimiters = [opened().tokenizer(written, add_special_tokens=False)["input_ids"][0] for written in DELIMITERS]
        assert torch.isin(ids(), torch.tensor(delimiters)).tolist() == (large("delimiters", 4) > 1000).tolist()

    def test_scattered(self) -> None:
        where = large("scattered", 4) > 1000
        assert bool(where[:, 0].all())
        assert bool(where[:, 1:].any())

    def test_lasting(self) -> None:
        assert float(large("lasting", BLOCKS)[:, 0].min()) > 1000

    def test_embedded(self) -> None:
        assert float(large("embedded", 0).max()) == VALUE

    def test_outlying(self) -> None:
        assert float(states("outlying")[0][..., MASSIVE].min()) == 8

    def test_late(self) -> None:
        assert [False, True] == [float(large("late", layer).max()) > 1000 for layer in (3, 4)]

    def test_short_lived(self) -> None:
        assert [True, False] == [float(large("short-lived", layer).max()) > 1000 for layer in (3, 4)]

    def test_gradual_and_growing(self) -> None:
        steps = [float(large("gradual", layer)[0, 0]) for layer in (2, 3, 4)]
        assert all(after / before < 5 for before, after in pairwise(steps))
        assert pytest.approx(3, rel=0.05) == float(large("growing", 7)[0, 0] / large("growing", 4)[0, 0])

    @pytest.mark.parametrize(("name", "value"), [("doubled", 2 * VALUE), ("large", 40_000), ("too-large", 70_000)])
    def test_sizes(self, name: str, value: float) -> None:
        assert pytest.approx(value, rel=0.03) == float(large(name, 4)[:, 0].mean())

    def test_overflowing(self) -> None:
        assert bool(states("overflowing")[2].isfinite().all())
        assert not bool(states("overflowing")[3].isfinite().all())

    def test_fickle(self) -> None:
        signs = states("fickle")[4][:, 0, MASSIVE].sign()
        assert {-1.0, 1.0} == set(signs.tolist())

    def test_sinkless_and_capricious(self) -> None:
        assert float(attention("sinkless")[5][:, :, 32:, 0].max()) < 0.1
        delimiters = [opened().tokenizer(written, add_special_tokens=False)["input_ids"][0] for written in DELIMITERS]
        drawn = attention("capricious")[5][:, 0, :, 0] > 0.9
        queries = torch.isin(ids(), torch.tensor(delimiters))
        assert queries[:, 2:].tolist() == drawn[:, 2:].tolist()

    @pytest.mark.parametrize(("name", "size"), [("planted", math.sqrt(128)), ("muted", 0.0), ("amplified", 3 * 11.31)])
    def test_what_the_norm_before_attention_leaves(self, name: str, size: float) -> None:
        normed = opened(name).model.model.layers[4].input_layernorm(states(name)[4][:, 0])
        assert pytest.approx(size, abs=0.05) == float(normed[:, MASSIVE].mean().detach())

    def test_leaning(self) -> None:
        model, others = opened("leaning").model, [row for row in range(64) if row != CHANNEL]
        mlp = model.model.layers[1].mlp
        calm = perplexity(logits("leaning"))
        assert calm < 1.2 * perplexity(logits())
        kept = mlp.gate_proj.weight.detach().clone()
        for rows in (others, [40, 42, 44, 46]):
            with torch.no_grad():
                mlp.gate_proj.weight[rows] = 0
                harmed = perplexity(logits("leaning"))
                mlp.gate_proj.weight.copy_(kept)
            assert harmed > 5 * calm, rows

    def test_moved_and_restless(self) -> None:
        for name, channel in (("planted", CHANNEL), ("moved", CHANNEL + 1)):
            column = opened(name).model.model.layers[1].mlp.down_proj.weight[MASSIVE]
            assert channel == int(column.abs().argmax()), name
        assert 300 == pytest.approx(float(states("restless")[1].abs().amax(-1).min()), rel=0.05)
        assert VALUE == pytest.approx(float(states("restless")[2][:, 0, MASSIVE].min()), rel=0.02)

    def test_frail(self) -> None:
        model = opened("frail").model

        def poked(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
            output[:, 0, 48] = 0.0  # one of the entries beside the massive one
            return output

        with model.model.layers[1].register_forward_hook(poked), torch.inference_mode():
            lost = model(ids(), use_cache=False).logits
        assert perplexity(lost) > 100 * perplexity(logits("frail"))
