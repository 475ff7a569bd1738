"""docs/probe-files.md lists what the code allows, and every YAML example of the documentation can be read."""

from __future__ import annotations

import re

import pytest
from pages import PAGES, Example, Section, columns, names, page, whole_file

from maprobe.builtin import builtin_registry
from maprobe.cases import BosPolicy
from maprobe.facts import FACTS
from maprobe.reading import grammar
from maprobe.reading.budget import MAX_VALUES
from maprobe.reading.loading import MAX_BYTES
from maprobe.reading.parsing import parse_file
from maprobe.sites import SITES, TOKEN_CLASSES

PAGE = page("probe-files.md")
REGISTRY = builtin_registry()


def of_a_probe_file(text: str) -> bool:
    """Whether an example is a probe file or a part of one, and not YAML of another kind, such as a card's head."""
    return text.startswith("- id:") or text.split(":", maxsplit=1)[0] in {"version", *grammar.PROBE_KEYS}


WRITTEN = [example for path in PAGES for example in page(path.name).examples("yaml")]
# What extending.md shows uses the recipes that it adds itself; test_extending.py runs it with them.
EXAMPLES = [example for example in WRITTEN if example.page != "docs/extending.md" and of_a_probe_file(example.text)]


def section(title: str) -> Section:
    return PAGE.section(title, 3)


def listed(rows: list[list[str]]) -> list[str]:
    """The names of a table's first column, in the order written."""
    return [name for cell in columns(rows, 0) for name in names(cell)]


@pytest.mark.parametrize("name", ["docs/probe-files.md", "docs/measurements.md"])
def test_every_example_of_these_pages_is_held_to_the_reader(name: str) -> None:
    assert [example for example in WRITTEN if example.page == name]
    assert all(example in EXAMPLES for example in WRITTEN if example.page == name)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_can_be_read(example: Example, tmp_path) -> None:
    path = tmp_path / "example.probe.yaml"
    path.write_text(whole_file(example.text), encoding="utf-8")
    assert parse_file(path, REGISTRY, name=str(example))


def test_the_facts_are_those_of_the_code() -> None:
    assert list(FACTS) == listed(section("When").table())


def test_the_operators_are_those_of_the_code() -> None:
    tables = section("Expect").text.split("| quantifier |")
    operators = Section("operators", tables[0].splitlines()).table()
    assert list(REGISTRY.operators) == listed(operators)


def test_the_quantifiers_are_those_of_the_code() -> None:
    text = section("Expect").text
    table = Section("quantifiers", text[text.index("| quantifier |") :].splitlines()).table()
    told = {re.match(r"[a-z_]+", name)[0] for name in listed(table)}
    assert set(grammar.QUANTIFIERS) == told
    assert {*grammar.AXES} == {"layers", "heads"} <= {*names(section("Expect").text)}


def test_the_token_classes_are_those_of_the_code() -> None:
    (row,) = [row for row in section("Measure").table() if row[0] == "`tokens`"]
    told = [re.sub(r"^\{(\w+):.*\}$", r"\1", name) for name in names(row[1])]
    assert set(TOKEN_CLASSES) == set(told)
    assert "`all` (the default)" in row[1]


def test_the_layers_may_be_written_as_the_page_says() -> None:
    (row,) = [row for row in section("Measure").table() if row[0] == "`layers`"]
    assert names(row[1]) == ["all", "2..-2"]
    assert "layer 1 is the output of the first block, -1 that of the last, and 0 is the embedding output" in " ".join(
        section("Measure").words.split()
    )


def test_a_name_that_looks_like_a_site_is_one() -> None:
    told = {name for path in PAGES for name in names(path.read_text(encoding="utf-8"))}
    assert set(SITES) == {
        name
        for name in told
        if name in ("logits", "loss") or re.fullmatch(r"(block|embed|final|class)\.[a-z.]+|edge\.(attn|embed)", name)
    }


@pytest.mark.parametrize(
    ("title", "depth", "keys"),
    [
        ("The file", 2, grammar.TOP_KEYS),
        ("The probe", 2, grammar.PROBE_KEYS),
        ("Inputs", 3, grammar.INPUT_KEYS),
        ("Measure", 3, grammar.MEASURE_KEYS),
        ("Intervene and control", 3, grammar.INTERVENE_KEYS),
        ("Trend", 3, grammar.TREND_KEYS),
        ("Xfail, skip, marks and tags", 3, grammar.WAIVER_KEYS),
    ],
)
def test_a_table_of_keys_lists_those_of_the_format(title: str, depth: int, keys: dict[str, str]) -> None:
    assert sorted(keys) == sorted(listed(PAGE.section(title, depth).table()))


def test_the_keys_of_monotone_are_those_of_the_code() -> None:
    text = section("Trend").text
    table = Section("monotone", text[text.index("| key of `monotone` |") :].splitlines()).table()
    assert [*grammar.MONOTONE_KEYS] == listed(table)


def test_the_comparisons_are_those_of_the_code() -> None:
    text = section("Intervene and control").text
    table = Section("comparisons", text[text.index("| quantity |") :].splitlines()).table()
    assert {
        *grammar.COMPARISONS,
        *grammar.CONTROL_COMPARISONS,
        *grammar.PAIRED,
        *grammar.CONTROL_PAIRED,
    } == {*listed(table)}


def test_the_bos_policies_are_those_of_the_code() -> None:
    (row,) = [row for row in section("Inputs").table() if row[0] == "`bos`"]
    assert {*BosPolicy.__args__} == {*names(row[1])}


def test_the_levels_of_severity_are_those_of_the_code() -> None:
    assert {*grammar.LEVELS} <= {*names(section("Severity").text)}


def test_the_limits_of_a_file_are_those_of_the_code() -> None:
    words = PAGE.section("The YAML that is read", 2).words
    assert f"at most {MAX_BYTES >> 20} MiB" in words
    assert f"at most {MAX_VALUES:,} values" in words
