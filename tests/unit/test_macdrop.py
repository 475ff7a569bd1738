"""MacDrop: curricula, masks, what is dropped and put back, and trainings of tiny adapted models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tiny_adapters import ROWS, adapted, bits, frozen, learned, same, trainer
from tiny_models import tiny
from torch import nn
from transformers import TrainerCallback

from maprobe.errors import InterventionError, TrainingError
from maprobe.running.digests import parameters_digest
from maprobe.running.discovery import discover
from maprobe.running.rows import feeding
from maprobe.training import macdrop
from maprobe.training.adapters import without_adapters
from maprobe.training.curricula import CURRICULA, Curriculum, Moment
from maprobe.training.dropping import Dropped, kept, left_over
from maprobe.training.macdrop import MacDrop
from maprobe.training.massive_rows import Channels, bos_of, find_channels

FORMS = [(dora, dtype) for dora in (False, True) for dtype in (torch.float32, torch.bfloat16)]
UP = "model.layers.1.mlp.up_proj.weight"
GATE = "model.layers.1.mlp.gate_proj.weight"


def massive() -> nn.Module:
    """A tiny Llama whose second MLP makes every token massive."""
    model = tiny()
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.down_proj.weight").mul_(1e6)
    return model


class TestCurricula:
    @pytest.mark.parametrize(
        ("kind", "alpha", "moments", "expected"),
        [
            # 0.8 (1 - t/T)
            ("step", None, [(1, 4, 1, 2), (2, 4, 1, 2), (3, 4, 2, 2), (4, 4, 2, 2)], [0.6, 0.4, 0.2, 0.0]),
            # 0.8 (1 - (e-1)/E) and 0.8 (1 - e/E)
            ("epoch-before", None, [(1, 9, 1, 4), (3, 9, 2, 4), (9, 9, 4, 4)], [0.8, 0.6, 0.2]),
            ("epoch-after", None, [(1, 9, 1, 4), (3, 9, 2, 4), (9, 9, 4, 4)], [0.6, 0.4, 0.0]),
            # 0.8 exp(-0.5 t)
            ("exp", 0.5, [(1, 9, 1, 1), (2, 9, 1, 1)], [0.8 * 0.6065306597126334, 0.8 * 0.36787944117144233]),
            ("exp", 0, [(1, 9, 1, 1), (9, 9, 1, 1)], [0.8, 0.8]),
        ],
    )
    def test_each_is_the_paper_s_formula(
        self, kind: str, alpha: float | None, moments: list[tuple[int, int, int, int]], expected: list[float]
    ) -> None:
        curriculum = Curriculum(kind=kind, alpha=alpha)
        found = [
            curriculum.at(Moment(step=step, steps=steps, epoch=epoch, epochs=epochs))
            for step, steps, epoch, epochs in moments
        ]
        assert expected == pytest.approx(found, abs=1e-15)

    def test_the_default_is_the_paper_s(self) -> None:
        assert ("step", 0.8) == (Curriculum().kind, Curriculum().p0)

    @pytest.mark.parametrize("kind", CURRICULA)
    def test_probabilities_never_rise_and_stay_within_0_and_1(self, kind: str) -> None:
        curriculum = Curriculum(kind=kind, p0=1.0, alpha=0.1 if kind == "exp" else None)
        found = [curriculum.at(Moment(step=t, steps=12, epoch=(t + 3) // 4, epochs=3)) for t in range(1, 13)]
        assert sorted(found, reverse=True) == found
        assert 0 <= found[-1] <= found[0] <= 1

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"p0": 1.1}, "p0 = 1.1 is not a probability; allowed: a number from 0 to 1"),
            ({"p0": -0.1}, "p0 = -0.1 is not a probability"),
            ({"p0": math.nan}, "p0 = nan is not a probability"),
            ({"p0": "0.8"}, "p0 = '0.8' is not a probability"),
            ({"kind": "exp"}, "alpha = None is not a rate for the curriculum exp"),
            ({"kind": "exp", "alpha": -1}, "alpha = -1 is not a rate for the curriculum exp"),
            ({"kind": "exp", "alpha": math.inf}, "alpha = inf is not a rate"),
            ({"alpha": 0.1}, "alpha is for the curriculum exp alone; leave it out for step"),
            ({"kind": "stop"}, "a curriculum 'stop' does not exist (did you mean 'step'?); allowed: epoch-after,"),
        ],
    )
    def test_bad_numbers_are_refused_in_one_sentence(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(TrainingError) as caught:
            Curriculum(**settings)
        assert str(caught.value).startswith(sentence)

    @pytest.mark.parametrize("numbers", [{"step": 0}, {"step": 5}, {"epoch": 0}, {"epoch": 3}])
    def test_a_step_that_does_not_exist_has_no_probability(self, numbers: dict[str, int]) -> None:
        with pytest.raises(TrainingError, match="does not exist; "):
            Moment(**{"step": 1, "steps": 4, "epoch": 1, "epochs": 2, **numbers})


class TestMasks:
    def test_at_0_all_is_kept_and_at_1_nothing(self) -> None:
        assert bool(kept((5, 400), 0.0, seed=0, step=1).all())
        assert not bool(kept((5, 400), 1.0, seed=0, step=1).any())

    def test_entries_are_kept_one_by_one_with_the_probability_left(self) -> None:
        mask = kept((100, 400), 0.8, seed=0, step=1).float()
        assert 0.2 == pytest.approx(float(mask.mean()), abs=5 * math.sqrt(0.16 / 40_000))
        # Were rows dropped as a whole, their means would differ by far more than chance makes them.
        assert 0.02 == pytest.approx(float(mask.mean(1).std()), rel=0.3)

    def test_they_depend_on_seed_and_step_and_on_nothing_else(self) -> None:
        torch.manual_seed(1)
        first = kept((5, 40), 0.5, seed=3, step=7)
        torch.manual_seed(2)
        numpy.random.seed(2)
        assert first.equal(kept((5, 40), 0.5, seed=3, step=7))
        others = [
            kept((5, 40), 0.5, seed=4, step=7),
            kept((5, 40), 0.5, seed=3, step=8),
            kept((5, 40), 0.5, seed=7, step=3),
        ]
        assert not any(first.equal(other) for other in others)

    def test_drawing_leaves_other_random_states_alone(self) -> None:
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        kept((5, 40), 0.5, seed=3, step=7)
        assert expected.equal(torch.rand(3))


class TestDropped:
    CHANNELS = (3, 11, 40)

    def lines(self, model: nn.Module) -> tuple[Any, ...]:
        return feeding(discover(model, {}), 2, self.CHANNELS)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_entries_of_both_matrices_are_zero_where_one_mask_says_so_and_the_others_are_what_they_were(
        self, dtype: torch.dtype
    ) -> None:
        model = tiny("llama", dtype=dtype)
        before = frozen(model)
        mask = kept((3, 32), 0.6, seed=5, step=9)
        with Dropped(self.lines(model), 0.6, channels=3, seed=5, step=9):
            during = frozen(model)
        assert same(before, frozen(model))
        assert {UP, GATE} == {name for name in before if not before[name].equal(during[name])}
        for name in (UP, GATE):
            expected = before[name].clone()
            for row, channel in enumerate(self.CHANNELS):
                expected[channel] = torch.where(mask[row], before[name][channel], 0)  # not scaled up
            assert expected.equal(during[name])

    def test_separate_masks_differ_between_the_matrices(self) -> None:
        model = tiny()
        with Dropped(self.lines(model), 0.5, channels=3, masks="separate"):
            up, gate = (model.get_parameter(name)[list(self.CHANNELS)] == 0 for name in (UP, GATE))
        assert not up.equal(gate)
        assert 0.5 == pytest.approx(float(torch.cat((up, gate)).float().mean()), abs=0.2)

    def test_columns_are_dropped_where_a_matrix_is_stored_the_other_way_round_and_its_bias_is_not(self) -> None:
        model = tiny("gpt2")
        nn.init.normal_(model.get_parameter("transformer.h.1.mlp.c_fc.bias"))
        before = frozen(model)
        mask = kept((3, 32), 0.6, seed=0, step=1)
        with Dropped(self.lines(model), 0.6, channels=3):
            during = frozen(model)
        name = "transformer.h.1.mlp.c_fc.weight"
        assert [name] == [name for name in before if not before[name].equal(during[name])]
        expected = before[name].clone()
        expected[:, list(self.CHANNELS)] *= mask.T
        assert expected.equal(during[name])
        assert same(before, frozen(model))

    @pytest.mark.parametrize("masks", ["shared", "separate"])
    def test_gate_and_up_in_one_matrix_are_dropped_in_both_halves(self, masks: Any) -> None:
        model = tiny("phi3")
        before = frozen(model)
        with Dropped(self.lines(model), 0.6, channels=3, masks=masks):
            during = frozen(model)
        name = "model.layers.1.mlp.gate_up_proj.weight"
        assert [name] == [name for name in before if not before[name].equal(during[name])]
        gone = during[name] == 0
        rows = torch.tensor(self.CHANNELS)
        assert {*self.CHANNELS, *(64 + channel for channel in self.CHANNELS)} == set(
            gone.any(1).nonzero().flatten().tolist()
        )
        assert (masks == "shared") == gone[rows].equal(gone[64 + rows])
        assert same(before, frozen(model))

    def test_the_rows_of_one_expert_are_dropped(self) -> None:
        model = tiny("mixtral")
        before = frozen(model)
        with Dropped(feeding(discover(model, {}), 2, (3, 11), expert=2), 0.6, channels=2):
            during = frozen(model)
        changed = {name for name in before if not before[name].equal(during[name])}
        assert changed
        for name in changed:
            differs = (before[name] != during[name]).flatten(1).any(1)
            assert [2] == differs.nonzero().flatten().tolist(), name
        assert same(before, frozen(model))

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_they_are_put_back_whatever_happens_within(self, error: type[BaseException]) -> None:
        model = tiny()
        before = parameters_digest(model)
        with pytest.raises(error), Dropped(self.lines(model), 0.5, channels=3):
            assert before != parameters_digest(model)
            raise error
        assert before == parameters_digest(model)
        assert [] == left_over(model)

    def test_what_is_no_number_is_put_back_bit_for_bit(self) -> None:
        model = tiny()
        lines = self.lines(model)
        with torch.no_grad():
            model.get_parameter(UP)[3, :3] = torch.tensor([math.nan, -0.0, math.inf])
        before = parameters_digest(model)
        with Dropped(lines, 1.0, channels=3):
            assert not model.get_parameter(UP)[3].any()
        assert before == parameters_digest(model)

    def test_a_fault_while_dropping_puts_back_what_was_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny()
        before, lines = parameters_digest(model), self.lines(model)
        draws: list[object] = []

        def fail(*arguments: Any, **options: Any) -> torch.Tensor:
            draws.append(arguments)
            if len(draws) == 2:
                raise MemoryError
            return kept(*arguments, **options)

        monkeypatch.setattr("maprobe.training.dropping.kept", fail)
        with pytest.raises(MemoryError), Dropped(lines, 0.5, channels=3):
            pass
        assert before == parameters_digest(model)

    @pytest.mark.parametrize(("probability", "masks"), [(1.5, "shared"), (math.nan, "shared"), (0.5, "one")])
    def test_bad_arguments_are_refused(self, probability: float, masks: Any) -> None:
        with pytest.raises(TrainingError, match="allowed: "):
            Dropped((), probability, channels=1, masks=masks)


class TestChannels:
    def test_they_are_the_largest_of_the_layer_whose_mlp_adds_most_to_the_bos_token(self) -> None:
        model = massive()
        seen: dict[str, torch.Tensor] = {}
        hooks = [
            model.get_submodule("model.layers.1").register_forward_pre_hook(
                lambda module, args: seen.update(into=args[0].detach())
            ),
            model.get_submodule("model.layers.1.mlp").register_forward_hook(
                lambda module, args, output: seen.update(added=output.detach())
            ),
            model.get_submodule("model.layers.1.mlp.down_proj").register_forward_pre_hook(
                lambda module, args: seen.update(hidden=args[0].detach())
            ),
        ]
        model(torch.tensor([[1]]))
        for hook in hooks:
            hook.remove()
        assert float(seen["added"].abs().max() / seen["into"].abs().max()) > 100
        expected = seen["hidden"].flatten().abs().topk(4).indices.tolist()
        assert Channels(layer=2, channels=tuple(expected)) == find_channels(discover(model, {}), 1, 4)

    def test_a_model_without_massive_weights_is_refused_and_told_so(self) -> None:
        with pytest.raises(
            TrainingError, match="no massive weights here: .*; name a layer to drop its rows all the same"
        ):
            find_channels(discover(tiny(), {}), 1, 4)

    def test_a_layer_can_be_named(self) -> None:
        assert 3 == find_channels(discover(tiny(), {}), 1, 2, layer=3).layer

    def test_the_expert_is_the_one_that_the_token_is_routed_to(self) -> None:
        model = tiny("mixtral")
        routed: list[int] = []
        router = model.get_submodule("model.layers.1.mlp.gate")
        hook = router.register_forward_hook(lambda module, args, output: routed.extend(output[2].flatten().tolist()))
        model(torch.tensor([[1]]))
        hook.remove()
        assert find_channels(discover(model, {}), 1, 2, layer=2).expert in routed

    def test_the_token_is_the_tokenizer_s_bos_or_else_the_config_s(self) -> None:
        model: Any = tiny()
        assert 1 == bos_of(model, None)
        model.config.bos_token_id = None
        with pytest.raises(TrainingError, match="neither tokenizer nor config names a BOS token"):
            bos_of(model, None)

    def test_an_adapter_that_has_learned_does_not_show_in_them_and_learns_on(self, tmp_path: Path) -> None:
        model = adapted(base=massive())
        expected = find_channels(discover(massive(), {}), 1, 5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
            if "lora_A" in name and "layers.0" in name:
                parameter.requires_grad = False
        trained = [parameter.requires_grad for parameter in model.parameters()]
        callback = MacDrop()
        trainer(model, tmp_path, [callback], max_steps=1).train()
        assert 2 == expected.layer
        assert expected == callback.found
        assert trained == [parameter.requires_grad for parameter in model.parameters()]

    def test_without_adapters_a_model_computes_as_its_base(self) -> None:
        model, ids = adapted(init_lora_weights=False).eval(), torch.tensor([[1, 5, 9]])
        expected = tiny()(ids).logits
        assert not expected.equal(model(ids).logits)
        with without_adapters(model):
            assert expected.equal(model(ids).logits)
        assert not expected.equal(model(ids).logits)

    def test_an_adapter_of_transformers_own_is_left_out_likewise(self) -> None:
        import peft

        model: Any = tiny()
        model.add_adapter(peft.LoraConfig(target_modules=["up_proj"], init_lora_weights=False))
        ids = torch.tensor([[1, 5, 9]])
        expected, trained = tiny()(ids).logits, [parameter.requires_grad for parameter in model.parameters()]
        with without_adapters(model):
            assert expected.equal(model(ids).logits)
        assert not expected.equal(model(ids).logits)
        assert trained == [parameter.requires_grad for parameter in model.parameters()]


class Watching(TrainerCallback):
    """Notes whether the frozen weights are the original ones whenever the trainer calls back."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.before = model, frozen(model)
        self.intact: dict[str, list[bool]] = {}

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(*arguments: Any, **options: Any) -> None:
            self.intact.setdefault(name, []).append(same(self.before, frozen(self.model)))

        return note


