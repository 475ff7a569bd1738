"""Whatever a file holds, reading it ends with probes or with ProbeFileError."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from small_registry import REGISTRY

from maprobe.errors import ProbeFileError
from maprobe.reading.faults import FaultList
from maprobe.reading.loading import load
from maprobe.reading.parsing import parse_file, parse_text
from maprobe.reading.schema import build_schema

settings.register_profile("quick", max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
QUICK = settings.get_profile("quick")

VALIDATOR = Draft7Validator(build_schema(REGISTRY))
SOUND = """\
version: 1
suite: a-suite
defaults:
  inputs: {corpus: python-docs, sequences: 2, length: 8}
probes:
  - id: exists
    claim: It exists.
    measure: {kind: magnitude, site: block.out, layers: 2..-2, tokens: first}
    expect: {some: layers, top: {gt: 100}, ratio: {gt: 1e3}}
    when: {model_type: [llama, gpt2], num_hidden_layers: {gte: 4}}
    tags: [a]
  - id: effect
    claim: It matters.
    measure: {kind: perplexity}
    intervene: {target: massive, at: first-layer, set: "${set}"}
    control: none
    expect: {ratio: {between: [0.9, 1.1]}}
    severity: {warn: {ratio: {gt: 2}}}
    parametrize: [{set: zero}, {set: {value: 3}}]
    overrides: [{when: {causal: false}, because: It is so., xfail: {reason: r, until: 2027-01-01}}]
"""


def reads(text: str) -> None:
    found: ProbeFileError | None = None
    try:
        parse_text(text, REGISTRY, name="x.probe.yaml")
    except ProbeFileError as error:
        found = error
    if found is None:
        node = load(text, "x", FaultList())
        assert node is not None
        # What every probe replaces of the defaults is never read, so there an editor may see more.
        data = {name: value for name, value in node.plain().items() if name != "defaults"}
        assert VALIDATOR.is_valid(data), "what the parser takes, an editor does not underline"
    else:
        assert found.faults
        assert all(fault.message and fault.mark.line >= 1 and fault.mark.column >= 1 for fault in found.faults)
        assert len(found.faults) == len(str(found).splitlines())


@QUICK
@given(st.text())
@example("a: &a [*a]")
@example("\ud800")
@example('"\\UFFFFFFFF"')
@example("%YAML 1.1\n---\na")
@example("? {a: b}\n: c")
@example("!!python/object/apply:os.system ['true']")
def test_any_text_is_read_or_refused(text: str) -> None:
    reads(text)


@QUICK
@given(st.text(alphabet="abk1-:{}[]&*!|>'\"\\#%@`,? \n\t~.<=$"))
def test_any_text_that_looks_like_yaml_is_read_or_refused(text: str) -> None:
    reads(text)


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.probe.yaml"
        path.write_bytes(data)
        with pytest.raises(ProbeFileError):
            parse_file(path, REGISTRY)


@QUICK
@given(st.integers(min_value=0, max_value=1 << 32), st.integers(min_value=1, max_value=5))
def test_a_sound_file_with_some_words_exchanged_is_read_or_refused(seed: int, changes: int) -> None:
    chance = random.Random(seed)
    words = SOUND.split(" ")
    for _ in range(changes):
        words[chance.randrange(len(words))] = chance.choice(
            [*words, "[]", "{}", "null", "-1", "1e3", "'x'", "&a", "*a"]
        )
    reads(" ".join(words))


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 99)
    | st.floats(allow_nan=False)
    | st.sampled_from(["all", "x", "${a}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["kind", "site", "gt", "id", "text", "index", "every", "at_least", "layers", "set", "${a}", "y"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
KEYS = [
    *("id", "claim", "cite", "inputs", "measure", "intervene", "control", "expect", "severity", "overrides", "when"),
    *("xfail", "skip", "marks", "tags", "parametrize"),
]


@QUICK
@given(st.dictionaries(st.sampled_from(KEYS), values), st.dictionaries(st.sampled_from(KEYS), values))
def test_any_values_under_the_known_keys_are_read_or_refused(defaults: dict[str, Any], probe: dict[str, Any]) -> None:
    import json

    probe = {"id": "a", "claim": "b", "measure": {"kind": "perplexity"}, **probe}
    file = {"version": 1, "suite": "s", "defaults": defaults, "probes": [probe]}
    reads(json.dumps(file).replace("Infinity", "1e300"))


def test_the_sound_file_is_sound() -> None:
    probes = parse_text(SOUND, REGISTRY, name="x.probe.yaml")
    assert ["exists", "effect-zero", "effect-value-3"] == [probe.id for probe in probes]
