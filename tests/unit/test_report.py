from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from sample_reports import MINILM, ONE, SMOLLM2, SMOLLM2_EXISTS, TWO, perplexity, report, unanswered

from maprobe.errors import ReportError
from maprobe.expectations import number
from maprobe.readings import Quantity, Reading
from maprobe.reporting import csv_file, json_file, markdown
from maprobe.reporting.report import PropertyReport
from maprobe.verdicts import Finding, Status


def test_a_report_comes_back_from_json_as_it_was() -> None:
    assert TWO == PropertyReport.from_dict(json.loads(json_file.render(TWO.to_dict())))


def test_numbers_that_are_not_finite_come_back_from_json() -> None:
    reading = Reading(kind="perplexity", quantities={"ratio": Quantity(name="ratio", values=(math.inf,))})
    finding = Finding(quantity="ratio", expected="ratio > 10", observed=math.inf, holds=True, margin=math.inf)
    verdict = replace(perplexity(), reading=reading, findings=(finding,))
    text = json_file.render(report(verdict).to_dict())
    assert '"inf"' in text
    assert "Infinity" not in text
    assert verdict == PropertyReport.from_dict(json.loads(text)).verdicts[0]


def test_a_reading_that_two_verdicts_share_is_written_once() -> None:
    data = report(SMOLLM2_EXISTS, replace(SMOLLM2_EXISTS, probe="first-layer"), perplexity()).to_dict()
    assert 2 == len(data["readings"])
    assert [0, 0, 1] == [verdict["reading"] for verdict in data["verdicts"]]


def test_a_reading_is_listed_once_for_each_checkpoint_with_the_probes_that_used_it() -> None:
    verdicts = (SMOLLM2_EXISTS, replace(SMOLLM2_EXISTS, probe="entry"), replace(SMOLLM2_EXISTS, checkpoint="other"))
    uses = [(use.checkpoint, use.probes) for use in report(*verdicts).readings()]
    assert [(SMOLLM2, ("exists", "entry")), ("other", ("exists",))] == uses


def test_failures_that_do_not_fail_the_session_are_counted_apart() -> None:
    waived = replace(perplexity(), severity="error", waived="known since 2026")
    counts = report(SMOLLM2_EXISTS, perplexity(), waived, replace(waived, waived="")).counts()
    assert {"passed": 1, "failed": 1, "warned": 1, "waived": 1} == {name: n for name, n in counts.items() if n}


def test_the_part_of_one_checkpoint_speaks_of_it_alone() -> None:
    part = TWO.of(MINILM)
    assert {MINILM} == {verdict.checkpoint for verdict in part.verdicts}
    assert [MINILM] == [checkpoint["label"] for checkpoint in part.checkpoints]


def test_asking_for_a_checkpoint_that_was_not_measured_names_the_nearest() -> None:
    wording = (
        "the report holds no measured checkpoint 'smollm2-135' (did you mean 'smollm2-135m'?); "
        "allowed: all-MiniLM-L6-v2, smollm2-135m"
    )
    with pytest.raises(ReportError) as caught:
        TWO.of("smollm2-135")
    assert wording == str(caught.value)


@pytest.mark.parametrize(
    ("change", "wording"),
    [
        (
            {"maprobe_report": 2},
            "the data is of version 2, so it cannot be read as a property report; allowed: version 1",
        ),
        ({"maprobe_report": None}, "the data has no key maprobe_report"),
        ({"verdicts": [{}]}, "the property report is damaged (KeyError: 'status'); write it anew"),
        ({"readings": []}, "the property report is damaged (IndexError"),
    ],
)
def test_data_that_is_no_report_of_this_version_is_refused(change: dict[str, object], wording: str) -> None:
    with pytest.raises(ReportError) as caught:
        PropertyReport.from_dict({**TWO.to_dict(), **change})
    assert str(caught.value).startswith(wording)


