"""Report files hold what was measured, in every format alike, and are written whole or not at all."""

from __future__ import annotations

import csv
import errno
import os
import re
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import pytest
from inner_sessions import EXISTS, HEAD, PERPLEXITY, ZEROING, Inner, Watch, printed, told

from maprobe import MeasurementRecipe, Quantity, QuantitySpec, Reading, Renderer, Tap

THREE = ("--property-report=r.json", "--property-report=r.md", "--property-report=r.csv")


class TestFormats:
    def test_each_path_gets_the_format_of_its_suffix_with_the_same_numbers(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + EXISTS + ZEROING)
        result = inner.run(*THREE, model=(inner.checkpoints.planted, inner.checkpoints.twin))
        assert pytest.ExitCode.TESTS_FAILED == result.ret
        result.stdout.fnmatch_lines([f"property report: r.{suffix}" for suffix in ("json", "md", "csv")])
        findings = {
            (verdict["case"], finding["quantity"]): finding["observed"]
            for verdict in inner.report("r.json")["verdicts"]
            for finding in verdict["findings"]
        }
        assert 7 == len(findings) + 1
        with (inner.path / "r.csv").open(encoding="utf-8", newline="") as file:
            rows = {
                (row["case"], row["quantity"]): float(row["observed"])
                for row in csv.DictReader(file)
                if row["observed"]
            }
        assert findings == rows
        markdown = (inner.path / "r.md").read_text(encoding="utf-8")
        for (_, quantity), value in findings.items():
            assert f"{quantity} {value:.4g}" in markdown

    def test_every_reading_says_how_it_was_taken(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + ZEROING)
        inner.run(*THREE, model=inner.checkpoints.planted)
        report = inner.report("r.json")
        digests = {reading["circumstances"]["digest"] for reading in report["readings"]}
        assert 1 == len(digests)
        edits = [reading["circumstances"]["edit"] for reading in report["readings"]]
        assert ["", "massive at first-layer = zero"] == edits
        (checkpoint,) = report["checkpoints"]
        assert ("planted", str(inner.checkpoints.planted)) == (checkpoint["label"], checkpoint["reference"])
        assert all(
            re.fullmatch("[0-9a-f]{64}", checkpoint[f"{part}_digest"]) for part in ("weights", "config", "tokenizer")
        )

    def test_junit_xml_has_the_numbers_as_properties(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + ZEROING.replace("gt: 10", "gt: 1000"))
        inner.run("--junitxml=junit.xml", model=inner.checkpoints.planted)
        cases = {case.get("name"): case for case in ElementTree.parse(inner.path / "junit.xml").iter("testcase")}
        found = {
            name: {entry.get("name"): entry.get("value") for entry in case.iter("property")}
            for name, case in cases.items()
        }
        assert {
            "maprobe.status": "passed",
            "maprobe.checkpoint": "planted",
            "maprobe.targets": "19",
            "maprobe.margin": "18",
        } == found["ppl[planted]"]
        zeroing = found["zeroing[planted]"]
        assert ("failed", "1") == (zeroing["maprobe.status"], zeroing["maprobe.control.ratio"])
        assert 300 < float(str(zeroing["maprobe.ratio"])) < 400
        (failure,) = cases["zeroing[planted]"].iter("failure")
        assert str(failure.get("message")).startswith("claim     Zeroing destroys perplexity.")

    def test_junit_xml_has_the_reason_of_a_case_without_an_answer(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", HEAD + ZEROING)
        inner.run("--junitxml=junit.xml", model=inner.checkpoints.twin)
        properties = {
            e.get("name"): e.get("value") for e in ElementTree.parse(inner.path / "junit.xml").iter("property")
        }
        assert "absent" == properties["maprobe.status"]
        assert str(properties["maprobe.reason"]).startswith("nothing massive here")


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "sentence"),
        [
            (
                "r.jsn",
                "cannot write r.jsn: the suffix '.jsn' is no report format (did you mean '.json'?); allowed: .csv, ",
            ),
            (
                "none/r.json",
                "cannot write none/r.json: the folder none does not exist; create it, or choose another path",
            ),
            ("folder.md", "cannot write folder.md: this is a folder; name a file, such as folder.md/report.md"),
        ],
    )
    def test_one_that_cannot_be_written_is_refused_before_anything_is_measured(
        self, inner: Inner, path: str, sentence: str
    ) -> None:
        (inner.path / "folder.md").mkdir()
        inner.write("a.probe.yaml", PERPLEXITY)
        watch = Watch()
        result = inner.run(f"--property-report={path}", model=inner.checkpoints.plain, plugins=(watch,))
        assert (pytest.ExitCode.USAGE_ERROR, []) == (result.ret, watch.passes)
        assert f"ERROR: {sentence}" in told(result)
        assert "Traceback" not in printed(result)

    def test_a_folder_that_may_not_be_written_to_is_refused_as_well(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The tests may run as root, for whom every folder is open: so the system's answer is given here.
        monkeypatch.setattr("maprobe.reporting.writing.os.access", lambda path, mode: False)
        result = inner.run("--property-report=r.json", model=inner.checkpoints.plain)
        assert pytest.ExitCode.USAGE_ERROR == result.ret
        assert "ERROR: cannot write r.json: the folder . may not be written to" in told(result)


class TestWriting:
    @pytest.mark.parametrize(
        ("number", "sentence"),
        [
            (errno.ENOSPC, "cannot write r.json: no space is left in ., so nothing was written"),
            (errno.EROFS, "cannot write r.json: the folder . may not be written to, so what was there is unchanged"),
        ],
    )
    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_the_report_that_was_there_is_kept_where_a_new_one_cannot_be_written(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch, call: str, number: int, sentence: str
    ) -> None:
        def refuse(*arguments: object) -> NoReturn:
            raise OSError(number, os.strerror(number))

        inner.write("a.probe.yaml", PERPLEXITY)
        inner.write("r.json", "the old one")
        before = sorted(path.name for path in inner.path.iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(f"maprobe.reporting.writing.os.{call}", refuse)
            result = inner.run("-p", "no:cacheprovider", "--property-report=r.json", model=inner.checkpoints.plain)
        assert (pytest.ExitCode.TESTS_FAILED, "the old one") == (result.ret, (inner.path / "r.json").read_text())
        assert f"property report NOT written: {sentence}" in told(result)
        assert "1 passed" in told(result)
        assert before == sorted(path.name for path in inner.path.iterdir())

    def test_a_renderer_that_raises_hinders_no_other_report(self, inner: Inner) -> None:
        class Broken:
            def pytest_maprobe_report_renderers(self) -> list[Renderer]:
                def render(report: Any) -> str:
                    raise KeyError("layers")

                return [Renderer(suffix=".txt", summary="s", render=render)]

        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run(
            "--property-report=r.txt", "--property-report=r.json", model=inner.checkpoints.plain, plugins=(Broken(),)
        )
        assert pytest.ExitCode.TESTS_FAILED == result.ret
        result.stdout.fnmatch_lines(
            ["property report NOT written: cannot write r.txt: KeyError: 'layers'", "property report: r.json"]
        )
        assert {"ppl[plain]": "passed"} == inner.statuses("r.json")


class Interrupting:
    """A measurement in the middle of which somebody presses Ctrl-C."""

    taps = (Tap("block.out", 1),)

    def __init__(self, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.error = error

    def start(self, context: Any) -> Interrupting:
        return self

    def observe(self, tap: Tap, value: Any, batch: Any, *, offset: int = 0) -> None:
        raise self.error

    def finish(self, companions: Any) -> Reading:
        return Reading(kind="interrupting", quantities={"n": Quantity(name="n", values=(1.0,))})

    def pytest_maprobe_measurements(self) -> list[MeasurementRecipe]:
        quantities = (QuantitySpec(name="n", meaning="nothing"),)
        return [
            MeasurementRecipe(
                name="interrupting", summary="S.", sites=("block.out",), quantities=quantities, start=self.start
            )
        ]


SECOND_PASS = "  - {id: broken-off, claim: C., inputs: {text: The dog .}, measure: {kind: interrupting}}\n"


class TestInterruption:
    def test_what_was_measured_before_is_reported_and_no_hook_is_left(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY + SECOND_PASS + EXISTS.replace("id: exists", "id: later"))
        watch = Watch()
        result = inner.run(*THREE, model=inner.checkpoints.planted, plugins=(watch, Interrupting()))
        assert pytest.ExitCode.INTERRUPTED == result.ret
        report = inner.report("r.json")
        assert (True, {"ppl[planted]": "passed"}) == (report["interrupted"], inner.statuses("r.json"))
        assert [("planted", ""), ("planted", "")] == watch.passes
        model = watch.models["planted"]
        hooks = [module._forward_hooks for module in model.modules()]
        assert [] == [hook for found in hooks for hook in found]
        assert "sdpa" == model.config._attn_implementation
        assert "(interrupted)" in (inner.path / "r.md").read_text(encoding="utf-8")

    def test_a_session_that_went_to_its_end_was_not_interrupted(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        inner.run(*THREE, model=inner.checkpoints.planted)
        assert inner.report("r.json")["interrupted"] is False

    @pytest.mark.parametrize(("probes", "interrupted"), [(("fails", "holds"), True), (("holds", "fails"), False)])
    def test_a_failure_that_ends_the_session_interrupts_it_only_where_cases_were_left(
        self, inner: Inner, probes: tuple[str, ...], interrupted: bool
    ) -> None:
        bound = {"fails": 1000, "holds": 1}
        lines = [
            PERPLEXITY.removeprefix(HEAD).replace("ppl", name).replace("gt: 1", f"gt: {bound[name]}") for name in probes
        ]
        inner.write("a.probe.yaml", HEAD + "".join(lines))
        inner.run("-x", *THREE, model=inner.checkpoints.planted)
        assert interrupted is inner.report("r.json")["interrupted"]

    def test_a_plan_refused_for_the_second_checkpoint_leaves_the_report_of_the_first(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maprobe.errors import PlanError
        from maprobe.planning import Plan

        def refuse(plan: Plan, limit: float | None) -> None:
            if any(run.key.checkpoint == "twin" for run in plan.runs):
                raise PlanError("too large")

        monkeypatch.setattr("maprobe.running.engine.require_memory", refuse)
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run(*THREE, model=(inner.checkpoints.planted, inner.checkpoints.twin))
        assert pytest.ExitCode.USAGE_ERROR == result.ret
        assert (True, {"ppl[planted]": "passed"}) == (
            inner.report("r.json")["interrupted"],
            inner.statuses("r.json"),
        )

    def test_where_nothing_was_judged_the_old_report_is_kept_and_that_is_said(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", HEAD + SECOND_PASS)
        inner.write("r.json", "the old one")
        result = inner.run("--property-report=r.json", model=inner.checkpoints.planted, plugins=(Interrupting(),))
        assert (pytest.ExitCode.INTERRUPTED, "the old one") == (result.ret, (inner.path / "r.json").read_text())
        assert "property report NOT written: no case was judged, so r.json is as it was" in told(result)


def test_no_report_is_written_without_being_asked_for(inner: Inner) -> None:
    inner.write("a.probe.yaml", PERPLEXITY)
    inner.run("-p", "no:cacheprovider", model=inner.checkpoints.plain)
    assert ["a.probe.yaml"] == [path.name for path in Path(inner.path).iterdir()]
