"""A token's trace, the layer and channels of massive weights, and their rows switched off."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hidden_states import PlainBatch, batch, context, noise
from probes_by_hand import PERPLEXITY, REGISTRY, case
from test_rows import experts
from torch import nn

import maprobe
from maprobe.cases import InputsRequest, InterveneRequest, MeasureRequest
from maprobe.edits import RowsEdit
from maprobe.errors import InputError, InterventionError, MeasurementError
from maprobe.interventions.massive_weights import MASSIVE_WEIGHTS_OFF
from maprobe.measurements.massive_weights import MASSIVE_WEIGHTS
from maprobe.measurements.published_weights import PUBLISHED_WEIGHTS
from maprobe.measurements.token_trace import TOKEN_TRACE
from maprobe.planning import located_by, located_on, make_plan
from maprobe.readings import Reading
from maprobe.recipes import FoldContext, MeasurementRecipe, Tap
from maprobe.running.recorder import Recorder
from maprobe.selftest.design import CHANNEL, PLANTED
from maprobe.selftest.opening import open_llama
from maprobe.settling import settle
from maprobe.verdicts import Status

LAYERS, WIDTH, CHANNELS, LENGTH = (1, 2, 3, 4), 32, 48, 6
STATES = ("block_in", "attn_in", "attn_out", "mid", "mlp_in", "mlp_hidden", "mlp_out", "block_out")
SITES = {
    "attn_in": "block.attn.in",
    "attn_out": "block.attn.out",
    "mid": "block.mid",
    "mlp_in": "block.mlp.in",
    "mlp_hidden": "block.mlp.hidden",
    "mlp_out": "block.mlp.out",
}
OFF = InterveneRequest(
    target="massive-weights",
    at="largest-gain",
    set="",
    control="random",
    options=(("least", 100.0), ("rows", "top"), ("token", "bos"), ("top", 2)),
)


def of_all_layers(recipe: MeasurementRecipe, **options: object) -> FoldContext:
    return replace(context(recipe, **options), layers=LAYERS)


def option(**values: object) -> tuple[tuple[str, object], ...]:
    return tuple(sorted({**dict(OFF.options), **values}.items()))


def measure(
    *, written: dict[int, float] | None = None, sequences: int = 2, infinite: bool = False, **options: object
) -> Reading:
    """The stream is 2 at most at the first token, and what MLPs add is 1 at most, save for what is written.

    Channels 7 and 3 of the hidden state of every layer are 900 and -300 at it; all other tokens are far larger.
    """
    fold = MASSIVE_WEIGHTS.start(of_all_layers(MASSIVE_WEIGHTS, **options))
    for layer in range(5):
        stream = noise(sequences, LENGTH, WIDTH, seed=layer).clamp(-1, 1)
        stream[:, 1:] *= 1000
        stream[:, 0, 3] = -2.0
        fold.observe(Tap("block.out", layer), stream, batch(sequences))
        if not layer:
            continue
        hidden, added = noise(sequences, LENGTH, CHANNELS, seed=10 + layer), torch.zeros(sequences, LENGTH, WIDTH)
        hidden[:, 0, 7], hidden[:, 0, 3], hidden[:, 1:] = 900.0, -300.0, 1e6
        added[:, 0, 5], added[:, 1:] = -1.0, 1e6
        for sequence in range(sequences):
            added[sequence, 0, 5] = (written or {}).get(layer, 1.0) * (1 + sequence)
        if infinite and layer == 3:
            hidden[0, 0, 1] = math.inf
        fold.observe(Tap("block.mlp.hidden", layer), hidden, batch(sequences))
        fold.observe(Tap("block.mlp.out", layer), added, batch(sequences))
    return fold.finish({})


class TestTheLayer:
    def test_it_is_the_one_whose_mlp_adds_most_to_the_first_token_beside_what_enters(self) -> None:
        reading = measure(written={2: -400.0, 4: 150.0})
        # The second sequence gains more: it is added twice as much there.
        assert (2, 400.0, 400 / 150, 1) == (
            reading["layer"].value,
            reading["gain"].value,
            reading["margin"].value,
            reading["gain"].places[0].sequence,
        )
        assert (1.0, 400.0, 1.0, 150.0) == reading["gains"].values

    def test_its_channels_come_with_the_largest_magnitude_first(self) -> None:
        reading = measure(written={2: 400.0}, top=3)
        assert [(1, 7, 900.0), (2, 3, -300.0)] == [(r["rank"], r["channel"], r["value"]) for r in reading.records[:2]]
        assert 3 == len(reading.records)
        hidden = noise(2, LENGTH, CHANNELS, seed=12)[1, 0].abs()
        hidden[7], hidden[3] = 900.0, 300.0
        assert (7, 900.0) == (reading["channel"].value, reading["hidden"].value)
        assert 900 / float(hidden.median()) == pytest.approx(reading["hidden_ratio"].value)
        assert tuple(hidden.argsort(descending=True).tolist()) == reading.kept["order"]
        assert reading["expert"].absent == "the MLP has no experts"

    def test_the_stream_after_it_is_told_beside_the_median_of_the_token(self) -> None:
        reading = measure(written={2: 400.0})
        stream = noise(2, LENGTH, WIDTH, seed=2).clamp(-1, 1)[1, 0].abs()
        stream[3] = 2.0
        assert (2.0, 3) == (reading["stream"].value, reading["stream"].places[0].dim)
        assert 2 / float(stream.median()) == pytest.approx(reading["stream_ratio"].value)

    def test_without_a_gain_that_is_large_enough_it_is_absent_and_the_nearest_are_named(self) -> None:
        absent = measure(written={2: 60.0, 3: 30.0}).absent
        assert absent is not None
        assert "at least 100 times as large" in absent
        assert "nearest: layer 2 with 60, then layer 3 with 30" in absent
        assert 2 == measure(written={2: 60.0}, least=50)["layer"].value

    def test_a_layer_that_is_named_is_taken_whatever_its_gain(self) -> None:
        reading = measure(written={2: 400.0}, at=3)
        assert (3, 1.0, 1 / 400) == tuple(reading[name].value for name in ("layer", "gain", "margin"))
        with pytest.raises(MeasurementError, match=r"layer 5 is not among those looked at.*largest-gain.*1\.\.4"):
            measure(at=5)

    def test_a_state_that_is_not_finite_leaves_the_question_open(self) -> None:
        with pytest.raises(MeasurementError, match="hidden of layer 3 holds entries that are not finite"):
            measure(written={2: 400.0}, infinite=True)


class TestExperts:
    @pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
    def test_the_expert_is_the_one_in_whose_row_the_largest_channel_lies(self, implementation: str) -> None:
        anatomy = experts("mixtral", implementation)
        alone = PlainBatch(torch.tensor([[1]]), (0,))
        fold = MASSIVE_WEIGHTS.start(replace(of_all_layers(MASSIVE_WEIGHTS, at=2), layers=(1, 2, 3)))
        with Recorder(anatomy, [fold]) as recorder:
            recorder.run(alone)
        assert recorder.failure(fold) is None
        reading = fold.finish({})
        mlp, caught = anatomy.model.model.layers[1].mlp.experts, []
        handle = mlp.register_forward_pre_hook(lambda module, args: caught.append(args))
        with torch.inference_mode():
            anatomy.model(alone.ids, use_cache=False)
            handle.remove()
            state, chosen, _ = caught[0]
            rows = {}
            for expert in chosen[0].tolist():
                gate, up = (mlp.gate_up_proj[expert] @ state[0]).chunk(2)
                rows[expert] = (nn.functional.silu(gate) * up).abs()
        largest = max(rows, key=lambda expert: float(rows[expert].max()))
        assert (largest, int(rows[largest].argmax())) == (reading["expert"].value, reading["channel"].value)
        assert float(rows[largest].max()) == pytest.approx(reading["hidden"].value, rel=1e-4)

    def test_rows_that_do_not_tell_the_token_are_refused(self) -> None:
        fold = MASSIVE_WEIGHTS.start(of_all_layers(MASSIVE_WEIGHTS))
        with pytest.raises(MeasurementError, match=r"layer 2 consists of experts.*write `inputs: {token: bos}`"):
            fold.observe(Tap("block.mlp.hidden", 2), noise(1, 12, CHANNELS)[0], batch(), offset=1)


class TestTheTrace:
    def test_it_is_the_largest_entries_of_each_state_and_their_median(self) -> None:
        fold = TOKEN_TRACE.start(of_all_layers(TOKEN_TRACE))
        states = {}
        for layer in range(5):
            for number, (name, site) in enumerate({"block_out": "block.out", **SITES}.items()):
                if layer or name == "block_out":
                    states[name, layer] = noise(2, LENGTH, WIDTH, seed=10 * layer + number)
                    fold.observe(Tap(site, layer), states[name, layer], batch(2))
        reading = fold.finish({})
        for name in STATES:
            source, before = ("block_out", 1) if name == "block_in" else (name, 0)
            tops = [float(states[source, layer - before][:, 0].abs().max()) for layer in LAYERS]
            assert tops == pytest.approx(reading[name].values)
        record = next(r for r in reading.records if (r["sequence"], r["layer"], r["state"]) == (1, 3, "mlp_out"))
        token = states["mlp_out", 3][1, 0]
        values, dims = token.abs().topk(3)
        assert dims.tolist() == [record[f"dim{rank}"] for rank in (1, 2, 3)]
        assert values.tolist() == pytest.approx([abs(record[f"value{rank}"]) for rank in (1, 2, 3)])
        assert float(token.abs().median()) == pytest.approx(record["median"])
        assert 2 * 4 * len(STATES) == len(reading.records)

    def test_a_state_that_cannot_be_read_is_absent_and_the_others_are_not(self) -> None:
        fold = TOKEN_TRACE.start(of_all_layers(TOKEN_TRACE))
        for layer in range(5):
            fold.observe(Tap("block.out", layer), noise(1, LENGTH, WIDTH), batch())
        reading = fold.finish({})
        assert "block.mid cannot be read" in str(reading["mid"].absent)
        assert reading["block_in"].absent is None

    def test_only_the_stream_has_to_be_readable(self) -> None:
        taps = TOKEN_TRACE.start(of_all_layers(TOKEN_TRACE)).taps
        assert {"block.out"} == {tap.site for tap in taps if not tap.optional}
        assert {*SITES.values()} == {tap.site for tap in taps if tap.optional}


class TestEdits:
    def edit(self, arm: str = "edited", **values: object) -> RowsEdit:
        (edit,) = MASSIVE_WEIGHTS_OFF.edits(measure(written={2: 400.0}), replace(OFF, options=option(**values)), arm)  # type: ignore[arg-type]
        assert isinstance(edit, RowsEdit)
        return edit

    def test_the_rows_of_the_largest_channels_are_switched_off(self) -> None:
        assert RowsEdit(layer=2, channels=(7, 3)) == self.edit()

    def test_or_those_of_all_others(self) -> None:
        assert RowsEdit(layer=2, channels=(7,), keep=True) == self.edit(rows="others", top=1)
        assert RowsEdit(layer=2, channels=(), keep=True) == self.edit(rows="others", top=0)

    def test_the_control_arm_has_as_many_random_rows_none_of_them_among_the_largest(self) -> None:
        edit = self.edit("control", top=4)
        order = measure(written={2: 400.0}).kept["order"]
        assert 4 == len({*edit.channels})
        assert not {*edit.channels} & {*order[:5]}
        assert edit == self.edit("control", top=4)
        assert self.edit("control", top=4, rows="others").keep

    def test_what_makes_no_sense_is_refused(self) -> None:
        with pytest.raises(InterventionError, match="`top: 0` with `rows: top` sets no row to zero"):
            self.edit(top=0)
        with pytest.raises(InterventionError, match="`top: 49` is more than the 48 channels"):
            self.edit(top=49)
        with pytest.raises(InterventionError, match="no row cannot be drawn.*write `control: none`"):
            self.edit("control", rows="others", top=0)
        with pytest.raises(InterventionError, match="30 rows cannot be drawn at random from the 18"):
            self.edit("control", top=30)


@cache
def planted() -> object:
    return open_llama("planted", PLANTED, {})


PROBES = """\
version: 1
suite: s
defaults:
  inputs: {text: ["the cat of the house", "a bird and the sun in the garden"]}
