# ruff: noqa: E501 - a probe file stands in one line

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from probe_texts import HEAD, faults, probe_file
from small_registry import REGISTRY, small_registry

import maprobe
from maprobe.builtin import builtin_registry
from maprobe.facts import FACTS
from maprobe.reading.faults import FaultList
from maprobe.reading.grammar import FACT_SCHEMAS, INPUT_KEYS, INTERVENE_KEYS, MEASURE_KEYS, PROBE_KEYS, TOP_KEYS
from maprobe.reading.loading import load
from maprobe.reading.parsing import parse_file, parse_text
from maprobe.reading.schema import build_schema
from maprobe.recipes import Corpus, MeasurementRecipe, Parameter, QuantitySpec

ROOT = Path(maprobe.__file__).parents[1]
SHIPPED = sorted(path for ending in ("yaml", "yml") for path in (ROOT / "probes").rglob(f"*.probe.{ending}"))
REFERENCE = ROOT / "docs" / "probe-files.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

SCHEMA = build_schema(REGISTRY)
SHIPPED_SCHEMA = Path(maprobe.__file__).with_name("probe.schema.json")
VALIDATOR = Draft7Validator(SCHEMA)


def complaints(text: str, validator: Draft7Validator = VALIDATOR) -> list[str]:
    node = load(text, "x", FaultList())
    assert node is not None
    return [error.message for error in validator.iter_errors(node.plain())]


def accepts(probe: str, head: str = "") -> bool:
    return not complaints(probe_file(probe, head=head))


