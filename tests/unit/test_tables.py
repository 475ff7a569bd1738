from __future__ import annotations

from dataclasses import replace

import pytest
from sample_reports import (
    INPUTS,
    MINILM,
    MINILM_EXISTS,
    NOTHING,
    ONE,
    SMOLLM2,
    SMOLLM2_EXISTS,
    TWO,
    magnitude,
    perplexity,
    report,
    unanswered,
)

from maprobe.readings import Axis, Quantity, Reading
from maprobe.reporting import markdown
from maprobe.reporting.grids import Grid, draw
from maprobe.reporting.profiles import levels
from maprobe.reporting.tables import layer_table, property_table
from maprobe.verdicts import Status, Verdict


def test_one_checkpoint_has_status_numbers_expectation_and_margin_on_a_pass_too() -> None:
    lines = [
        "massive-activations",
        "probe    status    measured                             expected                                    margin",
        "-------  --------  -----------------------------------  ----------------------------------------  --------",
        "exists   passed    top 23147, ratio 14003 (layer 12)    top > 100 and ratio > 1000 in some layer   +1300 %",
        "                                                        of 2..29",
        "zeroing  warn      ratio 1.757e+06, control.ratio 1.2;  ratio > 10 and control.ratio < 1.05          -14 %",
        "                   13.91 -> 2.443e+07",
    ]
    assert lines == property_table(ONE, width=110).splitlines()


def test_two_checkpoints_have_two_columns_with_status_and_numbers() -> None:
    exists = property_table(TWO).splitlines()[3]
    assert ["probe", "expected", SMOLLM2, MINILM] == property_table(TWO).splitlines()[1].split()
    assert "passed: top 23147, ratio 14003 (layer 12)" in exists
    assert exists.endswith("FAILED: top 10.5, ratio 43.75 (layer 3)")


def test_checkpoints_that_differ_only_in_depth_share_one_expectation() -> None:
    assert "top > 100 and ratio > 1000 in some layer  passed" in property_table(TWO)


def test_an_override_is_seen_where_checkpoints_expect_different_things() -> None:
    other = replace(MINILM_EXISTS, findings=(replace(MINILM_EXISTS.findings[0], expected="ratio < 1.05"),))
    table = property_table(report(SMOLLM2_EXISTS, other))
    assert f"in some layer of 2..29; {MINILM}: ratio < 1.05" in table


@pytest.mark.parametrize("width", [60, 80, 100, 132])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    many = report(*(replace(SMOLLM2_EXISTS, checkpoint=f"org/checkpoint-{i}", case=f"f::e[{i}]") for i in range(5)))
    for table in (
        property_table(ONE, width=width),
        property_table(TWO, width=width),
        property_table(many, width=width),
    ):
        assert width >= max(len(line) for line in table.splitlines())


def test_checkpoints_that_do_not_fit_continue_below() -> None:
    assert 2 == property_table(TWO, width=70).count("probe    expected")
    assert 1 == property_table(TWO, width=100).count("probe    expected")


def test_the_reason_stands_where_no_number_could_be_had() -> None:
    table = property_table(report(unanswered(MINILM, Status.ABSENT, NOTHING)), width=200)
    assert f"zeroing  absent    {NOTHING}" in table


def inapplicable(probe: str, reason: str, label: str = SMOLLM2) -> Verdict:
    return replace(
        unanswered(label, Status.NOT_APPLICABLE, reason), probe=probe, case=f"x.probe.yaml::{probe}[{label}]"
    )


def test_in_a_terminal_probes_that_do_not_apply_stand_below_the_table_those_of_one_reason_together() -> None:
    images = "its inputs are images, and llama takes texts"
    made = report(
        inapplicable("patches", images),
        SMOLLM2_EXISTS,
        inapplicable("registers", "needs x"),
        inapplicable("few", images),
    )
    lines = property_table(made, width=56).splitlines()
    assert ["not applicable", f"  {images}: patches,", "    few", "  needs x: registers"] == lines[-4:]
    assert not [line for line in lines if "n/a" in line]
    assert 3 == property_table(made).count("n/a"), "a file has a row for each"


def test_a_probe_that_applies_to_one_of_two_checkpoints_keeps_its_row() -> None:
    made = report(replace(inapplicable("exists", "needs x"), case=SMOLLM2_EXISTS.case), MINILM_EXISTS)
    assert "not applicable" not in property_table(made, width=120)
    assert "n/a: needs x" in property_table(made, width=120)


def test_a_suite_of_which_nothing_applies_has_no_table() -> None:
    made = report(inapplicable("patches", "needs x"))
    assert ["massive-activations", "not applicable", "  needs x: patches"] == property_table(
        made, width=60
    ).splitlines()


def test_in_a_terminal_suites_of_which_nothing_applies_come_last() -> None:
    made = report(replace(inapplicable("rings", "needs x"), suite="graphs"), SMOLLM2_EXISTS)
    assert property_table(made, width=60).startswith("massive-activations\n")
    assert property_table(made, width=60).endswith("\n\ngraphs\nnot applicable\n  needs x: rings")
    assert property_table(made).startswith("graphs\n"), "a file keeps the order of the report"


def test_suites_have_tables_of_their_own_in_the_order_of_the_report() -> None:
    table = property_table(
        report(replace(perplexity(), suite="zeta"), SMOLLM2_EXISTS, replace(perplexity(), suite="zeta"))
    )
    assert table.index("zeta") < table.index("massive-activations")
    assert 1 == table.count("zeta")


