"""Massive entries of edge features: found with their place, and edited where attention goes on with them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_own_models import HEAD, brought, checked, quantity

import maprobe
from maprobe.python_models import ModelInput, PythonModel

_LOCATE = "  - {id: a, claim: c, measure: {kind: edge.massive, OPTIONS}}\n"
_ZERO = "  - {id: a, claim: c, measure: {kind: loss}, intervene: {target: massive-edges, OPTIONS}, expect: EXPECT}\n"


def planted(size: float = 4000.0) -> PythonModel:
    """The net with one channel of the second layer's edge features made large by a bias."""
    model = brought()
    with torch.no_grad():
        model.module.layers[1].scores.bias[5] = size
    return model


def scores(model: PythonModel, layer: int) -> list[torch.Tensor]:
    """The edge features of a layer, input by input."""
    seen: list[torch.Tensor] = []
    handle = model.module.layers[layer - 1].scores.register_forward_hook(lambda m, a, output: seen.append(output))
    with torch.no_grad():
        for item in model.inputs:  # type: ignore[union-attr]
            model.module(*item.given)
    handle.remove()
    return seen


def test_a_planted_entry_is_found_on_every_edge_of_its_layer_and_channel(tmp_path: Path) -> None:
    model = planted()
    (verdict,) = checked(model, tmp_path, _LOCATE.replace("OPTIONS", "layers: 2"))
    edges = [len(item.given[1]) for item in model.inputs]  # type: ignore[union-attr]
    assert sum(edges) == quantity(verdict, "entries").value == quantity(verdict, "edges").value
    assert verdict.reading is not None
    found = [record for record in verdict.reading.records if record["arm"] == "edited"]
    wanted = [(2, graph, edge, 5, "single") for graph, count in enumerate(edges) for edge in range(count)]
    assert wanted == [
        tuple(record[key] for key in ("layer", "sequence", "position", "dim", "token")) for record in found
    ]
    features = scores(model, 2)
    assert [float(features[graph][edge, 5]) for _, graph, edge, _, _ in wanted] == [record["value"] for record in found]


def test_the_control_entries_are_those_of_the_same_edge_nearest_to_its_median(tmp_path: Path) -> None:
    model = planted()
    (verdict,) = checked(model, tmp_path, _LOCATE.replace("OPTIONS", "layers: 2"))
    assert verdict.reading is not None
    features = scores(model, 2)
    for record in verdict.reading.records:
        if record["arm"] == "control":
            sizes = features[record["sequence"]][record["position"]].abs()  # type: ignore[index]
            near = (sizes - sizes.median()).abs()
            assert 0.0 == float(near[record["dim"]])  # type: ignore[index]


def test_the_unplanted_twin_has_none_and_says_what_came_nearest(tmp_path: Path) -> None:
    (verdict,) = checked(brought(), tmp_path, _LOCATE.replace("OPTIONS", ""))
    assert maprobe.Status.ABSENT == verdict.status
    largest = max(
        float((value.abs() / value.abs().median(dim=1, keepdim=True).values).max())
        for layer in (1, 2, 3)
        for value in scores(brought(), layer)
    )
    assert f"the largest ratio is {largest:.4g}" in verdict.reason


def test_setting_massive_entries_to_zero_is_what_the_model_goes_on_with(tmp_path: Path) -> None:
    model = planted()
    probe = _ZERO.replace("OPTIONS", "at: 2").replace("EXPECT", "{ratio: {lt: 0.5}, control.ratio: {gt: 0.9}}")
    (verdict,) = checked(model, tmp_path, probe)
    losses = []
    for item in model.inputs:  # type: ignore[union-attr]
        rows, edges = item.given
        with torch.no_grad():
            nodes, features = model.module.embed(rows), model.module.edge_embed(edges)
            for number, layer in enumerate(model.module.layers, start=1):
                made = layer.scores(features)
                if number == 2:
                    made[:, 5] = 0
                nodes = nodes + torch.tanh(layer.mix(nodes)) + made.mean(0)
                features = features + made
            losses.append(float(model.module.out(nodes.mean(0, keepdim=True)).square().mean()))
    assert sum(losses) / len(losses) == pytest.approx(quantity(verdict, "edited").value, rel=1e-5)
    assert maprobe.Status.PASSED == verdict.status, verdict.reason


@pytest.mark.parametrize(
    ("model", "options", "status", "reason"),
    [
        (brought, "over: 1000", maprobe.Status.ABSENT, "no edge has an entry above 1000 times"),
        (planted, "at: 9", maprobe.Status.UNMEASURED, "layer 9 is out of range for edge.attn"),
        (lambda: brought(sites={"block.out": "layers.*"}), "at: 1", maprobe.Status.UNMEASURED, "no site edge.attn"),
    ],
)
def test_where_nothing_can_be_edited_the_case_says_why(
    tmp_path: Path, model: Any, options: str, status: maprobe.Status, reason: str
) -> None:
    (verdict,) = checked(model(), tmp_path, _ZERO.replace("OPTIONS", options).replace("EXPECT", "{ratio: {gt: 2}}"))
    assert (status, True) == (verdict.status, reason in verdict.reason), verdict.reason


def test_an_edge_of_zeros_has_no_massive_entry(tmp_path: Path) -> None:
    model = brought()
    with torch.no_grad():
        for layer in model.module.layers:
            layer.scores.weight.zero_()
            layer.scores.bias.zero_()
    (verdict,) = checked(model, tmp_path, _LOCATE.replace("OPTIONS", ""))
    assert maprobe.Status.ABSENT == verdict.status


def test_entries_are_massive_by_the_same_ratios_as_elsewhere_and_those_not_finite_are_left_out(tmp_path: Path) -> None:
    items = [*planted().inputs]  # type: ignore[misc]
    rows, edges = items[2].given
    items[2] = ModelInput(given=(rows, edges.sign() * 3e38), rows=items[2].rows)
    model = replace(planted(), inputs=items)
    probes = (
        "  - {id: a, claim: c, measure: {kind: edge.massive, layers: 1, over: 3}}\n"
        "  - {id: b, claim: c, measure: {kind: edge.kinds, layers: 1, over: 3}}\n"
    )
    (tmp_path / "p.probe.yaml").write_text(HEAD + probes, encoding="utf-8")
    (found,) = (v for v in maprobe.check(model, None, tmp_path).verdicts if v.probe == "a")
    (kinds,) = (v for v in maprobe.check(replace(planted()), None, tmp_path).verdicts if v.probe == "b")
    (plain,) = (v for v in maprobe.check(replace(planted()), None, tmp_path).verdicts if v.probe == "a")
    assert quantity(kinds, "massive").value == quantity(plain, "edges").value
    assert found.reading is not None
    assert all(abs(float(record["value"])) < math.inf for record in found.reading.records)  # type: ignore[arg-type]
