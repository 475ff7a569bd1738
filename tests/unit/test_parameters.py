"""The measurements of attributions on vectors made by hand, and end to end beside plain autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hidden_states import facts

from maprobe.cases import MeasureRequest
from maprobe.materials import GradedPair
from maprobe.measurements.density import DENSITY
from maprobe.measurements.relatedness import RELATEDNESS, chance, rank_correlation, ranks
from maprobe.measurements.similarity import SIMILARITY, deep_layers, shallow_layers
from maprobe.readings import Reading
from maprobe.recipes import FoldContext, MeasurementRecipe
from maprobe.running.attributions import AllSequences
from maprobe.sites import LayerRange


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation of ranks, each counted by hand: the values below, and half of the others that are equal."""
    counted = [
        [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]
        for values in (first, second)
    ]
    return float(np.corrcoef(counted)[0, 1])


GROUPS = ("prose", "prose", "prose", "code", "code", "code")


def measured(
    recipe: MeasurementRecipe,
    vectors: dict[int, torch.Tensor],
    *,
    depth: int = 8,
    groups: tuple[str, ...] = GROUPS,
    pairs: tuple[GradedPair, ...] = (),
    layers: LayerRange | None = None,
    **options: object,
) -> Reading:
    """Show vectors (sequences, weights), in the order of the sequences, in two chunks and another order of rows."""
    chosen = {parameter.name: options.get(parameter.name, parameter.default) for parameter in recipe.parameters}
    request = MeasureRequest(
        kind=recipe.name,
        site="block.attribution",
        layers=layers or LayerRange(),
        options=tuple(sorted(chosen.items())),  # type: ignore[arg-type]
    )
    count = len(next(iter(vectors.values())))
    fold = recipe.start(
        FoldContext(
            request=request,
            layers=request.layers.resolve(depth, site="block.attribution"),
            depth=depth,
            facts=facts(),
            sequences=count,
            groups=groups,
            pairs=pairs,
        )
    )
    order = tuple(sorted(range(count), key=lambda number: (number * 7) % count))
    batch = AllSequences(order, 8)
    for tap in reversed(fold.taps):
        value = vectors[tap.layer][list(order)]
        half = value.shape[1] // 3
        fold.observe(tap, value[:, :half], batch, offset=0)
        fold.observe(tap, value[:, half:], batch, offset=half)
    return fold.finish({})


def random_vectors(depth: int = 8, count: int = 6, weights: int = 50) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {layer: torch.rand(count, weights, generator=generator) ** 4 for layer in range(1, depth + 1)}


class TestDensity:
    def test_counts_are_of_means_over_all_sequences(self) -> None:
        vectors = random_vectors()
        found = measured(DENSITY, vectors, gammas=(0.2, 0.1))
        for index, layer in enumerate(range(1, 9)):
            count = int((vectors[layer].mean(dim=0) > 0.2).sum())
            assert (count, count / 50) == (found["count"].values[index], found["density"].values[index])
        assert 0 < min(found["count"].values) < max(found["count"].values) < 50

    def test_records_are_of_every_domain_and_bound(self) -> None:
        vectors = random_vectors()
        found = measured(DENSITY, vectors, gammas=(0.2, 0.1))
        assert {("all", 0.2), ("prose", 0.1), ("code", 0.2)} < {(row["domain"], row["gamma"]) for row in found.records}
        for row in found.records:
            rows = {"all": range(6), "prose": range(3), "code": range(3, 6)}[str(row["domain"])]
            means = vectors[int(row["layer"])][list(rows)].mean(dim=0)  # type: ignore[arg-type]
            assert int((means > float(row["gamma"])).sum()) == row["count"]  # type: ignore[arg-type]

    def test_the_shape_is_told_beside_the_peak(self) -> None:
        shares = (1, 4, 8, 10, 6, 4, 3, 2)
        vectors = {layer: (torch.arange(20) < share).float().repeat(6, 1) for layer, share in enumerate(shares, 1)}
        found = measured(DENSITY, vectors)
        names = ("peak_layer", "peak_depth", "first_share", "last_share")
        assert (4.0, 0.5, 0.1, 0.2) == pytest.approx(tuple(found[name].value for name in names))

    def test_nothing_above_the_bound_has_no_shape(self) -> None:
        found = measured(DENSITY, {layer: torch.zeros(6, 9) for layer in range(1, 9)})
        assert "no weight has a mean attribution above 2e-05" in str(found["first_share"].absent)
        assert (0.0,) * 8 == found["density"].values

    def test_one_domain_is_not_told_twice(self) -> None:
        found = measured(DENSITY, random_vectors(), groups=())
        assert {"all"} == {row["domain"] for row in found.records}


