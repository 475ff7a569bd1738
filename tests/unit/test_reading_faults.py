"""What is said of each thing that can be wrong in a probe, and where it is said to be."""

# ruff: noqa: E501 - a message stands in one line, as it is told

from __future__ import annotations

import pytest
from probe_texts import HEAD, faults, probe_faults
from small_registry import REGISTRY

from maprobe.errors import ProbeFileError
from maprobe.reading.parsing import parse_text

SLUG = "lower-case letters, digits and dashes, such as massive-activations"
TOP = "version, suite, cite, defaults, probes"
PROBE = (
    "id, claim, cite, inputs, measure, intervene, control, expect, trend, severity, overrides, when, xfail, skip, "
    "marks, tags, parametrize"
)
OPERATORS = "gt, gte, lt, lte, eq, approx, between, in"
FACTS = (
    "model_type, architectures, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, "
    "intermediate_size, num_experts, vocab_size, max_position_embeddings, dtype, quantization, has_bos, adds_bos, "
    "modality, num_register_tokens, num_classes, causal, training_steps, explicit_bias"
)
COMPARISONS = "edited, untouched, ratio, difference, control.edited, control.ratio, control.difference, over_control"
EVERY_LAYER = "`every: layers`, `some: layers`, `none: layers` or `at_least: {layers: N}`"
EVERY_HEAD = "`every: heads`, `some: heads`, `none: heads` or `at_least: {heads: N}`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("suite: a\nprobes: [{}]", "1:1: `version` is missing"),
        ("version: 2\nprobs: 3", "1:10: version: 2 is not a version of this format; supported: 1"),
        ("version: '1'", "1:10: version: '1' is not a version of this format; supported: 1"),
        ("version: true", "1:10: version: true is not a version of this format; supported: 1"),
        ("version: 1\nsuite: A b\nprobes: []", f"2:8: suite: 'A b' is not allowed; allowed: {SLUG}"),
        ("version: 1\nsuite: a\n", "1:1: `probes` is missing"),
        (HEAD + "cite: 3\nprobes: []", "3:7: cite: 3 is not allowed; allowed: a text that is not empty"),
        (HEAD + "probes: []", "3:9: probes: an empty list is not allowed; allowed: a list of at least one probe"),
        (HEAD + "probes: {a: 1}", "3:9: probes: a mapping is not allowed; allowed: a list of at least one probe"),
        (HEAD + "probs: []", f"3:1: probs: unknown key 'probs' (did you mean 'probes'?); allowed: {TOP}"),
        (HEAD + "probes: [a]", f"3:10: probes[0]: 'a' is not allowed; allowed: a mapping with {PROBE}"),
        (HEAD + "probes: [{id: a}]", "3:10: probes[0]: `claim` is missing"),
        (HEAD + "probes: [{claim: a}]", "3:10: probes[0]: `id` is missing"),
        (HEAD + "probes: [{id: a, claim: b}]", "3:10: probes[0]: `measure` is missing, here and under `defaults`"),
        (HEAD + "probes: [{id: A, claim: b}]", f"3:15: probes[0].id: 'A' is not allowed; allowed: {SLUG}"),
        (HEAD + "probes: [{id: a, claim: ' '}]", "3:25: probes[0].claim: ' ' is not allowed; allowed: a text that is not empty"),
        (HEAD + "defaults: 3\nprobes: []", f"3:11: defaults: 3 is not allowed; allowed: a mapping with {PROBE}"),
        (
            HEAD + "defaults: {measure: perplexity}\nprobes: [{id: a, claim: b, measure: {site: logits}}]",
            "3:21: defaults.measure: 'perplexity' is not allowed; allowed: a mapping with `kind`",
        ),
        (HEAD + "defaults: {id: a}\nprobes: []", "3:12: defaults.id: `id` belongs to each probe, not to `defaults`"),
        (
            HEAD + "defaults: {overrides: []}\nprobes: []",
            "3:12: defaults.overrides: `overrides` belongs to each probe, not to `defaults`",
        ),
        (
            HEAD + "probes:\n  - {id: a, claim: b}\n  - {id: a, claim: b}",
            "5:10: probes[1].id: id 'a' is taken on line 4; choose another `id` here",
        ),
    ],
)  # fmt: skip
def test_faults_of_the_file(text: str, expected: str) -> None:
    assert expected in faults(text)


