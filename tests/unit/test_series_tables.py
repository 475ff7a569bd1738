"""What a report shows of a series: lines of its quantities, columns by member, and one column where they do not fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from sample_reports import MINILM_EXISTS, SMOLLM2_EXISTS, report

from maprobe.readings import Axis, Quantity, Reading
from maprobe.reporting import csv_file, json_file, markdown
from maprobe.reporting.report import PropertyReport
from maprobe.reporting.series import series_table
from maprobe.reporting.sparks import sparkline
from maprobe.reporting.tables import layer_table, property_table
from maprobe.verdicts import Finding, Status, Verdict

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([7, 0], "█▁"),
        # From 1 to 1000 the heights are those of logarithms; with a zero among them there are none.
        ([1, 10, 100, 1000], "▁▃▆█"),
        ([0, 1, 10, 1000], "▁▁▁█"),
        ([1, 10, 100], "▁▁█"),
        ([3, 3, 3], "▄▄▄"),
        ([1, NAN, None, 2], "▁?-█"),
        ([-math.inf, 1, 2, math.inf], "▁▁██"),
        ([NAN, None], "?-"),
        ([], ""),
    ],
)
def test_a_line_is_the_higher_the_larger_the_value(values: list[float | None], line: str) -> None:
    assert line == sparkline(values)


def test_a_line_may_be_drawn_in_ascii() -> None:
    line = sparkline([0, 1, 2, 3, 4, 5, 6, 7, NAN, None], plain=True)
    assert ("_.:=+*#@?-", True) == (line, line.isascii())


def test_of_many_values_evenly_spaced_ones_are_drawn_with_the_first_and_the_last() -> None:
    line = sparkline([9.0, *[1.0] * 500, 9.0], most=40)
    assert (40, "█", "█", {"▁"}) == (len(line), line[0], line[-1], {*line[1:-1]})


def member(step: int, count: int) -> Verdict:
    """The verdict on one checkpoint of ``runs``; massive from step 200 on."""
    base = SMOLLM2_EXISTS if step >= 200 else MINILM_EXISTS
    label = f"runs@step-{step}"
    return replace(base, checkpoint=label, case=f"massive.probe.yaml::exists[{label}]")


def trend(steps: list[int]) -> Verdict:
    axes = (Axis("step", tuple(steps)),)
    holds = [float(step >= 200) for step in steps]
    top = [23147.1 if step >= 200 else 10.5 for step in steps]
    values = {"holds": holds, "top": top}
    labels = tuple(f"runs@step-{step}" for step in steps)
    return Verdict(
        case="massive.probe.yaml::exists[runs]",
        probe="exists",
        suite="massive-activations",
        checkpoint="runs",
        status=Status.PASSED,
        expected="top > 100: emerges by step 200",
        measured="emerges at step-200",
        findings=(
            Finding(quantity="emerges_by", expected="top > 100: emerges by step 200", observed=None, holds=True),
        ),
        reading=Reading(
            kind="trend",
            quantities={name: Quantity(name=name, values=tuple(each), axes=axes) for name, each in values.items()},
            records=tuple(
                {"checkpoint": label, "step": step, "holds": holds[index], "top": top[index]}
                for index, (label, step) in enumerate(zip(labels, steps, strict=True))
            ),
        ),
        members=labels,
    )


def of_series(count: int, *more: Verdict, trends: bool = True) -> PropertyReport:
    steps = [100 * index for index in range(count)]
    members = [{"checkpoint": f"runs@step-{step}", "name": f"step-{step}", "step": step} for step in steps]
    made = report(*(member(step, count) for step in steps), *([trend(steps)] if trends else []), *more)
    return replace(made, series=({"label": "runs", "reference": "runs/", "numbered": True, "members": members},))


def test_each_quantity_has_a_line_with_both_ends_and_where_the_condition_holds() -> None:
    lines = series_table(of_series(4), width=100).splitlines()
    assert "runs: 4 checkpoints, step-0 .. step-300" == lines[0]
    assert ["probe", "quantity", "step-0", "..", "step-300", "first", "last", "holds"] == lines[1].split()
    assert ["exists", "top", "▁▁██", "10.5", "23147", "from", "step-200"] == lines[3].split()
    assert ["ratio", "▁▁██", "43.75", "14003"] == lines[4].split()


def test_without_a_trend_it_is_told_from_which_checkpoint_on_what_is_expected_holds() -> None:
    assert "from step-200" in series_table(of_series(4, trends=False), width=100)


def test_without_a_series_there_is_no_table_of_one() -> None:
    assert "" == series_table(report(SMOLLM2_EXISTS), width=100)


def test_members_have_columns_by_their_short_names_where_they_fit() -> None:
    lines = property_table(of_series(3), width=140).splitlines()
    assert ["probe", "expected", "step-0", "step-100", "step-200", "trend"] == lines[1].split()
    assert "passed: emerges at" in lines[3]


def test_of_several_series_each_table_says_which_it_is_of() -> None:
    one, other = of_series(3).series[0], of_series(3, trends=False).to_dict()
    text = json_file.render(other).replace("runs", "more")
    second = PropertyReport.from_dict(json.loads(text))
    both = replace(of_series(3, *second.verdicts), series=(one, second.series[0]))
    wide, narrow = property_table(both, width=200), property_table(both, width=80)
    assert {"runs@step-100", "more@step-100"} <= {*wide.split()}
    assert "runs: step-0 .." in narrow
    assert "more: step-0 .." in narrow
    assert 2 == sum(": 3 checkpoints, step-0 .. step-200" in line for line in series_table(both, width=80).splitlines())


@pytest.mark.parametrize("count", [5, 40, 154])
def test_many_members_take_one_column_and_no_line_is_wider_than_the_terminal(count: int) -> None:
    for width in (80, 100):
        table = property_table(of_series(count), width=width)
        assert width >= max(len(line) for line in table.splitlines())
        assert (
            f"2 FAILED, {count - 2} passed; from step-200"
            in " ".join(line[line.find("  2 FAILED") :] for line in table.splitlines())
            or "2 FAILED" in table
        )
        assert ["probe", "expected"] == table.splitlines()[1].split()[:2]
        assert width >= max(len(line) for line in series_table(of_series(count), width=width).splitlines())


def test_a_checkpoint_outside_of_the_series_has_its_own_table_above() -> None:
    table = property_table(of_series(3, SMOLLM2_EXISTS), width=140)
    assert table.index("measured") < table.index("step-100")
    assert 1 == table.count("massive-activations")


def test_of_a_series_the_layers_of_the_last_checkpoint_are_told_and_in_full_those_of_all() -> None:
    made = of_series(3)
    assert ["runs@step-200"] == [
        line.partition(":")[0]
        for line in layer_table(made, format="simple", every=False).splitlines()
        if line.startswith("runs@")
    ]
    assert 3 == layer_table(made, format="simple", every=True).count("runs@step")


def test_markdown_has_the_value_on_every_checkpoint() -> None:
    page = markdown.render(of_series(40).to_dict())
    (row,) = [line for line in page.split("## Along the series")[1].splitlines() if line.startswith("| exists")]
    assert 40 == sum(cell.strip() in ("10.5", "23147") for cell in row.split("|"))
    assert page.index("## Properties") < page.index("## Along the series") < page.index("## Readings")
    assert "trend" not in page.split("## Readings")[1].split("## Plan")[0]


def test_a_report_carries_its_series_and_trends_both_ways_and_counts_checkpoints_only() -> None:
    made = of_series(3)
    data = made.to_dict()
    assert data == PropertyReport.from_dict(data).to_dict()
    assert ("runs", ["step-0", "step-100", "step-200"]) == (
        data["series"][0]["label"],
        [entry["name"] for entry in data["series"][0]["members"]],
    )
    assert ["runs@step-0", "runs@step-100", "runs@step-200"] == list(made.labels())
    assert '"members"' in json_file.render(data)
    assert "runs" in csv_file.render(data)


def test_a_report_of_before_there_were_series_can_be_read() -> None:
    data = report(SMOLLM2_EXISTS).to_dict()
    del data["series"]
    for verdict in data["verdicts"]:
        del verdict["members"]
    assert () == PropertyReport.from_dict(data).series


def test_a_part_of_a_report_on_one_member_says_nothing_of_the_series() -> None:
    part = of_series(3).of("runs@step-200")
    assert ((), ["runs@step-200"]) == (part.series, [verdict.checkpoint for verdict in part.verdicts])
    assert "step-100" not in property_table(part)


def test_what_is_absent_throughout_has_no_line() -> None:
    made = of_series(3, trends=False)
    absent = tuple(replace(each, status=Status.ABSENT, reading=None, findings=()) for each in made.verdicts)
    assert "" == series_table(replace(made, verdicts=absent), width=100)
    assert "3 absent" in property_table(replace(made, verdicts=absent), width=80)


def test_what_is_unknown_or_absent_is_drawn_as_such() -> None:
    made = of_series(3, trends=False)
    first, second, third = made.verdicts
    changed = replace(first, status=Status.ABSENT, findings=(), reading=None, reason="nothing here")
    lost = replace(second, status=Status.UNMEASURED, findings=(), reading=None, reason="no number")
    table = series_table(replace(made, verdicts=(changed, lost, third)), width=100)
    assert "-?▄" in table
    assert ["exists", "top", "-?▄", "absent", "23147", "from", "step-200"] == table.splitlines()[3].split()