class TestSimilarity:
    def test_means_are_over_all_pairs_of_different_sequences(self) -> None:
        vectors = random_vectors()
        found = measured(SIMILARITY, vectors)
        for index, layer in enumerate(range(1, 9)):
            pairs = {
                (one, other): float(torch.cosine_similarity(vectors[layer][one], vectors[layer][other], dim=0))
                for one, other in combinations(range(6), 2)
            }
            within = [value for (one, other), value in pairs.items() if GROUPS[one] == GROUPS[other]]
            across = [value for (one, other), value in pairs.items() if GROUPS[one] != GROUPS[other]]
            assert (6, 9) == (len(within), len(across))
            assert sum(within) / 6 == pytest.approx(found["within"].values[index], rel=1e-6)
            assert sum(across) / 9 == pytest.approx(found["across"].values[index], rel=1e-6)

    def test_ranges_are_those_of_the_paper(self) -> None:
        assert (tuple(range(17, 31)), tuple(range(2, 13))) == (deep_layers(32), shallow_layers(32))
        vectors = random_vectors()
        found = measured(SIMILARITY, vectors)
        across, within = found["across"].values, found["within"].values
        assert ((5, 6), (2, 3)) == (deep_layers(8), shallow_layers(8))
        assert sum(across[4:6]) / 2 == pytest.approx(found["deep_across"].value)
        assert sum(within[1:3]) / 2 == pytest.approx(found["shallow_within"].value)
        assert (sum(within[4:6]) - sum(across[4:6])) / 2 == pytest.approx(found["separation"].value)
        assert sum(across[4:6]) / sum(across[1:3]) == pytest.approx(found["decline"].value)
        assert 1 + across.index(max(across)) == found["across_peak_layer"].value

    def test_texts_on_weights_of_their_domains_alone_are_apart(self) -> None:
        own = torch.block_diag(torch.ones(3, 5), torch.ones(3, 5))
        found = measured(SIMILARITY, {layer: torch.ones(6, 10) if layer < 4 else own for layer in range(1, 9)})
        assert (1.0, 1.0, 0.0) == pytest.approx(
            tuple(found[name].value for name in ("separation", "deep_within", "decline"))
        )

    def test_the_table_has_every_two_domains(self) -> None:
        found = measured(SIMILARITY, random_vectors())
        assert [("prose", "prose", 3), ("prose", "code", 9), ("code", "code", 3)] == [
            (row["domain"], row["other"], row["pairs"]) for row in found.records
        ]
        across = found.records[1]
        assert found["deep_across"].value == pytest.approx(across["deep"])
        assert found["shallow_across"].value == pytest.approx(across["shallow"])

    def test_without_domains_nothing_is_across(self) -> None:
        found = measured(SIMILARITY, random_vectors(), groups=())
        assert "one domain" in str(found["across"].absent)
        assert "one domain" in str(found["separation"].absent)
        assert 0 < found["deep_within"].value < 1

    def test_a_range_that_was_not_measured_is_absent(self) -> None:
        found = measured(SIMILARITY, random_vectors(), layers=LayerRange(1, 5))
        assert "layers 5 to 6, not all of which were measured" in str(found["deep_within"].absent)
        assert found["shallow_within"].absent is None

    def test_weights_that_no_text_hangs_on_have_no_cosine(self) -> None:
        found = measured(SIMILARITY, {layer: torch.zeros(6, 9) for layer in range(1, 9)})
        assert all(map(math.isnan, found["within"].values))