def check(probe: str, expected: str) -> None:
    """The probe's first line is line 6 of the file, and its first column is column 5."""
    assert [expected] == probe_faults(probe)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", "7:13: probes[0].inputs: 3 is not allowed; allowed: a mapping with text, file, jsonl, choices, pairs, domains, images, corpus, token, own, field, task, labels, sequences, length, skip, bos"),
        ("{length: 8}", "7:13: probes[0].inputs: names no source; allowed: exactly one of text, file, jsonl, choices, pairs, domains, images, corpus, token, own"),
        ("{text: a, file: b}", "7:13: probes[0].inputs: names 2 sources (text, file); allowed: exactly one of text, file, jsonl, choices, pairs, domains, images, corpus, token, own"),
        ("{token: eos}", "7:21: probes[0].inputs.token: 'eos' is not allowed (did you mean 'bos'?); allowed: bos"),
        ("{token: bos, length: 3}", "7:26: probes[0].inputs.length: `length` says nothing of one token alone; remove it"),
        ("{corpus: python-doc}", "7:22: probes[0].inputs.corpus: 'python-doc' is not allowed (did you mean 'python-docs'?); allowed: python-docs"),
        ("{text: []}", "7:20: probes[0].inputs.text: an empty list is not allowed; allowed: a text, or a list of texts, none of them empty"),
        ("{text: ''}", "7:20: probes[0].inputs.text: '' is not allowed; allowed: a text, or a list of texts, none of them empty"),
        ("{file: 3}", "7:20: probes[0].inputs.file: 3 is not allowed; allowed: a path"),
        ("{text: a, field: b}", "7:23: probes[0].inputs.field: `field` belongs to `jsonl`, and the source is `text`; remove it"),
        ("{text: a, length: 1}", "7:31: probes[0].inputs.length: 1 is not allowed; allowed: an integer of 2 or more"),
        ("{text: a, length: 2.5}", "7:31: probes[0].inputs.length: 2.5 is not allowed; allowed: an integer of 2 or more"),
        ("{text: a, skip: -1}", "7:29: probes[0].inputs.skip: -1 is not allowed; allowed: an integer of 0 or more"),
        ("{text: a, sequences: 0}", "7:34: probes[0].inputs.sequences: 0 is not allowed; allowed: an integer of 1 or more"),
        ("{text: a, sequences: al}", "7:34: probes[0].inputs.sequences: 'al' is not allowed (did you mean 'all'?); allowed: an integer of 1 or more, or all"),
        ("{text: a, bos: always}", "7:28: probes[0].inputs.bos: 'always' is not allowed; allowed: auto, require, never, first"),
        ("{text: a, lenght: 8}", "7:23: probes[0].inputs.lenght: unknown key 'lenght' (did you mean 'length'?); allowed: text, file, jsonl, choices, pairs, domains, images, corpus, token, own, field, task, labels, sequences, length, skip, bos"),
    ],
)  # fmt: skip
def test_faults_of_inputs(text: str, expected: str) -> None:
    check(f"measure: {{kind: perplexity}}\ninputs: {text}", expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("perplexity", "6:14: probes[0].measure: 'perplexity' is not allowed; allowed: a mapping with `kind`"),
        ("{site: logits}", "6:14: probes[0].measure: `kind` is missing; allowed: attention.concentration, magnitude, perplexity"),
        ("{kind: magnitud}", "6:21: probes[0].measure.kind: 'magnitud' is not allowed (did you mean 'magnitude'?); allowed: attention.concentration, magnitude, perplexity"),
        ("{kind: magnitude, site: logits}", "6:38: probes[0].measure.site: 'logits' is not allowed; allowed: block.out, block.mlp.out, embed.out"),
        ("{kind: magnitude, topp: 3}", "6:32: probes[0].measure.topp: 'magnitude' takes no key 'topp' (did you mean 'top'?); allowed: kind, site, layers, tokens, top, dims"),
        ("{kind: magnitude, top: 17}", "6:37: probes[0].measure.top: 17 is not allowed; allowed: an integer from 1 to 16"),
        ("{kind: magnitude, dims: [1, x]}", "6:42: probes[0].measure.dims[1]: 'x' is not allowed; allowed: an integer"),
        ("{kind: perplexity, layers: 3}", "6:33: probes[0].measure.layers: 'perplexity' takes no key 'layers'; allowed: kind, site"),
        ("{kind: magnitude, site: embed.out, layers: 3}", "6:49: probes[0].measure.layers: site 'embed.out' has no layers; remove `layers`"),
        ("{kind: magnitude, layers: 2-3}", "6:40: probes[0].measure.layers: '2-3' is not allowed; allowed: all, a number, or FIRST..LAST such as 2..-2"),
        ("{kind: magnitude, layers: 2.5}", "6:40: probes[0].measure.layers: 2.5 is not allowed; allowed: all, a number, or FIRST..LAST such as 2..-2"),
        ("{kind: magnitude, layers: 5..2}", "6:40: probes[0].measure.layers: layers 5..2 are empty; put the lower layer first"),
        ("{kind: magnitude, layers: -1..-2}", "6:40: probes[0].measure.layers: layers -1..-2 are empty; put the lower layer first"),
        ("{kind: magnitude, site: block.mlp.out, layers: 0..3}", "6:61: probes[0].measure.layers: layer 0 is the embedding output, a layer of block.out only; the first block is 1"),
        ("{kind: magnitude, tokens: frist}", "6:40: probes[0].measure.tokens: 'frist' is not allowed (did you mean 'first'?); allowed: all, first, bos, delimiter, class, registers, patches, {index: [POSITION, ...]}"),
        ("{kind: magnitude, tokens: {index: []}}", "6:48: probes[0].measure.tokens.index: an empty list is not allowed; allowed: a list of positions"),
        ("{kind: magnitude, tokens: {index: [a]}}", "6:49: probes[0].measure.tokens.index[0]: 'a' is not allowed; allowed: an integer"),
        ("{kind: magnitude, tokens: {index: 3}}", "6:48: probes[0].measure.tokens.index: 3 is not allowed; allowed: a list of positions"),
    ],
)  # fmt: skip
def test_faults_of_a_measurement(text: str, expected: str) -> None:
    check(f"measure: {text}", expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("intervene: massive", "7:16: probes[0].intervene: 'massive' is not allowed; allowed: a mapping with `target`"),
        ("intervene: {set: zero}", "7:16: probes[0].intervene: `target` is missing; allowed: massive"),
        ("intervene: {target: massiv}", "7:25: probes[0].intervene.target: 'massiv' is not allowed (did you mean 'massive'?); allowed: massive"),
        ("intervene: {target: massive, at: last-layer}", "7:38: probes[0].intervene.at: 'last-layer' is not allowed (did you mean 'first-layer'?); allowed: first-layer, every-layer"),
        ("intervene: {target: massive, set: 0}", "7:39: probes[0].intervene.set: 0 is not allowed; allowed: zero, mean, {value: NUMBER}"),
        ("intervene: {target: massive, set: {value: x}}", "7:47: probes[0].intervene.set.value: 'x' is not allowed; allowed: a number"),
        ("intervene: {target: massive, limits: 3}", "7:34: probes[0].intervene.limits: 'massive' takes no key 'limits' (did you mean 'limit'?); allowed: target, at, set, limit"),
        ("intervene: {target: massive, limit: x}", "7:41: probes[0].intervene.limit: 'x' is not allowed; allowed: a number"),
        ("intervene: {target: massive}\ncontrol: mean", "8:14: probes[0].control: 'mean' is not allowed (did you mean 'median'?); allowed: median, none"),
        ("control: none", "7:5: probes[0].control: `control` belongs to `intervene`, and there is none; remove it"),
        ("intervene: {target: massive}\nexpect: {perplexity: {gt: 1}}", f"8:14: probes[0].expect.perplexity: the comparison of 'perplexity' has no quantity 'perplexity'; allowed: {COMPARISONS}"),
        ("intervene: {target: massive}\ncontrol: none\nexpect: {control.ratio: {gt: 1}}", "9:14: probes[0].expect.control.ratio: the comparison of 'perplexity' without a control arm has no quantity 'control.ratio'; allowed: edited, untouched, ratio, difference"),
        ("intervene: {target: massive}\nexpect: {every: layers, ratio: {gt: 1}}", "8:14: probes[0].expect.every: `every` covers no quantity, as 'ratio' has one value for the whole model; remove it"),
    ],
)  # fmt: skip
def test_faults_of_an_intervention(text: str, expected: str) -> None:
    check(f"measure: {{kind: perplexity}}\n{text}", expected)


