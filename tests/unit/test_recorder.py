from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from hidden_states import PlainBatch
from tiny_models import tiny

from maprobe.edits import Edit
from maprobe.errors import InterventionError, MeasurementError
from maprobe.readings import Reading
from maprobe.recipes import Batch, Tap
from maprobe.running.anatomy import Anatomy
from maprobe.running.discovery import discover
from maprobe.running.recorder import Recorder

IDS = torch.tensor([[5, 9, 2, 7, 11, 3, 8], [4, 6, 1, 12, 30, 2, 9]])
BATCH = PlainBatch(IDS, (0, 1))
LAST = Tap("block.out", 3)


@dataclass
class Keep:
    """A fold that keeps what it is shown, which real ones must not."""

    taps: tuple[Tap, ...]
    seen: dict[Tap, list[torch.Tensor]] = field(default_factory=dict)
    queries: list[int] = field(default_factory=list)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        self.seen.setdefault(tap, []).append(value.clone())
        self.queries.append(offset)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        return Reading(kind="keep")


class Stumble(Keep):
    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        raise MeasurementError("no such token")


def anatomy_of(family: str = "llama") -> Anatomy:
    return discover(tiny(family), {})


def shown(anatomy: Anatomy, *taps: Tap, edits: tuple[Edit, ...] = (), batch: PlainBatch = BATCH) -> Keep:
    keep = Keep(taps)
    with Recorder(anatomy, [keep], edits) as recorder:
        recorder.run(batch)
    return keep


def hidden_states(anatomy: Anatomy) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return anatomy.model(IDS, output_hidden_states=True, use_cache=False).hidden_states


def no_hooks(anatomy: Anatomy) -> bool:
    return not any(m._forward_hooks or m._forward_pre_hooks for m in anatomy.model.modules())


