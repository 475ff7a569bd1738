"""From marked nodes to requests: inputs, measurement, intervention."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maprobe.cases import Domain, InputsRequest, InterveneRequest, MeasureRequest, Options
from maprobe.errors import did_you_mean
from maprobe.reading.budget import Budget
from maprobe.reading.domains import domains_of
from maprobe.reading.faults import FaultList, Leaf, in_words, keys
from maprobe.reading.grammar import (
    INPUT_KEYS,
    INPUT_LEAVES,
    INTERVENE_KEYS,
    LAYERS,
    MEASURE_KEYS,
    OF_ONE_SOURCE,
    SET_VALUE,
    SOURCES,
    TOKEN_INDEX,
    TOKEN_WORDS,
    UNFIT,
)
from maprobe.reading.nodes import Node, frozen
from maprobe.recipes import InterventionRecipe, MeasurementRecipe, Parameter
from maprobe.registry import Registry
from maprobe.sites import ALL_LAYERS, ALL_TOKENS, OWN_PATTERN, OWN_SITES, LayerRange, TokenSet, is_own, site_named

__all__ = [
    "Context",
    "at_leaf",
    "beside",
    "control_leaf",
    "inputs_request",
    "intervene_request",
    "measure_request",
    "recipe_of",
    "set_leaf",
    "sites_schema",
]

_IN_FILES = ("file", "jsonl", "choices", "pairs", "images")


_ONE_FILE = ("file", "jsonl", "choices", "pairs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the parts of one probe file are read with.

    Attributes:
        registry: the recipes that may be named.
        faults: takes what is wrong.
        budget: bounds how much is read, each repetition counted.
        folder: the folder that relative paths start from.
    """

    registry: Registry
    faults: FaultList
    budget: Budget
    folder: str = ""


def inputs_request(node: Node | None, context: Context) -> InputsRequest:
    """Read `inputs`. The result is of use only where no fault was noted."""
    if node is None:
        return InputsRequest(source="default", value=())
    entries = keys(node, INPUT_KEYS, context.faults)
    values = {
        name: INPUT_LEAVES[name].take(entry, context.faults) for name, entry in entries.items() if name in INPUT_LEAVES
    }
    named = [source for source in SOURCES if source in entries]
    if len(named) != 1:
        if isinstance(node.value, dict):
            told = "names no source" if not named else f"names {len(named)} sources ({', '.join(named)})"
            context.faults.add(node.mark, f"{told}; allowed: exactly one of {', '.join(SOURCES)}")
        return InputsRequest()
    source = named[0]
    for name, owner in OF_ONE_SOURCE.items():
        if name in entries and source != owner:
            told = f"`{name}` belongs to `{owner}`, and the source is `{source}`; remove it"
            context.faults.add(entries[name].place, told)
    value = _corpus(entries[source], context) if source == "corpus" else values.get(source)
    domains: tuple[Domain, ...] = ()
    if source == "domains":
        domains = domains_of(entries[source], context.registry.corpora, context.faults)
    pictured = source == "corpus" and value and context.registry.corpora[value].modality == "image"
    for name, why in UNFIT.get("images" if pictured else source, {}).items():
        if name in entries:
            context.faults.add(entries[name].place, f"`{name}` {why}; remove it")
    values_of = (value,) if isinstance(value, str) else tuple(value or ())
    folder, read = beside(context.folder, values_of) if source in _ONE_FILE else (context.folder, values_of)
    return InputsRequest(
        source=source,  # type: ignore[arg-type]
        value=read,
        text_field=values.get("field") or "text",
        task=values.get("task") or "plain",
        domains=domains,
        labels=values.get("labels") or "none",
        sequences=values.get("sequences"),
        length=values.get("length"),
        skip=values.get("skip") or 0,
        bos=values.get("bos"),
        # Only where it decides what is read: probes in different folders share the pass over one corpus.
        folder=folder if source in _IN_FILES or any(it.source in _IN_FILES for it in domains) else "",
        mark=node.mark,
    )


