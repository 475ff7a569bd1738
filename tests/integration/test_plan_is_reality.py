"""What a plan says is what a session does: passes, forward calls, and what they are made for."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from inner_sessions import EXISTS, HEAD, PERPLEXITY, ZEROING, Inner, Watch, told

from maprobe import MeasurementRecipe, Quantity, QuantitySpec, Reading, Tap

OTHER_INPUTS = (
    "  - {id: other, claim: C., inputs: {text: [The dog ., The fox ., The lazy dog .]}, measure: {kind: perplexity}}\n"
)
MORE = (
    "  - {id: more, claim: C., measure: {kind: perplexity}, intervene: {target: massive, set: {value: 5000}}, "
    "control: none, expect: {ratio: {between: [0.9, 1.1]}}}\n"
)
PROBES = PERPLEXITY + EXISTS + ZEROING + MORE + OTHER_INPUTS


def planned_forwards(result: pytest.RunResult) -> int:
    match = re.search(r"(\d+) passes, (\d+) forward calls", told(result))
    assert match
    return int(match[2])


class TestForwards:
    @pytest.mark.parametrize("batch", [1, 2])
    @pytest.mark.parametrize(
        ("options", "sequences"),
        [((), [2, 2, 2, 2, 3]), (("-k", "zeroing"), [2, 2, 2]), (("-k", "ppl or other"), [2, 3])],
        ids=["all", "one intervention", "two inputs"],
    )
    def test_the_model_is_called_as_often_as_was_planned(
        self, inner: Inner, options: tuple[str, ...], sequences: list[int], batch: int
    ) -> None:
        inner.write("a.probe.yaml", PROBES)
        watch, model = Watch(), inner.checkpoints.planted
        size = f"--maprobe-batch={batch}"
        plan = inner.run("--maprobe-plan", size, *options, model=model)
        result = inner.run("--property-report=report.json", size, *options, model=model, plugins=(watch,))
        assert pytest.ExitCode.OK == result.ret
        # Two sequences of unequal length never share a call; of the three short ones, the first two do.
        shared = {3: 2} if batch == 2 else {}
        expected = sum(shared.get(count, count) for count in sequences)
        reported = inner.report()["plan"]
        assert (expected,) * 3 == (watch.forwards, planned_forwards(plan), reported["forwards"])
        assert (len(sequences),) * 2 == (len(watch.passes), reported["passes"])

    def test_a_gradient_pass_calls_the_model_once_a_batch_of_its_own_and_each_block_once_more(
        self, inner: Inner
    ) -> None:
        density = "  - {id: density, claim: C., measure: {kind: parameters.density}, expect: {peak_layer: {gte: 1}}}\n"
        inner.write("a.probe.yaml", HEAD + density)
        watch, model = Watch(), inner.checkpoints.plain
        plan = inner.run("--maprobe-plan", model=model)
        inner.run("--property-report=report.json", model=model, plugins=(watch,))
        reported = inner.report()["plan"]
        calls = watch.forwards
        assert calls in (1, 2), "two texts share a call if they have as many tokens, and there is no plain pass"
        assert (2 * calls,) * 2 == (planned_forwards(plan), reported["forwards"])
        assert calls == reported["backwards"]
        assert f"{2 * calls} forward calls, {calls} backward calls" in told(plan)
        assert {"density[plain]": "passed"} == inner.statuses()

    def test_the_passes_of_an_edit_are_not_made_where_nothing_is_found(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PROBES)
        watch = Watch()
        inner.run(
            "--property-report=report.json", "-k", "ppl or zeroing", model=inner.checkpoints.twin, plugins=(watch,)
        )
        assert ([("twin", "")], 2, 6) == (watch.passes, watch.forwards, inner.report()["plan"]["forwards"])
        assert {"ppl[twin]": "passed", "zeroing[twin]": "absent"} == inner.statuses()

    def test_a_case_that_does_not_apply_costs_nothing(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + OTHER_INPUTS.replace("claim: C.", "claim: C., when: {causal: false}"))
        watch = Watch()
        inner.run("--property-report=report.json", model=inner.checkpoints.plain, plugins=(watch,))
        assert (2, 2) == (watch.forwards, inner.report()["plan"]["forwards"])

    def test_a_case_that_is_skipped_costs_nothing(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + OTHER_INPUTS.replace("claim: C.", "claim: C., skip: not now"))
        watch = Watch()
        inner.run("--property-report=report.json", model=inner.checkpoints.plain, plugins=(watch,))
        assert (2, 2) == (watch.forwards, inner.report()["plan"]["forwards"])


class TestSharing:
    def test_a_pass_serves_all_probes_that_ask_for_it_in_whatever_file(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PROBES)
        inner.write("sub/b.probe.yaml", PROBES.replace("gt: 10", "gt: 5"))
        watch = Watch()
        inner.run(model=inner.checkpoints.planted, plugins=(watch,)).assert_outcomes(passed=10)
        assert {1} == set(Counter(watch.passes[1:4]).values())
        assert ["", "", "control", "massive", "massive"] == sorted(edit.split(" ")[0] for _, edit in watch.passes)

    def test_passes_are_made_when_the_first_case_needs_them(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY.replace("gt: 1", "lt: 1") + ZEROING)
        watch = Watch()
        inner.run("-x", model=inner.checkpoints.planted, plugins=(watch,)).assert_outcomes(failed=1)
        assert [("planted", "")] == watch.passes


class Broken:
    """A measurement whose fold cannot go on in a pass."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.started = 0

    taps = (Tap("block.out", 1),)

    def start(self, context: Any) -> Broken:
        self.started += 1
        return self

    def observe(self, tap: Tap, value: Any, batch: Any, *, offset: int = 0) -> None:
        raise self.error

    def finish(self, companions: Any) -> Reading:
        return Reading(kind="broken", quantities={"n": Quantity(name="n", values=(1.0,))})

    def pytest_maprobe_measurements(self) -> list[MeasurementRecipe]:
        quantities = (QuantitySpec(name="n", meaning="nothing"),)
        return [
            MeasurementRecipe(
                name="broken", summary="Breaks.", sites=("block.out",), quantities=quantities, start=self.start
            )
        ]


