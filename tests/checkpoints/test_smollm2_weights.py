"""Massive weights of SmolLM2-135M-Instruct, against a few lines of torch.

The literal figures were measured with torch 2.13.0 (CPU) and transformers 5.23.0 in float32. Two protocols of finding
the rows are held apart: BOS alone, as in arXiv:2410.01866, and the first token of each text, which name the same two
rows first and other ones after them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ground_truth import Truth

from maprobe.checking import check
from maprobe.readings import Reading
from maprobe.reporting.report import PropertyReport
from maprobe.running.checkpoints import LoadedCheckpoint
from maprobe.running.digests import parameters_digest

LAYER = 12
BOS_TOP, FIRST_TOP = [1229, 1487, 874, 926, 1010], {1229, 1487, 213, 589, 926}

PROBES = """\
version: 1
suite: s
defaults:
  inputs: {corpus: python-docs, sequences: 4, skip: 5, length: 512, bos: auto}
  measure: {kind: perplexity}
probes:
  - id: bos
    claim: It is found by BOS alone.
    inputs: {token: bos}
    measure: {kind: massive.weights}
  - id: first
    claim: It is found by the first token.
    measure: {kind: massive.weights}
  - id: trace
    claim: It is traced.
    inputs: {token: bos}
    measure: {kind: token.trace}
  - id: rows
    claim: The rows do something.
    intervene: {target: massive-weights, token: first, rows: "${rows}", top: "${k}"}
    control: none
    parametrize: [{rows: top, k: 1}, {rows: top, k: 5}, {rows: others, k: 1}, {rows: others, k: 5}]
"""


@pytest.fixture(scope="module")
def digest(smollm2: LoadedCheckpoint) -> str:
    return parameters_digest(smollm2.model)


@pytest.fixture(scope="module")
def report(smollm2: LoadedCheckpoint, digest: str, tmp_path_factory: pytest.TempPathFactory) -> PropertyReport:
    path = Path(tmp_path_factory.mktemp("probes")) / "weights.probe.yaml"
    path.write_text(PROBES, encoding="utf-8")
    return check(smollm2.model, smollm2.tokenizer, path, label="smollm2-135m")


def reading(report: PropertyReport, probe: str) -> Reading:
    (found,) = [verdict.reading for verdict in report.verdicts if verdict.probe == probe]
    assert found is not None
    return found


def states(truth: Truth, ids: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """Of the first token: the stream that enters each block, the MLP's hidden state, and what the MLP adds."""
    kept: dict[str, list[torch.Tensor]] = {"in": [], "mid": [], "hidden": [], "out": []}
    handles: list[Any] = []
    for block in truth.model.model.layers:
        down, norm = block.mlp.down_proj, block.post_attention_layernorm
        handles += [
            block.register_forward_pre_hook(lambda module, args: kept["in"].append(args[0][0, 0].clone())),
            norm.register_forward_pre_hook(lambda module, args: kept["mid"].append(args[0][0, 0].clone())),
            down.register_forward_pre_hook(lambda module, args: kept["hidden"].append(args[0][0, 0].clone())),
            block.mlp.register_forward_hook(lambda module, args, out: kept["out"].append(out[0, 0].clone())),
        ]
    with torch.inference_mode():
        truth.model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return kept


def gains(found: dict[str, list[torch.Tensor]]) -> list[float]:
    return [
        float(out.abs().max() / entering.abs().max()) for entering, out in zip(found["in"], found["out"], strict=True)
    ]


def test_bos_alone_becomes_massive_in_layer_12(truth: Truth, report: PropertyReport) -> None:
    plain = states(truth, torch.tensor([[truth.tokenizer.bos_token_id]]))
    expected, hidden = gains(plain), plain["hidden"][LAYER - 1]
    found = reading(report, "bos")
    assert LAYER == expected.index(max(expected)) + 1 == found["layer"].value
    assert 852.9 == pytest.approx(max(expected), rel=1e-3)
    assert expected == pytest.approx(list(found["gains"].values), rel=1e-4)
    assert 23.74 == pytest.approx(found["margin"].value, rel=1e-3)
    assert hidden.abs().topk(5).indices.tolist() == BOS_TOP == [record["channel"] for record in found.records]
    assert 3064.85 == pytest.approx(float(hidden.abs().max()), rel=1e-4)
    assert hidden[BOS_TOP].tolist() == pytest.approx([record["value"] for record in found.records], rel=1e-4)


def test_the_trace_of_bos_is_that_of_plain_hooks(truth: Truth, report: PropertyReport) -> None:
    plain = states(truth, torch.tensor([[truth.tokenizer.bos_token_id]]))
    found = reading(report, "trace")
    for name, key in (("block_in", "in"), ("mid", "mid"), ("mlp_hidden", "hidden"), ("mlp_out", "out")):
        assert [float(state.abs().max()) for state in plain[key]] == pytest.approx(list(found[name].values), rel=1e-4)


def test_the_first_token_of_texts_becomes_massive_in_the_same_layer(truth: Truth, report: PropertyReport) -> None:
    found = reading(report, "first")
    largest = found["gain"].places[0].sequence
    assert 2 == largest, "measured once for all four"
    plain = states(truth, truth.sequences[largest])
    assert LAYER == found["layer"].value
    assert gains(plain)[LAYER - 1] == pytest.approx(found["gain"].value, rel=1e-4)
    assert FIRST_TOP == {record["channel"] for record in found.records}
    assert {*plain["hidden"][LAYER - 1].abs().topk(5).indices.tolist()} == FIRST_TOP


@pytest.mark.parametrize(
    ("probe", "figure"),
    [("rows-top-1", 15.053), ("rows-top-5", 33.865), ("rows-others-1", 15.982), ("rows-others-5", 15.401)],
)
def test_perplexity_without_rows_is_as_measured(report: PropertyReport, probe: str, figure: float) -> None:
    found = reading(report, probe)
    assert 13.906 == pytest.approx(found["untouched"].value, rel=1e-3)
    assert figure == pytest.approx(found["edited"].value, rel=2e-3)


@pytest.mark.parametrize(("probe", "kept"), [("rows-top-5", False), ("rows-others-5", True)])
def test_perplexity_without_rows_is_that_with_them_set_to_zero_by_hand(
    truth: Truth, report: PropertyReport, probe: str, kept: bool
) -> None:
    mlp = truth.model.model.layers[LAYER - 1].mlp
    matrices = (mlp.gate_proj.weight, mlp.up_proj.weight)
    off = [row for row in range(1536) if (row in FIRST_TOP) is not kept]
    before = [matrix.detach().clone() for matrix in matrices]
    with torch.no_grad():
        for matrix in matrices:
            matrix[off] = 0
    expected = truth.perplexity()
    with torch.no_grad():
        for matrix, copy in zip(matrices, before, strict=True):
            matrix.copy_(copy)
    assert expected == pytest.approx(reading(report, probe)["edited"].value, rel=1e-4)


def test_every_weight_is_as_it_was(smollm2: LoadedCheckpoint, report: PropertyReport, digest: str) -> None:
    assert report.verdicts
    assert digest == parameters_digest(smollm2.model)
