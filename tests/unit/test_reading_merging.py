"""How defaults, overrides and parameters become probes."""

# ruff: noqa: E501 - a message stands in one line, as it is told

from __future__ import annotations

import pytest
from probe_texts import HEAD, probe, probe_faults, probe_file, read

from maprobe.cases import InputsRequest, Override, Probe
from maprobe.sites import LayerRange, TokenSet

DEFAULTS = """\
defaults:
  inputs: {corpus: python-docs, sequences: 4, length: 512}
  measure: {kind: magnitude, layers: 2..-2, tokens: first}
  expect: {layers_hit: {gt: 0}}
  when: {causal: true}
  tags: [shared]
"""


def overrides(text: str, *, head: str = "") -> tuple[Override, ...]:
    return probe(text, head=head).overrides


def parametrized(text: str) -> tuple[Probe, ...]:
    return read(probe_file(text))


# --- defaults


def test_a_probe_has_what_the_defaults_say() -> None:
    found = probe(head=DEFAULTS)
    assert (4, 512) == (found.inputs.sequences, found.inputs.length)
    assert ("magnitude", LayerRange(2, -2)) == (found.measure.kind, found.measure.layers)
    assert ("layers_hit", "causal", ("shared",)) == (found.expect.clauses[0].quantity, found.when[0].fact, found.tags)  # type: ignore[union-attr]


def test_inputs_and_measure_merge_key_by_key() -> None:
    found = probe("inputs: {length: 8}\nmeasure: {layers: 3}", head=DEFAULTS)
    assert InputsRequest(sequences=4, length=8) == found.inputs
    assert ("magnitude", LayerRange(3, 3), TokenSet("first")) == (
        found.measure.kind,
        found.measure.layers,
        found.measure.tokens,
    )


def test_an_intervention_merges_key_by_key() -> None:
    head = "defaults: {intervene: {target: massive, at: every-layer, set: mean}}\n"
    found = probe("intervene: {set: zero}", head=head).intervene
    assert found is not None
    assert ("massive", "every-layer", "zero") == (found.target, found.at, found.set)


def test_another_source_of_inputs_takes_the_place_of_the_one_in_the_defaults() -> None:
    found = probe("inputs: {text: One.}", head=DEFAULTS)
    assert InputsRequest(source="text", value=("One.",), sequences=4, length=512) == found.inputs
    head = "defaults: {inputs: {jsonl: a.jsonl, field: body, length: 8}}\n"
    assert InputsRequest(length=8) == probe("inputs: {corpus: python-docs}", head=head).inputs
    assert "text" == probe("inputs: {jsonl: b.jsonl}", head=head).inputs.text_field
    assert "body" == probe("inputs: {length: 4}", head=head).inputs.text_field


def test_every_other_key_is_replaced_whole() -> None:
    found = probe("expect: {some: layers, top: {gt: 1}}\nwhen: {model_type: gpt2}\ntags: [own]", head=DEFAULTS)
    assert ["top"] == [clause.quantity for clause in found.expect.clauses]  # type: ignore[union-attr]
    assert (["model_type"], ("own",)) == ([condition.fact for condition in found.when], found.tags)


# --- overrides


def test_an_override_holds_the_whole_probe_as_it_stands_there() -> None:
    text = """
    measure: {kind: perplexity}
    cite: A paper.
    intervene: {target: massive, set: zero}
    control: none
    expect: {ratio: {gt: 10}}
    when: {causal: true}
    overrides:
      - when: {model_type: gpt2}
        because: Harmless there.
        intervene: {set: mean}
        expect: {ratio: {lt: 1.05}}
        xfail: {reason: known}
      - {when: {num_hidden_layers: {lt: 4}}, because: Too shallow., severity: info}
    """
    base = probe(text)
    first, second = base.overrides
    assert ("model_type", "Harmless there.") == (first.when[0].fact, first.because)
    assert (base.id, base.claim, base.cite, base.mark) == (
        first.probe.id,
        first.probe.claim,
        first.probe.cite,
        first.probe.mark,
    )
    assert ("mean", "none") == (first.probe.intervene.set, first.probe.intervene.control)  # type: ignore[union-attr]
    assert "lt" == first.probe.expect.clauses[0].operator  # type: ignore[union-attr]
    assert ((), (), "known") == (first.probe.when, first.probe.overrides, first.probe.xfail.reason)  # type: ignore[union-attr]
    assert ("info", base.expect, base.intervene) == (second.probe.severity, second.probe.expect, second.probe.intervene)