def test_probes_of_one_name_in_two_files_have_a_row_each() -> None:
    twin = replace(SMOLLM2_EXISTS, case=f"other.probe.yaml::exists[{SMOLLM2}]")
    assert 2 == property_table(report(SMOLLM2_EXISTS, twin)).count("exists   passed")


def test_near_misses_are_shown_and_never_counted() -> None:
    remarks = {level.layer: level.remark for level in levels(SMOLLM2_EXISTS.reading) if level.remark}
    assert {3: "near miss", 29: "near miss"} | dict.fromkeys(range(12, 29), "massive") == remarks
    row = next(line for line in layer_table(ONE, format="simple", every=False).splitlines() if "near miss" in line)
    assert ["3", "862.1", "dim", "507", "token", "0", "'Summer'", "0.933", "924", "0", "near", "miss"] == row.split()


@pytest.mark.parametrize(("ratio", "remark"), [(499.0, ""), (500.0, "near miss"), (5000.0, "near miss")])
def test_a_near_miss_begins_at_half_the_strict_ratio(ratio: float, remark: str) -> None:
    (level,) = levels(magnitude({1: (ratio, 1.0, 0)}, dim=0, token="a"))
    assert remark == level.remark


def test_the_terminal_collapses_runs_of_layers_and_keeps_the_ends_of_massive_ones() -> None:
    rows = layer_table(ONE, format="simple", every=False).splitlines()[3:]
    assert ["1", "2", "3", "...", "12", "...", "28", "29"] == [row.split()[0] for row in rows]
    assert ["...", "layers", "4-11", "69.11..69.11", "0"] == rows[3].split()
    assert ["...", "layers", "13-27", "6982..6982", "4", "massive"] == rows[5].split()


def test_every_layer_is_shown_where_asked_for() -> None:
    rows = layer_table(ONE, format="pipe", every=True).splitlines()[4:]
    assert list(range(1, 30)) == [int(row.split("|")[1]) for row in rows]


def test_a_profile_that_several_probes_share_is_shown_once() -> None:
    shared = report(SMOLLM2_EXISTS, replace(SMOLLM2_EXISTS, probe="entry"))
    table = layer_table(shared, format="simple", every=False)
    assert 1 == table.count("largest |x|")
    assert f"{SMOLLM2}: magnitude (exists, entry); 4 x 512 tokens" in table


def test_readings_without_layers_have_no_layer_table() -> None:
    assert "" == layer_table(report(perplexity()), format="simple", every=True)


def _attention() -> Verdict:
    layers, heads = Axis("layer", (1, 2)), Axis("head", (0, 1))
    quantities = (
        Quantity(name="share", values=(0.05, 0.15, 0.9, 0.3), axes=(layers, heads)),
        Quantity(name="layer_share", values=(0.1, 0.6), axes=(layers,)),
        Quantity(name="before", values=(0.1,)),
        Quantity(name="after", values=(0.6,)),
    )
    reading = Reading(kind="attention.concentration", quantities={q.name: q for q in quantities}, circumstances=INPUTS)
    return replace(perplexity(), reading=reading, findings=(), probe="sink", status=Status.PASSED)


def test_any_reading_by_layer_has_a_table_in_markdown_with_its_strongest_head() -> None:
    page = markdown.render(report(_attention()).to_dict())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert ["layer", "largest share", "layer_share"] in rows
    assert ["1", "0.15 (head 1)", "0.1"] in rows
    assert ["2", "0.9 (head 0)", "0.6"] in rows
    assert ["before", "0.1", "", ""] in rows


HOSTILE = [
    "a|b",
    "`x`",
    "\n# title",
    "<script>",
    "<!-- c -->",
    "\x1b[31m",
    "\u202eevil",
    "\udc80",
    "**b**",
    "\\|",
    "[a](b)",
]


@pytest.mark.parametrize("token", HOSTILE)
def test_a_hostile_token_leaves_the_markdown_table_whole(token: str) -> None:
    from markdown_it import MarkdownIt

    reading = magnitude({1: (23147.1, 1.6, 1)}, dim=7, token=token)
    page = markdown.render(report(replace(SMOLLM2_EXISTS, reading=reading, findings=())).to_dict())
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    texts = [child for block in tokens if block.type == "inline" for child in block.children or []]
    cell = f"dim 7 token 0 {token!r}"
    shown = [" ".join("".join(c.content for c in block.children or []).split()) for block in tokens if block.children]
    assert cell in shown
    assert {"text", "code_inline", "softbreak"} >= {child.type for child in texts} - {"text_special"}
    assert not any(block.type == "html_block" for block in tokens)


@pytest.mark.parametrize("token", HOSTILE)
def test_a_hostile_token_cannot_reach_the_terminal(token: str) -> None:
    reading = magnitude({1: (23147.1, 1.6, 1)}, dim=7, token=token)
    text = layer_table(report(replace(SMOLLM2_EXISTS, reading=reading)), format="simple", every=False)
    assert 4 == len(text.splitlines())
    assert all(line.isprintable() for line in text.splitlines())


def test_a_cell_that_looks_like_a_number_is_left_as_it_is() -> None:
    assert "0.10" in draw(Grid(headers=("a",), rows=(("0.10",),)), format="simple")
