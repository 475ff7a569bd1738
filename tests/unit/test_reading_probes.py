"""What each key of a probe file becomes."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from pathlib import Path

import pytest
from probe_texts import HEAD, probe, probe_file, read
from small_registry import REGISTRY

from maprobe.builtin import builtin_registry
from maprobe.cases import Clause, Condition, InputsRequest, InterveneRequest, MeasureRequest, Quantifier, Waiver
from maprobe.errors import ProbeFileError
from maprobe.reading.expanding import expand
from maprobe.reading.parsing import parse_file, parse_text
from maprobe.sites import LayerRange, TokenSet

MAGNITUDE = MeasureRequest(kind="magnitude", site="block.out", options=(("dims", ()), ("top", 3)))


def measure(text: str) -> MeasureRequest:
    return probe(f"measure: {text}").measure


def clauses(text: str) -> tuple[Clause, ...]:
    found = probe(f"measure: {{kind: magnitude}}\nexpect: {text}").expect
    assert found is not None
    return found.clauses


def quantifier(text: str) -> Quantifier | None:
    found = probe(f"measure: {{kind: magnitude}}\nexpect: {{{text}, top: {{gt: 1}}}}").expect
    assert found is not None
    return found.quantifier


def conditions(text: str) -> tuple[Condition, ...]:
    return probe(f"when: {text}").when


# --- the file


def test_a_probe_carries_its_suite_id_claim_and_place() -> None:
    found = probe()
    assert ("a-suite", "a", "It holds.") == (found.suite, found.id, found.claim)
    assert ("x.probe.yaml:4:5", "probes[0]") == (str(found.mark), found.mark.path)


def test_a_probe_cites_its_own_source_then_that_of_the_defaults_then_that_of_the_file() -> None:
    head = "cite: the file\n"
    assert "the file" == probe(head=head).cite
    assert "the defaults" == probe(head=head + "defaults: {cite: the defaults}\n").cite
    assert "the probe" == probe("cite: the probe", head=head + "defaults: {cite: the defaults}\n").cite
    assert "" == probe().cite


def test_a_sentence_over_several_lines_becomes_one_line() -> None:
    assert "one two three" == probe("cite: >\n  one\n  two\n\n  three").cite


def test_probes_keep_the_order_of_the_file() -> None:
    items = "".join(f"  - {{id: {name}, claim: It holds., measure: {{kind: perplexity}}}}\n" for name in "cab")
    assert ["c", "a", "b"] == [found.id for found in read(f"{HEAD}probes:\n{items}")]


# --- inputs


def inputs(text: str, folder: str = "") -> InputsRequest:
    return probe(f"inputs: {text}", folder=folder).inputs


def test_without_inputs_the_default_corpus_is_read() -> None:
    assert InputsRequest(source="default", value=()) == probe().inputs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{text: One.}", InputsRequest(source="text", value=("One.",))),
        ("{text: [One., Two.]}", InputsRequest(source="text", value=("One.", "Two."))),
        ("{token: bos}", InputsRequest(source="token", value=("bos",))),
        ("{file: a.txt}", InputsRequest(source="file", value=("a.txt",), folder="here")),
        ("{jsonl: a.jsonl}", InputsRequest(source="jsonl", value=("a.jsonl",), folder="here")),
        (
            "{jsonl: a.jsonl, field: body}",
            InputsRequest(source="jsonl", value=("a.jsonl",), text_field="body", folder="here"),
        ),
        ("{corpus: python-docs}", InputsRequest()),
        (
            "{corpus: python-docs, sequences: 8, length: 512, skip: 4, bos: require}",
            InputsRequest(sequences=8, length=512, skip=4, bos="require"),
        ),
        ("{corpus: python-docs, sequences: all, bos: auto}", InputsRequest(sequences="all", bos="auto")),
    ],
)
def test_inputs_are_read(text: str, expected: InputsRequest) -> None:
    assert expected == inputs(text, folder="here")


def test_the_same_corpus_asked_for_from_two_folders_is_the_same_input() -> None:
    text = "{corpus: python-docs, length: 8}"
    assert inputs(text, folder="here") == inputs(text, folder="there")
    assert inputs("{file: a.txt}", folder="here") != inputs("{file: a.txt}", folder="there")


def test_one_file_asked_for_from_two_folders_side_by_side_is_the_same_input() -> None:
    near = inputs("{choices: data/a.jsonl}", folder="/probes/one")
    assert near == inputs("{choices: ../one/data/a.jsonl}", folder="/probes/two")
    assert near != inputs("{choices: ../data/a.jsonl}", folder="/probes/two")
    up = inputs("{file: ../a.txt}", folder="/probes/two")
    assert ("/probes/two", ("../a.txt",)) == (up.folder, up.value), "a path into no folder beside stays as it is"


def test_relative_paths_start_from_the_folder_of_the_probe_file(tmp_path: Path) -> None:
    path = tmp_path / "x.probe.yaml"
    path.write_text(probe_file("measure: {kind: perplexity}\ninputs: {file: a.txt}"), encoding="utf-8")
    assert str(tmp_path) == parse_file(path, REGISTRY, name="x")[0].inputs.folder


def test_a_whole_number_may_be_written_as_a_decimal() -> None:
    found = inputs("{corpus: python-docs, length: 1e3}").length
    assert 1000 == found
    assert isinstance(found, int)


# --- measure


def test_a_measurement_has_defaults_for_all_but_its_kind() -> None:
    assert MAGNITUDE == measure("{kind: magnitude}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("site: block.mlp.out", replace(MAGNITUDE, site="block.mlp.out")),
        ("site: embed.out", replace(MAGNITUDE, site="embed.out")),
        ("layers: 2..-2", replace(MAGNITUDE, layers=LayerRange(2, -2))),
        ("layers: -1", replace(MAGNITUDE, layers=LayerRange(-1, -1))),
        ("layers: 0", replace(MAGNITUDE, layers=LayerRange(0, 0))),
        ("tokens: first", replace(MAGNITUDE, tokens=TokenSet("first"))),
        ("tokens: delimiter", replace(MAGNITUDE, tokens=TokenSet("delimiter"))),
        ("tokens: {index: [4, 0, -1]}", replace(MAGNITUDE, tokens=TokenSet("index", (-1, 0, 4)))),
        ("top: 5", replace(MAGNITUDE, options=(("dims", ()), ("top", 5)))),
        ("top: 5, dims: [7, 2]", replace(MAGNITUDE, options=(("dims", (7, 2)), ("top", 5)))),
    ],
)
def test_a_measurement_is_read(text: str, expected: MeasureRequest) -> None:
    assert expected == measure(f"{{kind: magnitude, {text}}}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{kind: magnitude}", "{top: 3, dims: [], tokens: all, layers: all, site: block.out, kind: magnitude}"),
        ("{kind: magnitude, layers: 1..-1}", "{kind: magnitude, layers: all}"),
        ("{kind: magnitude, layers: 3}", "{kind: magnitude, layers: 3..3}"),
        ("{kind: magnitude, layers: 3}", "{kind: magnitude, layers: 3.0}"),
        ("{kind: magnitude, tokens: {index: [0, 4]}}", "{kind: magnitude, tokens: {index: [4, 0, 4]}}"),
        ("{kind: magnitude, top: 3}", "{kind: magnitude, top: 3.0}"),
    ],
)
def test_two_spellings_of_one_measurement_are_one_request(one: str, other: str) -> None:
    assert measure(one) == measure(other)
    assert hash(measure(one)) == hash(measure(other))


# --- intervene


def test_an_intervention_has_defaults_for_all_but_its_target() -> None:
    found = probe("intervene: {target: massive}").intervene
    assert found is not None
    assert ("massive", "first-layer", "zero", None) == (found.target, found.at, found.set, found.value)
    assert ("median", (("limit", 100),)) == (found.control, found.options)


@pytest.mark.parametrize(
    ("text", "expected"), [("zero", ("zero", None)), ("mean", ("mean", None)), ("{value: -0.5}", ("value", -0.5))]
)
def test_what_entries_are_set_to_is_read(text: str, expected: tuple[str, float | None]) -> None:
    found = probe(f"intervene: {{target: massive, set: {text}, at: every-layer, limit: 5}}\ncontrol: none").intervene
    assert found is not None
    assert expected == (found.set, found.value)
    assert ("every-layer", "none", (("limit", 5),)) == (found.at, found.control, found.options)


def of_ours(text: str) -> InterveneRequest:
    measure = "measure: {kind: perplexity}\n"
    (found,) = parse_text(probe_file(measure + text), builtin_registry(), name="x.probe.yaml")
    assert found.intervene is not None
    return found.intervene


def test_a_target_that_allows_one_may_be_given_a_layer() -> None:
    assert 12 == of_ours("intervene: {target: massive, at: 12}").at
    assert -2 == of_ours("intervene: {target: super-weight, at: -2}").at


def test_a_target_that_sets_nothing_has_no_value_and_a_control_of_its_own() -> None:
    found = of_ours("intervene: {target: attention-window, size: 8}")
    assert ("every-layer", "", None, "sinks") == (found.at, found.set, found.value, found.control)
    assert "none" == of_ours("intervene: {target: attention-window}\ncontrol: none").control


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "intervene: {target: massive, at: late}",
            "'late' is not allowed; allowed: first-layer, the number of a layer",
        ),
        ("intervene: {target: super-weight, set: mean}", "'mean' is not allowed; allowed: zero, {value: NUMBER}"),
        ("intervene: {target: attention-window, set: zero}", "'attention-window' takes no key 'set'"),
        ("intervene: {target: attention-window, at: 3}", "3 is not allowed; allowed: every-layer"),
        ("intervene: {target: attention-window}\ncontrol: median", "'median' is not allowed; allowed: sinks, none"),
        ("intervene: {target: massive}\ncontrol: sinks", "'sinks' is not allowed; allowed: median, none"),
    ],
)
def test_what_a_target_does_not_allow_is_a_fault(text: str, fault: str) -> None:
    with pytest.raises(ProbeFileError, match=re.escape(fault)):
        of_ours(text)


# --- expect


def test_clauses_are_read_in_the_order_written_each_with_its_place() -> None:
    found = clauses("{some: layers, top: {gt: 100, lte: 1e6}, layers_hit: {gte: 1}}")
    assert [("top", "gt", 100), ("top", "lte", 1e6), ("layers_hit", "gte", 1)] == [
        (clause.quantity, clause.operator, clause.bound) for clause in found
    ]
    assert ["probes[0].expect.top", "x.probe.yaml:7:33"] == [found[0].mark.path, str(found[0].mark)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{between: [1, 2.5]}", (1, 2.5)),
        ("{in: [1, 2]}", (1, 2)),
        ("{approx: 3}", 3),
        ("{eq: 0}", 0),
        ("{approx: {value: 3, rel: 0.1}}", {"value": 3, "rel": 0.1}),
    ],
)
def test_bounds_are_read_as_values_that_can_be_hashed(text: str, expected: object) -> None:
    (clause,) = clauses(f"{{layers_hit: {text}}}")
    assert expected == clause.bound
    assert {clause} == {replace(clause, mark=None)}


def test_a_tolerance_is_understood_by_its_operator() -> None:
    (clause,) = clauses("{layers_hit: {approx: {abs: 2, value: 10}}}")
    operator = REGISTRY.operators["approx"]
    assert operator.holds(11, clause.bound)
    assert not operator.holds(13, clause.bound)
    assert "{'abs': 2, 'value': 10}" == repr(clause.bound)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("every: layers", Quantifier(kind="every", axis="layers")),
        ("some: layers", Quantifier(kind="some", axis="layers")),
        ("none: layers", Quantifier(kind="none", axis="layers")),
        ("at_least: {layers: 3}", Quantifier(kind="at_least", axis="layers", count=3)),
        ("at_least: {layers: 80%}", Quantifier(kind="at_least", axis="layers", share=0.8)),
        ("at_least: {layers: 100%}", Quantifier(kind="at_least", axis="layers", share=1.0)),
        ("at_least: {layers: 0.5 %}", Quantifier(kind="at_least", axis="layers", share=0.005)),
    ],
)
def test_quantifiers_are_read(text: str, expected: Quantifier) -> None:
    assert expected == quantifier(text)


def test_a_quantifier_over_heads_covers_what_has_a_value_for_each_layer_and_head() -> None:
    found = probe(
        "measure: {kind: attention.concentration}\nexpect: {every: heads, share: {lt: 1}, rise: {gt: 0}}"
    ).expect
    assert found is not None
    assert Quantifier(kind="every", axis="heads") == found.quantifier


def test_what_has_one_value_is_expected_without_a_quantifier() -> None:
    found = probe("measure: {kind: magnitude}\nexpect: {layers_hit: {eq: 0}}").expect
    assert found is not None
    assert found.quantifier is None


def test_nothing_need_be_expected() -> None:
    assert probe().expect is None


def test_under_an_intervention_the_comparisons_are_expected() -> None:
    names = ["edited", "untouched", "ratio", "difference", "control.edited", "control.ratio", "control.difference"]
    names += ["over_control"]
    text = ", ".join(f"{name}: {{gt: 0}}" for name in names)
    found = probe(f"intervene: {{target: massive}}\nexpect: {{{text}}}").expect
    assert found is not None
    assert names == [clause.quantity for clause in found.clauses]


# --- severity


@pytest.mark.parametrize("level", ["error", "warn", "info"])
def test_one_severity_is_read(level: str) -> None:
    assert level == probe(f"severity: {level}").severity


def test_without_a_severity_a_failure_is_an_error() -> None:
    assert ("error", ()) == (probe().severity, probe().bands)


def test_bands_are_read_the_worst_first() -> None:
    found = probe("severity: {info: {loss: {lt: 4}}, error: {loss: {lt: 1}}, warn: {loss: {lt: 2}}}")
    assert [("error", 1), ("warn", 2), ("info", 4)] == [
        (band.level, band.condition.clauses[0].bound) for band in found.bands
    ]
    assert "error" == found.severity


# --- when, xfail, skip, marks, tags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{model_type: llama}", ("model_type", "eq", "llama")),
        ("{causal: false}", ("causal", "eq", False)),
        ("{num_hidden_layers: 12}", ("num_hidden_layers", "eq", 12)),
        ("{model_type: [llama, gpt2]}", ("model_type", "in", ("llama", "gpt2"))),
        ("{num_hidden_layers: {gte: 12}}", ("num_hidden_layers", "gte", 12)),
        ("{hidden_size: {between: [8, 16]}}", ("hidden_size", "between", (8, 16))),
        ("{hidden_size: {approx: {value: 8, abs: 1}}}", ("hidden_size", "approx", {"value": 8, "abs": 1})),
        ("{modality: {in: [text, other]}}", ("modality", "in", ("text", "other"))),
    ],
)
def test_conditions_are_read(text: str, expected: tuple[str, str, object]) -> None:
    (condition,) = conditions(text)
    assert expected == (condition.fact, condition.operator, condition.bound)
    assert {condition} == {replace(condition, mark=None)}


def test_all_conditions_are_kept_in_order() -> None:
    assert ["causal", "num_hidden_layers", "num_hidden_layers"] == [
        condition.fact for condition in conditions("{causal: true, num_hidden_layers: {gte: 2, lt: 9}}")
    ]


def test_a_waiver_is_read() -> None:
    assert Waiver(reason="known") == probe("xfail: {reason: known}").xfail
    expected = Waiver(reason="known", strict=False, until=datetime.date(2027, 3, 1))
    assert expected == probe("xfail: {reason: known, strict: false, until: 2027-03-01}").xfail
    assert expected == probe("xfail: {reason: known, strict: false, until: '2027-03-01'}").xfail


def test_skip_marks_and_tags_are_read() -> None:
    found = probe("skip: too slow\nmarks: [slow, gpu_2]\ntags: [attention, layer-1]")
    assert ("too slow", ("slow", "gpu_2"), ("attention", "layer-1")) == (found.skip, found.marks, found.tags)
    assert (None, (), ()) == (probe().skip, probe().marks, probe().tags)


def test_a_probe_can_be_hashed_whatever_it_holds() -> None:
    found = probe(
        """
        measure: {kind: perplexity}
        intervene: {target: massive}
        expect: {ratio: {approx: {value: 1, rel: 0.1}}}
        severity: {warn: {ratio: {in: [1, 2]}}}
        when: {hidden_size: {approx: {value: 8, abs: 1}}}
        overrides: [{when: {causal: true}, because: So., expect: {ratio: {lt: 1}}}]
        xfail: {reason: known}
        """
    )
    assert hash(found) == hash(replace(found))


# --- cases


def test_every_probe_is_a_case_on_every_checkpoint() -> None:
    probes = read(probe_file("measure: {kind: perplexity}") + "  - {id: b, claim: c, measure: {kind: magnitude}}\n")
    cases = expand(probes, file="probes/x.probe.yaml", checkpoints=["one", "two"])
    assert [f"probes/x.probe.yaml::{name}[{label}]" for name in "ab" for label in ("one", "two")] == [
        case.id for case in cases
    ]
    assert [("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")] == [(c.probe.id, c.checkpoint) for c in cases]


def test_without_checkpoints_there_are_no_cases() -> None:
    assert () == expand([probe()], file="x", checkpoints=[])
