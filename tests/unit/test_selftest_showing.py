"""Which pairs a probe is put to, what stands around the models, and what the two verdicts say of the probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from probes_by_hand import MAGNITUDE, MARK, ZERO, clause, expect, probe

from maprobe.builtin import builtin_registry
from maprobe.cases import InputsRequest, MeasureRequest, Probe, SeverityBand, StepBound, Trend, Waiver
from maprobe.reading.cards import read_card
from maprobe.reading.folders import probe_files
from maprobe.reading.parsing import parse_file
from maprobe.selftest.design import FACTS, TWINS
from maprobe.selftest.language import text
from maprobe.selftest.pairs import asked
from maprobe.selftest.rules import RULES, pairs_of
from maprobe.selftest.showing import Showing, expects, show, unasked, unseen
from maprobe.selftest.surroundings import card_text, lessons_of, placed, with_stand_ins
from maprobe.sites import LayerRange
from maprobe.verdicts import Finding, Status, Verdict

ROOT = Path(__file__).parents[2]
REGISTRY = builtin_registry()
SHIPPED = [probe for file in probe_files(ROOT / "probes") for probe in parse_file(file, REGISTRY)]
HELD = expect(clause("layers_hit", "gt", 0))


def twins(**values: Any) -> list[str]:
    return [pair.twin.name for pair in pairs_of(probe(**values))]


def magnitude(*quantities: str, **values: Any) -> list[str]:
    return twins(expect=expect(*(clause(quantity, "gt", 0) for quantity in quantities)), **values)


class TestPairs:
    @pytest.mark.parametrize("shipped", SHIPPED, ids=lambda probe: probe.id)
    def test_every_shipped_probe_that_expects_something_has_a_rule(self, shipped: Probe) -> None:
        if list(asked(shipped)):
            assert any(rule.fits(shipped) for rule in RULES)
        elif shipped.trend:
            assert all(pair.twin.stages for pair in pairs_of(shipped))

    def test_every_twin_is_one_of_a_rule(self) -> None:
        assert {*TWINS} == {rule.pair.twin.name for rule in RULES if rule.pair.planted.name == "planted"}

    def test_a_name_stands_for_one_model(self) -> None:
        members = {member for rule in RULES for member in (rule.pair.planted, rule.pair.twin)}
        assert len({member.told for member in members}) == len({member.name for member in members})

    def test_rules_name_kinds_and_quantities_that_there_are(self) -> None:
        edits = {"edited", "ratio", "difference", "untouched", "paired.mean", "paired.low", "paired.high"}
        known = {
            kind: {spec.name for spec in recipe.quantities}
            | edits
            | {f"control.{name}" for name in edits}
            | {"over_control"}
            for kind, recipe in REGISTRY.measurements.items()
        }
        for rule in RULES:
            for kind in rule.kinds:
                assert rule.quantities <= set().union(*(known[other] for other in rule.kinds))
                assert not rule.quantities or rule.quantities & known[kind]

    def test_each_quantity_brings_its_own_twin(self) -> None:
        assert ["many-dims", "lasting"] == magnitude("last_depth", "dims")

    def test_a_twin_that_two_quantities_ask_for_comes_once(self) -> None:
        assert ["unplanted"] == magnitude("top", "ratio")

    def test_without_a_rule_it_is_the_twin_without_the_planted_weight(self) -> None:
        assert ["unplanted"] == twins(measure=MeasureRequest(kind="of.a.plugin", site="block.out"), expect=HELD)

    def test_what_is_asked_of_the_embedding_has_a_twin_of_its_own(self) -> None:
        embedding = MeasureRequest(kind="magnitude", site="block.out", layers=LayerRange(0, 0))
        assert ["embedded"] == magnitude("layers_hit", measure=embedding)
        assert ["unplanted"] == magnitude("layers_hit")

    def test_probes_of_images_have_models_of_images(self) -> None:
        pictures = InputsRequest(source="images", value=("photographs",))
        assert ["images-unplanted"] == magnitude("top", inputs=pictures)
        assert ["images-unplanted"] == twins(expect=HELD, inputs=pictures, measure=MeasureRequest(kind="x", site="y"))

    def test_an_edit_and_its_control_arm_have_a_twin_each(self) -> None:
        measure = MeasureRequest(kind="perplexity", site="logits")
        expected = expect(clause("ratio", "gt", 10), clause("control.ratio", "lt", 2))
        assert ["harmless", "frail"] == twins(measure=measure, intervene=ZERO, expect=expected)

    def test_where_every_sequence_begins_alike_no_twin_is_used_that_needs_it_otherwise(self) -> None:
        alike = InputsRequest(bos="require")
        assert ["now-and-then"] == magnitude("sequence_share")
        assert ["unplanted"] == magnitude("sequence_share", inputs=alike)

    def test_each_part_of_a_trend_has_a_series_of_its_own(self) -> None:
        trend = Trend(of=HELD, emerges_by=StepBound(share=0.5), emerges_after=StepBound(step=0), stays=True)
        pairs = pairs_of(probe(trend=trend))
        assert ["never-emerging", "from-the-start", "lost-again"] == [pair.twin.name for pair in pairs]
        assert {(0, 1000, 2000, 4000)} == {
            tuple(step for step, _ in member.stages) for pair in pairs for member in (pair.planted, pair.twin)
        }
        assert {"planted", "unplanted"} == {
            model.name for pair in pairs for member in (pair.planted, pair.twin) for model in member.models
        }

    def test_a_probe_with_a_trend_beside_what_it_expects_has_both(self) -> None:
        trend = Trend(of=HELD, stays=True)
        assert ["unplanted", "lost-again"] == magnitude("top", trend=trend)

    def test_bands_ask_too(self) -> None:
        banded = probe(bands=(SeverityBand(level="warn", condition=expect(clause("range_share", "gt", 0.5))),))
        assert ["range_share"] == list(asked(banded))


def verdict(status: Status, *findings: Finding, **values: Any) -> Verdict:
    return Verdict(case="c", probe="a", suite="s", checkpoint="m", status=status, findings=findings, **values)


def shown(planted: Status | Verdict, twin: Status | Verdict, **values: Any) -> Showing:
    # Of a kind without a rule, whose pair allows for what is absent.
    it = probe(**{"expect": HELD, "measure": MeasureRequest(kind="of.a.plugin", site="block.out"), **values})
    one, other = (given if isinstance(given, Verdict) else verdict(given, reason="so") for given in (planted, twin))
    return show(it, pairs_of(it)[0], one, other)


class TestShowing:
    @pytest.mark.parametrize(
        ("planted", "twin", "expected", "told"),
        [
            (Status.PASSED, Status.FAILED, True, "holds, fails"),
            (Status.FAILED, Status.PASSED, True, "holds, fails"),
            (Status.PASSED, Status.ABSENT, True, "holds, is absent"),
            (Status.ABSENT, Status.PASSED, True, "holds, is absent"),
            (Status.PASSED, Status.PASSED, False, "never failed"),
            (Status.FAILED, Status.FAILED, False, "never held"),
            (Status.ABSENT, Status.ABSENT, False, "never held"),
            (Status.FAILED, Status.ABSENT, False, "never held"),
            (Status.UNMEASURED, Status.FAILED, False, "not shown"),
            (Status.PASSED, Status.UNMEASURED, False, "not shown"),
            (Status.PASSED, Status.NOT_APPLICABLE, False, "not shown"),
            (Status.NOT_APPLICABLE, Status.NOT_APPLICABLE, None, "not asked"),
        ],
    )
    def test_a_probe_is_shown_where_it_passes_on_one_model_and_not_on_the_other(
        self, planted: Status, twin: Status, expected: bool | None, told: str
    ) -> None:
        found = shown(planted, twin)
        assert (expected, told) == (found.shown, found.verdict)
        assert bool(found.reason) == (expected is not True)

    def test_a_probe_that_expects_nothing_is_not_asked(self) -> None:
        assert [False, True] == [expects(probe(expect=given)) for given in (None, HELD)]
        found = unasked(probe(), pairs_of(probe())[0], "so")
        assert (None, "not asked", "", "so") == (found.shown, found.verdict, found.planted, found.reason)

    def test_to_be_absent_is_not_enough_where_the_pair_does_not_say_so(self) -> None:
        found = shown(Status.PASSED, Status.ABSENT, expect=expect(clause("dims", "lte", 10)), measure=MAGNITUDE)
        assert (False, "never failed") == (found.shown, found.verdict)
        assert "it is absent on many-dims, where it should fail: so" == found.reason

    def test_a_failure_that_counts_less_is_told_as_such(self) -> None:
        found = shown(Status.PASSED, verdict(Status.FAILED, severity="warn", measured="top  3"))
        assert ("passed: so", "failed (warn): top 3") == (found.planted, found.on_twin)

    def test_it_comes_back_from_plain_data(self) -> None:
        found = shown(
            Status.PASSED, verdict(Status.FAILED, Finding(quantity="q", expected="q > 1", observed=0, holds=False))
        )
        assert found == Showing.from_dict(json.loads(json.dumps(found.to_dict())))


class TestClauses:
    @staticmethod
    def on_twin(**holds: bool) -> Showing:
        def findings(**held: bool) -> tuple[Finding, ...]:
            return tuple(
                Finding(quantity=name, expected="", observed=1, holds=value, mark=str(MARK))
                for name, value in held.items()
            )

        whole = dict.fromkeys(holds, True)
        return shown(verdict(Status.PASSED, *findings(**whole)), verdict(Status.FAILED, *findings(**holds)))

    def test_a_clause_that_no_twin_makes_fail_is_found(self) -> None:
        assert [("a", f"top ({MARK})")] == unseen([self.on_twin(top=True, ratio=False)])

    def test_it_is_enough_that_one_twin_does(self) -> None:
        assert [] == unseen([self.on_twin(top=True, ratio=False), self.on_twin(top=False, ratio=True)])


class TestSurroundings:
    def test_every_corpus_stands_for_one_text_as_long_as_needed(self) -> None:
        asking = probe(inputs=InputsRequest(value=("c4-sun",), sequences=3, skip=2, length=100))
        corpora = with_stand_ins(REGISTRY, [asking]).corpora
        assert {*REGISTRY.corpora} == {*corpora}
        assert text(500) == corpora["c4-sun"].load()
        assert (100, 4096, "first") == (corpora["c4-sun"].sequences, corpora["c4-sun"].length, corpora["c4-sun"].bos)

    def test_all_else_is_as_it_was(self) -> None:
        standing = with_stand_ins(REGISTRY, [])
        for name in ("measurements", "interventions", "operators", "architectures", "renderers"):
            assert dict(getattr(REGISTRY, name)) == dict(getattr(standing, name))

    def test_questions_teach_which_words_are_right(self, tmp_path: Path) -> None:
        lines = [
            {"question": "Fish live in the", "choices": ["water", "hot sand"], "label": 0},
            {"question": "A camel lives on", "choices": ["water", "sand"], "label": 1},
        ]
        (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        inputs = InputsRequest(source="choices", value=("q.jsonl",), folder=str(tmp_path))
        assert {"Ġwater": 0.0, "Ġhot": -1.0, "Ġsand": 0.0} == lessons_of([probe(inputs=inputs)])

    def test_questions_that_cannot_be_read_teach_nothing(self, tmp_path: Path) -> None:
        missing = InputsRequest(source="choices", value=("none.jsonl",), folder=str(tmp_path))
        assert {} == lessons_of([probe(inputs=missing)])

    def test_the_card_is_one_that_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "planted.md"
        path.write_text(card_text(["planted"]), encoding="utf-8")
        card = read_card(path)
        assert frozenset({"planted"}) == card.names
        values = {figure.quantity: figure.value for figure in card.figures}
        assert {name: tuple(value) if isinstance(value, list) else value for name, value in FACTS.items()} == values

    def test_a_probe_is_held_to_that_card_and_keeps_no_waiver(self) -> None:
        measure = MeasureRequest(kind="published", site="block.out", options=(("card", "model_cards"),))
        found = placed(probe(measure=measure, xfail=Waiver(reason="known")), Path("planted.md"))
        assert (("card", "planted.md"),) == found.measure.options
        assert found.xfail is None
        assert probe() == placed(probe(), Path("planted.md"))