def test_an_override_merges_over_the_defaults_too() -> None:
    (override,) = overrides(
        "overrides: [{when: {causal: true}, because: So., measure: {layers: 1}, inputs: {text: One.}}]", head=DEFAULTS
    )
    assert ("magnitude", LayerRange(1, 1), "text", 512) == (
        override.probe.measure.kind,
        override.probe.measure.layers,
        override.probe.inputs.source,
        override.probe.inputs.length,
    )


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("id: b", "`id` cannot be overridden, as it stays as it is"),
        ("claim: b", "`claim` cannot be overridden, as it stays as it is"),
        ("overrides: []", "`overrides` cannot be overridden, as it stays as it is"),
        ("parametrize: []", "`parametrize` cannot be overridden, as it stays as it is"),
        ("skip: b", "`skip` cannot be overridden, as it is decided before a checkpoint is known; use `when`"),
        ("marks: [b]", "`marks` cannot be overridden, as it is decided before a checkpoint is known; use `when`"),
        ("tags: [b]", "`tags` cannot be overridden, as it is decided before a checkpoint is known; use `when`"),
    ],
)
def test_what_cannot_be_overridden_is_refused(key: str, why: str) -> None:
    text = f"measure: {{kind: perplexity}}\noverrides: [{{when: {{causal: true}}, because: b, severity: info, {key}}}]"
    assert [why] == [line.split(": ", 2)[2] for line in probe_faults(text)]


def test_the_faults_of_an_override_are_told_once_and_those_of_the_probe_are_not_repeated() -> None:
    text = """
    measure: {kind: perplexity, site: logit}
    overrides:
      - {when: {causal: true}, because: b, severity: wran}
      - {when: {causal: true}, because: b}
      - {severity: info}
      - 3
    """
    assert [
        "6:39: probes[0].measure.site: 'logit' is not allowed (did you mean 'logits'?); allowed: logits",
        (
            "8:54: probes[0].overrides[0].severity: 'wran' is not allowed (did you mean 'warn'?); allowed: error, warn, info, "
            "or a mapping of them to the bad state of each"
        ),
        "9:9: probes[0].overrides[1]: changes nothing; name at least one key that differs, such as `expect`",
        "10:9: probes[0].overrides[2]: `when` and `because` are missing",
        (
            "11:9: probes[0].overrides[3]: 3 is not allowed; allowed: a mapping with when, because, cite, inputs, measure, "
            "intervene, control, expect, trend, severity, xfail"
        ),
    ] == probe_faults(text)


# --- parametrize

EFFECT = """
measure: {kind: perplexity}
intervene: {target: massive, set: "${set}"}
expect: {ratio: {lt: "${limit}"}}
parametrize:
"""


