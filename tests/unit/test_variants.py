"""The variants of attention, against a few lines of torch, and what maprobe reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hidden_states import PlainBatch, context
from test_recorder import shown
from torch import nn

import maprobe.training
from maprobe.edits import AttentionWindow
from maprobe.measurements.attention import CONCENTRATION
from maprobe.readings import Reading
from maprobe.recipes import Tap
from maprobe.running.attention import Observer, narrowed_attention, watched_attention
from maprobe.running.discovery import discover
from maprobe.running.proofs import prove, require
from maprobe.sites import TokenSet
from maprobe.training.explicit_bias import _Biased
from maprobe.training.variants import ARCHITECTURES, VARIANTS, fresh_model, register

GPT2 = {
    "vocab_size": 48,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 24,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": 0,
}
LLAMA = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "bos_token_id": None,
    "eos_token_id": 0,
}
SETTINGS: dict[str, dict[str, Any]] = {"gpt2": GPT2, "llama": LLAMA}
IDS = torch.tensor([[5, 9, 2, 7, 11, 3, 8], [4, 6, 1, 12, 30, 2, 9]])
BATCH = PlainBatch(IDS, (0, 1))
EXPLICIT = ("gpt2_explicit_bias", "llama_explicit_bias")


def model_of(variant: str, architecture: str, *, attention: str = "sdpa", std: float | None = None) -> Any:
    """A tiny model; with ``std``, its k' and v' are as large as trained ones would be."""
    model = fresh_model(variant, architecture, SETTINGS[architecture], seed=0).eval()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if std is not None and "explicit_" in name:
                parameter.normal_(std=std)
    return model


def attention_of(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, _Biased)]


def projected(module: nn.Module, stream: torch.Tensor, rotary: Any) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of an attention module, each (sequences, heads, tokens, dims), by its weights alone."""
    if isinstance(module, transformers.models.gpt2.modeling_gpt2.GPT2Attention):
        parts = (stream @ module.c_attn.weight + module.c_attn.bias).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in parts)
        return q, k, v
    q, k, v = (
        (stream @ weight.weight.T).unflatten(-1, (-1, 8)).transpose(1, 2)
        for weight in (module.q_proj, module.k_proj, module.v_proj)
    )
    cos, sin = (table[:, None] for table in rotary(stream, torch.arange(stream.shape[1])[None]))

    def turn(x: torch.Tensor) -> torch.Tensor:
        return x * cos + torch.cat((-x[..., 4:], x[..., :4]), dim=-1) * sin

    return turn(q), turn(k).repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)


def by_hand(model: Any, layer: int, stream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 3 for one block: its probabilities with those on k' first, and what it writes before the last matrix."""
    module = attention_of(model)[layer - 1]
    q, k, v = projected(module, stream, getattr(getattr(model, "model", None), "rotary_emb", None))
    groups = q.shape[1] // module.explicit_key.shape[1]
    own_k, own_v = (p.repeat_interleave(groups, dim=1) for p in (module.explicit_key, module.explicit_value))
    scores = (q @ k.transpose(2, 3)) / 8**0.5
    scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(1).bool(), -torch.inf)
    on_bias = (q @ own_k.transpose(2, 3)) / 8**0.5
    weights = torch.cat((on_bias, scores), dim=-1).exp()
    probabilities = weights / weights.sum(dim=-1, keepdim=True)
    return probabilities, probabilities[..., :1] @ own_v + probabilities[..., 1:] @ v


