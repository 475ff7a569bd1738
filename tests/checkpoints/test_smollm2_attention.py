"""Attention inside SmolLM2-135M-Instruct: every figure against a few plain lines of torch on eager attention maps."""

from __future__ import annotations

import pydoc_data.topics

import pytest
import torch
from ground_truth import Truth, massive
from torch.nn.functional import normalize

from maprobe.readings import Reading
from maprobe.reporting.report import PropertyReport

LAYERS = (13, 20, 29)  # the first that attends to a massive token, one in the middle, the last


def reading(report: PropertyReport, probe: str) -> Reading:
    found = next(verdict for verdict in report.verdicts if verdict.probe == probe)
    assert found.reading is not None, found.reason
    return found.reading


def eager_maps(truth: Truth, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    truth.model.config._attn_implementation = "eager"
    try:
        with torch.inference_mode():
            return truth.model(ids, use_cache=False, output_attentions=True).attentions
    finally:
        truth.model.config._attn_implementation = "sdpa"


def test_the_sink_metric_is_that_of_eager_maps(shipped: PropertyReport, truth: Truth) -> None:
    text = "\n".join(pydoc_data.topics.topics.values())
    ids = torch.tensor(truth.tokenizer(text, add_special_tokens=False)["input_ids"][: 100 * 64]).view(100, 64)
    alphas = []
    for part in ids.split(10):
        maps = eager_maps(truth, part)
        alphas.append(torch.stack([layer[..., 0].mean(dim=2) for layer in maps], dim=1))
    alpha = torch.cat(alphas)
    found = reading(shipped, "first-token-is-a-sink")
    assert alpha.mean(dim=0).flatten().tolist() == pytest.approx(list(found["importance"].values), rel=1e-3, abs=1e-5)
    # Heads whose alpha lies next to the threshold may fall on either side by rounding.
    assert float((alpha > 0.3).double().mean()) == pytest.approx(found["sinks"].value, abs=1e-3)


def test_sinks_come_with_the_massive_activation_and_stay(shipped: PropertyReport) -> None:
    sinks = reading(shipped, "first-token-is-a-sink")["layer_sinks"].values
    assert max(sinks[10:12]) < 0.1
    assert min(sinks[12:]) > 0.7


@pytest.mark.parametrize("layer", LAYERS)
def test_norms_are_those_of_the_modules_called_by_hand(shipped: PropertyReport, truth: Truth, layer: int) -> None:
    attention = truth.model.model.layers[layer - 1].self_attn
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("stream", "input", "query", "key", "value")}
    with torch.inference_mode():
        for ids in truth.sequences:
            stream = truth.stream(ids)[layer - 2]
            assert {0} == set(massive(stream)[:, 0].tolist())
            normed = truth.model.model.layers[layer - 1].input_layernorm(stream)
            projections = (attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed))
            for name, value in zip(rows, (stream, normed, *projections), strict=True):
                rows[name].append(value)
    found = reading(shipped, "norm-leaves-one-direction")
    for name, values in rows.items():
        norms = torch.stack(values).norm(dim=-1)
        expected = float(norms[:, 0].mean() / norms[:, 1:].mean())
        assert expected == pytest.approx(found[f"{name}_ratio"].at(layer=layer), rel=1e-4), name
    firsts = normalize(torch.stack(rows["input"])[:, 0], dim=-1)
    pairs = firsts @ firsts.T
    assert float((pairs.sum() - pairs.trace()) / 12) == pytest.approx(found["massive_cosine"].at(layer=layer), abs=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_bias_is_split_off_as_equation_2_says(shipped: PropertyReport, truth: Truth, layer: int) -> None:
    attention = truth.model.model.layers[layer - 1].self_attn
    totals = torch.zeros(3, dtype=torch.float64)
    for ids in truth.sequences:
        with torch.inference_mode():
            normed = truth.model.model.layers[layer - 1].input_layernorm(truth.stream(ids)[layer - 2])
            values = attention.v_proj(normed).view(len(normed), 3, 64).transpose(0, 1).repeat_interleave(3, dim=0)
        maps = eager_maps(truth, ids)[layer - 1][0]
        u = (maps[:, 8:, :1] @ values[:, :1]).double()
        r = (maps[:, 8:, 1:] @ values[:, 1:]).double()
        for index, part in enumerate((u, r)):
            mean = part.mean(dim=1, keepdim=True)
            totals[index] += ((part - mean).norm(dim=-1).mean(dim=1) / mean[:, 0].norm(dim=-1)).sum()
        size_u, size_r = u.norm(dim=-1).mean(dim=1), r.norm(dim=-1).mean(dim=1)
        totals[2] += (size_u / (size_u + size_r)).sum()
    found = reading(shipped, "massive-tokens-act-as-a-bias")
    expected = (totals / (9 * len(truth.sequences))).tolist()
    names = ("bias_variation", "rest_variation", "bias_share")
    assert expected == pytest.approx([found[name].at(layer=layer) for name in names], rel=1e-3)


def test_after_the_norm_massive_tokens_are_one_direction_and_smaller_than_others(shipped: PropertyReport) -> None:
    found = reading(shipped, "norm-leaves-one-direction")
    assert tuple(range(13, 30)) == found["massive_cosine"].axes[0].labels
    assert min(found["stream_ratio"].values) > 30
    assert max(found["input_ratio"].values) < 0.6
    assert min(found["massive_cosine"].values) > 0.999
    assert max(found["rest_cosine"].values) < 0.85
    assert min(found["sparsity"].values) > 0.6


def test_what_massive_tokens_add_varies_half_as_much_as_the_rest_or_less(shipped: PropertyReport) -> None:
    found = reading(shipped, "massive-tokens-act-as-a-bias")
    assert min(found["constancy"].values) > 1.8
    assert max(found["bias_variation"].values) < 0.65
