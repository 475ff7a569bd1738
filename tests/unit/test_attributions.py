"""A(s, w) = |w * dD/dw| by the walk through the blocks, against autograd's own gradients of every weight."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_models import tiny
from torch import nn

from maprobe.errors import MeasurementError
from maprobe.running.anatomy import Anatomy
from maprobe.running.attributions import AllSequences, densities, groups_of, matrices, show_attributions
from maprobe.running.discovery import discover
from maprobe.running.matrices import left_out

FAMILIES = ["llama", "gpt2", "phi3", "gpt_neox", "falcon", "opt", "opt-350m", "gemma2", "gemma3", "mpt", "bloom", "phi"]
# Of unequal length, and two of one length that are no neighbours.
SEQUENCES = ((5, 9, 40, 77, 3), (8, 8, 100), (64, 2, 31, 90, 17), (12, 50, 60, 70, 80, 90, 7))


def anatomy_of(model: nn.Module) -> Anatomy:
    return discover(model, {})


def naive(model: nn.Module, anatomy: Anatomy, sequences: Sequence[Sequence[int]]) -> dict[int, torch.Tensor]:
    """A by autograd's gradients of every matrix, one sequence at a time; shape (sequences, weights) for each layer."""
    found = {}
    for block in anatomy.blocks:
        weights = [
            module.weight
            for module in block.module.modules()
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        ]
        rows = []
        for sequence in sequences:
            largest = model(torch.tensor([sequence]), use_cache=False).logits[0, -1].max()
            gradients = torch.autograd.grad(largest, weights)
            products = [(weight * gradient).abs().detach() for weight, gradient in zip(weights, gradients, strict=True)]
            conv = type(next(iter(block.module.modules()))).__name__ == "GPT2Block"
            rows.append(torch.cat([(product.T if conv else product).flatten() for product in products]))
        found[block.layer] = torch.stack(rows)
    return found


def walked(anatomy: Anatomy, sequences: Sequence[Sequence[int]]) -> dict[int, torch.Tensor]:
    """A as it is shown, put together again; rows in the order of the sequences."""
    parts: dict[int, list[tuple[int, torch.Tensor]]] = {}

    def keep(layer: int, value: torch.Tensor, batch: AllSequences, offset: int) -> None:
        back = torch.argsort(torch.tensor(batch.sequences))
        parts.setdefault(layer, []).append((offset, value[back].clone()))

    show_attributions(anatomy, sequences, range(1, anatomy.depth + 1), keep)
    whole = {}
    for layer, found in parts.items():
        end = 0
        for offset, value in found:
            assert end == offset
            end += value.shape[1]
        whole[layer] = torch.cat([value for _, value in found], dim=1)
    return whole


@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_is_that_of_autograd(family: str) -> None:
    model = tiny(family, dtype=torch.float64)
    anatomy = anatomy_of(model)
    expected, found = naive(model, anatomy, SEQUENCES), walked(anatomy, SEQUENCES)
    assert [3, 2, 1] == list(found)
    for layer in found:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_in_float32_products_of_sequences_agree_within_rounding(family: str) -> None:
    exact, model = tiny(family, dtype=torch.float64), tiny(family)
    expected = naive(exact, anatomy_of(exact), SEQUENCES)
    for layer, value in walked(anatomy_of(model), SEQUENCES).items():
        wanted = expected[layer] @ expected[layer].T
        torch.testing.assert_close(value.double() @ value.double().T, wanted, rtol=1e-4, atol=0)


def test_half_precision_is_widened_before_it_is_multiplied() -> None:
    model = tiny(dtype=torch.bfloat16)
    found = walked(anatomy_of(model), SEQUENCES)
    assert {torch.float32} == {value.dtype for value in found.values()}
    wide = walked(anatomy_of(tiny()), SEQUENCES)
    assert 0.9 < float(torch.cosine_similarity(found[2].flatten(), wide[2].flatten(), dim=0))


def test_densities_are_counts_of_means_over_the_sequences() -> None:
    model = tiny(dtype=torch.float64)
    anatomy = anatomy_of(model)
    expected = naive(model, anatomy, SEQUENCES)
    counts = [[int((expected[layer].mean(dim=0) > gamma).sum()) for gamma in (1e-6, 1e-5)] for layer in (1, 2, 3)]
    assert counts == [list(found) for found in densities(anatomy, SEQUENCES, (1e-6, 1e-5))]
    assert all(0 < low < high for high, low in counts)


def test_inference_mode_around_it_does_no_harm() -> None:
    anatomy = anatomy_of(tiny())
    expected = densities(anatomy, SEQUENCES, (1e-5,))
    with torch.inference_mode():
        assert expected == densities(anatomy, SEQUENCES, (1e-5,))


def test_only_the_layers_asked_about_are_shown() -> None:
    shown: list[int] = []
    advanced: list[int] = []
    show_attributions(
        anatomy_of(tiny()),
        SEQUENCES,
        (2,),
        lambda layer, *rest: shown.append(layer),
        advance=lambda: advanced.append(1),
    )
    assert {2} == set(shown)
    assert 2 == len(advanced), "the walk does not go on below the lowest layer"


def test_chunks_cover_a_large_matrix_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(dtype=torch.float64)
    whole = walked(anatomy_of(model), SEQUENCES)
    monkeypatch.setattr("maprobe.running.attributions._CHUNK", 7 * 64 * len(SEQUENCES))
    for layer, value in walked(anatomy_of(model), SEQUENCES).items():
        torch.testing.assert_close(value, whole[layer])


