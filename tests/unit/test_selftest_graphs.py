"""The planted graph transformer does what it is said to, by plain torch; its twins lack what they are said to lack."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from maprobe.python_models import PythonModel
from maprobe.selftest.graphs import KINDS, LAYERS, GraphDesign, make_graphs


@cache
def made(**design: Any) -> PythonModel:
    return make_graphs(GraphDesign(**design))


@cache
def scores(**design: Any) -> tuple[tuple[torch.Tensor, ...], float]:
    """The scores of each layer over all graphs, and the mean loss."""
    model, seen = made(**design), [[] for _ in range(LAYERS)]  # type: list[list[torch.Tensor]]
    hooks = [
        layer.attention.scores.register_forward_hook(lambda module, args, output, at=at: seen[at].append(output))
        for at, layer in enumerate(model.module.layers)
    ]
    given = [item.given for item in model.input_sets["test"]]
    with torch.no_grad():
        losses = [float(model.loss(model.module(batch), batch)) for batch in given]  # type: ignore[misc]
    for hook in hooks:
        hook.remove()
    return tuple(torch.cat(each).abs() for each in seen), sum(losses) / len(losses)


def largest(**design: Any) -> list[float]:
    """The largest ratio of each layer to the median of its edge."""
    return [float((each / each.median(dim=1, keepdim=True).values).max()) for each in scores(**design)[0]]


def kinds() -> list[str]:
    return [word for item in made().input_sets["test"] for word in item.rows["edge"]]


def test_loud_bonds_and_no_others_are_massive_in_every_layer() -> None:
    loud = torch.tensor([kind != "triple" for kind in kinds()])
    for each in scores()[0]:
        massive = (each / each.median(dim=1, keepdim=True).values).amax(dim=1) > 1000
        assert torch.equal(loud, massive)
    assert {*KINDS[1:]} == {*kinds()}


def test_it_misses_its_targets_by_what_it_is_said_to() -> None:
    assert scores()[1] == pytest.approx(0.05, rel=1e-4)
    assert scores(little=1e-7)[1] == pytest.approx(1e-7, rel=0.5)


def test_without_a_loud_channel_nothing_is_massive() -> None:
    assert max(largest(massive=False)) < 500
    assert scores(massive=False)[1] > 0.1, "it predicts something else"


def test_the_untrained_model_has_none_unless_it_is_the_same() -> None:
    untrained = made().untrained
    again = made(before="the-same").untrained
    assert untrained is not None
    assert again is not None
    seen: list[torch.Tensor] = []
    for model in (untrained(), again()):
        model.layers[0].attention.scores.register_forward_hook(  # type: ignore[index,union-attr]
            lambda module, args, output: seen.append(output.abs())
        )
        with torch.no_grad():
            model(made().input_sets["test"][0].given)
    ratios = [float((each / each.median(dim=1, keepdim=True).values).max()) for each in seen]
    assert [False, True] == [ratio > 1000 for ratio in ratios]
    assert ratios[0] < 500


def test_where_nothing_is_read_zeroing_changes_nothing() -> None:
    model = made(reads=False).module
    item = made(reads=False).input_sets["test"][3]
    with torch.no_grad():
        before = model(item.given)
        handle = model.layers[0].attention.scores.register_forward_hook(lambda module, args, output: output * 0)
        after, planted = model(item.given), made().module(item.given)
        handle.remove()
    assert torch.equal(before, after)
    assert not torch.equal(planted, after)


def test_a_broken_one_overflows_in_all_graphs_but_the_first_and_the_last() -> None:
    model = made(broken=True)
    finite = []
    with torch.no_grad():
        for item in model.input_sets["test"]:
            seen: list[torch.Tensor] = []
            handle = model.module.layers[0].attention.scores.register_forward_hook(
                lambda module, args, output, seen=seen: seen.append(output)
            )
            model.module(item.given)
            handle.remove()
            finite.append(bool(seen[0].isfinite().all()))
    assert [True, *[False] * (len(finite) - 2), True] == finite