def beside(folder: str, value: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the folder and the path of a file as probes of the folder that it lies in would write them.

    A path that goes up and into a folder beside starts from there: probes of two folders that read one file share its
    passes. Any other path is left as it is.
    """
    parts = Path(value[0]).parts if len(value) == 1 else ()
    ups = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    if not folder or not ups or len(parts) < ups + 2:
        return folder, value
    return os.path.normpath(Path(folder, *parts[: ups + 1])), (str(Path(*parts[ups + 1 :])),)


def _corpus(node: Node, context: Context) -> str | None:
    name: str | None = Leaf({"enum": sorted(context.registry.corpora)}).take(node, context.faults)
    return name


def recipe_of(node: Node, context: Context) -> MeasurementRecipe | None:
    """Return the recipe that `measure` names; None, with the fault noted, if it names none."""
    found: str | None = _named(node, "kind", sorted(context.registry.measurements), context)
    return context.registry.measurements[found] if found else None


def _named(node: Node, key: str, allowed: list[str], context: Context) -> str | None:
    """Read the key that says which other keys there may be."""
    if not isinstance(node.value, dict):
        context.faults.add(node.mark, f"{in_words(node)} is not allowed; allowed: a mapping with `{key}`")
        return None
    if key not in node.value:
        context.faults.add(node.mark, f"`{key}` is missing; allowed: {', '.join(allowed)}")
        return None
    name: str | None = Leaf({"enum": allowed}).take(node.value[key], context.faults)
    return name


def measure_request(node: Node, recipe: MeasurementRecipe, context: Context) -> MeasureRequest:
    """Read `measure` for the recipe it names. The result is of use only where no fault was noted."""
    places = [key for key in MEASURE_KEYS if _takes(recipe, key)]
    entries = _own_keys(node, recipe, places, context.faults)
    site = recipe.sites[0]
    if "site" in entries:
        site = _site(entries["site"], recipe, context.faults) or site
    return MeasureRequest(
        kind=recipe.name,
        site=site,
        layers=_layers(entries.get("layers"), site, context.faults),
        tokens=_tokens(entries.get("tokens"), context.faults),
        options=_options(recipe.parameters, entries, context.faults),
        mark=node.mark,
    )


def sites_schema(sites: Sequence[str]) -> dict[str, Any]:
    """Return the JSON Schema of what may be written under `site`, for the sites of a recipe or of several."""
    names = [name for name in sites if name != OWN_SITES]
    own = {"type": "string", "pattern": OWN_PATTERN}
    return {"anyOf": [{"enum": names}, own]} if OWN_SITES in sites else {"enum": names}


def _site(node: Node, recipe: MeasurementRecipe, faults: FaultList) -> str | None:
    names = [name for name in recipe.sites if name != OWN_SITES]
    own = OWN_SITES in recipe.sites
    if own and isinstance(node.value, str) and is_own(node.value):
        return node.value
    words = ", ".join(names) + (", own.NAME for a site of the model's own" if own else "")
    named: str | None = Leaf({"enum": names}, words).take(node, faults)
    return named


def _takes(recipe: MeasurementRecipe, key: str) -> bool:
    return {"layers": recipe.takes_layers, "tokens": recipe.takes_tokens}.get(key, True)


def _own_keys(
    node: Node, recipe: MeasurementRecipe | InterventionRecipe, places: list[str], faults: FaultList
) -> dict[str, Node]:
    """Return the entries that belong to a recipe, having noted those that do not."""
    allowed = [*places, *(parameter.name for parameter in recipe.parameters)]
    for name, entry in node.entries.items():
        if name not in allowed:
            near = did_you_mean(name, allowed)
            faults.add(entry.place, f"{recipe.name!r} takes no key {name!r}{near}; allowed: {', '.join(allowed)}")
    return {name: entry for name, entry in node.entries.items() if name in allowed}


def _layers(node: Node | None, site: str, faults: FaultList) -> LayerRange:
    if node is None:
        return ALL_LAYERS
    if not site_named(site).per_layer:
        faults.add(node.place, f"site {site!r} has no layers; remove `layers`")
        return ALL_LAYERS
    value = LAYERS.take(node, faults)
    if value is None:
        return ALL_LAYERS
    layers = LayerRange.parse(value)
    if site != "block.out" and 0 in (layers.first, layers.last):
        faults.add(node.mark, "layer 0 is the embedding output, a layer of block.out only; the first block is 1")
    # Whether 5..-2 is empty depends on the model; ends of one sign can be told apart here.
    if (layers.first < 0) == (layers.last < 0) and layers.first > layers.last:
        faults.add(node.mark, f"layers {layers} are empty; put the lower layer first")
    return layers


def _tokens(node: Node | None, faults: FaultList) -> TokenSet:
    if node is None:
        return ALL_TOKENS
    if not isinstance(node.value, dict):
        kind = TOKEN_WORDS.take(node, faults)
        return TokenSet(kind) if kind else ALL_TOKENS
    entries = keys(node, ["index"], faults, required=["index"])
    positions = TOKEN_INDEX.take(entries["index"], faults) if entries else None
    return TokenSet("index", tuple(sorted(set(positions)))) if positions else ALL_TOKENS


def _options(parameters: tuple[Parameter, ...], entries: dict[str, Node], faults: FaultList) -> Options:
    """Return every parameter by name, with its default where none is written."""
    options: dict[str, Any] = {}
    for parameter in sorted(parameters, key=lambda parameter: parameter.name):
        written = entries.get(parameter.name)
        value = parameter.default if written is None else Leaf(parameter.schema).take(written, faults)
        options[parameter.name] = frozen(value)
    return tuple(options.items())


def intervene_request(node: Node, control: Node | None, context: Context) -> InterveneRequest | None:
    """Read `intervene` and `control`; None, with the fault noted, where the target is not known."""
    faults = context.faults
    target = _named(node, "target", sorted(context.registry.interventions), context)
    if target is None:
        return None
    recipe = context.registry.interventions[target]
    places = [key for key in INTERVENE_KEYS if key != "set" or recipe.sets]
    entries = _own_keys(node, recipe, places, faults)
    at = at_leaf(recipe).take(entries["at"], faults) if "at" in entries else None
    how, value = _set(entries.get("set"), recipe, faults)
    return InterveneRequest(
        target=target,
        at=recipe.at[0] if at is None else at,
        set=how,  # type: ignore[arg-type]
        value=value,
        control=(control_leaf(recipe).take(control, faults) if control else None) or [*recipe.controls, "none"][0],
        options=_options(recipe.parameters, entries, faults),
        mark=node.mark,
    )


def at_leaf(recipe: InterventionRecipe) -> Leaf:
    """Return what may be written under `at` of an intervention."""
    if not recipe.at_layer:
        return Leaf({"enum": list(recipe.at)})
    words = [*recipe.at, "the number of a layer"]
    return Leaf({"anyOf": [{"enum": list(recipe.at)}, {"type": "integer"}]}, ", ".join(words))


def control_leaf(recipe: InterventionRecipe) -> Leaf:
    """Return what may be written under `control` beside an intervention."""
    return Leaf({"enum": [*recipe.controls, "none"]})


def set_leaf(recipe: InterventionRecipe) -> Leaf:
    """Return the words that may be written under `set` of an intervention."""
    words = [word for word in recipe.sets if word != "value"]
    value = ["{value: NUMBER}"] if "value" in recipe.sets else []
    return Leaf({"enum": words}, ", ".join([*words, *value]))


def _set(node: Node | None, recipe: InterventionRecipe, faults: FaultList) -> tuple[str, float | None]:
    if node is None:
        return (recipe.sets[0] if recipe.sets else ""), None
    if not isinstance(node.value, dict) or "value" not in recipe.sets:
        return set_leaf(recipe).take(node, faults) or "zero", None
    entries = keys(node, ["value"], faults, required=["value"])
    return "value", SET_VALUE.take(entries["value"], faults) if entries else None