SCORES = (5.0, 1.0, 3.0, 3.0, 0.0, 4.5, 2.0)
PAIRS = tuple(GradedPair(first=2 * i, second=2 * i + 1, score=score, line=i + 1) for i, score in enumerate(SCORES))


class TestRelatedness:
    def test_sums_over_the_layers_are_correlated_with_the_scores(self) -> None:
        vectors = random_vectors(count=14)
        found = measured(RELATEDNESS, vectors, groups=(), pairs=PAIRS)
        cosines = {
            layer: [
                float(torch.cosine_similarity(vectors[layer][2 * i], vectors[layer][2 * i + 1], dim=0))
                for i in range(7)
            ]
            for layer in (5, 6, 7, 8)
        }
        summed = np.sum(list(cosines.values()), axis=0)
        assert spearman(summed.tolist(), SCORES) == pytest.approx(found["correlation"].value)
        assert (5, 6, 7, 8) == found["layer_correlation"].axes[0].labels
        for index, layer in enumerate((5, 6, 7, 8)):
            expected = spearman(cosines[layer], SCORES)
            assert expected == pytest.approx(found["layer_correlation"].values[index])
        assert summed / 4 == pytest.approx([row["similarity"] for row in found.records], rel=1e-6)
        assert list(SCORES) == [row["score"] for row in found.records]

    @pytest.mark.parametrize(
        ("pairs", "told"),
        [
            (PAIRS[:2], "2 pairs have no order worth speaking of; name 3 or more"),
            (PAIRS[2:4] * 2, "all pairs have the same score"),
        ],
    )
    def test_what_has_no_order_is_absent(self, pairs: tuple[GradedPair, ...], told: str) -> None:
        found = measured(RELATEDNESS, random_vectors(count=14), groups=(), pairs=pairs)
        assert told in str(found.absent)

    def test_no_layer_in_the_range_is_absent(self) -> None:
        found = measured(RELATEDNESS, random_vectors(count=14), groups=(), pairs=PAIRS, layers=LayerRange(1, 2))
        assert "no layer asked for lies within `depth`" in str(found.absent)


class TestRanks:
    def test_ties_share_the_mean_of_their_ranks(self) -> None:
        assert [3.0, 1.0, 4.5, 2.0, 4.5] == ranks((2.0, -1.0, 7.0, 1.0, 7.0)).tolist()

    def test_the_correlation_of_many_ties_is_that_of_ranks_counted_by_hand(self) -> None:
        random = np.random.RandomState(3)
        one = random.randint(0, 6, 40)
        other = one + random.randint(0, 6, 40)
        assert spearman(one.tolist(), other.tolist()) == pytest.approx(rank_correlation(one, other))
        assert 0.3 < rank_correlation(one, other) < 0.9

    def test_opposite_orders_and_constants(self) -> None:
        assert -1.0 == pytest.approx(rank_correlation((1, 2, 3), (9, 8, 1)))
        assert math.isnan(rank_correlation((1, 1, 1), (9, 8, 1)))

    def test_chance_is_near_that_of_all_orders(self) -> None:
        one, other = (3, 1, 4, 2, 6, 5, 7), (2, 3, 1, 4, 5, 7, 6)
        found = spearman(one, other)
        orders = [spearman(order, other) >= found - 1e-12 for order in permutations(one)]
        assert sum(orders) / len(orders) == pytest.approx(chance(one, other), rel=0.15)
        assert 0.01 < sum(orders) / len(orders) < 0.2

    def test_a_perfect_order_of_many_is_never_met_by_chance(self) -> None:
        assert 1e-4 == chance(range(20), range(20))

    def test_of_four_in_perfect_order_one_shuffle_in_24_is_as_good(self) -> None:
        assert 1 / 24 == pytest.approx(chance(range(4), range(4)), rel=0.15)