def test_a_measurement_without_a_headline_cannot_be_intervened_on() -> None:
    check(
        "measure: {kind: magnitude}\nintervene: {target: massive}\nexpect: {ratio: {gt: 1}}",
        "7:5: probes[0].intervene: measurement 'magnitude' has no headline quantity that `intervene` could compare; "
        "allowed: perplexity",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a]", "7:13: probes[0].expect: ['a'] is not allowed; allowed: a mapping of quantities to comparisons"),
        ("{}", "7:13: probes[0].expect: expects nothing of any quantity; allowed: top, ratio, layers_hit"),
        ("{some: layers}", "7:13: probes[0].expect: expects nothing of any quantity; allowed: top, ratio, layers_hit"),
        ("{layer_hit: {gt: 1}}", "7:14: probes[0].expect.layer_hit: 'magnitude' has no quantity 'layer_hit' (did you mean 'layers_hit'?); allowed: top, ratio, layers_hit"),
        ("{layers_hit: 3}", "7:26: probes[0].expect.layers_hit: 3 compares to nothing; write an operator and its bound, such as {eq: 3}"),
        ("{layers_hit: {}}", "7:26: probes[0].expect.layers_hit: a mapping compares to nothing; write an operator and its bound, such as {gt: 100}"),
        ("{layers_hit: {gtt: 3}}", f"7:27: probes[0].expect.layers_hit.gtt: unknown key 'gtt' (did you mean 'gt'?); allowed: {OPERATORS}"),
        ("{layers_hit: {gt: x}}", "7:31: probes[0].expect.layers_hit.gt: 'x' is not allowed; allowed: a number"),
        ("{layers_hit: {gt: true}}", "7:31: probes[0].expect.layers_hit.gt: true is not allowed; allowed: a number"),
        ("{layers_hit: {between: [1]}}", "7:36: probes[0].expect.layers_hit.between: [1] is not allowed; allowed: a list of 2 values, each a number"),
        ("{layers_hit: {in: []}}", "7:31: probes[0].expect.layers_hit.in: an empty list is not allowed; allowed: a list of 1 or more values, each a number, or a text, or true, false"),
        ("{layers_hit: {approx: {rel: 0.1}}}", "7:35: probes[0].expect.layers_hit.approx: `value` is missing"),
        ("{layers_hit: {approx: {value: 1, ref: 0.1}}}", "7:46: probes[0].expect.layers_hit.approx.ref: unknown key 'ref' (did you mean 'rel'?); allowed: value, rel, abs"),
        ("{layers_hit: {approx: {value: 1, rel: 0}}}", "7:51: probes[0].expect.layers_hit.approx.rel: 0 is not allowed; allowed: a number above 0"),
        ("{layers_hit: {approx: x}}", "7:35: probes[0].expect.layers_hit.approx: 'x' is not allowed; allowed: a number, or a mapping with value, rel, abs"),
        ("{top: {gt: 1}}", f"7:14: probes[0].expect.top: 'top' has a value for each layer; say for which it must hold: {EVERY_LAYER} (the default is written down, never implied)"),
        ("{every: heads, top: {gt: 1}}", f"7:28: probes[0].expect.top: 'top' has a value for each layer, which `every` over heads does not cover; write {EVERY_LAYER}"),
        ("{every: layer, top: {gt: 1}}", "7:21: probes[0].expect.every: 'layer' is not allowed (did you mean 'layers'?); allowed: layers, heads"),
        ("{every: layers, some: layers, top: {gt: 1}}", "7:29: probes[0].expect.some: `every`, `some` stand side by side; allowed: one quantifier, so split the probe"),
        ("{every: layers, layers_hit: {gt: 1}}", "7:14: probes[0].expect.every: `every` covers no quantity, as 'layers_hit' has one value for the whole model; remove it"),
        ("{at_least: 3, top: {gt: 1}}", "7:24: probes[0].expect.at_least: 3 is not allowed; allowed: a mapping with layers, heads"),
        ("{at_least: {layers: 0}, top: {gt: 1}}", "7:33: probes[0].expect.at_least.layers: 0 is not allowed; allowed: a number of cells such as 3, or a share of them such as 80%"),
        ("{at_least: {layers: 120%}, top: {gt: 1}}", "7:33: probes[0].expect.at_least.layers: '120%' is not allowed; allowed: a number of cells such as 3, or a share of them such as 80%"),
        ("{at_least: {layers: 0%}, top: {gt: 1}}", "7:33: probes[0].expect.at_least.layers: '0%' is not allowed; allowed: a number of cells such as 3, or a share of them such as 80%"),
        ("{at_least: {layers: 0.8}, top: {gt: 1}}", "7:33: probes[0].expect.at_least.layers: 0.8 is not allowed; allowed: a number of cells such as 3, or a share of them such as 80%"),
        ("{at_least: {}, top: {gt: 1}}", "7:24: probes[0].expect.at_least: names 0 axes; allowed: exactly one, such as {layers: 3} or {heads: 80%}"),
        ("{at_least: {layer: 1}, top: {gt: 1}}", "7:25: probes[0].expect.at_least.layer: unknown key 'layer' (did you mean 'layers'?); allowed: layers, heads"),
        ("{at_least: {layers: 1, heads: 1}, top: {gt: 1}}", "7:24: probes[0].expect.at_least: names 2 axes; allowed: exactly one, such as {layers: 3} or {heads: 80%}"),
    ],
)  # fmt: skip
def test_faults_of_an_expectation(text: str, expected: str) -> None:
    check(f"measure: {{kind: magnitude}}\nexpect: {text}", expected)


