"""The engine: passes made when first needed, remembered, and every cause told once for each case."""

from __future__ import annotations

import datetime
import gc
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from probes_by_hand import MAGNITUDE, PERPLEXITY, ZERO, case, clause, expect
from tiny_checkpoints import llama_config, tokenizer
from torch import nn
from transformers import LlamaForCausalLM

from maprobe.builtin import builtin_registry
from maprobe.cases import Case, Condition, InputsRequest, Waiver
from maprobe.errors import CheckpointError, DiscoveryError, MeasurementError, PlanError
from maprobe.facts import CheckpointFacts
from maprobe.progress import Silent
from maprobe.readings import Axis, Quantity, Reading
from maprobe.recipes import MeasurementRecipe, QuantitySpec, Tap
from maprobe.running.checkpoints import LoadedCheckpoint, held
from maprobe.running.engine import Engine, EngineOptions
from maprobe.sites import LayerRange
from maprobe.verdicts import Status

TEXT = InputsRequest(source="text", value=("The quick brown fox jumps over the lazy dog .",))
BROKEN = replace(MAGNITUDE, kind="broken", options=())


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config()).eval()


_FACTS = held(tiny(), tokenizer(), "tiny").facts


@dataclass
class Lazy:
    """A checkpoint whose weights are made when they are asked for, and which keeps none of them."""

    label: str
    error: Exception | None = None
    loads: int = 0
    models: list[weakref.ref[nn.Module]] = field(default_factory=list)
    spoil: bool = False

    @property
    def facts(self) -> CheckpointFacts:
        return replace(_FACTS, label=self.label)

    tokenizer = tokenizer()

    def load(self, progress: object) -> LoadedCheckpoint:
        self.loads += 1
        if self.error is not None:
            raise self.error
        model = tiny()
        if self.spoil:
            nn.init.zeros_(model.lm_head.weight)  # so that moving the output of a block changes nothing
        self.models.append(weakref.ref(model))
        return held(model, self.tokenizer, self.label)

    def alive(self) -> int:
        gc.collect()
        return sum(model() is not None for model in self.models)


_ONE = Reading(kind="broken", quantities={"n": Quantity(name="n", values=(1.0,))})


@dataclass
class Fold:
    """What the measurement ``broken`` does: by default, one number."""

    observing: Exception | None = None
    finishing: Exception | None = None
    reading: Reading = _ONE
    started: int = 0
    taps = (Tap("block.out", 1),)

    def start(self, context: object) -> Fold:
        self.started += 1
        return self

    def observe(self, tap: Tap, value: object, batch: object, *, offset: int = 0) -> None:
        if self.observing:
            raise self.observing

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        if self.finishing:
            raise self.finishing
        return self.reading


def engine(*sources: Lazy, fold: Fold | None = None, **options: Any) -> Engine:
    registry = builtin_registry()
    quantities = (QuantitySpec(name="n", meaning="a number"), QuantitySpec(name="m", axes=("layer",), meaning="more"))
    count = 2 if fold and "m" in fold.reading.quantities else 1
    recipe = MeasurementRecipe(
        name="broken",
        summary="Breaks.",
        sites=("block.out",),
        quantities=quantities[:count],
        start=(fold or Fold()).start,
    )
    registry.add([recipe], plugin="breaking")
    openers = {source.label: lambda source=source: source for source in sources}
    return Engine(registry, openers, Silent(), EngineOptions(**options))


def verdicts(engine: Engine, *cases: Case) -> list[tuple[Status, str]]:
    engine.plan(cases)
    return [(found.status, found.reason) for found in map(engine.verdict, cases)]


def asked(checkpoint: str = "one", **values: Any) -> Case:
    return case(checkpoint, **{"inputs": TEXT, "measure": PERPLEXITY, **values})