def test_a_parametrized_probe_becomes_one_probe_for_each_set() -> None:
    found = parametrized(EFFECT + "  - {set: zero, limit: 0.5}\n  - {id: large, set: {value: 9}, limit: 1e3}\n")
    assert ["a-zero-0-5", "a-large"] == [each.id for each in found]
    assert [("zero", None), ("value", 9)] == [(each.intervene.set, each.intervene.value) for each in found]  # type: ignore[union-attr]
    assert [0.5, 1000.0] == [each.expect.clauses[0].bound for each in found]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Block.OUT", "a-block-out"),
        ("-1", "a-minus-1"),
        ("1e-6", "a-1e-06"),
        ("true", "a-true"),
        ("[1, 2]", "a-1-2"),
        ("{value: 3}", "a-value-3"),
        ("~", "a-none"),
    ],
)
def test_an_id_is_made_of_the_values(value: str, expected: str) -> None:
    with_everywhere = f"measure: {{kind: magnitude, top: '${{x}}'}}\nparametrize: [{{x: {value}}}, {{x: 3}}]"
    found = probe_faults(with_everywhere)
    assert not found or all(f"(in probe '{expected}')" in line for line in found)
    if not found:
        assert expected == parametrized(with_everywhere)[0].id


def test_a_placeholder_may_stand_for_any_value_in_the_probe_and_in_the_defaults() -> None:
    head = "defaults: {measure: '${measure}'}\n"
    text = """
    cite: ${source}
    inputs: {text: ["${line}", More.]}
    overrides: [{when: {model_type: "${family}"}, because: So., severity: info}]
    parametrize: [{id: one, measure: {kind: magnitude, layers: 2}, source: S., line: L., family: opt}]
    """
    (found,) = read(probe_file(text, head=head))
    assert (LayerRange(2, 2), "S.", ("L.", "More.")) == (found.measure.layers, found.cite, found.inputs.value)
    assert "opt" == found.overrides[0].when[0].bound


def test_a_parameter_may_stand_for_what_is_merged_key_by_key() -> None:
    head = "defaults: {measure: '${measure}', expect: {loss: {gt: '${unused}'}}}\n"
    text = "measure: {layers: 3}\nexpect: {layers_hit: {gt: 0}}\nparametrize: [{id: one, measure: {kind: magnitude, top: 5}}]"
    (found,) = read(probe_file(text, head=head))
    assert ("magnitude", LayerRange(3, 3), 5) == (found.measure.kind, found.measure.layers, found.measure.option("top"))
    text = text.replace("{kind: magnitude, top: 5}", "magnitude")
    assert [
        "3:21: defaults.measure: 'magnitude' is not allowed; allowed: a mapping with `kind` (in probe 'a-one')"
    ] == probe_faults(text, head=head)


def test_a_parameter_keeps_its_type() -> None:
    text = "measure: {kind: magnitude, layers: '${n}'}\nparametrize: [{id: text, n: '3'}]"
    assert [
        (
            "6:40: probes[0].measure.layers: '3' is not allowed; allowed: all, a number, or FIRST..LAST such as 2..-2 "
            "(in probe 'a-text')"
        )
    ] == probe_faults(text)


def test_a_fault_of_one_set_points_into_the_probe_and_names_the_set() -> None:
    found = probe_faults(
        EFFECT + "  - {set: bogus, limit: 1}\n  - {set: zero, limit: 1}\n  - {set: {val: 3}, limit: 1}"
    )
    assert [
        (
            "7:39: probes[0].intervene.set: 'bogus' is not allowed; allowed: zero, mean, {value: NUMBER} "
            "(in probe 'a-bogus-1')"
        ),
        (
            "7:39: probes[0].intervene.set.val: unknown key 'val' (did you mean 'value'?); allowed: value "
            "(in probe 'a-val-3-1')"
        ),
        "7:39: probes[0].intervene.set: `value` is missing (in probe 'a-val-3-1')",
    ] == found


def test_a_fault_of_every_set_is_told_once() -> None:
    text = EFFECT.replace("ratio:", "ratoi:") + "  - {set: zero, limit: 1}\n  - {set: mean, limit: 1}"
    (found,) = probe_faults(text)
    assert "has no quantity 'ratoi' (did you mean 'ratio'?)" in found
    assert "in probe" not in found


