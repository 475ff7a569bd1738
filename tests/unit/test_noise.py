"""Noise on embeddings: drawn and learnt alike from one draw, of the size asked for, and the model as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_graphs_models import GRAPHS, GT, model_of
from test_own_models import brought, checked, given, quantity, subject
from torch import nn

import maprobe
from maprobe.edits import NoiseEdit
from maprobe.errors import InterventionError
from maprobe.graphs import GraphBatch
from maprobe.graphs.inputs import GraphInputs
from maprobe.graphs.losses import loss_of
from maprobe.progress import Silent
from maprobe.python_models import ModelInput, PythonModel
from maprobe.running.digests import parameters_digest
from maprobe.running.inputs import batches
from maprobe.running.noise import Noise, make_noise
from maprobe.running.own_inputs import OwnInputs
from maprobe.running.recorder import Recorder

LEARNT = NoiseEdit(deviation=0.1, learnt=True, steps=20, rate=0.05)


class Line(nn.Module):
    """Two layers after an embedding, all linear, so that gradients can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 3, bias=False)
        self.layers = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(2))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows x 3."""
        rows = self.embed(rows)
        for layer in self.layers:
            rows = layer(rows)
        return rows


class Twice(Line):
    """One that calls its embedding again on three rows, where noise would be added twice."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows x 3."""
        return super().forward(rows) + (self.embed(rows) if len(rows) == 3 else 0)


_ONE = [ModelInput(given=torch.ones(1, 2))]
_SMALL = {"embed.out": "0", "block.out": ["1"]}


def line(**other: Any) -> PythonModel:
    """A linear model whose loss is the mean of its output, and inputs of 2, 3 and 4 rows."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Line()
    inputs = [ModelInput(given=torch.full((2 + at, 2), float(at))) for at in range(3)]
    fields: dict[str, Any] = {"sites": {"embed.out": "embed"}, "loss": lambda output, rows: output.mean()}
    return PythonModel(**{"module": module, "inputs": inputs, **fields, **other})


def made(model: PythonModel, edit: NoiseEdit) -> Noise:
    """The noise for all inputs of a model."""
    found = subject(model)
    assert model.inputs is not None
    inputs = OwnInputs(items=tuple(model.inputs), description="", digest="")  # type: ignore[arg-type]
    return make_noise(found.anatomy, inputs, edit, found.device, Silent())


def loss_under(model: PythonModel, noise: Noise) -> float:
    """The mean loss over the inputs with the noise added in plain torch to what the embedding gives out."""
    losses = []
    with torch.no_grad():
        for number, item in enumerate(model.inputs):  # type: ignore[arg-type]
            rows = model.module.embed(item.given) + noise.parts["embed.out"][number]
            for layer in model.module.layers:
                rows = layer(rows)
            losses.append(float(rows.mean()))
    return sum(losses) / len(losses)


def joined(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Several inputs as one."""
    return torch.cat(list(rows))


def test_the_noise_of_a_site_has_the_deviation_asked_for_over_all_inputs() -> None:
    for edit in (LEARNT, replace(LEARNT, learnt=False)):
        noise = made(brought(), edit)
        assert ["embed.out", "edge.embed"] == list(noise.parts)
        for parts in noise.parts.values():
            assert float(torch.cat(parts).std()) == pytest.approx(0.1, rel=1e-5)
        assert [len(item.given[0]) for item in given()] == [len(part) for part in noise.parts["embed.out"]]
        assert [len(item.given[1]) for item in given()] == [len(part) for part in noise.parts["edge.embed"]]


def test_random_noise_is_where_learning_begins() -> None:
    model = line()
    drawn = made(model, replace(LEARNT, learnt=False))
    learnt = made(model, replace(LEARNT, steps=1))
    assert loss_under(model, drawn) == pytest.approx(learnt.losses[0], rel=1e-5)


