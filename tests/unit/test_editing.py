"""Edits of weights, of whole tokens and of what attention sees, each against the same done by hand in plain torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_recorder import BATCH, IDS, Keep, anatomy_of, hidden_states, no_hooks, shown
from torch import nn

from maprobe.edits import AnyEdit, AttentionWindow, TokenEdit, WeightEdit
from maprobe.errors import InterventionError
from maprobe.recipes import Tap
from maprobe.running.anatomy import Anatomy
from maprobe.running.digests import parameters_digest
from maprobe.running.recorder import Recorder

LAST = Tap("block.out", 3)
TOKEN = TokenEdit(layer=1, position=2, values=tuple(0.5 * dim for dim in range(32)))


def down(anatomy: Anatomy, layer: int) -> nn.Parameter:
    weight = anatomy.blocks[layer - 1].down[0].module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


class TestWeights:
    EDIT = WeightEdit(layer=2, row=5, column=9, value=3.0)

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_one_weight_is_set_for_the_time_of_a_pass(self, family: str) -> None:
        anatomy = anatomy_of(family)
        found = shown(anatomy, Tap("block.mlp.out", 2), edits=(self.EDIT,)).seen
        weight = down(anatomy, 2)
        place = (9, 5) if family == "gpt2" else (5, 9)
        before = weight[place].clone()
        with torch.no_grad():
            weight[place] = 3.0
        expected = shown(anatomy, Tap("block.mlp.out", 2)).seen
        with torch.no_grad():
            weight[place] = before
        changed = (
            (
                expected[Tap("block.mlp.out", 2)][0]
                - shown(anatomy, Tap("block.mlp.out", 2)).seen[Tap("block.mlp.out", 2)][0]
            )
            .abs()
            .amax((0, 1))
        )
        assert torch.equal(expected[Tap("block.mlp.out", 2)][0], found[Tap("block.mlp.out", 2)][0])
        assert [5] == changed.nonzero().flatten().tolist(), "a row writes to one dim of the residual stream"

    def test_every_weight_is_as_it_was_afterwards_bit_for_bit(self) -> None:
        anatomy = anatomy_of()
        before = parameters_digest(anatomy.model)
        shown(anatomy, LAST, edits=(self.EDIT, replace(self.EDIT, row=6)))
        assert before == parameters_digest(anatomy.model)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_every_weight_is_as_it_was_after_a_pass_that_broke_off(self, error: type[BaseException]) -> None:
        class Break(Keep):
            def observe(self, *args: object, **options: object) -> None:
                raise error

        anatomy = anatomy_of()
        before = down(anatomy, 2).clone()
        with pytest.raises(error), Recorder(anatomy, [Break((LAST,))], (self.EDIT,)) as recorder:
            recorder.run(BATCH)
        assert torch.equal(before, down(anatomy, 2))
        assert no_hooks(anatomy)

    def test_a_weight_that_cannot_be_set_leaves_those_set_before_as_they_were(self) -> None:
        anatomy = anatomy_of()
        before = down(anatomy, 2).clone()
        with pytest.raises(InterventionError, match="32 rows and 64 columns, and row 5, column 64"):
            shown(anatomy, LAST, edits=(self.EDIT, replace(self.EDIT, column=64)))
        assert torch.equal(before, down(anatomy, 2))

    def test_a_weight_set_to_what_it_is_changes_nothing_and_is_refused(self) -> None:
        anatomy = anatomy_of()
        value = float(down(anatomy, 2).detach()[5, 9])
        with pytest.raises(InterventionError, match="changed nothing"):
            shown(anatomy, LAST, edits=(replace(self.EDIT, value=value),))

    def test_weights_of_experts_are_refused(self) -> None:
        with pytest.raises(InterventionError, match="layer 2 is that of several experts"):
            shown(anatomy_of("mixtral"), LAST, edits=(self.EDIT,))

    def test_quantised_weights_are_refused(self) -> None:
        anatomy = anatomy_of()
        module = anatomy.blocks[1].down[0].module
        module.weight = nn.Parameter(torch.zeros(32, 64, dtype=torch.uint8), requires_grad=False)
        with pytest.raises(InterventionError, match=r"model\.layers\.1\.mlp\.down_proj\) holds no plain matrix"):
            shown(anatomy, LAST, edits=(self.EDIT,))


class TestTokens:
    @pytest.mark.parametrize("layer", [0, 1, 3])
    def test_a_token_is_overwritten_in_every_sequence(self, layer: int) -> None:
        anatomy = anatomy_of()
        tap = Tap("block.out", layer)
        plain, edited = (
            shown(anatomy, tap, edits=edits).seen[tap][0] for edits in ((), (replace(TOKEN, layer=layer),))
        )
        assert torch.equal(torch.tensor(TOKEN.values).expand(2, 32), edited[:, 2])
        others = [0, 1, 3, 4, 5, 6]
        assert torch.equal(plain[:, others], edited[:, others])

    def test_what_follows_is_computed_anew(self) -> None:
        anatomy = anatomy_of()

        def overwrite(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[:, 2] = torch.tensor(TOKEN.values)
            return output

        handle = anatomy.blocks[0].module.register_forward_hook(overwrite)
        expected = hidden_states(anatomy)[2]
        handle.remove()
        found = shown(anatomy, Tap("block.out", 2), edits=(TOKEN,)).seen[Tap("block.out", 2)][0]
        assert torch.equal(expected, found)


def by_hand(family: str, size: int, sinks: int) -> torch.Tensor:
    """The last hidden state with a mask given to the model itself, shape (1, 1, queries, keys)."""
    model = anatomy_of(family).model
    model.config._attn_implementation = "eager"
    query, key = torch.arange(7)[:, None], torch.arange(7)[None, :]
    seen = (key <= query) & ((key > query - size) | (key < sinks))
    mask = torch.zeros(7, 7).masked_fill(~seen, torch.finfo(torch.float32).min).expand(2, 1, 7, 7)
    with torch.inference_mode():
        return model(IDS, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states[2]


class TestWindows:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
    @pytest.mark.parametrize(("size", "sinks"), [(3, 0), (3, 2), (1, 0)])
    def test_a_query_sees_the_last_keys_and_the_sinks(self, family: str, size: int, sinks: int, attention: str) -> None:
        anatomy = anatomy_of(family)
        anatomy.model.config._attn_implementation = attention
        tap = Tap("block.out", 2)
        found = shown(anatomy, tap, edits=(AttentionWindow(size=size, sinks=sinks),)).seen[tap][0]
        assert torch.allclose(by_hand(family, size, sinks), found, atol=1e-5)

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_attention_is_shown_as_narrowed(self, attention: str) -> None:
        anatomy = anatomy_of()
        anatomy.model.config._attn_implementation = attention
        tap = Tap("block.attn.probs", 2)
        maps = shown(anatomy, tap, edits=(AttentionWindow(size=2, sinks=1),)).seen[tap][0]
        assert torch.allclose(torch.ones(2, 4, 7), maps.sum(-1))
        seen = maps.amax((0, 1)) > 0
        assert [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5], [0, 5, 6]] == [
            row.nonzero().flatten().tolist() for row in seen
        ]

    def test_a_window_of_the_models_own_stays(self) -> None:
        # The tiny Mistral slides over 4 tokens; a sink within reach of ours alone must not widen that.
        anatomy, tap = anatomy_of("mistral"), Tap("block.attn.probs", 1)
        maps = shown(anatomy, tap, edits=(AttentionWindow(size=3, sinks=1),)).seen[tap][0]
        assert [4, 5, 6] == (maps[0, 0, 6] > 0).nonzero().flatten().tolist()

    def test_a_window_as_long_as_the_sequence_changes_nothing_and_is_refused(self) -> None:
        with pytest.raises(InterventionError, match="changed nothing.*other inputs"):
            shown(anatomy_of(), LAST, edits=(AttentionWindow(size=7),))

    def test_the_models_own_attention_is_back_afterwards(self) -> None:
        anatomy = anatomy_of()
        before = shown(anatomy, LAST).seen[LAST][0]
        shown(anatomy, LAST, edits=(AttentionWindow(size=2),))
        assert "sdpa" == anatomy.model.config._attn_implementation
        assert torch.equal(before, shown(anatomy, LAST).seen[LAST][0])

    def test_a_model_that_computes_attention_by_itself_is_refused(self) -> None:
        with pytest.raises(InterventionError, match="computes attention by itself"):
            shown(anatomy_of("mpt"), LAST, edits=(AttentionWindow(size=2),))


def test_edits_of_several_kinds_are_made_together() -> None:
    anatomy = anatomy_of()
    edits: tuple[AnyEdit, ...] = (TOKEN, TestWeights.EDIT, AttentionWindow(size=3))
    one_by_one = [shown(anatomy, LAST, edits=(edit,)).seen[LAST][0] for edit in edits]
    together = shown(anatomy, LAST, edits=edits).seen[LAST][0]
    assert not any(torch.equal(together, alone) for alone in one_by_one)