def test_a_fault_of_the_defaults_names_the_probe_where_only_one_has_it() -> None:
    text = f"""{HEAD}defaults: {{measure: {{layers: 2}}}}
probes:
  - {{id: a, claim: c, measure: {{kind: magnitude}}}}
  - {{id: b, claim: c, measure: {{kind: perplexity}}}}
"""
    from probe_texts import faults

    assert [
        "3:22: defaults.measure.layers: 'perplexity' takes no key 'layers'; allowed: kind, site (in probe 'b')"
    ] == faults(text)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ("[]", "an empty list is not allowed; allowed: a list of at least one set of parameters"),
        ("{set: zero}", "a mapping is not allowed; allowed: a list of at least one set of parameters"),
        ("[zero]", "a set of parameters is a mapping of at least one name to its value"),
        ("[{id: x}]", "a set of parameters is a mapping of at least one name to its value"),
        ("[{set: zero, limit: 1}, {set: mean}]", "parameter 'limit' is missing here; every set has: set, limit"),
        (
            "[{set: zero, limit: 1}, {set: mean, limit: 1, limits: 2}]",
            "parameter 'limits' is not in the first set (did you mean 'limit'?)",
        ),
        (
            "[{set: zero, limit: 1, more: 2}]",
            "parameter 'more' is not used; write ${more} where it belongs, or remove it",
        ),
        (
            "[{set: zero, lim: 1}]",
            "no parameter is named 'limit' (did you mean 'lim'?); allowed: set, lim (in probe 'a-zero-1')",
        ),
        ("[{set: zero, limit: '${set}'}]", "the value of a parameter holds no ${...} itself"),
        (
            "[{set: zero, limit: 1, a-b: 2}]",
            "'a-b' is not allowed; allowed: letters, digits and underscores, with no digit first",
        ),
        (
            "[{id: A B, set: zero, limit: 1}]",
            "'A B' is not allowed; allowed: lower-case letters, digits and dashes, such as massive-activations",
        ),
        (
            "[{id: x, set: zero, limit: 1}, {id: x, set: mean, limit: 1}]",
            "9:49: probes[0].parametrize[1]: id 'a-x' is taken on line 9; choose another `id` here",
        ),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(sets: str, expected: str) -> None:
    found = probe_faults(EFFECT.rstrip() + f" {sets}")
    assert any(expected in line for line in found), found


def test_values_that_make_no_id_need_one() -> None:
    text = "measure: {kind: perplexity}\ncite: ${x}\nparametrize: [{x: '???'}]"
    assert ["8:19: probes[0].parametrize[0]: no id can be made of these values; give the set an `id`"] == probe_faults(
        text
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cite: ${x}", "7:11: probes[0].cite: ${x} stands for a parameter, and there is no `parametrize` here"),
        (
            "cite: see ${x}",
            "7:11: probes[0].cite: ${x} within a longer text is not filled in; write the whole value as one parameter",
        ),
        ("xfail: {reason: 'a ${b} c'}", ("7:21: probes[0].xfail.reason: ${b} within a longer text is not filled in; write "
         "the whole value as one parameter")),
    ],
)  # fmt: skip
def test_a_placeholder_that_cannot_be_filled_in_is_refused(text: str, expected: str) -> None:
    assert [expected] == probe_faults(f"measure: {{kind: perplexity}}\n{text}")


def test_a_placeholder_is_no_key() -> None:
    found = probe_faults("measure: {kind: magnitude}\nexpect: {'${q}': {gt: 1}}\nparametrize: [{q: layers_hit}]")
    assert any("${...} stands for a value, never for a key; write the key out" in line for line in found)


def test_a_placeholder_above_the_probes_is_refused() -> None:
    assert ["3:7: cite: ${x} stands for a parameter, and there is no `parametrize` here"] == probe_faults(
        "measure: {kind: perplexity}", head="cite: ${x}\n"
    )


def test_a_dollar_sign_alone_is_only_a_text() -> None:
    assert "costs $5 {a}" == probe("cite: costs $5 {a}").cite