def seen_in(model: Any, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What an attention module was called on, and what its last matrix was called on."""
    module = attention_of(model)[layer - 1]
    last = getattr(module, "o_proj", None) or module.c_proj
    found: list[torch.Tensor] = []
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        ),
        last.register_forward_pre_hook(lambda m, args: found.append(args[0])),
    ]
    with torch.no_grad():
        model(IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    return found[0], found[1].unflatten(-1, (4, 8)).transpose(1, 2)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestExplicitBias:
    def test_attention_is_equation_3(self, architecture: str, attention: str) -> None:
        model = model_of("explicit-bias", architecture, attention=attention, std=1.0)
        stream, written = seen_in(model, 2)
        torch.testing.assert_close(by_hand(model, 2, stream)[1], written)

    def test_with_zeros_it_is_softmax_off_by_one(self, architecture: str, attention: str) -> None:
        model = model_of("explicit-bias", architecture, attention=attention, std=0.0)
        stream, written = seen_in(model, 1)
        module = attention_of(model)[0]
        q, k, v = projected(module, stream, getattr(getattr(model, "model", None), "rotary_emb", None))
        weights = ((q @ k.transpose(2, 3)) / 8**0.5).exp().tril()
        torch.testing.assert_close((weights / (1 + weights.sum(-1, keepdim=True))) @ v, written)

    def test_maprobe_reads_the_attention_to_tokens(self, architecture: str, attention: str) -> None:
        model = model_of("explicit-bias", architecture, attention=attention, std=1.0)
        stream, _ = seen_in(model, 2)
        expected = by_hand(model, 2, stream)[0]
        keep = shown(discover(model, {}), Tap("block.attn.probs", 2))
        (read,) = keep.seen[Tap("block.attn.probs", 2)]
        torch.testing.assert_close(expected[..., 1:], read)

    def test_maprobe_reads_keys_and_values_of_tokens(self, architecture: str, attention: str) -> None:
        model = model_of("explicit-bias", architecture, attention=attention, std=1.0)
        stream, _ = seen_in(model, 3)
        _, k, v = projected(attention_of(model)[2], stream, getattr(getattr(model, "model", None), "rotary_emb", None))
        taps = Tap("block.attn.keys", 3), Tap("block.attn.values", 3)
        keep = shown(discover(model, {}), *taps)
        groups = 4 // keep.seen[taps[0]][0].shape[1]
        for expected, tap in zip((k, v), taps, strict=True):
            torch.testing.assert_close(expected[:, ::groups], keep.seen[tap][0])

    def test_maprobe_reads_what_the_softmax_takes_in_of_tokens(self, architecture: str, attention: str) -> None:
        model = model_of("explicit-bias", architecture, attention=attention, std=1.0)
        expected = by_hand(model, 2, seen_in(model, 2)[0])[0][..., 1:]
        (read,) = shown(discover(model, {}), Tap("block.attn.scores", 2)).seen[Tap("block.attn.scores", 2)]
        # Softmax over tokens alone is what the probabilities are once the share of the bias is left out.
        torch.testing.assert_close(expected / expected.sum(-1, keepdim=True), read.softmax(dim=-1))

    def test_a_window_hides_tokens_and_never_the_bias(self, architecture: str, attention: str) -> None:
        model = model_of("explicit-bias", architecture, attention=attention, std=1.0)
        stream, _ = seen_in(model, 1)
        before, places = by_hand(model, 1, stream)[0], torch.arange(7)
        seen = (places > places[:, None] - 2) | (places < 1)
        left = before * torch.cat((torch.ones(7, 1), seen), dim=1)
        expected = (left / left.sum(-1, keepdim=True))[..., 1:]
        found: list[torch.Tensor] = []
        watched = {attention_of(model)[0]: Observer(probabilities=lambda value, query: found.append(value))}
        window = AttentionWindow(size=2, sinks=1)
        with narrowed_attention(model, attention_of(model), window, lambda: None), watched_attention(model, watched):
            model(IDS, use_cache=False)
        torch.testing.assert_close(expected, found[0])

    def test_every_proof_stands(self, architecture: str, attention: str) -> None:
        proofs = prove(discover(model_of("explicit-bias", architecture, attention=attention, std=1.0), {}))
        require(proofs)
        assert [True] * len(proofs) == [proof.holds for proof in proofs]

    def test_a_later_token_changes_nothing_before_it(self, architecture: str, attention: str) -> None:
        model = model_of("explicit-bias", architecture, attention=attention, std=1.0)
        with torch.no_grad():
            torch.testing.assert_close(model(IDS).logits[:, :5], model(IDS[:, :5]).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestParameters:
    def test_there_is_a_pair_for_each_head_of_keys(self, architecture: str) -> None:
        heads = {"gpt2": 4, "llama": 2}[architecture]
        for module in attention_of(model_of("explicit-bias", architecture)):
            assert (1, heads, 1, 8) == module.explicit_key.shape == module.explicit_value.shape

    def test_they_begin_small_and_random(self, architecture: str) -> None:
        modules = attention_of(model_of("explicit-bias", architecture))
        drawn = torch.cat([p.flatten() for m in modules for p in (m.explicit_key, m.explicit_value)])
        assert 0.02 == pytest.approx(float(drawn.detach().std()), rel=0.25)

    def test_the_gradient_reaches_them(self, architecture: str) -> None:
        model = model_of("explicit-bias", architecture)
        model(IDS, labels=IDS).loss.backward()
        for module in attention_of(model):
            assert module.explicit_key.grad.abs().min() > 0
            assert module.explicit_value.grad.abs().min() > 0

    def test_eager_and_sdpa_agree_also_behind_padding(self, architecture: str) -> None:
        mask = torch.ones_like(IDS)
        mask[0, :3] = 0
        answers = []
        for attention in ("eager", "sdpa"):
            model = model_of("explicit-bias", architecture, attention=attention, std=1.0)
            with torch.no_grad():
                answers.append((model(IDS).logits, model(IDS, attention_mask=mask).logits[:, 3:]))
        for left, right in zip(*answers, strict=True):
            torch.testing.assert_close(left, right)

    def test_a_cache_changes_nothing(self, architecture: str) -> None:
        for variant in VARIANTS:
            model = model_of(variant, architecture, std=1.0 if variant == "explicit-bias" else None)
            with torch.no_grad():
                begun = model(IDS[:, :4], use_cache=True)
                rest = model(IDS[:, 4:], past_key_values=begun.past_key_values)
                torch.testing.assert_close(model(IDS).logits[:, 4:], rest.logits)


def test_a_gpt2_with_cross_attention_is_refused() -> None:
    config = maprobe.training.GPT2ExplicitBiasConfig(**GPT2, add_cross_attention=True)
    with pytest.raises(ValueError, match="neither cross-attention nor reordered attention"):
        maprobe.training.GPT2ExplicitBiasLMHeadModel(config)


class TestSinkToken:
    def test_in_a_gpt2_it_has_no_position_and_the_next_token_has_the_first(self) -> None:
        model = model_of("sink-token", "gpt2")
        sink = torch.tensor([[48, 5, 9]])
        (entered,) = shown(discover(model, {}), Tap("embed.out"), batch=PlainBatch(sink, (0,))).seen[Tap("embed.out")]
        words, places = model.transformer.wte.weight, model.transformer.wpe.weight
        expected = torch.stack((words[48], words[5] + places[0], words[9] + places[1]))
        assert torch.equal(expected, entered[0])

    def test_as_many_positions_are_left_as_the_default_has(self) -> None:
        assert (24, 32) == model_of("sink-token", "gpt2").transformer.wpe.weight.shape
        full = torch.arange(25)[None]
        assert torch.isfinite(model_of("sink-token", "gpt2")(full).logits).all()

    def test_in_a_llama_it_is_a_token_like_any_other(self) -> None:
        model = model_of("sink-token", "llama")
        plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, "vocab_size": 49})).eval()
        plain.load_state_dict(model.state_dict())
        sink = torch.tensor([[48, 5, 9]])
        assert torch.equal(plain(sink).logits, model(sink).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", VARIANTS)
class TestCheckpoints:
    def test_what_is_saved_is_loaded_bit_by_bit(self, variant: str, architecture: str, tmp_path: Path) -> None:
        model = model_of(variant, architecture)
        model.save_pretrained(tmp_path)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(model) is type(loaded)
        expected = model.state_dict()
        assert expected.keys() == loaded.state_dict().keys()
        assert all(torch.equal(expected[name], weight) for name, weight in loaded.state_dict().items())
        assert torch.equal(model(IDS).logits, loaded.eval()(IDS).logits)

    def test_weights_that_the_default_has_too_begin_the_same(self, variant: str, architecture: str) -> None:
        default, other = model_of("default", architecture).state_dict(), model_of(variant, architecture).state_dict()
        for name, weight in default.items():
            assert torch.equal(weight, other[name][: len(weight)]), name


@pytest.mark.parametrize("model_type", EXPLICIT)
def test_the_base_model_is_known_too(model_type: str) -> None:
    settings = SETTINGS[model_type.partition("_")[0]]
    register()  # once more: it must do no harm
    base = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(model_type, **settings))
    assert (2, 7, 32) == base(IDS).last_hidden_state.shape


class TestConcentration:
    def measure(self, model: Any) -> Reading:
        fold = CONCENTRATION.start(context(CONCENTRATION, depth=3, sequences=2, tokens=TokenSet("first"), burn_in=1))
        keep = shown(discover(model, {}), *fold.taps)
        for tap in fold.taps:
            fold.observe(tap, keep.seen[tap][0], BATCH)
        return fold.finish({"massive": Reading(kind="massive", absent="none")})

    def test_the_share_on_the_bias_is_what_rows_lack(self) -> None:
        model = model_of("explicit-bias", "gpt2", std=2.0)
        reading = self.measure(model)
        for layer in (1, 2, 3):
            expected = by_hand(model, layer, seen_in(model, layer)[0])[0][:, :, 1:].detach()
            assert float(expected[..., 0].mean()) == pytest.approx(reading["bias_share"].values[layer - 1], rel=1e-4)
            assert float(expected[..., 1].mean()) == pytest.approx(reading["layer_share"].values[layer - 1], rel=1e-4)

    def test_without_a_bias_it_is_zero(self) -> None:
        assert (0, 0, 0) == pytest.approx(self.measure(model_of("default", "llama"))["bias_share"].values, abs=1e-6)
