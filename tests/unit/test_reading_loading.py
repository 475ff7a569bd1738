# ruff: noqa: E501 - a message stands in one line, as it is told

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from probe_texts import NAME, faults, probe_file, read
from small_registry import REGISTRY

from maprobe.errors import ProbeFileError
from maprobe.reading.faults import FaultList
from maprobe.reading.loading import MAX_BYTES, load
from maprobe.reading.nodes import Node
from maprobe.reading.parsing import parse_file


def loaded(text: str) -> Node:
    found = FaultList()
    node = load(text, NAME, found)
    found.raise_if_any()
    assert node is not None
    return node


def value(text: str) -> Any:
    return loaded(f"a: {text}").plain()["a"]


def refusal(path: Path) -> str:
    with pytest.raises(ProbeFileError) as caught:
        parse_file(path, REGISTRY, name=NAME)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e3", 1000.0),
        ("1e-3", 0.001),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("+7", 7),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2027-03-01", "2027-03-01"),
        ("2..-2", "2..-2"),
        ("0b1", "0b1"),
        ("'10'", "10"),
        ('"true"', "true"),
        ("", None),
        ("~", None),
        ("null", None),
        ("''", ""),
    ],
)
def test_scalars_are_read_by_the_core_schema_of_yaml_1_2(text: str, expected: object) -> None:
    found = value(text)
    assert expected == found
    assert type(expected) is type(found)


def test_every_value_knows_its_line_column_and_path() -> None:
    node = loaded("a:\n  - b: 1\n    c.d: [2, 3]\n")
    item = node.at(["a", 0, "c.d", 1])
    assert (3, 14, "a[0].c.d[1]") == (item.mark.line, item.mark.column, item.mark.path)
    key = node.at(["a", 0, "c.d"]).place
    assert (3, 5, "a[0].c.d") == (key.line, key.column, key.path)


def test_an_empty_value_stands_where_its_key_stands() -> None:
    node = loaded("a:\n  b:\nc: 1\n").at(["a", "b"])
    assert (2, 3) == (node.mark.line, node.mark.column)


def test_json_is_read_as_it_is_tabs_and_escapes_included() -> None:
    data = {"a": [1, 2.5, None, True, "text \U0001f600\n"], "b": {"c": "\u00e9"}}
    assert data == loaded(json.dumps(data)).plain()
    assert data == loaded(json.dumps(data, indent="\t")).plain()


def test_an_alias_stands_for_its_value_under_its_own_path() -> None:
    node = loaded("a: &x {b: 1}\nc: *x\n")
    assert {"b": 1} == node.at(["c"]).plain()
    assert "c.b" == node.at(["c", "b"]).mark.path


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "x.probe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + probe_file("measure: {kind: perplexity}").encode())
    assert 1 == len(parse_file(path, REGISTRY))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty; it needs `version: 1`, `suite` and `probes`"),
        ("# only words\n", "1:1: the file is empty; it needs `version: 1`, `suite` and `probes`"),
        ("[1, 2]", "1:1: [1, 2] is not allowed; allowed: a mapping with version, suite, cite, defaults, probes"),
        ("hello", "1:1: 'hello' is not allowed; allowed: a mapping with version, suite, cite, defaults, probes"),
        ("---\n", "2:1: an empty value is not allowed; allowed: a mapping with version, suite, cite, defaults, probes"),
        (
            "claim: this: that",
            (
                "1:12: not YAML: mapping values are not allowed here; put a text that holds ': ' in quotes, or check the "
                "indentation"
            ),
        ),
        (
            "a: 1\n\tb: 2",
            r"2:1: not YAML: found character '\t' that cannot start any token; indent with spaces",
        ),
        ("a: 'x", "1:6: not YAML: found unexpected end of stream; close the quote or bracket"),
        (
            "a: [1, 2\nb: 3",
            "2:2: not YAML: expected ',' or ']', but got ':'; check the indentation, quotes and brackets up to here",
        ),
        ("a: \x01", "1:4: not YAML: character U+0001 may not stand in a text file; remove it"),
        ('a: "\\UFFFFFFFF"', "1:1: not YAML: after this place something cannot be read; look for a wrong \\ escape"),
        ('a: "\\ud800"', "1:4: a: a \\u escape is half of a surrogate pair; write the character itself"),
        ("a: 1\n---\nb: 1\n", "2:1: a second document begins here; a file holds one: remove the `---`"),
        ("%YAML 1.1\n---\na: 1", "2:1: %YAML 1.1 is not supported; allowed: 1.2, which needs no directive"),
        ("a: *x", "1:4: a: alias *x stands for no value that ends before it; write the value out"),
        ("a: &x [*x]", "1:8: a[0]: alias *x stands for no value that ends before it; write the value out"),
        (
            "a: !!python/name:os.system 1",
            "1:4: a: tag 'tag:yaml.org,2002:python/name:os.system' is not read, as a probe file is data; remove it",
        ),
        ("a: !secret 1", "1:4: a: tag '!secret' is not read, as a probe file is data; remove it"),
        ("? [1]\n: 2", "1:3: a key must be a plain text"),
        (
            "<<: {a: 1}",
            "1:1: ['<<']: merge keys (<<) are not part of YAML 1.2; put what probes share under `defaults`",
        ),
        ("a: .nan", "1:4: a: .nan is not allowed, as nothing compares to it; write a number"),
        ("a: 1e999", "1:4: a: 1e999 is too large for a number of 64 bits; write .inf for infinity"),
        (
            "a: 99999999999999999",
            "1:4: a: 99999999999999999 is too large; allowed: integers to 2^53, or a decimal such as 1e20",
        ),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_with_its_place(text: str, expected: str) -> None:
    assert expected in faults(text)


