"""docs/selftest.md tells the twins and the outcomes that the code has."""

from __future__ import annotations

import inspect
import re

from pages import columns, page

from maprobe.selftest import llama, showing
from maprobe.selftest.design import BLOCKS, MASSIVE, TWINS, VALUE
from maprobe.selftest.graph_rules import GRAPH_TWINS
from maprobe.selftest.language import WORDS
from maprobe.selftest.rules import RULES

PAGE = page("selftest.md")


def test_the_twins_are_those_of_the_code() -> None:
    told = columns(PAGE.section("Its twins", 2).table(), 0, 1)
    assert [(f"`{twin.name}`", twin.lacks) for twin in TWINS.values()] == told


def test_the_twins_of_images_are_those_of_the_code() -> None:
    told = columns(PAGE.section("Models of images", 2).table(), 0, 1)
    members = dict.fromkeys(rule.pair.twin for rule in RULES if rule.images)
    written = [(f"`{member.name}`", member.told.removeprefix("the same ")) for member in members]
    assert sorted(written) == sorted(told)


def test_the_twins_of_graphs_are_those_of_the_code() -> None:
    told = columns(PAGE.section("Models of graphs", 2).table(), 0, 1)
    assert [(f"`{name}`", lacks) for name, (lacks, _) in GRAPH_TWINS.items()] == told


def test_the_outcomes_are_those_of_the_code() -> None:
    written = {*re.findall(r'"((?:holds|never|not) [a-z ]+|holds, [a-z ]+)"', inspect.getsource(showing))}
    # The page's first table.
    assert written == {*columns(PAGE.table(), 0)}


def test_the_planted_model_is_as_told() -> None:
    words = PAGE.section("The planted model", 2).words
    assert 8 == BLOCKS
    assert "eight blocks of width 128, four heads" in words
    assert (128, 4) == (llama.WIDTH, llama.HEADS)
    assert f"writes {VALUE:.0f} into dim {MASSIVE} of the residual stream" in words
    assert f"of {len(WORDS)} words" in words