class TestSites:
    @pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "bert", "opt", "mpt"])
    def test_the_stream_is_what_transformers_calls_hidden_states(self, family: str) -> None:
        anatomy = anatomy_of(family)
        taps = tuple(Tap("block.out", layer) for layer in range(4))
        keep, reference = shown(anatomy, *taps), hidden_states(anatomy)
        # The last of transformers' own is taken after the final norm, where there is one.
        for tap in taps[:3] if anatomy.final_norm else taps:
            assert torch.equal(reference[tap.layer], keep.seen[tap][0]), tap

    def test_the_last_layer_is_taken_before_the_final_norm(self) -> None:
        anatomy = anatomy_of()
        keep = shown(anatomy, Tap("block.out", 3), Tap("final.norm.out"))
        with torch.inference_mode():
            normed = anatomy.model.model.norm(keep.seen[Tap("block.out", 3)][0])
        assert torch.equal(normed, keep.seen[Tap("final.norm.out")][0])
        assert torch.equal(hidden_states(anatomy)[3], normed)

    @pytest.mark.parametrize("family", ["llama", "gemma2", "phi", "opt", "falcon", "mixtral", "bloom"])
    def test_the_stream_goes_up_by_what_attention_and_mlp_add(self, family: str) -> None:
        taps = [Tap(site, 2) for site in ("block.out", "block.attn.out", "block.mlp.out")]
        keep = shown(anatomy_of(family), Tap("block.out", 1), *taps)
        before, after, attention, mlp = (keep.seen[tap][0] for tap in (Tap("block.out", 1), *taps))
        assert (2, 7, 32) == tuple(attention.shape) == tuple(mlp.shape)
        torch.testing.assert_close(before + attention + mlp, after, rtol=1e-5, atol=1e-5)

    def test_the_embedding_output_is_layer_0(self) -> None:
        anatomy = anatomy_of()
        keep = shown(anatomy, Tap("embed.out"), Tap("block.out", 0))
        with torch.inference_mode():
            expected = anatomy.model.model.embed_tokens(IDS)
        assert torch.equal(expected, keep.seen[Tap("embed.out")][0])
        assert torch.equal(expected, keep.seen[Tap("block.out", 0)][0])

    def test_the_hidden_state_of_the_mlp_is_what_its_down_projection_takes(self) -> None:
        anatomy = anatomy_of()
        keep = shown(anatomy, Tap("block.mlp.hidden", 2), Tap("block.mlp.out", 2))
        with torch.inference_mode():
            down = anatomy.model.model.layers[1].mlp.down_proj(keep.seen[Tap("block.mlp.hidden", 2)][0])
        torch.testing.assert_close(down, keep.seen[Tap("block.mlp.out", 2)][0])

    @pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
    def test_the_hidden_rows_of_fused_experts_are_those_of_the_routed_tokens(self, implementation: str) -> None:
        model = tiny("mixtral")
        model.config._experts_implementation = implementation
        anatomy = discover(model, {})
        seen = torch.cat(shown(anatomy, Tap("block.mlp.hidden", 1)).seen[Tap("block.mlp.hidden", 1)])
        assert (IDS.numel() * 2, 64) == tuple(seen.shape), "two experts for each token"
        experts, caught = model.model.layers[0].mlp.experts, []
        handle = experts.register_forward_pre_hook(lambda module, args: caught.append(args))
        with torch.inference_mode():
            model(IDS, use_cache=False)
            handle.remove()
            hidden, chosen, _ = caught[0]
            rows = []
            for token in range(len(hidden)):
                for expert in chosen[token].tolist():
                    gate, up = (experts.gate_up_proj[expert] @ hidden[token]).chunk(2)
                    rows.append(torch.nn.functional.silu(gate) * up)
        expected = torch.stack(rows)
        torch.testing.assert_close(seen[seen[:, 0].argsort()], expected[expected[:, 0].argsort()], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "bloom", "mixtral", "olmo2"])
    def test_the_stream_between_attention_and_mlp_is_the_sum_of_the_first_two(self, family: str) -> None:
        taps = [Tap("block.out", 1), Tap("block.attn.out", 2), Tap("block.mid", 2)]
        before, attention, middle = (shown(anatomy_of(family), *taps).seen[tap][0] for tap in taps)
        torch.testing.assert_close(before + attention, middle, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("family", ["phi", "bert"])
    def test_nothing_lies_between_where_the_mlp_does_not_follow_on_the_sum(self, family: str) -> None:
        anatomy, tap = anatomy_of(family), Tap("block.mid", 2)
        needing, doing_without = Keep((tap, LAST)), Keep((Tap("block.mid", 2, optional=True), LAST))
        with Recorder(anatomy, [needing, doing_without]) as recorder:
            recorder.run(BATCH)
        assert "do not follow one another" in str(recorder.failure(needing))
        assert recorder.failure(doing_without) is None
        assert [LAST] == list(doing_without.seen)

    @pytest.mark.parametrize(
        ("family", "path"),
        [
            ("llama", "model.layers.1.mlp"),
            ("opt", "model.decoder.layers.1.fc1"),
            ("bert", "encoder.layer.1.intermediate.dense"),
        ],
    )
    def test_the_mlp_takes_in_what_it_or_its_first_matrix_is_called_on(self, family: str, path: str) -> None:
        anatomy, caught = anatomy_of(family), []
        # Other taps are watched too: looking for the first matrix must not disturb them.
        keep = shown(anatomy, LAST, Tap("block.mlp.in", 2))
        module = anatomy.model.get_submodule(path)
        handle = module.register_forward_pre_hook(lambda module, args: caught.append(args[0].view(2, 7, 32)))
        with torch.inference_mode():
            anatomy.model(IDS)
        handle.remove()
        assert torch.equal(caught[0], keep.seen[Tap("block.mlp.in", 2)][0])

    def test_logits_are_those_of_the_model(self) -> None:
        anatomy = anatomy_of()
        with torch.inference_mode():
            expected = anatomy.model(IDS).logits
        assert torch.equal(expected, shown(anatomy, Tap("logits")).seen[Tap("logits")][0])


class TestAttention:
    @pytest.mark.parametrize(
        "family", ["llama", "mistral", "gemma2", "gemma3", "qwen3", "gpt2", "gpt_neox", "opt", "bert", "mpt", "falcon"]
    )
    def test_probabilities_are_those_of_eager_attention(self, family: str) -> None:
        taps = tuple(Tap("block.attn.probs", layer) for layer in (1, 2, 3))
        anatomy = anatomy_of(family)
        keep = shown(anatomy, *taps)
        anatomy.model.config._attn_implementation = "eager"
        with torch.inference_mode():
            expected = anatomy.model(IDS, output_attentions=True).attentions
        for tap in taps:
            torch.testing.assert_close(keep.seen[tap][0], expected[tap.layer - 1], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("family", ["llama", "gemma2", "bert", "mpt"])
    def test_reading_attention_leaves_the_stream_as_it_is_bit_by_bit(self, family: str) -> None:
        anatomy = anatomy_of(family)
        with_maps = shown(anatomy, Tap("block.out", 3), Tap("block.attn.probs", 2))
        assert torch.equal(
            shown(anatomy, Tap("block.out", 3)).seen[Tap("block.out", 3)][0], with_maps.seen[Tap("block.out", 3)][0]
        )

    def test_queries_come_in_blocks_where_a_map_would_be_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = shown(anatomy_of(), Tap("block.attn.probs", 2)).seen[Tap("block.attn.probs", 2)]
        monkeypatch.setattr("maprobe.running.attention._CHUNK", 2 * 4 * 7 * 3)
        keep = shown(anatomy_of(), Tap("block.attn.probs", 2))
        parts = keep.seen[Tap("block.attn.probs", 2)]
        assert [0, 3, 6] == keep.queries
        assert torch.equal(whole[0], torch.cat(parts, dim=2))

    def test_the_configured_implementation_is_back_afterwards_even_after_an_error(self) -> None:
        anatomy = anatomy_of()
        with pytest.raises(ValueError, match="in between"), Recorder(anatomy, [Keep((Tap("block.attn.probs", 1),))]):
            assert "sdpa" != anatomy.model.config._attn_implementation
            raise ValueError("in between")
        assert "sdpa" == anatomy.model.config._attn_implementation

    def test_a_model_that_keeps_its_attention_to_itself_leaves_the_fold_out(self) -> None:
        from test_discovery import Additive, Plain

        anatomy = discover(Plain(Additive), {})
        maps, stream = Keep((Tap("block.attn.probs", 1),)), Keep((Tap("block.out", 1),))
        with Recorder(anatomy, [maps, stream]) as recorder:
            recorder.run(BATCH)
        assert "block.attn.probs of layer 1 cannot be read" in str(recorder.failure(maps))
        assert (None, 1) == (recorder.failure(stream), len(stream.seen))


class TestEdits:
    def edit(self, layer: int = 2, sequence: int = 1, value: float = 50.0) -> Edit:
        return Edit(layer=layer, sequence=sequence, position=3, dim=4, value=value)

    @pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "bert"])
    @pytest.mark.parametrize("layer", [0, 1, 2, 3])
    def test_the_edited_entry_and_nothing_else_of_its_layer_changes(self, family: str, layer: int) -> None:
        anatomy, tap = anatomy_of(family), Tap("block.out", layer)
        plain, edited = shown(anatomy, tap), shown(anatomy, tap, edits=(self.edit(layer),))
        expected = plain.seen[tap][0].clone()
        expected[1, 3, 4] = 50.0
        assert torch.equal(expected, edited.seen[tap][0])

    def test_what_follows_is_computed_from_the_edited_stream(self) -> None:
        anatomy, tap = anatomy_of(), Tap("block.out", 3)
        with torch.inference_mode():
            block = anatomy.model.model.layers[1]
            handle = block.register_forward_hook(
                lambda m, a, o: o.index_put((torch.tensor(1), torch.tensor(3), torch.tensor(4)), torch.tensor(50.0))
            )
            expected = hidden_states(anatomy)[3]
            handle.remove()
            found = anatomy.model.model.norm(shown(anatomy, tap, edits=(self.edit(),)).seen[tap][0])
        assert torch.equal(expected, found)

    def test_other_sequences_are_left_alone(self) -> None:
        anatomy, tap = anatomy_of(), Tap("block.out", 3)
        plain, edited = shown(anatomy, tap), shown(anatomy, tap, edits=(self.edit(),))
        assert torch.equal(plain.seen[tap][0][0], edited.seen[tap][0][0])
        assert not torch.equal(plain.seen[tap][0][1], edited.seen[tap][0][1])

    def test_an_edit_that_changes_nothing_is_refused(self) -> None:
        anatomy, tap = anatomy_of(), Tap("block.out", 2)
        value = float(shown(anatomy, tap).seen[tap][0][1, 3, 4])
        with pytest.raises(InterventionError, match="changed nothing.*choose another `set`"):
            shown(anatomy, tap, edits=(self.edit(value=value),))

    def test_an_edit_that_does_not_arrive_is_refused(self) -> None:
        from dataclasses import replace

        anatomy = anatomy_of()
        # A discovery that took the first block for the second would edit one place and look at another.
        wrong = replace(anatomy, blocks=(anatomy.blocks[0], anatomy.blocks[0], anatomy.blocks[2]))
        with pytest.raises(InterventionError, match=r"did not arrive at model\.layers\.2"):
            shown(wrong, Tap("block.out", 3), edits=(self.edit(),))

    def test_no_edit_of_a_batch_means_no_copy_and_no_complaint(self) -> None:
        anatomy, tap = anatomy_of(), Tap("block.out", 3)
        keep = Keep((tap,))
        with Recorder(anatomy, [keep], (self.edit(sequence=1),)) as recorder:
            recorder.run(PlainBatch(IDS[:1], (0,)))
            recorder.run(PlainBatch(IDS[1:], (1,)))
        assert 2 == recorder.forwards