class Failing(TrainerCallback):
    """Fails within a step."""

    def __init__(self, error: type[BaseException], step: int) -> None:
        self.error, self.step = error, step

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            raise self.error


def in_layer_2(curriculum: Curriculum | None = None, **more: Any) -> MacDrop:
    """The callback, told where to look for channels: random weights make no token massive."""
    return MacDrop(curriculum, layer=2, **more)


@pytest.fixture(scope="module")
def plainly(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, torch.Tensor]]:
    """What adapters of each kind learn without MacDrop; each is trained once."""

    @cache
    def train(family: str = "llama", *, dora: bool = False, dtype: torch.dtype = torch.float32) -> Any:
        model = adapted(family, dora=dora, dtype=dtype)
        trainer(model, tmp_path_factory.mktemp("plain")).train()
        return learned(model)

    return train


Plainly = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def forward_zeros() -> Iterator[Callable[[nn.Module], list[int]]]:
    """Counts the zeros of the dropped rows at each forward call."""
    handles: list[Any] = []

    def watch(model: nn.Module) -> list[int]:
        seen: list[int] = []
        base = next(module for name, module in model.named_modules() if name.endswith("1.mlp.up_proj.base_layer"))
        weight = base.get_parameter("weight")
        handles.append(model.register_forward_pre_hook(lambda module, args: seen.append(int((weight == 0).sum()))))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


