"""docs/measurements.md says of each measurement and intervention what the code says."""

from __future__ import annotations

import re

import pytest
from pages import Section, columns, names, page, whole_file

from maprobe.builtin import builtin_registry
from maprobe.measurements.finite import LARGEST_FINITE
from maprobe.measurements.survey import ABSOLUTE, RELATIVE
from maprobe.reading.grammar import COMPARISONS, CONTROL_COMPARISONS, CONTROL_PAIRED, PAIRED
from maprobe.reading.parsing import parse_text
from maprobe.recipes import InterventionRecipe, MeasurementRecipe

HEADINGS = [
    "What it asks",
    "Definition",
    "Quantities",
    "Parameters",
    "Sites",
    "Cost",
    "Source",
    "Known limits",
    "Example",
]
PAGE = page("measurements.md")
REGISTRY = builtin_registry()
SHARED = "What all of them share"


def title(recipe: MeasurementRecipe | InterventionRecipe) -> str:
    return f"Intervention: {recipe.name}" if isinstance(recipe, InterventionRecipe) else recipe.name


measurements = pytest.mark.parametrize("recipe", REGISTRY.measurements.values(), ids=lambda recipe: recipe.name)
interventions = pytest.mark.parametrize("recipe", REGISTRY.interventions.values(), ids=lambda recipe: recipe.name)
recipes = pytest.mark.parametrize(
    "recipe",
    [*REGISTRY.measurements.values(), *REGISTRY.interventions.values()],
    ids=title,
)


def part(recipe: MeasurementRecipe | InterventionRecipe, heading: str) -> Section:
    return PAGE.section(title(recipe), 2).section(heading, 3)


def test_every_registered_recipe_has_a_section_and_there_is_no_other() -> None:
    registered = [title(recipe) for recipe in (*REGISTRY.measurements.values(), *REGISTRY.interventions.values())]
    assert [SHARED, *registered] == [section.title for section in PAGE.sections(2)]


def test_the_overview_lists_every_recipe() -> None:
    listed = [name for line in PAGE.lines for name in re.findall(r"^\| \[`([^`]+)`\]\(#", line)]
    assert [*REGISTRY.measurements, *REGISTRY.interventions] == listed


@recipes
def test_a_section_has_the_fixed_headings_in_order(recipe: MeasurementRecipe | InterventionRecipe) -> None:
    assert [section.title for section in PAGE.section(title(recipe), 2).sections(3)] == HEADINGS


@recipes
@pytest.mark.parametrize("heading", HEADINGS)
def test_no_heading_is_empty(recipe: MeasurementRecipe | InterventionRecipe, heading: str) -> None:
    assert part(recipe, heading).words


@measurements
def test_the_table_of_quantities_is_that_of_the_recipe(recipe: MeasurementRecipe) -> None:
    told = [(f"`{spec.name}`", ", ".join(spec.axes), spec.unit) for spec in recipe.quantities]
    assert told == columns(part(recipe, "Quantities").table(), 0, 1, 2)


@interventions
def test_the_table_of_the_comparison_stands_once_and_is_pointed_to(recipe: InterventionRecipe) -> None:
    section = part(recipe, "Quantities")
    if recipe.name != "massive":
        assert "as under [Intervention: massive](#intervention-massive)" in section.words
        return
    told = [names(cell) for cell in columns(section.table(), 0)]
    compared = (*COMPARISONS, *CONTROL_COMPARISONS, *PAIRED, *CONTROL_PAIRED)
    assert sorted([name] for name in compared) == sorted(told)


@measurements
def test_every_quantity_has_a_meaning(recipe: MeasurementRecipe) -> None:
    assert all(columns(part(recipe, "Quantities").table(), 3))


@recipes
def test_the_table_of_parameters_is_that_of_the_recipe(recipe: MeasurementRecipe | InterventionRecipe) -> None:
    section = part(recipe, "Parameters")
    told = [(f"`{parameter.name}`", str(parameter.default)) for parameter in recipe.parameters]
    assert told == columns(section.table(), 0, 1)
    assert bool(recipe.parameters) != section.words.startswith("None")


@measurements
def test_keys_that_cannot_be_written_are_named(recipe: MeasurementRecipe) -> None:
    keys = [key for key, taken in (("layers", recipe.takes_layers), ("tokens", recipe.takes_tokens)) if not taken]
    sentence = " and ".join(f"`{key}`" for key in keys) + " cannot be written"
    assert bool(keys) == ("cannot be written" in part(recipe, "Parameters").words)
    assert not keys or sentence in part(recipe, "Parameters").words


@measurements
def test_the_sites_are_those_of_the_recipe_with_the_default_first(recipe: MeasurementRecipe) -> None:
    section = part(recipe, "Sites")
    first = section.text.split("\n\n")[0].split(". ")[0]
    assert list(recipe.sites) == names(first)
    assert (len(recipe.sites) > 1) == section.words.startswith(f"`{recipe.sites[0]}` (the default)")


@interventions
def test_what_an_intervention_takes_under_at_is_told(recipe: InterventionRecipe) -> None:
    words = part(recipe, "Parameters").words
    assert {*recipe.at} <= {*names(words)}
    assert recipe.at_layer == ("or the number of a layer" in words)
    assert bool(recipe.sets) != ("`set` cannot be written" in words)


@measurements
def test_a_headline_is_told_and_so_is_that_there_is_none(recipe: MeasurementRecipe) -> None:
    words = PAGE.section(title(recipe), 2).words
    told = re.findall(r"`([a-z_]+)` is the headline", words)
    assert ([recipe.headline] if recipe.headline else []) == told


@measurements
def test_companions_and_the_need_of_a_causal_model_are_told(recipe: MeasurementRecipe) -> None:
    words = PAGE.section(title(recipe), 2).words
    assert recipe.causal == ("needs a causal language model" in words)
    assert bool(recipe.companions) == ("as a companion" in words)
    assert all(f"`{companion}`" in part(recipe, "Cost").words for companion in recipe.companions)


@recipes
def test_a_source_names_a_paper_and_its_section(recipe: MeasurementRecipe | InterventionRecipe) -> None:
    words = part(recipe, "Source").words
    assert re.search(r"arXiv:\d{4}\.\d{5}", words)
    assert re.search(r"arXiv:\d{4}\.\d{5}, section", words) or "ours" in words


@recipes
def test_an_example_can_be_read_and_uses_the_recipe(recipe: MeasurementRecipe | InterventionRecipe) -> None:
    example = part(recipe, "Example").example("yaml")
    (probe,) = parse_text(whole_file(example.text), REGISTRY, name=str(example))
    if isinstance(recipe, InterventionRecipe):
        assert probe.intervene is not None
        assert recipe.name == probe.intervene.target
    else:
        assert recipe.name == probe.measure.kind
    assert probe.expect is not None


def test_the_strict_criterion_has_the_numbers_of_the_code() -> None:
    criterion = " ".join(PAGE.section(SHARED, 2).text.split())
    assert f"|x| > {ABSOLUTE:g} and |x| >= {RELATIVE:g} * median(|h|)" in criterion


def test_the_ranges_of_dtypes_have_the_numbers_of_the_code() -> None:
    words = part(REGISTRY.measurements["finite"], "Definition").words
    for dtype, limit in LARGEST_FINITE.items():
        told = f"{limit:.0f}" if limit < 1e6 else f"about {limit:.2e}".replace("e+", "e")
        assert f"{told} for {dtype}" in words