def test_a_step_of_learning_is_that_of_adam_on_gradients_worked_out_by_hand() -> None:
    model = line()
    drawn = made(model, replace(LEARNT, learnt=False))
    learnt = made(model, replace(LEARNT, steps=1, rate=0.3))
    generator = torch.Generator().manual_seed(0)
    start = torch.randn((9, 3), generator=generator)
    torch.testing.assert_close(start / start.std() * 0.1, torch.cat(drawn.parts["embed.out"]))
    # The loss of each input is the mean of W2 W1 (e + n) over its rows and 3 columns; the mean over 3 inputs of it.
    with torch.no_grad():
        weight = model.module.layers[1].weight @ model.module.layers[0].weight
        each = weight.sum(0) / 3
        towards = torch.cat([each.expand(rows, 3) / rows / 3 for rows in (2, 3, 4)])
        # Through n / std(n) * d, with std(n)^2 = sum (n - mean)^2 / (N - 1).
        deviation = start.std()
        inner = (towards * start).sum()
        gradient = 0.1 * (towards / deviation - inner * (start - start.mean()) / (deviation**3 * (start.numel() - 1)))
        after = start + 0.3 * gradient / (gradient.abs() + 1e-8)  # the first step of Adam, upwards
    torch.testing.assert_close(after / after.std() * 0.1, torch.cat(learnt.parts["embed.out"]), rtol=1e-4, atol=1e-5)
    assert loss_under(model, learnt) == pytest.approx(learnt.losses[1], rel=1e-4)


def test_learnt_noise_raises_the_loss_and_the_highest_is_kept() -> None:
    model = line()
    noise = made(model, LEARNT)
    assert LEARNT.steps + 1 == len(noise.losses)
    assert max(noise.losses) > noise.losses[0] + 0.01
    assert max(noise.losses) == pytest.approx(loss_under(model, noise), rel=1e-4)


