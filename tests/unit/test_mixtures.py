"""Inputs of several domains and of graded pairs: how they are read, made into sequences, and refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_inputs import BOS, CORPORA, FACTS, PLAIN, VOCABULARY, WITH_BOS, ids, words

from maprobe.builtin import builtin_registry
from maprobe.cases import Domain, InputsRequest
from maprobe.errors import InputError, ProbeFileError
from maprobe.materials import GradedPair
from maprobe.reading.parsing import parse_text
from maprobe.running.inputs import Inputs, digest_of, prepare

REGISTRY = builtin_registry()


def lines(path: Path, *records: Any) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def made(request: InputsRequest, tokenizer: Any = PLAIN) -> Inputs:
    found = prepare(request, tokenizer, FACTS, CORPORA)
    assert isinstance(found, Inputs)
    return found


def pairs(folder: Path, *records: Any, **more: Any) -> InputsRequest:
    lines(folder / "p.jsonl", *records)
    return InputsRequest(source="pairs", value=("p.jsonl",), folder=str(folder), **more)


def pair(first: str, second: str, score: Any = 1.0) -> dict[str, Any]:
    return {"a": first, "b": second, "score": score}


THREE = (pair("w0 w1", "w2"), pair("w3", "w4 w5 w6", 2), pair("w7", "w8", 0.5))


class TestPairs:
    def test_are_sequences_two_by_two(self, tmp_path: Path) -> None:
        found = made(pairs(tmp_path, *THREE))
        assert (ids(0, 1), ids(2, 2), ids(3, 3), ids(4, 6), ids(7, 7), ids(8, 8)) == found.sequences
        assert found.pairs == tuple(
            GradedPair(first=2 * number, second=2 * number + 1, score=score, line=number + 1)
            for number, score in enumerate((1.0, 2.0, 0.5))
        )
        assert "3 pairs of p.jsonl, 1 to 3 tokens each" == found.description
        assert () == found.groups

    def test_are_chosen_pair_by_pair(self, tmp_path: Path) -> None:
        found = made(pairs(tmp_path, *THREE, skip=1, sequences=1))
        assert (ids(3, 3), ids(4, 6)) == found.sequences
        assert [(0, 1, 2.0, 2)] == [(one.first, one.second, one.score, one.line) for one in found.pairs]

    def test_each_text_has_its_special_tokens(self, tmp_path: Path) -> None:
        assert {BOS} == {row[0] for row in made(pairs(tmp_path, *THREE), WITH_BOS).sequences}

    @pytest.mark.parametrize(
        ("record", "told"),
        [
            ({"a": "w0", "score": 1}, "line 2 of {file} has no field 'b'; it has: a, score; every pair has two texts"),
            ({"a": "w0", "b": "w1"}, "line 2 of {file} has no field 'score'; it has: a, b;"),
            (pair("w0", "w1", "high"), "'score' in line 2 of {file} is 'high'; allowed: a number"),
            (pair("w0", "w1", True), "'score' in line 2 of {file} is True; allowed: a number"),
            (pair("w0", "w1", float("nan")), "'score' in line 2 of {file} is nan; allowed: a number"),
            ({"a": 3, "b": "w1", "score": 1}, "field 'a' in line 2 of {file} is int, not a text; write a text"),
            (["w0", "w1"], "line 2 of {file} is not a JSON object; allowed: one object a line, with a, b and score"),
            (pair("w0", " "), "'b' in line 2 of {file} is empty: it holds no token"),
        ],
    )
    def test_a_line_that_is_none_is_named(self, tmp_path: Path, record: Any, told: str) -> None:
        with pytest.raises(InputError, match=re.escape(told.replace("{file}", str(tmp_path / "p.jsonl")))):
            made(pairs(tmp_path, THREE[0], record))

    def test_more_than_there_are_cannot_be_had(self, tmp_path: Path) -> None:
        told = "p.jsonl has 3 pairs, but the probe asks for 3 after 1 skipped ones; lower `sequences` or `skip`"
        with pytest.raises(InputError, match=re.escape(told)):
            made(pairs(tmp_path, *THREE, skip=1, sequences=3))

    def test_a_file_without_any_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"p\.jsonl holds no pair; allowed: at least one line"):
            made(pairs(tmp_path))


class TestDomains:
    @pytest.fixture
    def request_(self, tmp_path: Path) -> InputsRequest:
        lines(tmp_path / "t.jsonl", {"body": words(20, first=30)}, {"body": words(5)})
        domains = (
            Domain(name="one", source="corpus", value="sixty"),
            Domain(name="two", source="jsonl", value="t.jsonl", text_field="body"),
        )
        return InputsRequest(source="domains", value=(), domains=domains, folder=str(tmp_path), sequences=2, length=8)

    def test_follow_one_another_and_each_sequence_knows_its_own(self, request_: InputsRequest) -> None:
        found = made(request_)
        assert (ids(0, 7), ids(8, 15), ids(30, 37), ids(38, 45)) == found.sequences
        assert ("one", "one", "two", "two") == found.groups
        assert "one: 2 x 8 tokens of sixty; two: 2 x 8 tokens of t.jsonl" == found.description
        assert digest_of(found.sequences) == found.digest

    def test_share_the_policy_and_tell_it_once(self, request_: InputsRequest) -> None:
        assert "auto: <s> at the start of each" == made(request_, WITH_BOS).bos

    def test_a_fault_of_one_is_told(self, request_: InputsRequest, tmp_path: Path) -> None:
        lines(tmp_path / "t.jsonl", {"text": "w0"})
        with pytest.raises(InputError, match=r"line 1 of .*t\.jsonl has no field 'body'"):
            made(request_)


def read(inputs: str, measure: str = "{kind: perplexity}") -> InputsRequest:
    file = f"version: 1\nsuite: s\nprobes:\n  - {{id: a, claim: c, inputs: {inputs}, measure: {measure}}}\n"
    return parse_text(file, REGISTRY, name="x", folder="here")[0].inputs


class TestReading:
    def test_pairs(self) -> None:
        expected = InputsRequest(source="pairs", value=("p.jsonl",), sequences=5, folder="here")
        assert expected == read("{pairs: p.jsonl, sequences: 5}", "{kind: parameters.relatedness}")

    def test_domains(self) -> None:
        found = read("{domains: {a: {corpus: python-docs}, b: {jsonl: t.jsonl, field: body}}, length: 8}")
        domains = (
            Domain(name="a", source="corpus", value="python-docs"),
            Domain(name="b", source="jsonl", value="t.jsonl", text_field="body"),
        )
        assert InputsRequest(source="domains", value=(), domains=domains, length=8, folder="here") == found
        assert ("python-docs",) == found.corpora

    def test_domains_of_corpora_do_not_depend_on_the_folder(self) -> None:
        assert "" == read("{domains: {a: {corpus: python-docs}, b: {corpus: python-source}}}").folder

    @pytest.mark.parametrize(
        ("inputs", "told"),
        [
            ("{domains: {a: {corpus: python-docs}}}", "names too few domains; allowed: a mapping of 2 domains or more"),
            ("{domains: python-docs}", "'python-docs' is not allowed; allowed: a mapping of 2 domains or more"),
            ("{domains: {a: {}, b: {file: x}}}", "names no source; allowed: exactly one of corpus, file, jsonl"),
            (
                "{domains: {a: {file: x, jsonl: y}, b: {file: x}}}",
                "names 2 sources (file, jsonl); allowed: exactly one",
            ),
            (
                "{domains: {a: {file: x, field: y}, b: {file: x}}}",
                "`field` belongs to `jsonl`, and the source is `file`",
            ),
            ("{domains: {a: {corpus: test-images}, b: {file: x}}}", "'test-images' is not allowed"),
            ("{domains: {a: {text: One.}, b: {file: x}}}", "unknown key 'text'"),
            ("{domains: {A b: {file: x}, b: {file: x}}}", "'A b' is not allowed; allowed: lower-case letters, digits"),
            ("{domains: {all: {file: x}, b: {file: x}}}", "'all' stands for all domains together in tables"),
            ("{pairs: p.jsonl, length: 8}", "`length` would cut the texts of `pairs` short; remove it"),
            ("{pairs: p.jsonl, corpus: python-docs}", "names 2 sources (pairs, corpus)"),
        ],
    )
    def test_faults(self, inputs: str, told: str) -> None:
        with pytest.raises(ProbeFileError, match=re.escape(told)):
            read(inputs)

    def test_relatedness_needs_pairs(self) -> None:
        with pytest.raises(ProbeFileError, match="pairs"):
            read("{text: One.}", "{kind: parameters.relatedness}")


def test_the_words_of_the_tokenizer_are_as_these_tests_take_them() -> None:
    assert VOCABULARY["w0"] == ids(0, 0)[0]
