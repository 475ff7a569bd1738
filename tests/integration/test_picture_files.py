"""`--plots` draws what a session measured, links it in the reports, and is refused before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from inner_sessions import EXISTS, HEAD, PERPLEXITY, Inner, Watch, printed, told

# Loaded once and for all, as torch is: pytester forgets what a session within this one imports.
import maprobe.reporting.plots.canvas

maprobe.reporting.plots.canvas.require_matplotlib()

ONE_TEXT = "inputs: {text: The quick brown fox jumps over the lazy dog .}"
PICTURES = (
    HEAD
    + EXISTS
    + f"  - {{id: relief, claim: C., {ONE_TEXT}, measure: {{kind: landscape, bins: 4}}}}\n"
    + f"  - {{id: look, claim: C., {ONE_TEXT}, measure: {{kind: attention.map}}}}\n"
)
THREE = ("exists-layerwise", "look-map", "relief-landscape")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


class TestEndToEnd:
    @pytest.mark.parametrize("option", ["--plots", "--maprobe-plots"])
    def test_each_picture_is_written_and_told(self, inner: Inner, option: str) -> None:
        inner.write("a.probe.yaml", PICTURES)
        result = inner.run(option, "pics", model=inner.checkpoints.planted)
        result.assert_outcomes(passed=3)
        assert [f"planted/{name}{suffix}" for name in THREE for suffix in (".png", ".svg")] == files(
            inner.path / "pics"
        )
        result.stdout.fnmatch_lines_random([f"picture: pics/planted/{name}.png (and .svg)" for name in THREE])

    def test_reports_link_them_as_seen_from_where_they_lie(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PICTURES)
        (inner.path / "out").mkdir()
        reports = ("--property-report=out/r.md", "--property-report=r.json")
        inner.run("--plots=pics", *reports, model=inner.checkpoints.planted)
        markdown = (inner.path / "out" / "r.md").read_text(encoding="utf-8")
        assert 3 == markdown.count("](../pics/planted/")
        data = inner.report("r.json")
        kinds = {data["readings"][entry["reading"]]["kind"]: entry["path"] for entry in data["pictures"]}
        assert {
            "magnitude": "pics/planted/exists-layerwise.png",
            "landscape": "pics/planted/relief-landscape.png",
            "attention.map": "pics/planted/look-map.png",
        } == kinds

    def test_what_is_measured_is_what_was_planted(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PICTURES)
        inner.run("--property-report=r.json", model=inner.checkpoints.planted)
        readings = {reading["kind"]: reading for reading in inner.report("r.json")["readings"]}
        massive = [row for row in readings["landscape"]["records"] if row["massive"]]
        assert [(2, 0, "<s>", 7, 7)] == [
            (row["layer"], row["position"], row["token"], row["dim"], row["last_dim"]) for row in massive
        ]
        layers = {row["layer"] for row in readings["attention.map"]["records"]}
        keys = {row["key"] for row in readings["attention.map"]["records"] if row["massive"]}
        assert ({2, 3}, {0}) == (layers, keys)

    def test_where_nothing_is_massive_pictures_are_drawn_all_the_same(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PICTURES)
        models = (inner.checkpoints.twin, inner.checkpoints.encoder)
        result = inner.run("--plots=pics", model=models)
        assert pytest.ExitCode.TESTS_FAILED == result.ret, "exists fails"
        assert 12 == len(files(inner.path / "pics"))
        assert "NOT written" not in told(result)

    def test_a_session_that_measures_nothing_drawable_writes_nothing(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run("--plots=pics", model=inner.checkpoints.plain)
        result.assert_outcomes(passed=1)
        assert not (inner.path / "pics").exists()

    def test_without_the_option_there_is_no_picture(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", HEAD + EXISTS)
        result = inner.run("--property-report=r.json", model=inner.checkpoints.planted)
        assert ([], False) == (inner.report("r.json")["pictures"], "picture: " in told(result))

    def test_with_several_processes_they_are_drawn_once(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", HEAD + EXISTS)
        result = inner.run("--plots=pics", "-n2", model=(inner.checkpoints.planted, inner.checkpoints.twin))
        names = [f"{label}/exists-layerwise{suffix}" for label in ("planted", "twin") for suffix in (".png", ".svg")]
        assert names == files(inner.path / "pics")
        assert 2 == printed(result).count("picture: ")


class TestRefused:
    def test_a_folder_that_is_a_file(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", HEAD + EXISTS)
        inner.write("taken", "a file")
        watch = Watch()
        result = inner.run("--plots=taken", model=inner.checkpoints.planted, plugins=(watch,))
        assert (pytest.ExitCode.USAGE_ERROR, []) == (result.ret, watch.passes)
        assert "ERROR: pictures cannot be written to taken: taken is no folder; choose another one" in told(result)
        assert "Traceback" not in printed(result)

    def test_a_folder_that_may_not_be_written_to(self, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
        # The tests may run as root, for whom every folder is open: so the system's answer is given here.
        monkeypatch.setattr("maprobe.reporting.plots.gallery.os.access", lambda path, mode: False)
        inner.write("a.probe.yaml", HEAD + EXISTS)
        result = inner.run("--plots=pics", model=inner.checkpoints.planted)
        assert pytest.ExitCode.USAGE_ERROR == result.ret
        assert "ERROR: pictures cannot be written to pics: the folder . may not be written to" in told(result)

    def test_missing_matplotlib_is_said_before_anything_is_measured(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "matplotlib.figure")
        inner.write("a.probe.yaml", HEAD + EXISTS)
        watch = Watch()
        result = inner.run("--plots=pics", model=inner.checkpoints.planted, plugins=(watch,))
        assert (pytest.ExitCode.USAGE_ERROR, []) == (result.ret, watch.passes)
        assert "install it with `pip install 'maprobe[plots]'`" in told(result)
        assert "Traceback" not in printed(result)
        assert not (inner.path / "pics").exists()

    def test_a_picture_that_cannot_be_written_fails_the_session_and_the_report_is_written(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", HEAD + EXISTS)
        inner.write("pics/planted", "a file where the folder of the checkpoint would be")
        result = inner.run("--plots=pics", "--property-report=r.json", model=inner.checkpoints.planted)
        assert pytest.ExitCode.TESTS_FAILED == result.ret
        assert "picture of exists on planted NOT written: the folder pics/planted cannot be made" in told(result)
        assert [] == inner.report("r.json")["pictures"]

    def test_texts_that_are_too_long_are_refused_in_one_sentence(self, inner: Inner) -> None:
        long = PICTURES.replace("lazy dog .", "lazy dog ." + " dog" * 40)
        inner.write("a.probe.yaml", long)
        result = inner.run("--property-report=r.json", model=inner.checkpoints.planted)
        statuses = inner.statuses("r.json")
        assert {"exists[planted]": "passed", "relief[planted]": "unmeasured", "look[planted]": "unmeasured"} == statuses
        assert "one text of at most 32 tokens" in told(result)