class TestHooks:
    TAPS = (Tap("block.out", 0), Tap("block.out", 2), Tap("block.mlp.hidden", 1), Tap("block.attn.probs", 1))

    def test_none_is_left_after_a_pass(self) -> None:
        anatomy = anatomy_of("mixtral")
        shown(anatomy, *self.TAPS, edits=(TestEdits().edit(),))
        assert no_hooks(anatomy)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_none_is_left_after_a_pass_that_broke_off(self, error: type[BaseException]) -> None:
        class Break(Keep):
            def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
                raise error

        anatomy = anatomy_of("mixtral")
        with pytest.raises(error), Recorder(anatomy, [Break(self.TAPS)], (TestEdits().edit(),)) as recorder:
            recorder.run(BATCH)
        assert no_hooks(anatomy)
        assert "sdpa" == anatomy.model.config._attn_implementation
        with torch.inference_mode():
            anatomy.model(IDS)

    def test_a_fold_that_stumbles_is_left_out_and_the_others_go_on(self) -> None:
        stumble, keep = Stumble((Tap("block.out", 1),)), Keep((Tap("block.out", 1),))
        with Recorder(anatomy_of(), [stumble, keep]) as recorder:
            recorder.run(BATCH)
        assert "no such token" == str(recorder.failure(stumble))
        assert (None, 1) == (recorder.failure(keep), len(keep.seen))

    def test_a_headless_model_has_no_logits_to_show(self) -> None:
        keep = Keep((Tap("logits"),))
        with Recorder(anatomy_of("bert"), [keep]) as recorder:
            recorder.run(BATCH)
        assert "returns no logits" in str(recorder.failure(keep))


