"""What pruning did, as tables and sentences."""

from __future__ import annotations

from typing import Any

from maprobe.pruning.pruner import Outcome
from maprobe.pruning.wanda import PrunedMatrix
from maprobe.reporting.pruning import comparison_table, layers_table, notes


def matrix(layer: int, **changes: Any) -> PrunedMatrix:
    fields = {"path": f"h.{layer}.up", "outputs": 4, "inputs": 5, "asked": 0.5, "zeros": 10, **changes}
    return PrunedMatrix(layer=layer, **fields)


EVEN = Outcome(method="wanda", shares=(0.5, 0.5), matrices=(matrix(1), matrix(2)), perplexity=30.0)


def test_layers_stand_with_what_was_asked_for_and_what_was_counted() -> None:
    outcome = Outcome(
        method="layers",
        shares=(0.4, 0.6),
        matrices=(matrix(1, asked=0.4, zeros=8), matrix(2, asked=0.6, zeros=12), matrix(2, asked=0.6, zeros=13)),
        counts=(9, 3),
    )
    lines = layers_table(outcome, "title").splitlines()
    assert ["title", ["layer", "active", "asked", "counted"]] == [lines[0], lines[1].split()]
    assert [
        ["1", "9", "0.4000", "0.4000"],
        ["2", "3", "0.6000", "0.6250"],
        ["all", "12", "0.5000", "0.5500"],
    ] == [line.split() for line in lines[3:]]


def test_a_method_that_counts_nothing_has_no_column_of_counts() -> None:
    assert ["layer", "asked", "counted"] == layers_table(EVEN, "title").splitlines()[1].split()


def test_perplexities_stand_beside_that_of_the_dense_model() -> None:
    dense = Outcome(method="dense", shares=(0.0,), matrices=(matrix(1, asked=0.0, zeros=0),), perplexity=20.0)
    rows = [line.split() for line in comparison_table((dense, EVEN), "title").splitlines()[3:]]
    assert [["dense", "0.0000", "20.000", "1.000"], ["wanda", "0.5000", "30.000", "1.500"]] == rows


def test_where_all_is_as_usual_nothing_is_noted() -> None:
    assert () == notes(EVEN, (), "LlamaForCausalLM", True)


def test_what_a_user_has_to_know_is_noted() -> None:
    odd = Outcome(
        method="layers",
        shares=(0.5, 0.4),
        matrices=(matrix(1, zeros=11), matrix(2, seen=False, inputs=6, asked=0.4, zeros=10)),
        counts=(1, 2),
    )
    found = notes(odd, [f"h.{number}.experts" for number in range(5)], "BertModel", False)
    assert (
        "Left as they are, being no matrix of a linear layer: h.0.experts, h.1.experts, h.2.experts and 2 more.",
        "Scored by the size of the weights alone, as calibration did not reach them: h.2.up.",
        "Sparser than asked for, since more of their weights were zero before: h.1.up.",
        "The layers differ in size, so that the share of all weights is not the mean of the layers' sparsities.",
        "Written as BertModel, which is what maprobe loads: heads that it does not read are not in it.",
    ) == found
