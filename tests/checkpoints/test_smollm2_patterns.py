"""SmolLM2-135M-Instruct: attributions of one layer, recomputed by plain autograd, one sequence at a time."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from maprobe.checking import check
from maprobe.corpora import CORPORA
from maprobe.readings import Reading
from maprobe.running.checkpoints import LoadedCheckpoint

LAYER, LENGTH, GAMMA = 16, 32, 2e-4
DOMAINS = {"prose": "python-docs", "code": "python-source"}
PROBES = f"""
version: 1
suite: patterns
defaults:
  inputs:
    domains: {{prose: {{corpus: python-docs}}, code: {{corpus: python-source}}}}
    sequences: 2
    length: {LENGTH}
probes:
  - {{id: density, claim: C., measure: {{kind: parameters.density, layers: {LAYER}, gammas: [{GAMMA}, 2.0e-5]}}}}
  - {{id: similarity, claim: C., measure: {{kind: parameters.similarity, layers: {LAYER}..17}}}}
"""


def attributions(loaded: LoadedCheckpoint, ids: list[int]) -> torch.Tensor:
    """|w * dD/dw| of the matrices of one block, by a backward pass through the whole model."""
    block = loaded.model.model.layers[LAYER - 1]
    weights = [weight for weight in block.parameters() if weight.dim() == 2]
    assert 7 == len(weights)
    largest = loaded.model(torch.tensor([ids]), use_cache=False).logits[0, -1].max()
    gradients = torch.autograd.grad(largest, weights)
    return torch.cat(
        [(weight * part).abs().flatten() for weight, part in zip(weights, gradients, strict=True)]
    ).detach()


@pytest.fixture(scope="module")
def readings(smollm2: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    path = tmp_path_factory.mktemp("patterns") / "patterns.probe.yaml"
    path.write_text(PROBES, encoding="utf-8")
    report = check(smollm2.model, smollm2.tokenizer, path, label="smollm2-135m")
    return {verdict.probe: verdict.reading for verdict in report.verdicts if verdict.reading is not None}


@pytest.fixture(scope="module")
def plain(smollm2: LoadedCheckpoint) -> dict[str, list[torch.Tensor]]:
    texts = {corpus.name: corpus.load() for corpus in CORPORA if corpus.name in DOMAINS.values()}
    found = {}
    for domain, name in DOMAINS.items():
        ids = smollm2.tokenizer(texts[name], add_special_tokens=False)["input_ids"]
        cut = [ids[start : start + LENGTH] for start in (0, LENGTH)]
        found[domain] = [attributions(smollm2, list(part)) for part in cut]
    return found


def test_the_density_of_a_layer(readings: dict[str, Reading], plain: dict[str, list[torch.Tensor]]) -> None:
    means = torch.stack([vector for vectors in plain.values() for vector in vectors]).mean(dim=0)
    expected, found = float((means > GAMMA).double().mean()), readings["density"]["density"].values[0]
    assert expected == pytest.approx(found, abs=2e-6)  # a few weights of 3.5 million lie at the bound
    assert 0.4 < found < 0.7
    by_domain = {(row["domain"], row["gamma"]): row["density"] for row in readings["density"].records}
    for domain, vectors in plain.items():
        share = float((torch.stack(vectors).mean(dim=0) > 2e-5).double().mean())
        assert share == pytest.approx(by_domain[domain, 2e-5], abs=2e-6)


def test_the_cosines_of_a_layer(readings: dict[str, Reading], plain: dict[str, list[torch.Tensor]]) -> None:
    rows = [(domain, vector.double()) for domain, vectors in plain.items() for vector in vectors]
    within, across = [], []
    for (one, first), (other, second) in combinations(rows, 2):
        cosine = float(torch.cosine_similarity(first, second, dim=0))
        (within if one == other else across).append(cosine)
    found = readings["similarity"]
    assert sum(within) / len(within) == pytest.approx(found["within"].values[0], rel=1e-4)
    assert sum(across) / len(across) == pytest.approx(found["across"].values[0], rel=1e-4)
    assert (2, 4) == (len(within), len(across))


def test_the_model_is_as_it_was(smollm2: LoadedCheckpoint, readings: dict[str, Reading]) -> None:
    assert readings
    assert all(weight.grad is None and weight.requires_grad for weight in smollm2.model.parameters())
