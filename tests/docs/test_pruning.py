"""docs/pruning.md tells the options and defaults that `maprobe prune` has."""

from __future__ import annotations

import argparse

from pages import columns, names, page

from maprobe.prune_command import add_prune
from maprobe.pruning.folders import RECORD
from maprobe.sparsity import SparsityRule

PAGE = page("pruning.md")


def test_the_options_and_defaults_are_those_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    add_prune(parser.add_subparsers())
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    has = {
        action.option_strings[0]: [action.default] if action.default else []
        for action in commands.choices["prune"]._actions
        if "--help" not in action.option_strings
    }
    rows = PAGE.section("The command", 2).table()
    assert has == {names(option)[0]: names(default) for option, default in columns(rows, 0, 1)}


def test_the_numbers_of_the_rule_are_those_of_the_code() -> None:
    rule = SparsityRule()
    assert f"alpha is {rule.alpha:g}, beta {rule.beta:g} and gamma 2e-5" in PAGE.section("The rule", 2).words


def test_the_file_beside_the_weights_has_its_name() -> None:
    assert f"`{RECORD}`" in PAGE.section("The command", 2).text