class TestLoading:
    def test_nothing_is_loaded_while_a_plan_is_made(self) -> None:
        one = Lazy("one")
        engine(one).plan([asked()])
        assert 0 == one.loads

    def test_at_most_one_checkpoint_is_in_memory(self) -> None:
        one, two = Lazy("one"), Lazy("two")
        both = engine(one, two)
        assert [Status.PASSED] * 3 == [status for status, _ in verdicts(both, asked(), asked(id="b"), asked("two"))]
        assert ((1, 0), (1, 1)) == ((one.loads, one.alive()), (two.loads, two.alive()))
        both.release()
        assert 0 == two.alive()
        assert ["one", "two"] == list(both.provenance)

    def test_a_checkpoint_that_was_let_go_is_loaded_anew_for_a_pass_that_was_not_made(self) -> None:
        one = Lazy("one")
        found = engine(one)
        first, second = asked(), asked(id="b", inputs=replace(TEXT, value=("The dog .",)))
        found.plan([first, second])
        found.verdict(first)
        found.release()
        found.verdict(first)
        assert 1 == one.loads
        found.verdict(second)
        assert 2 == one.loads

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (CheckpointError("cut off; fetch it again"), "cut off; fetch it again"),
            (OSError("the disk is gone"), "loading one failed with OSError: the disk is gone"),
            (
                MemoryError(),
                "loading one failed with MemoryError: no message; lower --maprobe-batch or `length`, or load ",
            ),
        ],
    )
    def test_a_load_that_failed_is_remembered_and_told_for_each_case(self, error: Exception, reason: str) -> None:
        one, two = Lazy("one", error=error), Lazy("two")
        found = verdicts(
            engine(one, two), asked(), asked("two"), asked(id="b", inputs=replace(TEXT, value=("The dog .",)))
        )
        assert [Status.UNMEASURED, Status.PASSED, Status.UNMEASURED] == [status for status, _ in found]
        assert all(told.startswith(reason) for status, told in found if status is Status.UNMEASURED)
        assert 1 == one.loads

    def test_a_checkpoint_whose_proofs_do_not_hold_does_not_stay_in_memory(self) -> None:
        one, two = Lazy("one", spoil=True), Lazy("two")
        found = engine(one, two)
        (first, reason), (second, _) = verdicts(found, asked(), asked("two"))
        assert (Status.UNMEASURED, Status.PASSED) == (first, second)
        assert "proof" in reason
        assert 0 == one.alive()
        with pytest.raises(DiscoveryError):
            found.subject("one")

    def test_one_that_cannot_be_looked_up_is_tried_once_and_does_not_stop_the_plan(self) -> None:
        tried = []

        def gone() -> Any:
            tried.append("one")
            raise OSError("no such disk")

        two = Lazy("two")
        found = Engine(builtin_registry(), {"one": gone, "two": lambda: two}, Silent(), EngineOptions())
        reason = "looking up one failed with OSError: no such disk"
        assert [(Status.UNMEASURED, reason)] * 2 + [(Status.PASSED, "")] == verdicts(
            found, asked(), asked(id="b"), asked("two")
        )
        assert (["one"], reason, None) == (tried, str(found.fault("one")), found.fault("two"))


class TestPasses:
    def test_a_pass_is_made_once_and_counted(self) -> None:
        found = engine(Lazy("one"))
        cases = [asked(), asked(id="b", measure=MAGNITUDE), asked(id="c")]
        plan = found.plan(cases)
        for entry in [*cases, *cases]:
            found.verdict(entry)
        assert (1, 1) == (plan.forwards, found.forwards)

    def test_a_pass_that_failed_is_remembered(self) -> None:
        fold = Fold(observing=ZeroDivisionError("by nothing\nand more"))
        found = verdicts(
            engine(Lazy("one"), fold=fold), asked(measure=BROKEN), asked(id="b", measure=BROKEN), asked(id="c")
        )
        reason = "the pass over one (untouched) failed with ZeroDivisionError: by nothing"
        assert [(Status.UNMEASURED, reason)] * 3 == found
        assert 1 == fold.started

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (MeasurementError("no such token"), "no such token"),
            (KeyError("layer"), "broken failed with KeyError: 'layer'"),
        ],
    )
    def test_a_measurement_that_cannot_be_finished_leaves_the_others_their_readings(
        self, error: Exception, reason: str
    ) -> None:
        found = verdicts(engine(Lazy("one"), fold=Fold(finishing=error)), asked(measure=BROKEN), asked(id="b"))
        assert [(Status.UNMEASURED, reason), (Status.PASSED, "")] == found

    def test_a_pass_made_elsewhere_must_bring_every_reading(self) -> None:
        found = engine(Lazy("one"), execute=lambda *job: {})
        ((status, reason),) = verdicts(found, asked())
        assert Status.UNMEASURED is status
        assert (
            "a plugin's pytest_maprobe_execute_run gave no Reading for perplexity; it must return one for each"
            in reason
        )
        assert 0 == found.forwards

    def test_a_pass_made_elsewhere_is_judged_and_given_the_circumstances_of_the_run(self) -> None:
        numbers = {name: Quantity(name=name, values=(2.0,)) for name in ("perplexity", "loss", "targets")}
        reading = Reading(kind="perplexity", quantities=numbers)
        found = engine(Lazy("one"), execute=lambda run, *job: dict.fromkeys(run.measures, reading))
        entry = asked(expect=expect(clause("perplexity", "lt", 3)))
        found.plan([entry])
        verdict = found.verdict(entry)
        assert verdict.reading is not None
        assert verdict.reading.circumstances is not None
        assert (Status.PASSED, "1 text of 10 tokens") == (verdict.status, verdict.reading.circumstances.inputs)

    def test_a_reading_that_lacks_what_its_recipe_promises_is_refused(self) -> None:
        fold = Fold(reading=Reading(kind="broken", quantities={"o": Quantity(name="o", values=(1.0,))}))
        assert [
            (
                Status.UNMEASURED,
                "measurement broken gave no n, which its recipe promises; plugin 'breaking' brought it",
            )
        ] == verdicts(engine(Lazy("one"), fold=fold), asked(measure=BROKEN))

    def test_a_reading_over_other_axes_than_its_recipe_promises_is_refused(self) -> None:
        layers = Quantity(name="n", values=(1.0, 2.0), axes=(Axis("layer", (1, 2)),))
        flat = {"n": Quantity(name="n", values=(1.0,)), "m": Quantity(name="m", values=(1.0,))}
        for quantities, told in (
            ({"n": layers}, "gave n over layer, where its recipe promises no axis"),
            (flat, "gave m over no axis, where its recipe promises layer"),
        ):
            fold = Fold(reading=Reading(kind="broken", quantities=quantities))
            ((status, reason),) = verdicts(engine(Lazy("one"), fold=fold), asked(measure=BROKEN))
            assert (Status.UNMEASURED, f"measurement broken {told}; plugin 'breaking' brought it") == (status, reason)

    def test_a_reading_that_is_absent_promises_nothing(self) -> None:
        fold = Fold(reading=Reading(kind="broken", absent="nothing of the kind"))
        assert [(Status.ABSENT, "nothing of the kind")] == verdicts(
            engine(Lazy("one"), fold=fold), asked(measure=BROKEN)
        )

    def test_the_edited_passes_are_not_made_where_nothing_is_found(self) -> None:
        found = engine(Lazy("one"))
        entry = asked(intervene=ZERO)
        plan = found.plan([entry])
        assert Status.ABSENT is found.verdict(entry).status
        assert (3, 1) == (plan.forwards, found.forwards)