probes:
  - id: found
    claim: It is found.
    inputs: {token: bos}
    measure: {kind: massive.weights}
  - id: traced
    claim: It is traced.
    inputs: {token: bos}
    measure: {kind: token.trace}
  - id: off
    claim: It is off.
    measure: {kind: perplexity}
    intervene: {target: massive-weights, top: 1, token: "${token}"}
    parametrize: [{token: bos}, {token: first}]
"""


class TestOnAModel:
    def test_what_is_found_and_edited_is_what_was_planted(self, tmp_path: Path) -> None:
        source = planted()
        model, tokenizer = source.loaded.model, source.tokenizer  # type: ignore[attr-defined]
        (tmp_path / "a.probe.yaml").write_text(PROBES, encoding="utf-8")
        verdicts = {verdict.probe: verdict for verdict in maprobe.check(model, tokenizer, tmp_path).verdicts}
        assert {Status.PASSED} == {verdict.status for verdict in verdicts.values()}
        found = verdicts["found"].reading
        assert found is not None
        assert (2, CHANNEL) == (found["layer"].value, found["channel"].value)
        assert "<s> alone" == found.circumstances.inputs  # type: ignore[union-attr]
        mlp = model.model.layers[1].mlp
        kept = [weight[CHANNEL].clone() for weight in (mlp.gate_proj.weight, mlp.up_proj.weight)]

        def perplexity() -> float:
            total, count = 0.0, 0
            for text in ("the cat of the house", "a bird and the sun in the garden"):
                ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
                with torch.inference_mode():
                    logits = model(ids).logits[0, :-1].double()
                total += float(nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
                count += ids.shape[1] - 1
            return math.exp(total / count)

        untouched = perplexity()
        with torch.no_grad():
            mlp.gate_proj.weight[CHANNEL] = 0
            mlp.up_proj.weight[CHANNEL] = 0
            edited = perplexity()
            mlp.gate_proj.weight[CHANNEL], mlp.up_proj.weight[CHANNEL] = kept
        for token in ("bos", "first"):
            reading = verdicts[f"off-{token}"].reading
            assert reading is not None
            assert untouched == pytest.approx(reading["untouched"].value, rel=1e-5)
            assert edited == pytest.approx(reading["edited"].value, rel=1e-4)


class TestPlanning:
    def of(self, token: str, inputs: InputsRequest | None = None) -> tuple[object, ...]:
        intervene = replace(OFF, options=option(token=token))
        probe = {"measure": PERPLEXITY, "intervene": intervene, **({"inputs": inputs} if inputs else {})}
        return settle(case(**probe), planted().facts, REGISTRY), intervene  # type: ignore[attr-defined]

    def test_bos_alone_is_a_pass_of_its_own_and_the_first_token_is_not(self) -> None:
        for token, passes in (("bos", 4), ("first", 3)):
            settled, intervene = self.of(token)
            plan = make_plan([settled], REGISTRY, {"tiny": planted().facts}, _size)  # type: ignore[attr-defined,list-item]
            assert passes == plan.passes
            place = located_on(settled.arms["untouched"], intervene, REGISTRY)  # type: ignore[attr-defined,arg-type]
            located = located_by(intervene, REGISTRY)  # type: ignore[arg-type]
            assert [located in run.measures for run in plan.runs] == [run.key == place for run in plan.runs]
            assert (place == settled.arms["untouched"]) == (token == "first")  # type: ignore[attr-defined]

    def test_inputs_for_looking_that_cannot_be_made_are_the_fault_of_the_case(self) -> None:
        def size(checkpoint: str, inputs: InputsRequest) -> object:
            if inputs.source == "token":
                raise InputError("no beginning-of-sequence token")
            return _size(checkpoint, inputs)

        settled, _ = self.of("bos")
        plan = make_plan([settled], REGISTRY, {"tiny": planted().facts}, size)  # type: ignore[attr-defined,list-item,arg-type]
        assert "no beginning-of-sequence token" == plan.cases[0].fault
        assert not plan.runs


def _size(checkpoint: str, inputs: InputsRequest) -> object:
    from maprobe.planning import InputSize

    return InputSize(description=str(inputs.value), sequences=1, tokens=1, length=1, batches=1)


class TestPublished:
    CARD = "---\nmatches: [tiny]\npublished:\n  - figures:\n{}    source: arXiv:2410.01866\n    sure: paper\n---\n"

    def held_to(
        self, tmp_path: Path, layer: int = 2, channels: str = "[7, 3]", figures: str = "", matches: str = "tiny"
    ) -> Reading:
        path = tmp_path / "tiny.md"
        told = figures or f"      weights.layer: {layer}\n      weights.channels: {channels}\n"
        path.write_text(self.CARD.format(told).replace("[tiny]", f"[{matches}]"), encoding="utf-8")
        fold = PUBLISHED_WEIGHTS.start(of_all_layers(PUBLISHED_WEIGHTS, card=str(tmp_path)))
        for number in range(5):
            fold.observe(Tap("block.out", number), torch.ones(1, LENGTH, WIDTH), batch())
            if number:
                hidden = noise(1, LENGTH, CHANNELS)
                hidden[0, 0, 7], hidden[0, 0, 3] = 900.0, -300.0
                fold.observe(Tap("block.mlp.hidden", number), hidden, batch())
                added = torch.full((1, LENGTH, WIDTH), 500.0 if number == 2 else 1.0)
                fold.observe(Tap("block.mlp.out", number), added, batch())
        return fold.finish({})

    def test_places_as_published_agree(self, tmp_path: Path) -> None:
        reading = self.held_to(tmp_path)
        assert (0, 1, 1) == tuple(reading[name].value for name in ("layer_offset", "channel", "channels_jaccard"))
        assert ["2", "7, 3"] == [str(record["measured"]) for record in reading.records]

    def test_others_do_not(self, tmp_path: Path) -> None:
        reading = self.held_to(tmp_path, layer=3, channels="[3, 9, 7]")
        assert (-1, 0) == tuple(reading[name].value for name in ("layer_offset", "channel"))
        assert 0.5 == reading["channels_jaccard"].value

    def test_without_a_card_or_figures_it_is_absent(self, tmp_path: Path) -> None:
        assert "no card: none in" in str(self.held_to(tmp_path, matches="other").absent)
        none = self.held_to(tmp_path, figures="      massive.exists: true\n").absent
        assert none == f"{tmp_path / 'tiny.md'} has no published layer and channels of massive weights"

    def test_the_card_of_another_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MeasurementError, match="weights.layer is 9, and this model has 4 blocks"):
            self.held_to(tmp_path, layer=9)
        with pytest.raises(
            MeasurementError, match="weights.channels has 48, and the MLP of this model has 48 channels"
        ):
            self.held_to(tmp_path, channels="[48]")


def test_looking_is_asked_with_what_the_intervention_says() -> None:
    located = located_by(replace(OFF, at=3), REGISTRY)
    assert located == MeasureRequest(
        kind="massive.weights", site="block.mlp.hidden", options=(("at", 3), ("least", 100.0), ("top", 5))
    )
