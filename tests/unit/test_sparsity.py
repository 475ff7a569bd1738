"""The rule by which the sparsity of each layer follows from its count of active parameters."""

from __future__ import annotations

import math
import statistics

import pytest

from maprobe.errors import PruningError
from maprobe.sparsity import SparsityRule

# By layer of Llama-2-7B on C4, as a comment of the code of arXiv:2405.17799 has them (distribution_draw.py).
LLAMA2_7B = (
    *(1061292, 6319729, 14767367, 19149928, 21451890, 22124198, 21653518, 22533946, 22715992, 23012050, 23320873),
    *(21679099, 21088533, 21843715, 21866557, 22593499, 23646562, 22568772, 21387521, 20828237, 21268883, 18788506),
    *(17122682, 15369127, 14025833, 12663446, 12024558, 10586793, 10162286, 8258830, 8591076, 8899162),
)
# The sparsities of Llama-7B that the same code prunes by (lib/util/prune_ori.py).
LLAMA_7B = (
    *(0.5612472387659471, 0.5393453101725671, 0.49066573527532736, 0.4771049746072197, 0.46893333360890443),
    *(0.4652506616358705, 0.46372459099719565, 0.46377408110366325, 0.4619061813989389, 0.46412044167244865),
    *(0.4647548161499886, 0.4665784978274029, 0.47014135219996894, 0.4753157164964991, 0.47691544369561223),
    *(0.4789296248157857, 0.4775751409724201, 0.4781697084613067, 0.48553466381203575, 0.490726925884562),
    *(0.49190327026311426, 0.5042673557321183, 0.5020715067942109, 0.5187214210269638, 0.5213564474684745),
    *(0.5246224440028717, 0.5331718543621345, 0.5400316894424102, 0.5507586024869777, 0.5618454513754834),
    *(0.5625239384388445, 0.5680115790527304),
)


def logit(value: float) -> float:
    return math.log(value / (1 - value))


def test_two_layers_are_as_worked_out_by_hand() -> None:
    # Counts 1 and 3: mean 2, population std 1, scaled -1 and 1; plus alpha / i: 1 and 2.
    first, second = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))  # 0.731059 and 0.880797
    ratio = 2 * first / (first + second)  # 0.907097
    assert pytest.approx((0.5 + 0.1 * (1 - ratio), 0.5 - 0.1 * (1 - ratio)), abs=1e-12) == SparsityRule().by_layer(
        (1, 3)
    )
    assert pytest.approx((0.509290, 0.490710), abs=1e-6) == SparsityRule().by_layer((1, 3))


def test_three_layers_without_alpha_are_as_worked_out_by_hand() -> None:
    # Counts 0, 1, 2: scaled -1.224745, 0, 1.224745; sigmoids 0.227102, 0.5, 0.772898, whose mean is 0.5.
    found = SparsityRule(sparsity=0.4, alpha=0, beta=0.5).by_layer((0, 1, 2))
    assert pytest.approx((0.4 + 0.2 * 0.545796, 0.4, 0.4 - 0.2 * 0.545796), abs=1e-6) == found


def test_the_published_counts_give_the_published_shape() -> None:
    found = SparsityRule().by_layer(LLAMA2_7B)
    assert [0.539, 0.545, 0.500, 0.477] == [round(value, 3) for value in found[:4]]
    assert 0.562 == round(found[-1], 3)
    assert min(found) == found[10]


def test_the_published_sparsities_scale_back_to_a_population_std_of_1() -> None:
    """The std of the rule is that of the published code: only with it do its vectors come out.

    Turned backwards, the rule gives each layer's sigmoid up to one factor, which the mean of 0 settles.
    """
    ratios = [1 - (value - 0.5) / 0.1 for value in LLAMA_7B]

    def scaled(factor: float) -> list[float]:
        return [logit(factor * ratio) - 2 / layer for layer, ratio in enumerate(ratios, start=1)]

    low, high = 1e-6, 0.999999 / max(ratios)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if statistics.fmean(scaled(middle)) < 0 else (low, middle)
    assert pytest.approx(1, abs=1e-12) == statistics.pstdev(scaled(low))
    assert pytest.approx(LLAMA_7B, abs=1e-12) == SparsityRule().by_layer([value + 10 for value in scaled(low)])


@pytest.mark.parametrize("rule", [SparsityRule(), SparsityRule(sparsity=0.3, alpha=-3, beta=-0.4)])
def test_the_mean_is_what_was_asked_for(rule: SparsityRule) -> None:
    assert pytest.approx(rule.sparsity, abs=1e-15) == statistics.fmean(rule.by_layer(LLAMA2_7B))


def test_the_unit_of_the_counts_does_not_matter() -> None:
    shares = [count / 202383360 for count in LLAMA2_7B]
    assert pytest.approx(SparsityRule().by_layer(LLAMA2_7B), abs=1e-12) == SparsityRule().by_layer(shares)


def test_without_beta_all_layers_are_alike() -> None:
    assert (0.5, 0.5, 0.5) == SparsityRule(beta=0).by_layer((1, 2, 4))


@pytest.mark.parametrize(
    ("rule", "counts", "sentence"),
    [
        ({"sparsity": 0.0}, (1, 2), "sparsity 0 is not allowed; allowed: above 0 and below 1"),
        ({"sparsity": 1.0}, (1, 2), "sparsity 1 is not allowed"),
        ({"sparsity": math.nan}, (1, 2), "sparsity nan is not allowed"),
        ({"alpha": math.inf}, (1, 2), "alpha inf is not allowed in the rule of sparsities; allowed: a finite number"),
        ({"beta": math.nan}, (1, 2), "beta nan is not allowed"),
        ({"alpha": -1e9}, (1, 2), "alpha -1000000000.0 leaves no layer any weight"),
        ({"sparsity": 0.9, "alpha": 0, "beta": 1}, (0, 1, 5), "layer 1 would get a sparsity of 1.2"),
        ({"sparsity": 0.1, "alpha": 0, "beta": 5}, (0, 1, 5), "layer 3 would get a sparsity of -"),
        ({}, (1,), "was given the counts of 1 layers"),
        ({}, (1, math.nan), "the count of layer 2 is nan"),
        ({}, (-1, 1), "the count of layer 1 is -1"),
        ({}, (7, 7), "every layer has 7 active parameters, which tells no layers apart"),
    ],
)
def test_what_gives_no_sparsities_is_refused(rule: dict[str, float], counts: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(PruningError, match=sentence) as refused:
        SparsityRule(**rule).by_layer(counts)
    assert 1 == len(str(refused.value).splitlines())