def mappings(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema of a mapping within a schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from mappings(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from mappings(part)


@pytest.mark.parametrize("schema", [SCHEMA, build_schema(builtin_registry())], ids=["small", "builtin"])
def test_the_schema_is_draft_7(schema: dict[str, Any]) -> None:
    assert "http://json-schema.org/draft-07/schema#" == schema["$schema"]
    Draft7Validator.check_schema(schema)


def test_every_mapping_is_closed() -> None:
    tests = ({"type": "object"}, SCHEMA["properties"]["probes"]["items"])  # conditions, which lead to closed mappings
    named_at_will = [each for each in mappings(SCHEMA) if "propertyNames" in each]
    assert all(each["additionalProperties"]["additionalProperties"] is False for each in named_at_will)
    open_ones = [
        each for each in mappings(SCHEMA) if each.get("additionalProperties") is not False and each not in named_at_will
    ]
    assert [] == [each for each in open_ones if each not in tests]


def test_every_reference_leads_to_a_definition() -> None:
    references = set(re.findall(r"#/definitions/([^'\"]+)", str(SCHEMA)))
    assert references <= set(SCHEMA["definitions"])


def test_every_key_is_named_and_described() -> None:
    assert set(TOP_KEYS) == set(SCHEMA["properties"])
    assert set(PROBE_KEYS) == set(SCHEMA["definitions"]["probe"]["properties"])
    for name in ("probe", "override", "inputs", "xfail", "clauses", "when", "expect.magnitude"):
        for key, schema in SCHEMA["definitions"][name]["properties"].items():
            assert schema["description"], (name, key)


def test_a_parameter_of_a_recipe_is_described_with_its_default() -> None:
    branches = SCHEMA["definitions"]["measure"]["allOf"]
    described = [branch["then"]["properties"].get("top", {}).get("description") for branch in branches]
    assert "how many (left out: 3)" in described


def test_every_fact_has_a_type() -> None:
    assert set(FACTS) == set(FACT_SCHEMAS)


def test_the_schema_follows_what_is_registered() -> None:
    registry = small_registry()
    recipe = MeasurementRecipe(
        name="entropy",
        summary="Another.",
        sites=("block.attn.probs",),
        quantities=(QuantitySpec(name="bits"),),
        parameters=(Parameter(name="base", schema={"enum": [2, 10]}, default=2, meaning="of the logarithm"),),
        start=lambda context: pytest.fail("never called"),
    )
    corpus = Corpus(name="poems", summary="", protocol="", load=str)
    text = probe_file("measure: {kind: entropy, base: 10}\ninputs: {corpus: poems}\nexpect: {bits: {gt: 1}}")
    assert complaints(text)
    registry.add((recipe, corpus), plugin="other")
    assert [] == complaints(text, Draft7Validator(build_schema(registry)))


@pytest.mark.parametrize(
    "probe",
    [
        "measure: {kind: magnitude, site: embed.out, top: 3}",
        "measure: {kind: magnitude, layers: 2..-2, tokens: {index: [0]}}",
        "measure: {kind: perplexity}\ninputs: {text: [a, b], length: 8, sequences: all}",
        "measure: {kind: perplexity}\nintervene: {target: massive, set: {value: 3}}\nexpect: {control.ratio: {lt: 1}}",
        "measure: {kind: perplexity}\nseverity: {warn: {loss: {lt: 1}}}",
        "measure: {kind: perplexity}\nwhen: {model_type: [a], causal: true, hidden_size: {gt: 3}}",
        "measure: {kind: perplexity}\nxfail: {reason: a, until: 2027-01-01}",
        "measure: {kind: attention.concentration}\nexpect: {at_least: {heads: 50%}, share: {between: [0, 1]}}",
        "measure: {kind: '${k}', site: '${s}'}\nparametrize: [{id: a, k: magnitude, s: embed.out}]",
        "measure: {kind: magnitude, top: '${x}'}\nwhen: {hidden_size: '${x}'}\nparametrize: [{x: 3}]",
        "measure: {kind: perplexity}\nexpect: '${e}'\ninputs: '${i}'\nparametrize: [{e: {loss: {gt: 1}}, i: {text: a}}]",
        "measure: {kind: magnitude}\noverrides: [{when: {causal: true}, because: b, measure: {kind: perplexity}, expect: {loss: {gt: 1}}}]",
    ],
)  # fmt: skip
def test_what_is_sound_is_accepted(probe: str) -> None:
    assert [] == complaints(probe_file(probe))


def test_parts_may_stand_in_the_defaults() -> None:
    head = "defaults: {inputs: {length: 8}, measure: {site: embed.out}, intervene: {at: every-layer}}\n"
    assert accepts("inputs: {text: a}\nmeasure: {kind: magnitude}", head)
    assert accepts("measure: {layers: 3}\nexpect: {loss: {gt: 1}}", "defaults: {measure: {kind: magnitude}}\n")
    assert accepts(
        "measure: {kind: perplexity}\nexpect: {ratio: {gt: 1}}", "defaults: {intervene: {target: massive}}\n"
    )


REFUSED = [
    "measure: {kind: magnitud}",
    "measure: {kind: perplexity, layers: 3}",
    "measure: {kind: magnitude, site: logits}",
    "measure: {kind: magnitude, top: 17}",
    "measure: {kind: magnitude, topp: 3}",
    "measure: {kind: '${kind}'}",
    "measure: {kind: perplexity}\ncontrol: mean",
    "measure: {kind: perplexity}\ninputs: {text: a, file: b}",
    "measure: {kind: perplexity}\ninputs: {text: a, length: 1}",
    "measure: {kind: perplexity}\nexpect: {ratoi: {gt: 1}}",
    "measure: {kind: perplexity}\nexpect: {loss: {gtt: 1}}",
    "measure: {kind: perplexity}\nexpect: {loss: {gt: x}}",
    "measure: {kind: perplexity}\nexpect: {loss: 3}",
    "measure: {kind: perplexity}\nexpect: {}",
    "measure: {kind: magnitude}\nexpect: {ratio: {gt: 1}, loss: {gt: 1}}",
    "measure: {kind: perplexity}\nintervene: {target: massive}\nexpect: {loss: {gt: 1}}",
    "measure: {kind: perplexity}\nintervene: {target: massive, set: one}",
    "measure: {kind: perplexity}\nintervene: {target: massiv}",
    "measure: {kind: perplexity}\nseverity: wran",
    "measure: {kind: perplexity}\nseverity: {warn: {los: {gt: 1}}}",
    "measure: {kind: perplexity}\nwhen: {has_bos: 'yes'}",
    "measure: {kind: perplexity}\nwhen: {model: a}",
    "measure: {kind: perplexity}\nxfail: {strict: true}",
    "measure: {kind: perplexity}\nmarks: [skip]",
    "measure: {kind: perplexity}\ntags: [A]",
    "measure: {kind: perplexity}\noverrides: [{when: {causal: true}, severity: info}]",
    "measure: {kind: perplexity}\noverrides: [{when: {causal: true}, because: b, skip: c}]",
    "measure: {kind: perplexity}\nmesure: {}",
    "measure: {kind: perplexity}\nparametrize: [{}]",
]


@pytest.mark.parametrize("probe", REFUSED)
def test_what_an_editor_underlines_is_a_fault_for_the_parser_too(probe: str) -> None:
    assert complaints(probe_file(probe))
    assert faults(probe_file(probe))


@pytest.mark.parametrize(
    "text", [HEAD + "probes: []", "version: 2\nsuite: a\nprobes: [{id: a, claim: b}]", HEAD + "probs: []"]
)
def test_what_is_wrong_with_the_file_is_refused(text: str) -> None:
    assert complaints(text)
    assert faults(text)


def test_a_wrong_key_of_a_measurement_gives_one_complaint_and_no_noise() -> None:
    (complaint,) = complaints(probe_file("measure: {kind: magnitude, topp: 3, top: 3}\nexpect: {layers_hit: {gt: 1}}"))[
        :1
    ]
    assert "'topp' was unexpected" in complaint
    assert all("topp" in each for each in complaints(probe_file("measure: {kind: magnitude, topp: 3}")))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_probe_file_is_sound_and_valid(path: Path) -> None:
    registry = builtin_registry()
    assert parse_file(path, registry)
    assert [] == complaints(path.read_text(encoding="utf-8"), Draft7Validator(build_schema(registry)))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: str(EXAMPLES.index(text)))
def test_an_example_of_the_reference_is_sound_and_valid(example: str) -> None:
    registry = builtin_registry()
    text = example if example.startswith(("version:", "#")) else _completed(example)
    assert parse_text(text, registry, name=str(REFERENCE))
    assert [] == complaints(text, Draft7Validator(build_schema(registry)))


def _completed(probe: str) -> str:
    """Make a file of the keys of one probe, or of several probes, as the reference shows them."""
    if not probe.startswith("- id:"):
        missing = "" if "measure:" in probe else "measure: {kind: perplexity}\n"
        return probe_file(missing + probe)
    return f"{HEAD}probes:\n{probe}"


def test_the_reference_has_examples_and_names_every_key() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert len(EXAMPLES) > 5
    for key in (*TOP_KEYS, *PROBE_KEYS, *INPUT_KEYS, *MEASURE_KEYS, *INTERVENE_KEYS, *FACTS):
        assert f"`{key}`" in text, f"docs/probe-files.md says nothing of `{key}`"


def test_the_schema_that_is_installed_is_that_of_our_own_recipes() -> None:
    made = build_schema(builtin_registry())
    assert made == json.loads(SHIPPED_SCHEMA.read_text(encoding="utf-8")), (
        "write it anew: maprobe schema --compact > maprobe/probe.schema.json"
    )
