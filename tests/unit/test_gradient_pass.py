"""The gradient pass as part of a run: who is shown what, what is planned and counted, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hidden_states import facts
from probes_by_hand import MAGNITUDE, case
from test_planning import plan
from test_recorder import BATCH, Keep, anatomy_of
from tiny_models import tiny

from maprobe.builtin import builtin_registry
from maprobe.cases import InputsRequest, MeasureRequest
from maprobe.edits import Edit
from maprobe.errors import MeasurementError
from maprobe.planning import InputSize, Plan, Run, RunKey, companion_request, make_plan
from maprobe.progress import Silent
from maprobe.readings import Reading
from maprobe.recipes import Batch, Tap
from maprobe.running.attributions import AllSequences
from maprobe.running.checkpoints import held
from maprobe.running.inputs import prepare
from maprobe.running.recorder import Recorder
from maprobe.running.runner import execute
from maprobe.running.subjects import examine
from maprobe.selftest.opening import open_patterns
from maprobe.settling import settle
from maprobe.sites import TokenSet

SEQUENCES = ((5, 9, 40, 77, 3), (8, 8, 100), (64, 2, 31, 90, 17))
REGISTRY = builtin_registry()
DENSITY = companion_request("parameters.density", REGISTRY)
SIMILARITY = companion_request("parameters.similarity", REGISTRY)


class KeepBatch(Keep):
    batch: Batch | None = None

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        super().observe(tap, value, batch, offset=offset)
        self.batch = batch


class TestFolds:
    def test_that_tap_the_site_are_shown_every_sequence(self) -> None:
        fold = KeepBatch((Tap("block.attribution", 2),))
        with Recorder(anatomy_of(), [fold]) as recorder:
            assert not recorder.observes
            recorder.differentiate(SEQUENCES)
        assert {Tap("block.attribution", 2)} == set(fold.seen)
        assert all(len(value) == 3 and not value.requires_grad for value in fold.seen[Tap("block.attribution", 2)])
        assert 0 == fold.queries[0] < fold.queries[1]
        assert fold.batch is not None
        assert (1, 0, 2) == fold.batch.sequences
        assert (4, 2) == (recorder.forwards, recorder.backwards)

    def test_of_other_sites_are_not_shown_the_blocks_again(self) -> None:
        other, fold = Keep((Tap("block.out", 1), Tap("block.attn.probs", 1))), Keep((Tap("block.attribution", 1),))
        anatomy = anatomy_of()
        with Recorder(anatomy, [other, fold]) as recorder:
            recorder.run(BATCH)
            shown = {tap: len(values) for tap, values in other.seen.items()}
            recorder.differentiate(SEQUENCES)
        assert shown == {tap: len(values) for tap, values in other.seen.items()}
        assert fold.seen
        alone = Keep(fold.taps)
        with Recorder(anatomy, [alone]) as recorder:
            recorder.differentiate(SEQUENCES)
        for one, two in zip(alone.seen[fold.taps[0]], fold.seen[fold.taps[0]], strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)

    def test_of_other_sites_are_not_asked_for_a_gradient(self) -> None:
        with Recorder(anatomy_of(), [Keep((Tap("block.out", 1),))]) as recorder:
            assert recorder.observes
            recorder.run(BATCH)
            recorder.differentiate(SEQUENCES)
        assert (1, 0) == (recorder.forwards, recorder.backwards)

    def test_under_an_edit_are_refused_and_the_others_are_not(self) -> None:
        refused, other = Keep((Tap("block.attribution", 2),)), Keep((Tap("block.out", 3),))
        edit = Edit(layer=1, sequence=0, position=0, dim=3, value=7.0)
        with Recorder(anatomy_of(), [refused, other], [edit]) as recorder:
            recorder.run(BATCH)
            recorder.differentiate(SEQUENCES)
        assert "block.attribution is not read under an edit" in str(recorder.failure(refused))
        assert recorder.failure(other) is None
        assert not refused.seen

    def test_without_token_ids_are_refused(self) -> None:
        fold = Keep((Tap("block.attribution", 2),))
        with Recorder(anatomy_of(), [fold]) as recorder:
            recorder.differentiate(())
        assert "the inputs are images; name texts" in str(recorder.failure(fold))

    def test_that_fail_leave_the_others_theirs(self) -> None:
        class Stumble(Keep):
            def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
                raise MeasurementError("no such weight")

        failing, other = Stumble((Tap("block.attribution", 2),)), Keep((Tap("block.attribution", 3),))
        with Recorder(anatomy_of(), [failing, other]) as recorder:
            recorder.differentiate(SEQUENCES)
        assert "no such weight" in str(recorder.failure(failing))
        assert other.seen


class TestABatchOfAllSequences:
    BATCH = AllSequences((1, 0), 5)

    def test_tells_how_many_there_are(self) -> None:
        assert ((2, 5), (1, 0)) == (self.BATCH.shape, self.BATCH.sequences)

    @pytest.mark.parametrize(
        "ask",
        [
            lambda batch: batch.ids,
            lambda batch: batch.given,
            lambda batch: batch.mask(TokenSet("first")),
            lambda batch: batch.text(0, 0),
        ],
    )
    def test_has_no_tokens(self, ask: object) -> None:
        with pytest.raises(MeasurementError, match="sums over the tokens of each sequence"):
            ask(self.BATCH)  # type: ignore[operator]


def planned(*measures: MeasureRequest) -> Plan:
    def size(checkpoint: str, inputs: InputsRequest) -> InputSize:
        del checkpoint, inputs
        return InputSize(description="text", sequences=3, tokens=24, length=8, batches=3, gradient_batches=2)

    known = facts()
    cases = [case(id=f"p{number}", measure=measure) for number, measure in enumerate(measures)]
    return make_plan([settle(one, known, REGISTRY) for one in cases], REGISTRY, {"tiny": known}, size)


class TestPlan:
    def test_a_gradient_pass_is_two_forward_calls_and_a_backward_call_a_batch(self) -> None:
        assert (1, 4, 2) == (planned(DENSITY).passes, planned(DENSITY).forwards, planned(DENSITY).backwards)

    def test_measurements_of_the_site_share_it(self) -> None:
        found = planned(DENSITY, SIMILARITY)
        assert (1, 4, 2) == (found.passes, found.forwards, found.backwards)

    def test_others_on_the_same_inputs_have_their_pass_beside_it(self) -> None:
        found = planned(DENSITY, MAGNITUDE)
        assert (1, 7, 2) == (found.passes, found.forwards, found.backwards)
        data = found.to_dict()
        assert (7, 2, 7) == (data["forwards"], data["backwards"], data["runs"][0]["forwards"])

    def test_without_it_nothing_is_differentiated(self) -> None:
        assert (3, 0) == (planned(MAGNITUDE).forwards, planned(MAGNITUDE).backwards)

    def test_its_memory_is_planned_for(self) -> None:
        assert planned(MAGNITUDE).memory < planned(DENSITY).memory

    def test_models_without_next_token_logits_are_told_so(self) -> None:
        found = settle(case(measure=DENSITY), facts(causal=False, model_type="bert"), REGISTRY)
        assert "parameters.density needs a causal language model" in found.fault
        assert 1 == plan(case()).passes


class TestARun:
    def test_makes_no_plain_pass_where_none_is_asked_for(self) -> None:
        source = open_patterns("patterned")
        subject = examine(source.loaded, REGISTRY.architectures)
        asked = InputsRequest(source="text", value=("one two three", "four", "five six seven"))
        inputs = prepare(asked, source.tokenizer, source.facts, {})
        run = Run(key=RunKey(checkpoint="patterned", inputs=asked), measures=(DENSITY, SIMILARITY))
        calls: list[int] = []
        hook = subject.anatomy.model.register_forward_pre_hook(lambda module, args: calls.append(1))
        with hook:
            outcomes, forwards = execute(run, subject, inputs, REGISTRY, progress=Silent())
        assert (3, 6) == (len(calls), forwards)
        assert all(isinstance(outcome, Reading) for outcome in outcomes.values())

    def test_says_which_weights_it_is_not_of(self) -> None:
        source = open_patterns("patterned")
        model = tiny("mixtral")
        subject = examine(held(model, source.tokenizer, "experts"), REGISTRY.architectures)
        asked = InputsRequest(source="text", value=("a", "b"))
        inputs = replace(prepare(asked, source.tokenizer, source.facts, {}), sequences=((5, 9, 40), (7, 8, 100)))
        run = Run(key=RunKey(checkpoint="experts", inputs=asked), measures=(DENSITY, MAGNITUDE))
        outcomes, _ = execute(run, subject, inputs, REGISTRY, progress=Silent())
        notes = {measure.kind: outcome.notes for measure, outcome in outcomes.items() if isinstance(outcome, Reading)}
        assert any("left out are weights that are no matrix of a linear layer" in note for note in notes[DENSITY.kind])
        assert not any("left out" in note for note in notes[MAGNITUDE.kind])
