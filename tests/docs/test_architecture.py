"""docs/architecture.md tells the floors, sites, words and statuses that the code has, and no page links nowhere."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import test_floors
from pages import PAGES, Section, columns, names, page

from maprobe.sites import SITES
from maprobe.verdicts import Status

PAGE = page("architecture.md")


def table(title: str) -> list[list[str]]:
    return PAGE.section(title, 2).table()


def test_the_floors_are_those_that_the_imports_are_held_to() -> None:
    told = [(floor, names(modules)) for floor, modules in columns(table("Floors"), 0, 1)]
    assert [(floor, [name for name in modules if name]) for floor, modules in test_floors.FLOORS] == told


def test_who_may_import_torch_is_told() -> None:
    sentence = re.search(r"Only (.*?) may import torch", PAGE.section("Floors", 2).words)
    assert sentence
    assert {*names(sentence[1])} == test_floors.TORCH_FLOORS


def test_the_sites_are_those_of_the_code() -> None:
    told = [
        (f"`{site.name}`", ", ".join(site.axes), "yes" if site.per_layer else "no", site.meaning)
        for site in SITES.values()
    ]
    assert told == columns(table("Sites"), 0, 1, 2, 3)


def test_the_statuses_are_those_of_the_code() -> None:
    assert [[status.value] for status in Status] == [names(cell) for cell in columns(table("Statuses"), 0)]


@pytest.mark.parametrize(("word", "module"), columns(table("Words"), 0, 1))
def test_a_word_is_a_name_in_the_module_that_it_is_said_to_be_in(word: str, module: str) -> None:
    found = importlib.import_module(f"maprobe.{names(module)[0]}")
    # A card is a file and no class.
    for name in word.split(", "):
        assert hasattr(found, "write_card" if name == "Model card" else name)


def anchors(target: Section) -> set[str]:
    """The anchors of a page's headings, by the rule of the sites that show Markdown."""
    titles = [section.title for depth in (1, 2, 3) for section in target.sections(depth)]
    return {re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_link_leads_nowhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name, anchor in re.findall(r"\]\(([\w-]+\.md)?(?:#([\w-]+))?\)", text):
        target = path.parent / (name or path.name)
        assert target.exists(), f"{path.name} links to {target.name}"
        assert not anchor or anchor in anchors(page(target.name)), f"{path.name} links to {target.name}#{anchor}"