def test_inputs_learn_together_as_they_do_one_by_one() -> None:
    # The mean over rows weighs inputs by their size, so the loss of several together is given by sums here.
    def loss(output: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return output.sum() / len(rows)

    inputs = [ModelInput(given=torch.full((3, 2), float(at))) for at in range(5)]
    apart = made(replace(line(loss=loss), inputs=inputs), LEARNT)
    together = made(replace(line(loss=loss, join=joined), inputs=inputs), LEARNT)
    for one, other in zip(apart.parts["embed.out"], together.parts["embed.out"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def graphs(**other: Any) -> PythonModel:
    """A small graph transformer and six graphs, whose loss is the absolute error."""
    model = model_of(GT).eval()
    fields: dict[str, Any] = {
        "sites": {"embed.out": "node_embedding", "edge.embed": "edge_embedding"},
        "loss": lambda output, batch: loss_of(output, batch.targets, "regression"),
        "join": GraphBatch.joined,
    }
    return PythonModel(module=model, inputs=list(GraphInputs(GRAPHS)), **{**fields, **other})


def test_noise_of_a_graph_transformer_raises_the_loss_to_what_plain_hooks_find() -> None:
    model = graphs()
    drawn, learnt = (made(model, replace(LEARNT, learnt=flag)) for flag in (False, True))
    places = {"embed.out": model.module.node_embedding, "edge.embed": model.module.edge_embedding}

    def loss_with(noise: Noise) -> float:
        losses = []
        for number, item in enumerate(model.inputs):  # type: ignore[arg-type]
            handles = [
                place.register_forward_hook(lambda m, a, output, n=noise.parts[site][number]: output + n)
                for site, place in places.items()
            ]
            with torch.no_grad():
                losses.append(float((model.module(item.given) - item.given.targets).abs().mean()))
            for handle in handles:
                handle.remove()
        return sum(losses) / len(losses)

    assert loss_with(drawn) == pytest.approx(learnt.losses[0], rel=1e-5)
    assert loss_with(learnt) == pytest.approx(max(learnt.losses), rel=1e-5)
    assert loss_with(learnt) > loss_with(drawn)


def test_graphs_learn_together_as_they_do_one_by_one() -> None:
    together, apart = (made(graphs(join=join), replace(LEARNT, steps=5)) for join in (GraphBatch.joined, None))
    assert together.losses == pytest.approx(apart.losses, rel=1e-5)
    for site in ("embed.out", "edge.embed"):
        torch.testing.assert_close(torch.cat(together.parts[site]), torch.cat(apart.parts[site]), rtol=1e-4, atol=1e-5)


def test_noise_is_the_same_for_a_seed_and_another_for_another() -> None:
    for learnt in (False, True):
        edit = replace(LEARNT, learnt=learnt, steps=3)
        one, again, other = (made(line(), replace(edit, seed=seed)).parts["embed.out"] for seed in (5, 5, 6))
        assert all(map(torch.equal, one, again))
        assert not any(map(torch.equal, one, other))


def test_nothing_is_gained_where_nothing_hangs_on_the_embedding() -> None:
    deaf = line(loss=lambda output, rows: output.detach().mean() * 0 + 2)
    drawn, learnt = (made(deaf, replace(LEARNT, learnt=flag)) for flag in (False, True))
    assert {2.0} == set(learnt.losses)
    assert all(map(torch.equal, drawn.parts["embed.out"], learnt.parts["embed.out"]))


def test_it_is_told_how_far_learning_went() -> None:
    learnt = made(line(), replace(LEARNT, steps=7))
    assert (7, 0.05) == (learnt.steps, learnt.rate)
    assert 0 == made(line(), replace(LEARNT, learnt=False)).steps


def test_noise_takes_the_dtype_of_the_embedding() -> None:
    module = line().module.to(torch.bfloat16)
    inputs = [ModelInput(given=torch.ones(rows, 2, dtype=torch.bfloat16)) for rows in (2, 3)]
    model = line(module=module, inputs=inputs)
    noise, found = made(model, LEARNT), subject(model)
    assert max(noise.losses) > noise.losses[0]
    seen: list[torch.dtype] = []
    handle = module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with Recorder(found.anatomy, [], [noise]) as recorder:
        for batch in batches(OwnInputs(items=tuple(inputs), description="", digest=""), size=1, device=found.device):
            recorder.run(batch)
    handle.remove()
    assert [torch.bfloat16] * 2 == seen


def test_learning_ends_when_the_rate_has_fallen() -> None:
    still = line(loss=lambda output, rows: output.sum() * 0 + 1)
    noise = made(still, replace(LEARNT, steps=100, patience=0, rate=0.08, min_rate=0.01))
    assert 6 == len(noise.losses), "a first loss, and four halvings from 0.08 to below 0.01, the first after two steps"


def test_the_model_is_as_it_was() -> None:
    model = brought()
    model.module.layers[0].mix.weight.requires_grad_(False)
    before = parameters_digest(model.module)
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    state = torch.get_rng_state()
    model.module.layers[1].train()
    modes = [module.training for module in model.module.modules()]
    made(model, LEARNT)
    assert modes == [module.training for module in model.module.modules()]
    assert before == parameters_digest(model.module)
    assert flags == [parameter.requires_grad for parameter in model.module.parameters()]
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_the_model_is_as_it_was_after_an_error_too() -> None:
    model = line()
    calls: list[int] = []

    def failing(output: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 4:
            raise ValueError("no more")
        return output.mean()

    model.module.layers[0].weight.requires_grad_(False)
    model.module.layers[1].train()
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    modes = [module.training for module in model.module.modules()]
    before, state = parameters_digest(model.module), torch.get_rng_state()
    with pytest.raises(maprobe.MaprobeError, match="ValueError: no more"):
        made(replace(model, loss=failing), LEARNT)
    assert before == parameters_digest(model.module)
    assert modes == [module.training for module in model.module.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert flags == [parameter.requires_grad for parameter in model.module.parameters()]
    assert not any(module._forward_hooks for module in model.module.modules())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: line(loss=None), "the loss that a model's own code brings"),
        (lambda: line(sites={}), "names a module for neither"),
        (lambda: line(loss=lambda output, rows: output.mean() * float("nan")), "the loss is nan at step 0"),
        (lambda: line(join=lambda rows: rows[0]), r"the form \(2, 3\), and the same inputs have 9 rows of 3 numbers"),
        (lambda: line(join=lambda rows: rows.cat), "`join` .* failed on 3 inputs with AttributeError"),
        (lambda: line(module=Twice()), "embed, named for embed.out, was called 2 times on input 1"),
        (
            lambda: line(module=nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1)), sites=_SMALL, inputs=_ONE),
            "embed.out gives 1 x 1 numbers over all inputs, and noise with a deviation takes 2",
        ),
    ],
)
def test_what_cannot_be_learnt_is_told(model: Any, reason: str) -> None:
    with pytest.raises(InterventionError, match=reason):
        made(model(), LEARNT)