class TestTraining:
    @pytest.mark.parametrize(("dora", "dtype"), FORMS)
    def test_at_the_end_the_frozen_weights_are_the_original_ones_and_the_adapter_learned_something_else(
        self, dora: bool, dtype: torch.dtype, tmp_path: Path, plainly: Plainly
    ) -> None:
        model = adapted(dora=dora, dtype=dtype)
        with in_layer_2() as callback:
            trainer(model, tmp_path, [callback]).train()
        assert not same(plainly(dora=dora, dtype=dtype), learned(model))
        assert parameters_digest(tiny(dtype=dtype)) == parameters_digest(model.unload())

    @pytest.mark.parametrize("family", ["gpt2", "phi3"])
    def test_other_forms_of_mlp_are_trained_likewise(self, family: str, tmp_path: Path, plainly: Plainly) -> None:
        model = adapted(family)
        trainer(model, tmp_path, [in_layer_2()]).train()
        assert same(frozen(tiny(family)), frozen(model))
        assert not same(plainly(family), learned(model))

    def test_rows_of_the_expert_that_bos_is_routed_to_are_dropped_under_an_adapter_of_attention(
        self, tmp_path: Path
    ) -> None:
        model = adapted("mixtral", targets=["q_proj", "v_proj"])
        with in_layer_2() as callback:
            trainer(model, tmp_path, [callback], max_steps=2).train()
        assert callback.found is not None
        assert callback.found.expert in range(4)
        assert same(frozen(tiny("mixtral")), frozen(model))

    @pytest.mark.parametrize(("dora", "dtype"), FORMS)
    def test_with_p0_of_0_it_is_plain_training_bit_for_bit(
        self, dora: bool, dtype: torch.dtype, tmp_path: Path, plainly: Plainly
    ) -> None:
        model = adapted(dora=dora, dtype=dtype)
        trainer(model, tmp_path, [in_layer_2(Curriculum(p0=0.0))]).train()
        assert same(plainly(dora=dora, dtype=dtype), learned(model))

    def test_a_step_is_what_algorithm_1_makes_of_it(self, tmp_path: Path) -> None:
        """One step of plain gradient descent, beside a few lines of torch that drop, learn and put back by hand."""
        model, other = adapted(), adapted()
        settings: Any = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1, "seed": 1}
        curriculum = Curriculum(kind="epoch-before", p0=0.8)
        trainer(
            model,
            tmp_path,
            [MacDrop(curriculum, layer=2, channels=(3, 11))],
            rows=ROWS[:4],
            lr_scheduler_type="constant",
            **settings,
        ).train()
        other.train()
        up, gate = (
            other.get_parameter(f"base_model.model.{name.replace('.weight', '.base_layer.weight')}").data
            for name in (UP, GATE)
        )
        mask = torch.from_numpy(numpy.random.default_rng((0, 1, 0)).random((2, 32)) >= 0.8)
        up[[3, 11]] *= mask
        gate[[3, 11]] *= mask
        ids = torch.stack([row["input_ids"] for row in ROWS[:4]])
        logits = other(ids).logits[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).backward()
        for name, parameter in other.named_parameters():
            if "lora_" in name:
                expected = parameter - 0.1 * parameter.grad
                assert torch.allclose(expected, model.get_parameter(name), atol=1e-6), name

    def test_rows_are_zero_in_forward_calls_and_fewer_from_step_to_step(
        self, tmp_path: Path, forward_zeros: Callable[[nn.Module], list[int]]
    ) -> None:
        model = adapted()
        seen = forward_zeros(model)
        trainer(model, tmp_path, [MacDrop(Curriculum(p0=1.0), layer=2, channels=(3, 11, 40))]).train()
        expected = [3 * 32 * (1 - t / 6) for t in range(1, 7)]
        found = seen[::2]
        assert seen[::2] == seen[1::2], "one mask for both calls of a step"
        assert expected == pytest.approx(found, abs=20)
        assert expected[0] == pytest.approx(found[0], abs=12)
        assert 0 == found[-1]

    @pytest.mark.parametrize("accumulate", [1, 2, 3])
    def test_there_are_as_many_masks_as_optimiser_steps(
        self, accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[int] = []

        class Counted(Dropped):
            def __enter__(self) -> Dropped:
                drawn.append(1)
                return super().__enter__()

        monkeypatch.setattr(macdrop, "Dropped", Counted)
        callback = in_layer_2()
        run = trainer(
            adapted(), tmp_path, [callback], gradient_accumulation_steps=accumulate, max_steps=-1, num_train_epochs=2
        )
        run.train()
        assert run.state.global_step == len(drawn) == callback.steps == 2 * math.ceil(8 / accumulate)

    def test_epochs_are_counted_from_1(self, tmp_path: Path, forward_zeros: Callable[[nn.Module], list[int]]) -> None:
        model = adapted()
        seen = forward_zeros(model)
        curriculum = Curriculum(kind="epoch-before", p0=1.0)
        trainer(
            model, tmp_path, [MacDrop(curriculum, layer=2, channels=(3,))], max_steps=-1, num_train_epochs=2
        ).train()
        assert [32] * 8 == seen[:8]
        assert all(6 <= zeros <= 26 for zeros in seen[8:])
        assert 16 == len(seen)

    def test_the_weights_are_the_original_ones_whenever_the_trainer_evaluates_saves_or_ends_a_step(
        self, tmp_path: Path
    ) -> None:
        model = adapted()
        before, after = Watching(model), Watching(model)
        steps: Any = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 3}
        trainer(model, tmp_path, [before, in_layer_2(), after], logging_steps=1, **steps).train()
        for watching in (before, after):
            for name in (
                "on_optimizer_step",
                "on_step_end",
                "on_evaluate",
                "on_prediction_step",
                "on_save",
                "on_train_end",
            ):
                assert watching.intact[name], name
                assert all(watching.intact[name]), name
        assert not all(after.intact["on_step_begin"]), "it was looked at"

    def test_a_saved_adapter_holds_nothing_of_the_rows(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        model = adapted()
        trainer(model, tmp_path, [in_layer_2()], save_strategy="steps", save_steps=3).train()
        saved = load_file(tmp_path / "checkpoint-6" / "adapter_model.safetensors")
        assert saved
        assert all("lora_" in name for name in saved)

    @pytest.mark.parametrize("dora", [False, True])
    def test_resumed_it_ends_with_the_same_weights_as_uninterrupted(
        self, dora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saving: Any = {"save_strategy": "steps", "save_steps": 2}
        whole, parts = adapted(dora=dora), adapted(dora=dora)
        first = in_layer_2()
        trainer(whole, tmp_path / "run", [first], **saving).train()
        # The channels are those of the checkpoint: they are not looked for a second time.
        monkeypatch.setattr(macdrop, "find_channels", None)
        second = in_layer_2()
        resumed = trainer(parts, tmp_path / "other", [second], **saving)
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
        assert (first.found, 2) == (second.found, second.steps)
        assert same(learned(whole), learned(parts))
        assert same(frozen(tiny()), frozen(parts))

    def test_resumed_by_a_trainer_that_restores_callbacks_it_goes_on_likewise(self, tmp_path: Path) -> None:
        saving: Any = {"save_strategy": "steps", "save_steps": 2}
        whole, parts = adapted(), adapted()
        trainer(whole, tmp_path, [in_layer_2()], **saving).train()
        callback = in_layer_2()
        trainer(parts, tmp_path, [callback], restore_callback_states_from_checkpoint=True, **saving).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-4")
        )
        assert 2 == callback.steps
        assert same(learned(whole), learned(parts))

    def test_recomputed_activations_see_the_same_rows(self, tmp_path: Path) -> None:
        kept_, recomputed = adapted(), adapted()
        trainer(kept_, tmp_path, [in_layer_2()]).train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            trainer(recomputed, tmp_path, [in_layer_2()], gradient_checkpointing=True).train()
        assert same(learned(kept_), learned(recomputed))
        assert same(frozen(tiny()), frozen(recomputed))

    def test_under_autocast_the_weights_come_back_likewise(self, tmp_path: Path) -> None:
        model = adapted()
        trainer(model, tmp_path, [in_layer_2()], bf16=True).train()
        assert same(frozen(tiny()), frozen(model))

    def test_an_epoch_that_is_left_within_a_step_leaves_nothing_dropped(self, tmp_path: Path) -> None:
        class Stopping(TrainerCallback):
            def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                control.should_training_stop = state.global_step == 3

        model = adapted()
        watching = Watching(model)
        run = trainer(model, tmp_path, [in_layer_2(), Stopping(), watching], eval_strategy="epoch", max_steps=-1)
        run.train()
        assert 3 == run.state.global_step
        assert watching.intact["on_evaluate"]
        assert all(watching.intact["on_evaluate"])


class TestInterruptions:
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_within_its_context_the_weights_are_intact_after_it(
        self, error: type[BaseException], tmp_path: Path
    ) -> None:
        model = adapted()
        with pytest.raises(error), in_layer_2() as callback:
            trainer(model, tmp_path, [callback, Failing(error, step=3)]).train()
        assert same(frozen(tiny()), frozen(model))

    @pytest.mark.parametrize("again", ["the same callback", "another one"])
    def test_without_it_the_next_training_puts_them_back_and_says_so(self, again: str, tmp_path: Path) -> None:
        model, callback = adapted(), in_layer_2()
        with pytest.raises(KeyboardInterrupt):
            trainer(model, tmp_path, [callback, Failing(KeyboardInterrupt, step=3)]).train()
        assert not same(frozen(tiny()), frozen(model))
        with pytest.warns(UserWarning, match="was interrupted within a step of MacDrop and left rows dropped"):
            trainer(model, tmp_path, [callback if again == "the same callback" else in_layer_2()]).train()
        assert same(frozen(tiny()), frozen(model))
        assert [] == left_over(model)

    def test_the_copies_outlive_the_callback(self, tmp_path: Path) -> None:
        import gc

        model = adapted()
        with pytest.raises(ValueError):  # noqa: PT011 - the failure's own
            trainer(model, tmp_path, [in_layer_2(), Failing(ValueError, step=1)]).train()
        gc.collect()
        for dropped in left_over(model):
            dropped.restore()
        assert same(frozen(tiny()), frozen(model))


class TestRefusals:
    def test_weights_that_are_trained_themselves(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="and this parameter is trained; freeze the base model and train an"):
            trainer(tiny(), tmp_path, [in_layer_2()]).train()

    def test_a_quantised_base(self, tmp_path: Path) -> None:
        model = adapted()
        run = trainer(model, tmp_path, [in_layer_2()])
        model.get_base_model().is_quantized = True
        with pytest.raises(TrainingError, match="and LlamaForCausalLM is quantised; load the base model without"):
            run.train()

    def test_matrices_that_are_packed_in_whole_numbers(self, tmp_path: Path) -> None:
        model = adapted()
        mlp = model.get_submodule("base_model.model.model.layers.1.mlp")
        for name in ("up_proj", "gate_proj"):
            setattr(mlp, name, _Packed(mlp.get_submodule(name).get_parameter("base_layer.weight")))
        with pytest.raises(InterventionError, match="holds no plain matrices of weights, as in a quantised model"):
            trainer(model, tmp_path, [MacDrop(layer=2, channels=(3,))]).train()

    def test_a_matrix_of_a_kind_of_its_own(self, tmp_path: Path) -> None:
        class Odd(torch.Tensor):
            """As libraries of quantisation make them: a tensor by name, and something else by content."""

        base = tiny()
        up = base.get_submodule("model.layers.1.mlp.up_proj")
        with torch.no_grad():
            up.weight = nn.Parameter(up.get_parameter("weight").as_subclass(Odd), requires_grad=False)
        model = adapted(base=base, targets=["q_proj"])
        with pytest.raises(TrainingError, match="layers.1.mlp.up_proj.weight is a Odd; load the base model without"):
            trainer(model, tmp_path, [in_layer_2(channels=(3,))]).train()

    def test_weights_spread_over_processes(self, tmp_path: Path) -> None:
        model = adapted()
        run = trainer(model, tmp_path, [in_layer_2()])
        next(model.parameters()).ds_id = 0
        with pytest.raises(TrainingError, match="are spread over processes"):
            run.train()

    def test_dora_on_rows_that_are_dropped_whole(self, tmp_path: Path) -> None:
        curriculum = Curriculum(kind="epoch-before", p0=1.0)
        with pytest.raises(TrainingError, match="DoRA divides by the norm of each row"):
            trainer(adapted(dora=True), tmp_path, [in_layer_2(curriculum)]).train()

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"k": 0}, "k = 0 channels cannot be dropped; allowed: 1 and more"),
            ({"seed": -1}, "seed = -1 is below 0"),
            ({"masks": "none"}, "masks = 'none' does not exist; allowed: shared, separate"),
            ({"layer": 0}, "layer 0 does not exist; layers are counted from 1"),
            ({"channels": (1,)}, "channels are given without the layer that they are in"),
            ({"layer": 1, "channels": (1, 1)}, r"channels \[1, 1\] cannot be dropped"),
            ({"layer": 1, "channels": ()}, r"channels \[\] cannot be dropped"),
            ({"layer": 1, "channels": (0.5,)}, r"channels \[0.5\] cannot be dropped; allowed: different whole numbers"),
            ({"layer": 1, "channels": (-1,)}, r"channels \[-1\] cannot be dropped"),
            ({"expert": 1}, "expert 1 is for channels that are given"),
        ],
    )
    def test_arguments_that_mean_nothing(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(TrainingError, match=sentence):
            MacDrop(**settings)

    @pytest.mark.parametrize(
        ("settings", "kind", "sentence"),
        [
            ({"layer": 4}, TrainingError, "the model has 3 layers, and layer 4 was named"),
            ({"layer": 4, "channels": (0,)}, TrainingError, "the model has 3 layers, and layer 4 was named"),
            ({"layer": 2, "channels": (64,)}, InterventionError, "has 64 channels, and channel 64 was asked for"),
            ({"layer": 2, "k": 65}, TrainingError, "layer 2 has 64 channels, and the 65 largest were asked for"),
            ({"bos": 128}, TrainingError, "has no token 128 to find massive weights on; allowed as `bos`: 0..127"),
        ],
    )
    def test_what_the_model_does_not_have(
        self, settings: dict[str, Any], kind: type[Exception], sentence: str, tmp_path: Path
    ) -> None:
        with pytest.raises(kind, match=sentence):
            trainer(adapted(), tmp_path, [MacDrop(**settings)]).train()

    def test_a_checkpoint_of_other_settings(self, tmp_path: Path) -> None:
        trainer(adapted(), tmp_path, [in_layer_2()], save_strategy="steps", save_steps=4).train()
        with pytest.raises(TrainingError, match="was made by a MacDrop with seed = 0, and this one has 1"):
            trainer(adapted(), tmp_path, [in_layer_2(seed=1)]).train(
                resume_from_checkpoint=str(tmp_path / "checkpoint-4")
            )

    def test_epochs_of_a_dataset_without_length(self, tmp_path: Path) -> None:
        class Endless(torch.utils.data.IterableDataset[Any]):
            def __iter__(self) -> Iterator[Any]:
                while True:
                    yield from ROWS

        run = trainer(adapted(), tmp_path, [in_layer_2(Curriculum(kind="epoch-after"))], rows=Endless())
        with pytest.raises(TrainingError, match="the curriculum epoch-after needs a number of epochs"):
            run.train()
        trainer(adapted(), tmp_path, [in_layer_2()], rows=Endless(), max_steps=2).train()


class _Packed(nn.Module):
    """A matrix in whole numbers, as quantised layers hold it."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", (weight * 100).round().to(torch.int8))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value @ (self.get_buffer("weight").to(value.dtype) / 100).T


def test_bits_tell_minus_zero_from_zero() -> None:
    assert not bits(torch.tensor([0.0])).equal(bits(torch.tensor([-0.0])))