def test_a_layer_that_is_called_twice_adds_up() -> None:
    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return self.inner(value) + self.inner(value.flip(-1))

    model = tiny(dtype=torch.float64)
    model.model.layers[1].mlp.down_proj = Twice(model.model.layers[1].mlp.down_proj)
    anatomy = anatomy_of(model)
    expected = naive(model, anatomy, SEQUENCES)
    torch.testing.assert_close(walked(anatomy, SEQUENCES)[2], expected[2], rtol=1e-9, atol=1e-18)


class TestSequencesOfOneLength:
    def test_share_a_call_wherever_they_stand(self) -> None:
        assert ((1,), (0, 2), (3,)) == groups_of(SEQUENCES)

    def test_do_not_share_it_beyond_a_number_of_tokens(self) -> None:
        assert [2, 2, 1] == [len(group) for group in groups_of([[1] * 400] * 5)]

    def test_are_called_one_by_one_where_tokens_are_routed(self) -> None:
        assert ((1,), (0,), (2,), (3,)) == groups_of(SEQUENCES, single=True)


class TestTheModel:
    def test_is_left_as_it_was(self) -> None:
        model = tiny()
        model.train()
        weights = list(model.parameters())
        weights[0].requires_grad = False
        weights[1].grad = torch.ones_like(weights[1])
        flags = [weight.requires_grad for weight in weights]
        densities(anatomy_of(model), SEQUENCES, (1e-5,))
        assert flags == [weight.requires_grad for weight in weights]
        assert [1] == [index for index, weight in enumerate(weights) if weight.grad is not None]
        assert all(module.training for module in model.modules())
        assert not hooks(model)

    def test_is_left_as_it_was_by_a_pass_that_fails(self) -> None:
        model = tiny()

        def fail(*shown: object) -> None:
            del shown
            raise MeasurementError("enough")

        with pytest.raises(MeasurementError, match="enough"):
            show_attributions(anatomy_of(model), SEQUENCES, (1, 2, 3), fail)
        assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
        assert not hooks(model)


def hooks(model: nn.Module) -> list[object]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind).values()]


class TestWeightsThatAreLeftOut:
    def test_experts_in_one_tensor_are_named_and_the_others_are_right(self) -> None:
        model = tiny("mixtral")  # experts are not multiplied in float64
        anatomy = anatomy_of(model)
        expected, found = naive(model, anatomy, SEQUENCES), walked(anatomy, SEQUENCES)
        for layer in found:
            torch.testing.assert_close(found[layer], expected[layer], rtol=1e-3, atol=1e-9)
        assert {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"} <= set(
            left_out(anatomy, (matrix for block in anatomy.blocks for matrix in matrices(block)))
        )

    def test_none_are_where_all_matrices_are_linear_layers(self) -> None:
        anatomy = anatomy_of(tiny())
        assert () == left_out(anatomy, (matrix for block in anatomy.blocks for matrix in matrices(block)))


class TestWhatCannotBeDone:
    def test_weights_that_are_no_floating_numbers(self) -> None:
        model = tiny()
        layer = model.model.layers[0].self_attn.k_proj
        anatomy = anatomy_of(model)
        layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
        with pytest.raises(MeasurementError, match="k_proj holds its weights as int8, which cannot be differentiated"):
            matrices(anatomy.blocks[0])

    def test_weights_on_no_device(self) -> None:
        model = tiny()
        anatomy = anatomy_of(model)
        model.model.layers[1].mlp.to("meta")
        with pytest.raises(MeasurementError, match="gate_proj lie on no device while it is not called"):
            densities(anatomy, SEQUENCES, (1e-5,))

    def test_a_block_without_linear_layers(self) -> None:
        model = tiny()
        anatomy = anatomy_of(model)
        block = anatomy.blocks[0]
        for name in ("self_attn", "mlp"):
            setattr(block.module, name, nn.Identity())
        with pytest.raises(MeasurementError, match="has no linear layer whose weights are a plain matrix"):
            matrices(block)

    def test_a_model_without_logits(self) -> None:
        anatomy = anatomy_of(tiny().model)
        with pytest.raises(MeasurementError, match="returns no logits, so no next-token logit can be differentiated"):
            densities(anatomy, SEQUENCES, (1e-5,))

    def test_a_logit_that_is_not_finite(self) -> None:
        model = tiny()
        with torch.no_grad():
            model.lm_head.weight[0] = float("nan")
        with pytest.raises(MeasurementError, match="largest next-token logit is not a finite number"):
            densities(anatomy_of(model), SEQUENCES, (1e-5,))

    def test_a_block_that_overwrites_what_a_layer_was_called_on(self) -> None:
        class Overwriting(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, value: torch.Tensor) -> torch.Tensor:
                own = value.clone()
                found = self.inner(own)
                own.zero_()
                return found

        model = tiny()
        anatomy = anatomy_of(model)
        model.model.layers[1].mlp.down_proj = Overwriting(model.model.layers[1].mlp.down_proj)
        with pytest.raises(MeasurementError, match=r"layers\.1 overwrites what one of its linear layers was called on"):
            densities(anatomy, SEQUENCES, (1e-5,))

    def test_a_block_that_is_never_the_same_twice(self) -> None:
        model = tiny()
        anatomy = anatomy_of(model)
        mlp = model.model.layers[1].mlp
        mlp.register_forward_hook(lambda module, args, output: output + torch.rand(1))
        with pytest.raises(MeasurementError, match=r"layers\.1 gives something else when it is called again by itself"):
            densities(anatomy, SEQUENCES, (1e-5,))