def test_a_quantifier_over_layers_does_not_cover_heads() -> None:
    check(
        "measure: {kind: attention.concentration}\nexpect: {every: layers, share: {gt: 1}}",
        "7:29: probes[0].expect.share: 'share' has a value for each layer and head, which `every` over layers does not "
        f"cover; write {EVERY_HEAD}",
    )


def test_under_an_unknown_measurement_expectations_are_checked_as_far_as_can_be() -> None:
    assert [
        "6:21: probes[0].measure.kind: 'x' is not allowed; allowed: attention.concentration, magnitude, perplexity",
        f"7:20: probes[0].expect.any.gtt: unknown key 'gtt' (did you mean 'gt'?); allowed: {OPERATORS}",
    ] == probe_faults("measure: {kind: x}\nexpect: {any: {gtt: 3}}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("severity: wran", "7:15: probes[0].severity: 'wran' is not allowed (did you mean 'warn'?); allowed: error, warn, info, or a mapping of them to the bad state of each"),
        ("severity: {}", "7:15: probes[0].severity: an empty mapping is not allowed; allowed: error, warn, info, or a mapping of them to the bad state of each"),
        ("severity: {wran: {loss: {gt: 1}}}", "7:16: probes[0].severity.wran: unknown key 'wran' (did you mean 'warn'?); allowed: error, warn, info"),
        ("severity: {warn: {los: {gt: 1}}}", "7:23: probes[0].severity.warn.los: 'perplexity' has no quantity 'los' (did you mean 'loss'?); allowed: perplexity, loss"),
        ("when: {}", f"7:11: probes[0].when: a mapping names no fact; allowed: a mapping with {FACTS}"),
        ("when: llama", f"7:11: probes[0].when: 'llama' names no fact; allowed: a mapping with {FACTS}"),
        ("when: {model: llama}", f"7:12: probes[0].when.model: unknown key 'model' (did you mean 'model_type'?); allowed: {FACTS}"),
        ("when: {has_bos: yes}", "7:21: probes[0].when.has_bos: 'yes' is not allowed (it is a text in YAML 1.2); allowed: true, false"),
        ("when: {num_hidden_layers: '12'}", "7:31: probes[0].when.num_hidden_layers: '12' is not allowed; allowed: a number"),
        ("when: {model_type: {in: [a, 3]}}", "7:33: probes[0].when.model_type.in[1]: 3 is not allowed; allowed: a text"),
        ("when: {model_type: []}", "7:24: probes[0].when.model_type: an empty list is not allowed; allowed: a list of 1 or more values, each a text, or a number, or true, false"),
        ("when: {model_type: {}}", "7:24: probes[0].when.model_type: an empty mapping compares to nothing; write an operator, such as {gte: 12}"),
        ("when: {model_type: }", "7:12: probes[0].when.model_type: an empty value is not allowed; allowed: a value, a list of values, or {OPERATOR: BOUND}"),
        ("when: {hidden_size: {above: 3}}", f"7:26: probes[0].when.hidden_size.above: unknown key 'above'; allowed: {OPERATORS}"),
        ("when: {modality: txt}", "7:22: probes[0].when.modality: 'txt' is not allowed (did you mean 'text'?); allowed: text, image, graph, own, other"),
        ("xfail: known", "7:12: probes[0].xfail: 'known' is not allowed; allowed: a mapping with reason, strict, until"),
        ("xfail: {strict: true}", "7:12: probes[0].xfail: `reason` is missing"),
        ("xfail: {reason: a, strict: no}", "7:32: probes[0].xfail.strict: 'no' is not allowed (it is a text in YAML 1.2); allowed: true, false"),
        ("xfail: {reason: a, until: 2027-02-30}", "7:31: probes[0].xfail.until: 2027-02-30 is no day of the calendar; allowed: a day as YYYY-MM-DD"),
        ("xfail: {reason: a, until: soon}", "7:31: probes[0].xfail.until: 'soon' is not allowed; allowed: a day as YYYY-MM-DD"),
        ("skip: true", "7:11: probes[0].skip: true is not allowed; allowed: a text that is not empty"),
        ("skip:", "7:5: probes[0].skip: an empty value is not allowed; allowed: a text that is not empty"),
        ("marks: slow", "7:12: probes[0].marks: 'slow' is not allowed; allowed: a list"),
        ("marks: [skipif]", "7:13: probes[0].marks[0]: 'skipif' is a mark of pytest's own; use the keys `skip`, `xfail`, `when` and `parametrize`"),
        ("marks: [a-b]", "7:13: probes[0].marks[0]: 'a-b' is not allowed; allowed: letters, digits and underscores, with no digit first"),
        ("tags: [A]", f"7:12: probes[0].tags[0]: 'A' is not allowed; allowed: {SLUG}"),
        ("overrides: {}", "7:16: probes[0].overrides: a mapping is not allowed; allowed: a list"),
        ("mesure: {}", f"7:5: probes[0].mesure: unknown key 'mesure' (did you mean 'measure'?); allowed: {PROBE}"),
    ],
)  # fmt: skip
def test_faults_of_the_other_keys(text: str, expected: str) -> None:
    check(f"measure: {{kind: perplexity}}\n{text}", expected)