def test_weights_that_change_meanwhile_are_noticed() -> None:
    model = line()

    def meddling(output: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            model.module.layers[0].weight.data += 1
        return output.mean()

    with pytest.raises(InterventionError, match="the weights changed while noise was learnt"):
        made(replace(model, loss=meddling), LEARNT)


def test_noise_is_added_to_the_embedding_of_its_input_and_to_no_other() -> None:
    model = line()
    found = subject(model)
    noise = made(model, LEARNT)
    inputs = OwnInputs(items=tuple(model.inputs), description="", digest="")  # type: ignore[arg-type]
    seen: list[torch.Tensor] = []
    handle = model.module.register_forward_hook(lambda module, args, output: seen.append(output))
    with Recorder(found.anatomy, [], [noise]) as recorder:
        for batch in batches(inputs, size=1, device=found.device):
            recorder.run(batch)
    handle.remove()
    assert sum(float(output.mean()) for output in seen) / len(seen) == pytest.approx(loss_under(model, noise), rel=1e-5)


_PROBE = (
    "  - {id: a, claim: c, measure: {kind: loss}, intervene: {target: noise, deviation: 0.1, steps: 20, rate: 0.05}, "
    "control: random, expect: {over_control: {gt: 1.05}}}\n"
)


def test_the_gain_is_the_loss_under_learnt_noise_over_that_under_random_noise(tmp_path: Path) -> None:
    model = brought()
    (verdict,) = checked(model, tmp_path, _PROBE)
    learnt, drawn = (made(model, replace(LEARNT, learnt=flag)) for flag in (True, False))
    losses = [max(learnt.losses), quantity(verdict, "control.edited").value]
    assert losses[0] == pytest.approx(quantity(verdict, "edited").value, rel=1e-4)
    assert losses[0] / losses[1] == pytest.approx(quantity(verdict, "over_control").value, rel=1e-4)
    assert not drawn.losses
    assert maprobe.Status.PASSED == verdict.status, verdict.measured


def test_a_model_that_hangs_on_no_embedding_gains_nothing(tmp_path: Path) -> None:
    model = brought()
    with torch.no_grad():
        model.module.out.weight.zero_()
        model.module.out.bias.fill_(1.0)
    # Its parts cannot be proven by a nudge, so it is asked without the proofs that a checkpoint goes through.
    (verdict,) = checked(model, tmp_path, _PROBE)
    assert maprobe.Status.UNMEASURED == verdict.status
    with torch.no_grad():
        model.module.out.weight.fill_(1e-6)
    (verdict,) = checked(model, tmp_path, _PROBE)
    assert 1.0 == pytest.approx(quantity(verdict, "over_control").value, rel=1e-3)
    assert maprobe.Status.FAILED == verdict.status


def test_the_reading_tells_how_far_learning_went(tmp_path: Path) -> None:
    model = brought()
    (verdict,) = checked(model, tmp_path, _PROBE)
    noise = made(model, LEARNT)
    assert verdict.reading is not None
    assert noise.told in verdict.reading.notes
    assert f"learnt in 20 steps, in which the mean loss over the inputs rose from {noise.losses[0]:.4g}" in noise.told
    assert not made(model, replace(LEARNT, learnt=False)).told
