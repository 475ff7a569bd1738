"""What the pictures of SmolLM2-135M-Instruct are drawn from, against a few plain lines of torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ground_truth import Truth, massive

from maprobe.readings import Reading
from maprobe.reporting.plots.gallery import hang
from maprobe.reporting.report import PropertyReport

TEXT = "Summer is warm. Winter is cold."


def reading(report: PropertyReport, probe: str) -> Reading:
    found = next(verdict for verdict in report.verdicts if verdict.probe == probe)
    assert found.reading is not None, found.reason
    return found.reading


@pytest.fixture(scope="module")
def ids(truth: Truth) -> torch.Tensor:
    return torch.tensor([truth.tokenizer(TEXT, add_special_tokens=False)["input_ids"]])


def test_the_landscape_is_that_of_the_first_massive_hidden_state(
    shipped: PropertyReport, truth: Truth, ids: torch.Tensor
) -> None:
    stream = truth.stream(ids)
    layer = next(number for number, hidden in enumerate(stream, start=1) if len(massive(hidden.squeeze(0))))
    hidden, found = stream[layer - 1].squeeze(0), reading(shipped, "landscape")
    assert (layer, len(massive(hidden))) == (found["layer"].value, found["entries"].value)
    assert massive(hidden).tolist() == [[row["position"], row["dim"]] for row in found.records if row["massive"]]
    assert float(hidden.abs().max()) == pytest.approx(found["top"].value, rel=1e-4)
    for row in found.records[::29]:
        stretch = hidden[int(row["position"]), int(row["dim"]) : int(row["last_dim"]) + 1].abs()
        entry = found["top"].places[0].dim
        if row["dim"] == row["last_dim"] or not row["dim"] <= entry <= row["last_dim"]:
            assert float(stretch.max()) == pytest.approx(row["magnitude"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("layer", [12, 13])
def test_logits_and_probabilities_are_those_of_queries_and_keys_by_hand(
    shipped: PropertyReport, truth: Truth, ids: torch.Tensor, layer: int
) -> None:
    attention, kept = truth.model.model.layers[layer - 1].self_attn, {}
    handle = attention.register_forward_pre_hook(lambda m, args, kwargs: kept.update(kwargs), with_kwargs=True)
    with torch.inference_mode():
        truth.model(ids, use_cache=False)
        handle.remove()
        width, length = attention.head_dim, ids.shape[1]
        cos, sin = (part[0, :, : width // 2] for part in kept["position_embeddings"])

        def turned(projection: torch.nn.Linear) -> torch.Tensor:
            rows = projection(kept["hidden_states"])[0].view(length, -1, width).transpose(0, 1)
            left, right = rows[..., : width // 2], rows[..., width // 2 :]
            return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

        query, key = turned(attention.q_proj), turned(attention.k_proj)
        scores = query @ key.repeat_interleave(len(query) // len(key), dim=0).mT / width**0.5
        masked = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        logits, shares = scores.mean(0), masked.softmax(-1).mean(0)
    rows = [row for row in reading(shipped, "attention-map").records if row["layer"] == layer]
    assert length * (length + 1) // 2 == len(rows)
    for row in rows:
        place = row["query"], row["key"]
        assert float(logits[place]) == pytest.approx(row["logit"], abs=2e-3)
        assert float(shares[place]) == pytest.approx(row["probability"], abs=1e-4)


def test_massive_keys_draw_high_logits_only_after_they_emerged(shipped: PropertyReport) -> None:
    found = reading(shipped, "attention-map")
    before, after = (found["massive_logit"].at(layer=layer) for layer in (12, 13))
    others = [found["other_logit"].at(layer=layer) for layer in (12, 13)]
    assert before < others[0]
    assert after > others[1] + 1
    assert found["massive_probability"].at(layer=13) > 0.5


def test_every_picture_of_the_shipped_suite_is_drawn_or_has_a_reason(shipped: PropertyReport, tmp_path: Path) -> None:
    hanging = hang(shipped, tmp_path)
    assert ["no picture of not-in-the-embedding"] == [sentence.split(" on ")[0] for sentence in hanging.lacking]
    assert not hanging.failed
    names = {Path(link.path).stem for link in hanging.links}
    assert {
        "exists-layerwise",
        "emerge-at-once-layerwise",
        "landscape",
        "attention-map",
        "attention-concentrates-heads",
        "first-token-is-a-sink-heads",
        "constant-value-constancy",
    } <= names
