"""The JSON Schema (draft 7) of probe files, made from the registered recipes, for editors.

It is closed: a key that is not named is refused. Which keys a measurement takes is decided by its `kind` (if/then), so
that an editor completes, and complains about, the right ones. What takes more than one place of the file to see
(unique ids, unused parameters, what `defaults` add) only the parser checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from maprobe.facts import FACTS
from maprobe.reading import grammar
from maprobe.reading.clauses import AMOUNT, LEVEL
from maprobe.reading.domains import domains_schema
from maprobe.reading.requests import at_leaf, control_leaf, set_leaf, sites_schema
from maprobe.recipes import InterventionRecipe, MeasurementRecipe, Parameter
from maprobe.registry import Registry

__all__ = ["build_schema"]

Schema = dict[str, Any]

_DRAFT = "http://json-schema.org/draft-07/schema#"
_PLACEHOLDER: Schema = {"type": "string", "pattern": f"^{grammar.PLACEHOLDER}$"}


def build_schema(registry: Registry) -> Schema:
    """Return the schema of probe files, version 1, for the recipes of a registry."""
    exact, filled = _Part(registry, "", _exactly), _Part(registry, "-with-parameters", _or_placeholder)
    return {
        "$schema": _DRAFT,
        "title": "maprobe probe file, version 1",
        **_closed(
            {
                "version": {"const": grammar.VERSIONS[0]},
                "suite": grammar.SLUG.schema,
                "cite": grammar.TEXT.schema,
                "defaults": {"$ref": f"#/definitions/{filled.name('defaults')}"},
                "probes": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "if": {"required": ["parametrize"]},
                        "then": {"$ref": f"#/definitions/{filled.name('probe')}"},
                        "else": {"$ref": f"#/definitions/{exact.name('probe')}"},
                    },
                },
            },
            grammar.TOP_KEYS,
            required=("version", "suite", "probes"),
        ),
        "definitions": {**exact.definitions(), **filled.definitions()},
    }


def _exactly(schema: Mapping[str, Any]) -> Schema:
    return dict(schema)


def _or_placeholder(schema: Mapping[str, Any]) -> Schema:
    """Allow ``${name}`` in place of a value; only the parser knows what it stands for."""
    return {"anyOf": [dict(schema), _PLACEHOLDER]}


def _closed(
    properties: Mapping[str, Mapping[str, Any]], meanings: Mapping[str, str], *, required: Iterable[str] = ()
) -> Schema:
    """Return the schema of a mapping that takes these keys only, each described."""
    described = {
        name: {**schema, **({"description": meanings[name]} if name in meanings else {})}
        for name, schema in properties.items()
    }
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": described, "additionalProperties": False, **needed}


class _Part:
    """The definitions of probes without, and once more with, placeholders in place of values."""

    def __init__(self, registry: Registry, suffix: str, value: Callable[[Mapping[str, Any]], Schema]) -> None:
        self._registry = registry
        self._suffix = suffix
        self._value = value

    def name(self, name: str) -> str:
        """Return the name of a definition."""
        return name + self._suffix

    def _ref(self, name: str) -> Schema:
        return self._value({"$ref": f"#/definitions/{self.name(name)}"})

    def definitions(self) -> dict[str, Schema]:
        """Return all definitions by name."""
        found = {
            "inputs": self._inputs(),
            "measure": self._measure(),
            "intervene": self._intervene(),
            "when": _closed({fact: self._condition(fact) for fact in FACTS}, FACTS) | {"minProperties": 1},
            "xfail": self._waiver(),
            "clauses": self._clauses(),
            **{f"expect.{what}": self._expect(names) for what, names in self._yields().items()},
            **{f"severity.{what}": self._severity(what) for what in self._yields()},
            **{f"trend.{what}": self._trend(what, names) for what, names in self._yields().items()},
            "probe": {**self._probe(grammar.PROBE_KEYS, ("id", "claim")), "allOf": self._narrowed()},
            "override": {**self._probe(grammar.OVERRIDE_KEYS, ("when", "because")), "allOf": self._narrowed()},
        }
        shared = {name: text for name, text in grammar.PROBE_KEYS.items() if name not in grammar.NOT_IN_DEFAULTS}
        if self._suffix:
            # Not narrowed: a probe may replace the kind of measurement, or what is expected of it.
            found["defaults"] = self._probe(shared)
        return {self.name(name): schema for name, schema in found.items()}

    def _probe(self, meanings: Mapping[str, str], required: Iterable[str] = ()) -> Schema:
        values = {
            "id": grammar.SLUG.schema,
            "claim": self._value(grammar.TEXT.schema),
            "cite": self._value(grammar.TEXT.schema),
            "because": self._value(grammar.TEXT.schema),
            "skip": self._value(grammar.TEXT.schema),
            "inputs": self._ref("inputs"),
            "measure": self._ref("measure"),
            "intervene": self._ref("intervene"),
            "control": self._value(self._control()),
            "expect": self._ref("expect.any"),
            "trend": self._ref("trend.any"),
            "severity": self._ref("severity.any"),
            "when": self._ref("when"),
            "xfail": self._ref("xfail"),
            "marks": self._value({"type": "array", "items": self._value(grammar.MARK.schema)}),
            "tags": self._value({"type": "array", "items": self._value(grammar.SLUG.schema)}),
            "overrides": self._value({"type": "array", "items": self._ref("override")}),
            "parametrize": _PARAMETER_SETS,
        }
        return _closed({name: values[name] for name in meanings}, meanings, required=required)

    def _narrowed(self) -> list[Schema]:
        """Say which quantities belong to a kind of measurement, and which to an intervention."""
        rules = []
        for what in self._yields():
            if what in ("any", "intervene"):
                continue
            kind = {"properties": {"kind": {"const": what}}, "required": ["kind"]}
            test: Schema = {"required": ["measure"], "properties": {"measure": kind}}
            rules.append({"if": test, "then": self._only(what)})
        rules.append({"if": {"required": ["intervene"]}, "then": self._only("intervene")})
        return rules

    def _only(self, what: str) -> Schema:
        return {"properties": {name: self._ref(f"{name}.{what}") for name in ("expect", "severity", "trend")}}

    def _yields(self) -> dict[str, dict[str, str]]:
        """Return the quantities with their meanings, by kind of measurement, under `intervene`, and in all.

        A measurement with a headline may be intervened on from `defaults`, so the comparisons are allowed beside its
        own quantities.
        """
        compared = {**grammar.COMPARISONS, **grammar.CONTROL_COMPARISONS}
        paired = {**compared, **grammar.PAIRED, **grammar.CONTROL_PAIRED}
        kinds = {
            kind: {
                **((paired if recipe.items else compared) if recipe.headline else {}),
                **{spec.name: spec.meaning for spec in recipe.quantities},
            }
            for kind, recipe in self._registry.measurements.items()
        }
        if any(recipe.items for recipe in self._registry.measurements.values()):
            compared = paired
        every = {name: meaning for names in (compared, *kinds.values()) for name, meaning in names.items()}
        return {**kinds, "intervene": compared, "any": every}

    def _inputs(self) -> Schema:
        leaves = {name: self._value(leaf.schema) for name, leaf in grammar.INPUT_LEAVES.items()}
        leaves["corpus"] = self._value({"enum": sorted(self._registry.corpora)})
        leaves["domains"] = self._value(domains_schema(self._registry.corpora, self._value))
        # At most one source here: `defaults` may hold the source, and a probe the rest.
        pairs = [
            {"not": {"required": [first, second]}}
            for index, first in enumerate(grammar.SOURCES)
            for second in grammar.SOURCES[index + 1 :]
        ]
        return {**_closed({name: leaves[name] for name in grammar.INPUT_KEYS}, grammar.INPUT_KEYS), "allOf": pairs}

    def _measure(self) -> Schema:
        recipes = self._registry.measurements
        sites = sorted({site for recipe in recipes.values() for site in recipe.sites})
        return self._discriminated(
            "kind",
            {
                "site": self._value(sites_schema(sites)),
                "layers": self._value(grammar.LAYERS.schema),
                "tokens": self._tokens(),
            },
            grammar.MEASURE_KEYS,
            {name: (recipe.summary, recipe.parameters, self._places(recipe)) for name, recipe in recipes.items()},
        )

    def _places(self, recipe: MeasurementRecipe) -> dict[str, Schema]:
        places: dict[str, Schema] = {"site": self._value(sites_schema(recipe.sites))}
        if recipe.takes_layers:
            places["layers"] = {}
        if recipe.takes_tokens:
            places["tokens"] = {}
        return places

    def _tokens(self) -> Schema:
        index = _closed({"index": self._value(grammar.TOKEN_INDEX.schema)}, {}, required=["index"])
        return self._value({"anyOf": [grammar.TOKEN_WORDS.schema, index]})

    def _intervene(self) -> Schema:
        recipes = self._registry.interventions
        value = _closed({"value": self._value(grammar.SET_VALUE.schema)}, {}, required=["value"])

        def own(recipe: InterventionRecipe) -> dict[str, Schema]:
            places = {"at": self._value(at_leaf(recipe).schema)}
            if recipe.sets:
                words = set_leaf(recipe).schema
                places["set"] = self._value({"anyOf": [words, value]} if "value" in recipe.sets else words)
            return places

        return self._discriminated(
            "target",
            {
                "at": self._value({"anyOf": _distinct(at_leaf(recipe).schema for recipe in recipes.values())}),
                "set": self._value({"anyOf": [{"enum": ["mean", "zero"]}, value]}),
            },
            grammar.INTERVENE_KEYS,
            {name: (recipe.summary, recipe.parameters, own(recipe)) for name, recipe in recipes.items()},
        )

    def _control(self) -> Schema:
        """Return every control there is; which of them a target has is told when the file is read."""
        leaves = [control_leaf(recipe).schema["enum"] for recipe in self._registry.interventions.values()]
        return {"enum": list(dict.fromkeys(word for words in leaves for word in words))}

    def _discriminated(
        self,
        key: str,
        places: Mapping[str, Schema],
        meanings: Mapping[str, str],
        recipes: Mapping[str, tuple[str, tuple[Parameter, ...], Mapping[str, Schema]]],
    ) -> Schema:
        """Return a mapping whose other keys depend on one; without it, as in `defaults`, any recipe's are allowed."""
        named = {"enum": sorted(recipes)}
        union = {key: self._value(named), **places}
        branches = []
        for name, (summary, parameters, own) in sorted(recipes.items()):
            options = {parameter.name: self._value(parameter.schema) for parameter in parameters}
            told = {**meanings, **{parameter.name: _told(parameter) for parameter in parameters}}
            union.update({option: {} for option in options})
            branches.append(
                {
                    "if": {"properties": {key: {"const": name}}, "required": [key]},
                    "then": _closed({key: {}, **own, **options}, {**told, key: summary}),
                }
            )
        return {**_closed(union, meanings), "allOf": branches}

    def _clauses(self) -> Schema:
        operators = self._registry.operators.values()
        schema = _closed(
            {operator.name: self._value(operator.schema) for operator in operators},
            {operator.name: operator.meaning for operator in operators},
        )
        return {**schema, "minProperties": 1}

    def _expect(self, quantities: Mapping[str, str]) -> Schema:
        axis = self._value({"enum": list(grammar.AXES)})
        cells = _closed({name: self._value(AMOUNT.schema) for name in grammar.AXES}, {})
        properties = {
            **dict.fromkeys(grammar.QUANTIFIERS, axis),
            "at_least": self._value({**cells, "minProperties": 1, "maxProperties": 1}),
            **{name: self._ref("clauses") for name in quantities},
        }
        return {**_closed(properties, {**quantities, **grammar.QUANTIFIERS}), "minProperties": 1}

    def _trend(self, what: str, quantities: Mapping[str, str]) -> Schema:
        monotone = _closed(
            {
                "quantity": self._value({"enum": list(quantities)}),
                "direction": self._value(grammar.DIRECTION.schema),
                "tolerance": self._value(grammar.TOLERANCE.schema),
            },
            grammar.MONOTONE_KEYS,
            required=("quantity", "direction"),
        )
        properties = {
            "of": self._ref(f"expect.{what}"),
            "emerges_after": self._value(grammar.STEPS.schema),
            "emerges_by": self._value(grammar.STEPS.schema),
            "stays": self._value(grammar.TRUTH.schema),
            "monotone": self._value(monotone),
        }
        needed = {name: ["of"] for name in ("emerges_after", "emerges_by")}
        return {**_closed(properties, grammar.TREND_KEYS), "minProperties": 1, "dependencies": needed}

    def _severity(self, what: str) -> Schema:
        bands = _closed({level: self._ref(f"expect.{what}") for level in grammar.LEVELS}, {})
        return self._value(
            {
                "type": ["string", "object"],
                "if": {"type": "string"},
                "then": LEVEL.schema,
                "else": {**bands, "minProperties": 1},
            }
        )

    def _condition(self, fact: str) -> Schema:
        value = grammar.FACT_SCHEMAS[fact]
        return self._value(
            {
                "type": ["string", "number", "boolean", "array", "object"],
                "if": {"type": "object"},
                "then": self._ref("clauses"),
                "else": {"anyOf": [value, {"type": "array", "items": self._value(value), "minItems": 1}]},
            }
        )

    def _waiver(self) -> Schema:
        leaves = {"reason": grammar.TEXT, "strict": grammar.TRUTH, "until": grammar.DATE}
        properties = {name: self._value(leaf.schema) for name, leaf in leaves.items()}
        return _closed(properties, grammar.WAIVER_KEYS, required=["reason"])


_PARAMETER_SETS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"id": {**grammar.SLUG.schema, "description": "what tells this set apart in the probe's id"}},
        "patternProperties": {grammar.PARAMETER_NAME.schema["pattern"]: {}},
        "additionalProperties": False,
        "minProperties": 1,
    },
}


def _distinct(schemas: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for schema in schemas:
        if schema not in found:
            found.append(schema)
    return found


def _told(parameter: Parameter) -> str:
    return f"{parameter.meaning} (left out: {parameter.default})"