class TestFailedPasses:
    PROBES = HEAD + "".join(
        f"  - {{id: {name}, claim: C., measure: {{kind: {kind}}}}}\n"
        for name, kind in (("a", "broken"), ("b", "broken"), ("c", "perplexity"))
    )

    def test_a_pass_that_failed_is_not_tried_again_and_its_cause_is_told_for_each_case(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", self.PROBES)
        watch, broken = Watch(), Broken(ZeroDivisionError("by nothing"))
        result = inner.run("--property-report=report.json", model=inner.checkpoints.plain, plugins=(watch, broken))
        result.assert_outcomes(errors=3)
        assert (1, 1) == (broken.started, watch.forwards)
        reasons = {verdict["reason"] for verdict in inner.report()["verdicts"]}
        assert {"the pass over plain (untouched) failed with ZeroDivisionError: by nothing"} == reasons
        assert "Traceback" not in told(result)

    def test_a_measurement_that_says_why_it_cannot_go_on_leaves_the_others_their_numbers(self, inner: Inner) -> None:
        from maprobe.errors import MeasurementError

        inner.write("a.probe.yaml", self.PROBES)
        broken = Broken(MeasurementError("not in this model"))
        result = inner.run("--property-report=report.json", model=inner.checkpoints.plain, plugins=(broken,))
        result.assert_outcomes(errors=2, passed=1)
        told_reasons = [verdict["reason"] for verdict in inner.report()["verdicts"]]
        assert ["not in this model", "not in this model", ""] == told_reasons

    def test_a_checkpoint_that_cannot_be_loaded_is_tried_once(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maprobe.running.subjects import ReferencedSource

        tried: list[str] = []

        def load(self: ReferencedSource, progress: Any) -> Any:
            tried.append(self.facts.label)
            raise OSError("the disk is gone")

        monkeypatch.setattr(ReferencedSource, "load", load)
        inner.write("a.probe.yaml", PROBES)
        result = inner.run("--property-report=report.json", model=inner.checkpoints.planted)
        result.assert_outcomes(errors=5)
        assert ["planted"] == tried
        assert {"loading planted failed with OSError: the disk is gone"} == {
            verdict["reason"] for verdict in inner.report()["verdicts"]
        }