def test_all_faults_of_a_file_are_told_at_once_in_the_order_of_the_lines() -> None:
    text = """\
version: 1
suite: Six Faults
defaults:
  inputs: {corpus: python-docs, length: 1}
probes:
  - id: a
    claim: It holds.
    measure: {kind: magnitud}
  - id: a
    claim: It holds.
    measure: {kind: magnitude}
    expect: {top: {gt: 1}}
    whem: {}
"""
    with pytest.raises(ProbeFileError) as caught:
        parse_text(text, REGISTRY, name="dir/x.probe.yaml")
    assert 6 == len(caught.value.faults)
    assert [
        f"dir/x.probe.yaml:2:8: suite: 'Six Faults' is not allowed; allowed: {SLUG}",
        "dir/x.probe.yaml:4:41: defaults.inputs.length: 1 is not allowed; allowed: an integer of 2 or more",
        ("dir/x.probe.yaml:8:21: probes[0].measure.kind: 'magnitud' is not allowed (did you mean 'magnitude'?); allowed: "
        "attention.concentration, magnitude, perplexity"),
        "dir/x.probe.yaml:9:9: probes[1].id: id 'a' is taken on line 6; choose another `id` here",
        ("dir/x.probe.yaml:12:14: probes[1].expect.top: 'top' has a value for each layer; say for which it must hold: "
        f"{EVERY_LAYER} (the default is written down, never implied)"),
        f"dir/x.probe.yaml:13:5: probes[1].whem: unknown key 'whem' (did you mean 'when'?); allowed: {PROBE}",
    ] == str(caught.value).splitlines()  # fmt: skip


@pytest.mark.parametrize("excuse", ["skip: broken", "xfail: {reason: broken, strict: false}", "marks: [broken]"])
def test_no_mark_hides_a_fault(excuse: str) -> None:
    check(
        f"{excuse}\nmeasure: {{kind: perplexity, site: logit}}",
        "7:39: probes[0].measure.site: 'logit' is not allowed (did you mean 'logits'?); allowed: logits",
    )


def test_a_long_value_is_shown_in_part() -> None:
    (found,) = probe_faults(f"measure: {{kind: perplexity}}\nseverity: {'x' * 500}")
    assert f"probes[0].severity: '{'x' * 55}...' is not allowed" in found