class TestPlans:
    def test_one_over_the_limit_is_refused(self) -> None:
        with pytest.raises(PlanError, match="--maprobe-memory allows 1e-06 GiB"):
            engine(Lazy("one"), memory=1e-6).plan([asked()])

    def test_a_layer_out_of_range_is_a_fault_of_its_case_alone(self) -> None:
        deep = replace(MAGNITUDE, layers=LayerRange(9, 9))
        found = verdicts(engine(Lazy("one")), asked(measure=deep), asked(id="b"))
        assert [Status.UNMEASURED, Status.PASSED] == [status for status, _ in found]
        assert found[0][1].startswith("layer 9 is out of range for block.out: this model has 3 blocks")

    def test_a_case_that_does_not_apply_needs_no_weights(self) -> None:
        one = Lazy("one")
        when = (Condition(fact="model_type", operator="eq", bound="bert"),)
        assert [(Status.NOT_APPLICABLE, "needs model_type = bert; here it is llama")] == verdicts(
            engine(one), asked(when=when)
        )
        assert 0 == one.loads


class TestWaivers:
    FAILS = expect(clause("targets", "gt", 1000))

    @pytest.mark.parametrize(("day", "waived"), [(30, True), (31, True), (1, False)])
    def test_a_waiver_holds_until_its_last_day(self, day: int, waived: bool) -> None:
        today = datetime.date(2027, 2 if day == 1 else 1, day)
        waiver = Waiver(reason="known", until=datetime.date(2027, 1, 31))
        found = engine(Lazy("one"), today=today)
        entry = asked(expect=self.FAILS, xfail=waiver)
        found.plan([entry])
        verdict = found.verdict(entry)
        assert (Status.FAILED, waived) == (verdict.status, bool(verdict.waived))


def test_the_provenance_of_what_was_loaded_is_kept_after_it_was_let_go() -> None:
    found = engine(Lazy("one"), Lazy("two"))
    verdicts(found, asked())
    found.release()
    (provenance,) = found.provenance.values()
    assert ("one", "float32", "in memory (LlamaForCausalLM)") == (
        provenance.label,
        provenance.dtype,
        provenance.resolved,
    )


def test_every_verdict_says_how_to_repeat_it() -> None:
    found = engine(Lazy("one"), repeat=lambda entry: f"again {entry.id}")
    entry = asked()
    found.plan([entry])
    assert "again x.probe.yaml::a[one]" == found.verdict(entry).repeat
