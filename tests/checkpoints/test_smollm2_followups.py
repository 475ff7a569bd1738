"""Super weights, a window without the first tokens, and BOS, on SmolLM2-135M-Instruct, against a few lines of torch.

The literal figures were measured with torch 2.13.0 (CPU) and transformers 5.23.0 in float32.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ground_truth import LENGTH, Truth, massive

from maprobe.checking import check
from maprobe.readings import Reading
from maprobe.reporting.report import PropertyReport
from maprobe.running.checkpoints import LoadedCheckpoint
from maprobe.running.digests import parameters_digest

LAYER, ROW, COLUMN = 12, 507, 1229


def reading(report: PropertyReport, probe: str) -> Reading:
    (found,) = [verdict.reading for verdict in report.verdicts if verdict.probe == probe]
    assert found is not None
    return found


def test_the_super_weight_is_where_the_largest_input_and_output_of_a_down_projection_meet(
    truth: Truth, shipped: PropertyReport
) -> None:
    spikes: list[tuple[float, int, int, int]] = []

    def hook(layer: int) -> Any:
        def seen(module: Any, args: Any, output: torch.Tensor) -> None:
            column = int(args[0][0].abs().argmax()) % args[0].shape[-1]
            row = int(output[0].abs().argmax()) % output.shape[-1]
            spikes.append((float(output.abs().max()), layer, row, column))

        return seen

    blocks = truth.model.model.layers
    handles = [block.mlp.down_proj.register_forward_hook(hook(layer)) for layer, block in enumerate(blocks, 1)]
    with torch.inference_mode():
        for ids in truth.sequences:
            truth.model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    peak, *place = max(spikes)
    found = reading(shipped, "super-weights")
    assert [LAYER, ROW, COLUMN] == place == [found[name].value for name in ("layer", "row", "column")]
    assert 23940 == pytest.approx(peak, rel=1e-3)
    assert peak == pytest.approx(found["output_peak"].values[LAYER - 1], rel=1e-5)


def test_that_one_weight_set_to_zero_multiplies_perplexity_by_seven(
    truth: Truth, shipped: PropertyReport, smollm2: LoadedCheckpoint
) -> None:
    weight = truth.model.model.layers[LAYER - 1].mlp.down_proj.weight
    before, digest = weight[ROW, COLUMN].item(), parameters_digest(smollm2.model)
    with torch.no_grad():
        weight[ROW, COLUMN] = 0
        expected = truth.perplexity()
        weight[ROW, COLUMN] = before
    found = reading(shipped, "zeroing-one-weight")
    assert 104.9 == pytest.approx(expected, rel=5e-3)
    assert expected == pytest.approx(found["edited"].value, rel=1e-4)
    assert 1 == pytest.approx(found["control.ratio"].value, abs=0.002)
    assert digest == parameters_digest(smollm2.model)


@pytest.mark.parametrize(("sinks", "arm", "figure"), [(0, "edited", 18.81), (4, "control.edited", 14.02)])
def test_a_window_without_the_first_tokens_harms_and_four_of_them_repair_it(
    truth: Truth, shipped: PropertyReport, sinks: int, arm: str, figure: float
) -> None:
    query, key = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None, :]
    seen = (key <= query) & ((key > query - 256) | (key < sinks))
    with torch.inference_mode():
        losses = [
            truth.model(ids, attention_mask=seen[None, None], labels=ids, use_cache=False).loss.double()
            for ids in truth.sequences
        ]
    expected = math.exp(sum(map(float, losses)) / len(losses))
    assert figure == pytest.approx(expected, rel=2e-3)
    assert expected == pytest.approx(reading(shipped, "window-needs-first-tokens")[arm].value, rel=1e-4)


@pytest.mark.parametrize(("policy", "top", "perplexity"), [("with-bos", 24926, 19.40), ("without-bos", 24728, 17.91)])
def test_bos_is_massive_where_it_comes_first_and_so_is_any_other_token(
    truth: Truth, shipped: PropertyReport, policy: str, top: float, perplexity: float
) -> None:
    stream = torch.tensor(truth.tokens())
    length = 255 if policy == "with-bos" else 256
    rows = [stream[n * length : (n + 1) * length] for n in range(5, 9)]
    if policy == "with-bos":
        rows = [torch.cat([torch.tensor([truth.tokenizer.bos_token_id]), row]) for row in rows]
    peaks, losses = [], []
    for row in rows:
        peaks.append(max(float(hidden[0].abs().max()) for hidden in truth.stream(row[None])[1:-1]))
        with torch.inference_mode():
            losses.append(float(truth.model(row[None], labels=row[None], use_cache=False).loss))
    assert top == pytest.approx(max(peaks), rel=1e-3)
    assert max(peaks) == pytest.approx(max(reading(shipped, f"first-token-{policy}")["top"].values), rel=1e-5)
    expected = math.exp(sum(losses) / len(losses))
    assert perplexity == pytest.approx(expected, rel=2e-3)
    assert expected == pytest.approx(reading(shipped, f"perplexity-{policy}")["perplexity"].value, rel=1e-4)


def test_zeroing_in_a_layer_of_choice_is_zeroing_what_is_massive_there(
    truth: Truth, smollm2: LoadedCheckpoint, tmp_path: Any
) -> None:
    (tmp_path / "x.probe.yaml").write_text(
        """
        version: 1
        suite: x
        probes:
          - id: later
            claim: Zeroing the massive activations of layer 20 destroys perplexity as well.
            inputs: {corpus: python-docs, sequences: 4, skip: 5, length: 512}
            measure: {kind: perplexity}
            intervene: {target: massive, at: 20}
            control: none
            expect: {ratio: {gt: 10}}
        """,
        encoding="utf-8",
    )
    report = check(smollm2.model, smollm2.tokenizer, tmp_path, label="smollm2-135m")

    def zero(hidden: torch.Tensor) -> None:
        for token, dim in massive(hidden[0]).tolist():
            hidden[0, token, dim] = 0

    with truth.edited(20, zero):
        expected = truth.perplexity()
    assert 43683 == pytest.approx(expected, rel=0.02)
    assert expected == pytest.approx(reading(report, "later")["edited"].value, rel=1e-3)