def test_markdown_csv_and_json_tell_the_same_numbers() -> None:
    data = TWO.to_dict()
    observed = [finding["observed"] for verdict in data["verdicts"] for finding in verdict["findings"]]
    table = list(csv.DictReader(io.StringIO(csv_file.render(data))))
    page = markdown.render(data)
    assert 6 == len(observed)
    assert observed == [float(row["observed"]) for row in table if row["observed"]]
    assert [] == [value for value in observed if number(value) not in page]


def test_markdown_has_every_section_and_the_command_to_repeat() -> None:
    page = markdown.render(TWO.to_dict())
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    expected = ["## Checkpoints", "## Properties", "## What failed", "## Readings", "## Plan", "## Repeat"]
    assert expected == titles
    assert "4 cases on 2 checkpoints: 1 passed, 1 failed, 1 warned, 1 absent, in 12.3 s." in page
    assert "```sh\npytest --model smollm2-135m probes/\n```" in page
    assert "a1" * 32 in page


def test_markdown_of_an_interrupted_session_says_so() -> None:
    assert "(interrupted)" in markdown.render(replace(ONE, interrupted=True).to_dict())
    assert "(interrupted)" not in markdown.render(ONE.to_dict())


def test_markdown_of_an_empty_report_says_that_nothing_was_measured() -> None:
    page = markdown.render(PropertyReport(verdicts=()).to_dict())
    assert "# Property report\n\n0 cases on 0 checkpoints: nothing was measured, in 0.0 s.\n" == page


def test_markdown_lists_the_largest_entries_of_massive_layers_only() -> None:
    page = markdown.render(TWO.to_dict())
    entries = page.split("Largest entries of the massive layers:")[1].split("\n### ")[0]
    layers = [line.split("|")[1].strip() for line in entries.splitlines() if line.startswith("|  ")]
    assert ["layer", *map(str, range(12, 29))] == layers


def test_csv_has_one_row_for_each_clause_and_one_for_a_case_without_any() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_file.render(TWO.to_dict()))))
    assert ["top", "ratio", "ratio", "control.ratio", "top", "ratio", ""] == [row["quantity"] for row in rows]
    assert ("12", "true", "9f" * 32) == (rows[0]["layer"], rows[0]["holds"], rows[0]["digest"])
    assert ("absent", "", "nothing massive here") == (*_picked(rows[-1]), rows[-1]["reason"][:20])


def _picked(row: dict[str, str]) -> tuple[str, str]:
    return row["status"], row["observed"]


def test_csv_tells_the_numbers_of_a_probe_that_expects_nothing() -> None:
    verdict = replace(perplexity(), findings=(), status=Status.PASSED)
    rows = list(csv.DictReader(io.StringIO(csv_file.render(report(verdict).to_dict()))))
    assert ["untouched", "edited", "ratio", "control.ratio"] == [row["quantity"] for row in rows]
    assert 13.906 == float(rows[0]["observed"])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_text_is_never_a_formula_while_numbers_stay_numbers(start: str) -> None:
    verdict = unanswered(SMOLLM2, Status.UNMEASURED, f"{start}HYPERLINK(A1)")
    rows = list(csv.DictReader(io.StringIO(csv_file.render(report(verdict, perplexity()).to_dict()))))
    assert "'" == rows[0]["reason"][0]
    assert -1 / 7 == float(rows[2]["margin"])


def _keys(data: object) -> set[str]:
    if isinstance(data, dict):
        return {key for key in data if key not in ("torch", "transformers")}.union(*map(_keys, data.values()))
    return set().union(*map(_keys, data)) if isinstance(data, list) else set()


def test_every_field_of_the_json_and_every_column_of_the_csv_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    quantities = {name for reading in TWO.to_dict()["readings"] for name in reading["quantities"]}
    fields = _keys(TWO.to_dict()) - quantities | set(csv_file.COLUMNS)
    assert [] == sorted(field for field in fields if f"`{field}`" not in page)