def test_a_key_written_twice_is_a_fault_at_the_second_place() -> None:
    text = probe_file("measure: {kind: perplexity}\nclaim: Again.")
    assert ["7:5: probes[0].claim: key 'claim' is written twice, first on line 5; remove one"] == faults(text)


def test_a_fault_of_the_text_does_not_hide_the_faults_of_the_probes() -> None:
    found = faults("version: 1\nsuite: A\nsuite: B\nprobes: []\n")
    assert ["2:8", "3:1", "4:9"] == [line.split(": ")[0] for line in found]


def test_deep_nesting_is_refused_at_the_level_where_it_begins() -> None:
    assert ["1:36: a" + "[0]" * 32 + ": nested too deep; allowed: 32 levels"] == faults("a: " + "[" * 100_000)


def test_aliases_that_multiply_are_refused_before_they_are_written_out() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    found = faults("\n".join(lines))
    assert [
        "too many values: over 20,000, each alias (*) counted as its value; divide the file, or write less in one"
    ] == [line.split(": ", 2)[2] for line in found]


def test_parameters_that_multiply_are_refused_before_they_are_filled_in() -> None:
    big = "[" + ", ".join(["1"] * 3000) + "]"
    text = f"""
    measure: {{kind: perplexity}}
    inputs: {{text: [{", ".join(['"${x}"'] * 3000)}]}}
    parametrize: [{{id: big, x: {big}}}]
    """
    found = faults(probe_file(text))
    assert 1 == len(found)
    assert "too many values: over 200,000, counted anew for each probe, set of parameters and override" in found[0]


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.probe.yaml"
    with path.open("wb") as file:
        file.truncate(10_000_000)
    expected = "too large: 10,000,000 bytes; allowed: 1,048,576; put long texts in a file of their own"
    assert f"{NAME}:1:1: {expected}" == refusal(path)


def test_a_text_that_is_too_large_is_refused_unread() -> None:
    assert "too large: 1,048,577 bytes" in faults("#" * (MAX_BYTES + 1))[0]


def test_what_is_not_utf_8_is_refused_with_the_offset_of_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.probe.yaml"
    path.write_bytes(b"version: 1\nsuite: caf\xe9\n")
    expected = "not UTF-8: byte 0xe9 at offset 21 (invalid continuation byte); save the file as UTF-8"
    assert f"{NAME}:2:11: {expected}" == refusal(path)


def test_a_file_that_cannot_be_read_is_refused_with_the_cause(tmp_path: Path) -> None:
    assert f"{NAME}:1:1: cannot be read: No such file or directory" == refusal(tmp_path / "missing.probe.yaml")
    assert f"{NAME}:1:1: cannot be read: Is a directory" == refusal(tmp_path)


def test_marks_carry_the_path_as_given_where_no_name_is(tmp_path: Path) -> None:
    path = tmp_path / "x.probe.yaml"
    path.write_text(probe_file("measure: {kind: perplexity}"))
    assert str(path) == parse_file(path, REGISTRY)[0].mark.file
    assert "y" == parse_file(path, REGISTRY, name="y")[0].mark.file


def test_a_merged_document_is_the_same_in_json_and_in_yaml() -> None:
    text = probe_file("measure: {kind: perplexity}\nexpect: {loss: {lt: 3}}")
    as_json = json.dumps(loaded(text).plain(), indent=2)
    assert read(text)[0].expect == read(as_json)[0].expect