class TestProjections:
    SITES = ("block.attn.queries", "block.attn.keys", "block.attn.values")

    @pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bert"])
    def test_probabilities_follow_from_queries_and_keys_and_the_output_from_values(self, family: str) -> None:
        anatomy = anatomy_of(family)
        taps = (*(Tap(site, 1) for site in self.SITES), Tap("block.attn.probs", 1))
        keep = shown(anatomy, *taps)
        query, key, value, probabilities = (keep.seen[tap][0] for tap in taps)
        assert query.shape[:3] == probabilities.shape[:3]
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query @ key.mT
        if family == "gemma2":
            scores = 50 * torch.tanh(scores * 256**-0.5 / 50)
        else:
            scores = scores * query.shape[-1] ** -0.5
        if family != "bert":
            scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
        if family == "gemma2":  # its first layer slides a window of four tokens
            scores = scores.masked_fill(torch.ones(7, 7).tril(-4).bool(), -torch.inf)
        torch.testing.assert_close(scores.softmax(-1), probabilities, rtol=1e-4, atol=1e-6)
        assert value.shape == keep.seen[taps[1]][0].shape

    def test_what_attention_is_called_on_is_the_normed_stream(self) -> None:
        anatomy = anatomy_of()
        keep = shown(anatomy, Tap("block.out", 1), Tap("block.attn.in", 2))
        with torch.inference_mode():
            normed = anatomy.model.model.layers[1].input_layernorm(keep.seen[Tap("block.out", 1)][0])
        assert torch.equal(normed, keep.seen[Tap("block.attn.in", 2)][0])

    def test_a_model_that_shows_its_maps_alone_leaves_the_fold_out(self) -> None:
        keep, maps = Keep((Tap("block.attn.keys", 1),)), Keep((Tap("block.attn.probs", 1),))
        with Recorder(anatomy_of("mpt"), [keep, maps]) as recorder:
            recorder.run(BATCH)
        assert "it computes attention by itself" in str(recorder.failure(keep))
        assert None is recorder.failure(maps)
