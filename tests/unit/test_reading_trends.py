# ruff: noqa: E501 - a probe file stands in one line
"""What may stand under `trend`, and which cases it makes."""

from __future__ import annotations

import pytest
from jsonschema import Draft7Validator
from probe_texts import probe, probe_faults, probe_file
from small_registry import REGISTRY

from maprobe.cases import Monotone, StepBound, Trend
from maprobe.reading.expanding import expand
from maprobe.reading.faults import FaultList
from maprobe.reading.loading import load
from maprobe.reading.schema import build_schema

VALIDATOR = Draft7Validator(build_schema(REGISTRY))
MAGNITUDE = "measure: {kind: magnitude}\n"
HIT = "of: {layers_hit: {gt: 0}}"


def trend(text: str) -> Trend:
    found = probe(f"{MAGNITUDE}trend: {{{text}}}").trend
    assert found is not None
    return found


def complaints(text: str) -> list[str]:
    node = load(probe_file(text), "x", FaultList())
    assert node is not None
    return [error.message for error in VALIDATOR.iter_errors(node.plain())]


def test_a_trend_has_a_condition_and_what_is_asked_of_it() -> None:
    found = trend(
        "of: {some: layers, top: {gt: 100}, ratio: {gt: 1000}}, emerges_after: 0, emerges_by: 50%, stays: true"
    )
    assert found.of is not None
    assert ["top", "ratio"] == [clause.quantity for clause in found.of.clauses]
    assert (StepBound(step=0), StepBound(share=0.5), True) == (found.emerges_after, found.emerges_by, found.stays)
    assert "x.probe.yaml:7:80" != str(found.emerges_by.mark) != "None"


def test_a_trend_may_follow_a_number() -> None:
    found = trend("monotone: {quantity: layers_hit, direction: increasing, tolerance: 0.1}")
    assert Monotone(quantity="layers_hit", direction="increasing", tolerance=0.1) == found.monotone
    assert (None, False) == (found.of, found.stays)


@pytest.mark.parametrize(
    "text",
    [
        f"{MAGNITUDE}trend: {{{HIT}, emerges_by: 1000}}",
        f"{MAGNITUDE}trend: {{{HIT}, stays: true}}",
        f"{MAGNITUDE}trend: {{{HIT}, emerges_by: 12.5 %, monotone: {{quantity: layers_hit, direction: decreasing}}}}",
        "measure: {kind: perplexity}\nintervene: {target: massive}\ntrend: {of: {ratio: {gt: 10}}, stays: true}",
        "measure: {kind: magnitude}\ntrend: {of: '${of}', emerges_by: '${by}'}\nparametrize: [{of: {layers_hit: {gt: 0}}, by: 50%, id: a}]",
    ],
)
def test_what_is_sound_is_read_and_the_schema_agrees(text: str) -> None:
    assert [] == probe_faults(text)
    assert [] == complaints(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("trend: {emerges_by: 50%}", "`emerges_by` asks about a condition; write it under `of`"),
        (f"trend: {{{HIT}, emerge_by: 50%}}", "unknown key 'emerge_by' (did you mean 'emerges_by'?)"),
        (f"trend: {{{HIT}, emerges_by: 120%}}", "allowed: a number of steps such as 1000, or a share of them such as 50%"),
        (f"trend: {{{HIT}, emerges_by: -1}}", "allowed: a number of steps"),
        (f"trend: {{{HIT}, stays: always}}", "'always' is not allowed"),
        ("trend: {of: {layers_hti: {gt: 0}}, stays: true}", "has no quantity 'layers_hti' (did you mean 'layers_hit'?)"),
        ("trend: {monotone: {quantity: layers_hit}}", "`direction` is missing"),
        ("trend: {monotone: {quantity: layers_hit, direction: up}}", "allowed: increasing, decreasing"),
        ("trend: {monotone: {quantity: nothing, direction: increasing}}", "'magnitude' has no quantity 'nothing'"),
        ("trend: {monotone: {quantity: layers_hit, direction: increasing, tolerance: -1}}", "-1 is not allowed"),
        ("trend: {}", "asks nothing; allowed: `of` with `emerges_by` or `stays`, or `monotone`"),
        ("trend: rising", "'rising' is not allowed; allowed: a mapping with of, emerges_after"),
    ],
)  # fmt: skip
def test_what_is_not_is_refused_with_its_place_and_by_the_schema(text: str, fault: str) -> None:
    told = probe_faults(MAGNITUDE + text)
    assert [fault in line for line in told] == [True]
    assert complaints(MAGNITUDE + text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"trend: {{{HIT}}}", "nothing is asked of this condition; add one of `emerges_after`, `emerges_by`, `stays`"),
        (f"trend: {{{HIT}, stays: false}}", "nothing is asked of this condition"),
        (f"trend: {{{HIT}, emerges_after: 10, emerges_by: 10}}", "step 10 is not later than step 10 (`emerges_after`)"),
        (f"trend: {{{HIT}, emerges_after: 60%, emerges_by: 50%}}", "50 % of the steps is not later than 60 % of"),
        ("trend: {of: {top: {gt: 1}}, stays: true}", "'top' has a value for each layer; say for which it must hold"),
        ("trend: {monotone: {quantity: top, direction: increasing}}", "'top' has a value for each layer, and a trend follows one; allowed: layers_hit"),
        (f"trend: {{{HIT}, stays: true}}\nexpect: {{layers_hit: {{gt: 0}}}}\nxfail: {{reason: a}}", "`xfail` does not say what is known to fail"),
        ("overrides: [{when: {causal: true}, because: b, trend: {of: {layers_hit: {gt: 0}}, stays: true}}]", "`trend` can be overridden only where the probe has one"),
    ],
)  # fmt: skip
def test_what_takes_more_than_one_look_is_refused_by_the_reader(text: str, fault: str) -> None:
    told = probe_faults(MAGNITUDE + text)
    assert [fault in line for line in told] == [True]


SERIES = {"runs": ["runs@1", "runs@2"]}
CHECKPOINTS = ["alone", "runs@1", "runs@2", "other"]


def ids(text: str) -> list[str]:
    return [case.id for case in expand([probe(MAGNITUDE + text)], file="x", checkpoints=CHECKPOINTS, series=SERIES)]


def test_a_trend_is_a_case_behind_those_of_its_members() -> None:
    text = f"trend: {{{HIT}, stays: true}}\nexpect: {{layers_hit: {{gte: 0}}}}"
    assert ["x::a[alone]", "x::a[runs@1]", "x::a[runs@2]", "x::a[runs]", "x::a[other]"] == ids(text)


def test_a_probe_that_asks_of_a_series_only_has_no_case_elsewhere() -> None:
    assert ["x::a[runs@1]", "x::a[runs@2]", "x::a[runs]"] == ids(f"trend: {{{HIT}, stays: true}}")
    assert ["alone", "runs@1", "runs@2", "other"] == [each[5:-1] for each in ids("expect: {layers_hit: {gt: 0}}")]


def test_a_case_of_a_trend_knows_those_it_is_judged_by() -> None:
    cases = expand(
        [probe(f"{MAGNITUDE}trend: {{{HIT}, stays: true}}")], file="x", checkpoints=CHECKPOINTS, series=SERIES
    )
    (trend_case,) = [case for case in cases if case.members]
    assert (("runs@1", "runs@2"), "runs", "x::a") == (trend_case.members, trend_case.checkpoint, trend_case.stem)
    assert ["x::a[runs@1]", "x::a[runs@2]"] == [trend_case.on(label) for label in trend_case.members]
