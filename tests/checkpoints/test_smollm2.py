"""SmolLM2-135M-Instruct, the embedded default: published or earlier measured figures, and plain recomputations.

The literal figures were measured with torch 2.13.0 (CPU) and transformers 5.23.0 in float32, on the text of
``pydoc_data.topics`` of Python 3.11, sequences 6 to 9 of 512 tokens; no BOS.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from ground_truth import PROMPT, Truth, massive

from maprobe.checking import check
from maprobe.readings import Reading
from maprobe.reporting.report import PropertyReport
from maprobe.reporting.tables import layer_table
from maprobe.running.checkpoints import LoadedCheckpoint
from maprobe.verdicts import Status, Verdict

# The text of pydoc_data.topics changes with the Python version, so figures on it are those of one version.
same_text = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="figures on the documentation of Python 3.11")

ON_A_PROMPT = """
version: 1
suite: prompt
probes:
  - id: layers
    claim: The largest entries of each layer.
    inputs: {{text: {text!r}, bos: never}}
    measure: {{kind: magnitude, layers: all, top: 4}}
"""


def verdict(report: PropertyReport, probe: str) -> Verdict:
    return next(found for found in report.verdicts if found.probe == probe)


def reading(report: PropertyReport, probe: str) -> Reading:
    found = verdict(report, probe).reading
    assert found is not None, verdict(report, probe).reason
    return found


@pytest.fixture(scope="module")
def on_a_prompt(smollm2: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Reading:
    path: Path = tmp_path_factory.mktemp("prompt") / "prompt.probe.yaml"
    text = PROMPT.replace("\n", "\\n")
    path.write_text(ON_A_PROMPT.format(text=text).replace("'", '"').replace("\\\\n", "\\n"), encoding="utf-8")
    report = check(smollm2.model, smollm2.tokenizer, path)
    return reading(report, "layers")


class TestOnAPrompt:
    @pytest.mark.parametrize(
        ("layer", "top", "position", "median", "ratio"),
        [
            (2, 206.1, 0, 0.788, 261),
            (3, 747.1, 19, 0.933, 801),
            (11, 115.2, 1, 1.667, 69),
            (12, 23147.1, 0, 1.653, 14004),
            (20, 23048.5, 0, 3.301, 6983),
            (28, 22764.0, 0, 10.027, 2270),
            (29, 8442.4, 0, 10.939, 772),
        ],
    )
    def test_the_largest_entry_of_a_layer_is_as_measured_before(
        self, on_a_prompt: Reading, layer: int, top: float, position: int, median: float, ratio: float
    ) -> None:
        assert top == pytest.approx(on_a_prompt["top"].at(layer=layer), rel=0.01)
        assert median == pytest.approx(on_a_prompt["median"].at(layer=layer), rel=0.01)
        assert ratio == pytest.approx(on_a_prompt["ratio"].at(layer=layer), rel=0.01)
        place = on_a_prompt["top"].places[layer - 1]
        assert (position, 507) == (place.position, place.dim)

    def test_the_four_largest_entries_of_layer_12_have_their_dims(self, on_a_prompt: Reading) -> None:
        rows = [row for row in on_a_prompt.records if row["layer"] == 12]
        assert [(0, 507), (0, 247), (0, 14), (0, 100)] == [(row["position"], row["dim"]) for row in rows]
        assert [23147.1, 1692.8, 850.0, 764.5] == pytest.approx([abs(float(row["value"])) for row in rows], rel=0.01)

    def test_every_layer_is_what_plain_torch_gives(self, on_a_prompt: Reading, truth: Truth) -> None:
        for layer, hidden in enumerate(truth.stream(truth.prompt()), start=1):
            magnitude = hidden.abs()
            assert float(magnitude.max()) == on_a_prompt["top"].at(layer=layer)
            assert float(magnitude.flatten().median()) == on_a_prompt["median"].at(layer=layer)
            assert len(massive(hidden)) == on_a_prompt["hits"].at(layer=layer)


class TestExistenceAndPlace:
    def test_every_shipped_probe_holds(self, shipped: PropertyReport) -> None:
        others = [found for found in shipped.verdicts if found.status is not Status.PASSED]
        assert [] == [(found.probe, found.reason) for found in others if found.status is not Status.NOT_APPLICABLE]
        assert {"vision.probe.yaml"} == {found.mark.rpartition("/")[2].partition(":")[0] for found in others}

    def test_the_strict_criterion_holds_in_layers_12_to_28_and_nowhere_else(self, shipped: PropertyReport) -> None:
        hits = reading(shipped, "in-every-sequence")["hits"]
        layers = [label for label, count in zip(hits.axes[0].labels, hits.values, strict=True) if count]
        assert list(range(12, 29)) == layers

    def test_it_holds_for_one_entry_of_each_sequence_and_in_layers_12_and_13_for_a_second_of_some(
        self, shipped: PropertyReport, truth: Truth
    ) -> None:
        found = reading(shipped, "in-every-sequence")
        layers = zip(*map(truth.stream, truth.sequences), strict=True)
        plain = [sum(len(massive(hidden)) for hidden in layer) for layer in layers]
        assert plain == list(found["hits"].values)
        assert [4] * 15 == plain[13:28]
        assert all(4 < count <= 8 for count in plain[11:13])
        assert (2, 1) == (found["dims"].value, found["first_token_share"].value)

    @same_text
    def test_layers_3_and_29_are_near_misses_that_the_table_shows_and_nothing_counts(
        self, shipped: PropertyReport
    ) -> None:
        found = reading(shipped, "in-every-sequence")
        assert (924, 827) == pytest.approx((found["ratio"].at(layer=3), found["ratio"].at(layer=29)), rel=0.01)
        assert (0, 0) == (found["hits"].at(layer=3), found["hits"].at(layer=29))
        rows = [line for line in layer_table(shipped, format="simple", every=False).splitlines() if "near miss" in line]
        assert ["3", "29"] == [row.split()[0] for row in (rows[0], rows[-1])]

    @same_text
    def test_the_value_at_the_first_token_is_nearly_constant(self, smollm2: LoadedCheckpoint, truth: Truth) -> None:
        values = [float(truth.stream(ids)[11][0, 507]) for ids in truth.sequences]
        assert [23978.6, 22800.5, 22189.2, 23169.1] == pytest.approx(values, rel=0.01)


class TestInterventions:
    @same_text
    def test_the_untouched_perplexity_is_13_9(self, shipped: PropertyReport) -> None:
        untouched = reading(shipped, "zeroing-destroys-perplexity")["untouched"].value
        assert pytest.approx(13.906, rel=0.001) == untouched

    def test_perplexity_is_what_the_models_own_loss_gives(self, shipped: PropertyReport, truth: Truth) -> None:
        untouched = reading(shipped, "zeroing-destroys-perplexity")["untouched"].value
        assert truth.perplexity() == pytest.approx(untouched, rel=1e-5)

    def test_zeroing_multiplies_perplexity_by_more_than_100000(self, shipped: PropertyReport) -> None:
        assert reading(shipped, "zeroing-destroys-perplexity")["ratio"].value > 100_000

    def test_zeroing_by_a_plain_hook_gives_the_same_perplexity(self, shipped: PropertyReport, truth: Truth) -> None:
        def zero(stream: torch.Tensor) -> None:
            for position, dim in massive(stream[0]).tolist():
                stream[0, position, dim] = 0

        with truth.edited(12, zero):
            plain = truth.perplexity()
        assert plain == pytest.approx(reading(shipped, "zeroing-destroys-perplexity")["edited"].value, rel=1e-4)

    def test_the_control_stays_within_1_percent(self, shipped: PropertyReport) -> None:
        assert 1 == pytest.approx(reading(shipped, "zeroing-destroys-perplexity")["control.ratio"].value, rel=0.01)

    def test_the_mean_brings_perplexity_back_within_1_percent(self, shipped: PropertyReport) -> None:
        assert 1 == pytest.approx(reading(shipped, "mean-restores-perplexity")["ratio"].value, rel=0.01)

    def test_the_mean_by_a_plain_hook_gives_the_same_perplexity(self, shipped: PropertyReport, truth: Truth) -> None:
        states = [truth.stream(ids)[11] for ids in truth.sequences]
        found = [(int(dim), float(state[position, dim])) for state in states for position, dim in massive(state)]
        means = {dim: sum(v for d, v in found if d == dim) / sum(d == dim for d, _ in found) for dim, _ in found}

        def mean(stream: torch.Tensor) -> None:
            for position, dim in massive(stream[0]).tolist():
                stream[0, position, dim] = means[dim]

        with truth.edited(12, mean):
            plain = truth.perplexity()
        assert plain == pytest.approx(reading(shipped, "mean-restores-perplexity")["edited"].value, rel=1e-4)


class TestAttentionAndRange:
    def test_the_first_token_draws_less_than_a_quarter_before_layer_13_and_more_from_there_on(
        self, shipped: PropertyReport
    ) -> None:
        share = reading(shipped, "attention-concentrates")["layer_share"]
        assert max(share.values[:12]) < 0.25
        assert min(share.values[12:]) > 0.25
        assert max(share.values) < 0.65

    def test_the_shares_are_those_of_eager_attention_maps(self, shipped: PropertyReport, truth: Truth) -> None:
        shares = reading(shipped, "attention-concentrates")["layer_share"].values
        assert truth.attention_to_first() == pytest.approx(list(shares), rel=1e-3, abs=1e-5)

    def test_the_largest_activation_takes_a_third_of_the_range_of_float16(
        self, shipped: PropertyReport, truth: Truth
    ) -> None:
        found = reading(shipped, "fits-float16")
        largest = max(float(hidden.abs().max()) for ids in truth.sequences for hidden in truth.stream(ids))
        assert largest == max(found["largest"].values)
        assert largest / 65504 == pytest.approx(max(found["range_share"].values))
        assert [0.0] * 30 == list(reading(shipped, "finite")["nonfinite"].values)


def test_the_checkpoint_is_the_one_that_was_measured(smollm2: LoadedCheckpoint) -> None:
    provenance = smollm2.provenance
    assert 134_515_008 == provenance.parameters
    assert "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70" in provenance.resolved
    assert provenance.weights_digest.startswith("b179c952")
    assert (30, 576, False) == (
        smollm2.facts["num_hidden_layers"],
        smollm2.facts["hidden_size"],
        smollm2.facts["adds_bos"],
    )
