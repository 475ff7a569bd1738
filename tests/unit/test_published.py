from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hidden_states import PlainBatch, context, noise
from planted import LAYER, MASSIVE, planted
from tiny_checkpoints import tokenizer

import maprobe
from maprobe.errors import MeasurementError, ReportError
from maprobe.measurements.published import PUBLISHED
from maprobe.reading.cards import Card, Figure, find_card, located, read_card
from maprobe.readings import Reading
from maprobe.source import SourceMark
from maprobe.verdicts import Status

SOURCE = "    source: arXiv:2402.17762, table 1\n    sure: paper\n"
FIGURES = """\
      massive.exists: true
      massive.dims: [7, 9]
      massive.tokens: [first]
      massive.first_layer: 2
      massive.last_layer: 3
      massive.top: 4000
"""
PROBES = Path(maprobe.__file__).parents[1] / "probes" / "published"


def write(folder: Path, published: str, *, matches: str = "[org/tiny]", name: str = "tiny.md", more: str = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\nmatches: {matches}\npublished:\n{published}{more}---\n\n# Tiny\n", encoding="utf-8")
    return path


def group(figures: str = FIGURES, where: str = "") -> str:
    return f"  - figures:\n{figures}{f'    where: {where}' if where else ''}{chr(10) if where else ''}{SOURCE}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestReadingACard:
    def test_figures_have_value_setting_source_and_line(self, here: Path) -> None:
        card = read_card(write(here, group("      massive.dims: [7, 9]\n", "{bos: false, length: 512}")))
        (figure,) = card.figures
        assert ("massive.dims", (7, 9), "arXiv:2402.17762, table 1", "paper", 5) == (
            figure.quantity,
            figure.value,
            figure.source,
            figure.sure,
            figure.mark.line,
        )
        assert {"bos": False, "length": 512} == dict(figure.where)

    def test_facts_in_words_need_a_source_and_nothing_else(self, here: Path) -> None:
        card = read_card(write(here, "  - fact: licence Apache-2.0\n    source: the model's page\n"))
        assert [("licence Apache-2.0", "the model's page", "")] == [(s.fact, s.source, s.sure) for s in card.statements]

    def test_a_card_is_called_what_it_matches_and_what_the_tool_wrote(self, here: Path) -> None:
        path = write(
            here, group(), matches="[Org/Tiny, short]", more="checkpoint: {label: own, reference: org/x@main}\n"
        )
        assert {"org/tiny", "short", "own", "org/x"} == read_card(path).names

    def test_keys_of_ones_own_are_let_be(self, here: Path) -> None:
        assert read_card(write(here, group(), more="license: apache-2.0\nlanguage: en\n")).figures

    @pytest.mark.parametrize(
        ("published", "fault"),
        [
            (
                group("      massive.dim: [7]\n"),
                "tiny.md:5:7: published[0].figures.massive.dim: unknown key 'massive.dim' (did you mean 'massive.dims'",
            ),
            (
                group("      massive.exists: 1\n"),
                "tiny.md:5:23: published[0].figures.massive.exists: 1 is not allowed; allowed: true, false",
            ),
            (
                group("      massive.first_layer: 0\n"),
                "tiny.md:5:28: published[0].figures.massive.first_layer: 0 is not allowed; allowed: an integer of 1 or",
            ),
            (
                group("      massive.tokens: [frist]\n"),
                "tiny.md:5:24: published[0].figures.massive.tokens[0]: 'frist' is not allowed (did you mean 'first'?)",
            ),
            (
                group(where="{boss: true}"),
                "tiny.md:11:13: published[0].where.boss: unknown key 'boss' (did you mean 'bos'?); allowed: bos, text,",
            ),
            (
                "  - figures: {massive.exists: true}\n    sure: paper\n",
                "tiny.md:4:5: published[0]: `source` is missing",
            ),
            (
                "  - figures: {massive.exists: true}\n    source: arXiv:2402.17762\n",
                "tiny.md:4:5: published[0]: `sure` is missing",
            ),
            (
                "  - figures: {massive.exists: true}\n    source: my memory\n    sure: paper\n",
                "tiny.md:5:13: published[0].source: 'my memory' is not allowed; allowed: a text that names arXiv:",
            ),
            (
                "  - figures: {massive.exists: true}\n    source: arXiv:2402.17762\n    sure: recalled\n",
                "tiny.md:6:11: published[0].sure: 'recalled' is not allowed; allowed: paper, code, computed, quoted",
            ),
            ("  - fact: it is small\n", "tiny.md:4:5: published[0]: `source` is missing"),
            (
                "  - just words\n",
                "tiny.md:4:5: published[0]: 'just words' is not allowed; allowed: a mapping with figures",
            ),
            ("  a: b\n", "tiny.md:4:3: published: a mapping is not allowed; allowed: a list of figures and facts"),
        ],
    )
    def test_a_wrong_entry_is_refused_with_its_line(self, here: Path, published: str, fault: str) -> None:
        write(here, published)
        with pytest.raises(ReportError) as caught:
            read_card(Path("tiny.md"))
        assert str(caught.value).startswith(fault)

    def test_a_key_that_is_nearly_one_of_a_card_is_refused(self, here: Path) -> None:
        write(here, group(), more="publised: []\n")
        with pytest.raises(ReportError, match=r"tiny.md:13:1: publised: unknown key .*did you mean 'published'"):
            read_card(Path("tiny.md"))

    def test_every_fault_is_told(self, here: Path) -> None:
        write(here, group("      massive.dims: []\n      massive.top: -1\n"))
        with pytest.raises(ReportError) as caught:
            read_card(Path("tiny.md"))
        assert 2 == len(str(caught.value).splitlines())

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("# Tiny\n", "a card begins with `---`"),
            ("---\nmatches: [x]\n", "no closing line `---`"),
            ("---\na: [\n---\n", "tiny.md:3:1: not YAML"),
            ("---\n- a\n---\n", "tiny.md:2:1: ['a'] is not allowed; allowed: `key: value` lines"),
        ],
    )
    def test_what_is_no_card_is_refused(self, here: Path, text: str, fault: str) -> None:
        Path("tiny.md").write_text(text, encoding="utf-8")
        with pytest.raises(ReportError) as caught:
            read_card(Path("tiny.md"))
        assert fault in str(caught.value)

    def test_an_empty_front_matter_is_a_card_that_says_nothing(self, here: Path) -> None:
        Path("tiny.md").write_text("---\n---\n", encoding="utf-8")
        assert Card(file="tiny.md", names=frozenset()) == read_card(Path("tiny.md"))


class TestFindingACard:
    def test_it_is_found_by_name_without_revision_and_case(self, here: Path) -> None:
        write(here / "cards", group())
        write(here / "cards", group(), matches="[org/other]", name="other.md")
        (here / "cards" / "README.md").write_text("# Cards\n", encoding="utf-8")
        found = find_card(here / "cards", ["Org/Tiny@main"])
        assert found is not None
        assert found.file.endswith("tiny.md")

    def test_a_name_that_is_only_similar_is_another_checkpoint(self, here: Path) -> None:
        write(here / "cards", group())
        assert find_card(here / "cards", ["org/tiny-instruct", "tiny"]) is None

    def test_two_cards_of_one_checkpoint_are_refused(self, here: Path) -> None:
        write(here / "cards", group())
        write(here / "cards", group(), name="zweite.md")
        with pytest.raises(ReportError, match=r"tiny.md and .*zweite.md are both of org/tiny; take the name out of"):
            find_card(here / "cards", ["org/tiny"])

    def test_a_file_is_taken_whatever_it_is_called(self, here: Path) -> None:
        assert find_card(write(here, group()), ["org/another"]) is not None

    def test_a_folder_is_looked_for_upwards(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / "cards").mkdir()
        (here / "a" / "b").mkdir(parents=True)
        monkeypatch.chdir(here / "a" / "b")
        assert here / "cards" == located("cards")
        assert located("no-such-folder-anywhere") is None
        assert here == located(str(here))

    def test_the_first_figure_that_fits_the_inputs_is_taken(self) -> None:
        common = {"source": "arXiv:2402.17762", "sure": "paper", "mark": SourceMark(file="x")}
        figures = [
            Figure(quantity="massive.top", value=value, where={} if bos is None else {"bos": bos}, **common)  # type: ignore[arg-type]
            for value, bos in ((1, True), (2, None), (3, False))
        ]
        card = Card(file="x", names=frozenset(), figures=tuple(figures))
        found = [card.fitting("massive.top", bos=bos) for bos in (True, False, None)]
        assert [1, 2, 2] == [figure.value for figure in found if figure]
        assert card.fitting("massive.dims", bos=True) is None


def hidden(layer: int, dims: tuple[int, ...] = (7, 9), position: int = 0, value: float = -4000.0) -> torch.Tensor:
    """Noise with massive entries in layers 2 and 3."""
    stream = noise(1, 6, 32, seed=layer)
    if layer in (2, 3):
        stream[:, position, list(dims)] = value
    return stream


def measure(
    *,
    dims: tuple[int, ...] = (7, 9),
    position: int = 0,
    value: float = -4000.0,
    bos: bool = False,
    card: str = "model_cards",
    reference: str = "org/tiny",
    broken: bool = False,
) -> Reading:
    made = context(PUBLISHED, card=card)
    facts = replace(made.facts, reference=reference, label="tiny")
    fold = PUBLISHED.start(replace(made, layers=(1, 2, 3, 4), facts=facts))
    batch = PlainBatch(torch.tensor([[1 if bos else 5, 6, 2, 8, 9, 10]]), (0,))
    for tap in fold.taps:
        stream = hidden(tap.layer, dims, position, value)
        if broken:
            stream[0, 0, 0] = math.nan
        fold.observe(tap, stream, batch)
    return fold.finish({})


def values(reading: Reading) -> dict[str, float | None]:
    return {name: None if q.absent is not None else q.value for name, q in reading.quantities.items()}


SAME = {
    "existence": 1,
    "dims_jaccard": 1,
    "dims_missing": 0,
    "dims_extra": 0,
    "tokens_missing": 0,
    "tokens_extra": 0,
    "first_layer_offset": 0,
    "last_layer_offset": 0,
    "top_ratio": 1,
}


class TestMeasuring:
    def test_what_is_as_published_is_seen_to_be(self, here: Path) -> None:
        write(here / "model_cards", group())
        reading = measure()
        assert SAME == values(reading)
        assert reading.notes[0].endswith("tiny.md, for inputs without BOS")

    def test_what_moved_is_told(self, here: Path) -> None:
        write(here / "model_cards", group())
        moved = {"dims_jaccard": 1 / 3, "dims_missing": 1, "dims_extra": 1}
        assert {**SAME, **moved} == values(measure(dims=(7, 11)))
        assert {**SAME, "tokens_missing": 1, "tokens_extra": 1} == values(measure(position=2))
        assert {**SAME, "top_ratio": 2} == values(measure(value=8000.0))

    def test_without_a_massive_activation_the_card_is_missed_and_nothing_is_absent_that_could_fail(
        self, here: Path
    ) -> None:
        write(here / "model_cards", group())
        reading = measure(value=50.0)
        found = values(reading)
        assert (0, 0, 2, 1) == tuple(
            found[name] for name in ("existence", "dims_jaccard", "dims_missing", "tokens_missing")
        )
        assert found["top_ratio"] == 50 / 4000
        assert (reading["first_layer_offset"].absent or "").startswith("nothing massive here: in layers 1..4")

    def test_that_there_is_none_can_be_published(self, here: Path) -> None:
        write(here / "model_cards", group("      massive.exists: false\n"))
        assert (1, 0) == (values(measure(value=1.0))["existence"], values(measure())["existence"])

    def test_layers_are_counted_from_the_published_ones(self, here: Path) -> None:
        write(here / "model_cards", group("      massive.first_layer: 3\n      massive.last_layer: 4\n"))
        assert (-1, -1) == tuple(values(measure())[f"{end}_layer_offset"] for end in ("first", "last"))

    def test_a_delimiter_and_any_other_token_are_told_apart(self, here: Path) -> None:
        write(here / "model_cards", group("      massive.tokens: [delimiter]\n"))
        extra = [values(measure(position=position))["tokens_extra"] for position in (0, 2, 4)]
        assert [1, 0, 1] == extra

    def test_figures_of_inputs_with_bos_are_not_held_against_those_without(self, here: Path) -> None:
        write(here / "model_cards", group(where="{bos: true}"))
        assert SAME == values(measure(bos=True))
        assert (measure().absent or "").endswith(
            "tiny.md has no published figure of massive activations for inputs without BOS"
        )

    def test_a_figure_that_is_not_published_is_absent(self, here: Path) -> None:
        write(here / "model_cards", group("      massive.top: 4000\n"))
        reading = measure()
        assert {"top_ratio": 1} == {name: value for name, value in values(reading).items() if value is not None}
        assert "has no published massive.dims for inputs without BOS" in (reading["dims_jaccard"].absent or "")

    def test_the_records_set_each_figure_beside_what_was_found(self, here: Path) -> None:
        write(here / "model_cards", group(where="{bos: false}"))
        records = {record["figure"]: record for record in measure(dims=(7, 11)).records}
        assert ("7, 9", "7, 11", "bos: False", 6) == tuple(
            records["massive.dims"][key] for key in ("published", "measured", "where", "line")
        )


class TestNoCard:
    def test_a_checkpoint_without_a_card_is_absent(self, here: Path) -> None:
        write(here / "model_cards", group())
        assert (measure(reference="org/unknown").absent or "").startswith("no card: none in")

    def test_so_it_is_without_a_folder_of_cards(self) -> None:
        assert "no card: there is no folder model_cards here or above" == measure().absent

    def test_a_folder_that_was_named_must_be_there(self) -> None:
        with pytest.raises(MeasurementError, match=r"there is no crads in the working directory or above; name a card"):
            measure(card="crads")

    def test_a_card_that_was_named_is_taken_whatever_the_checkpoint_is_called(self, here: Path) -> None:
        write(here, group())
        assert SAME == values(measure(card="tiny.md", reference="./folder"))

    def test_a_card_without_such_figures_is_absent(self, here: Path) -> None:
        write(here / "model_cards", group("      perplexity.untouched: 5\n"))
        assert (measure().absent or "").endswith("tiny.md has no published figure of massive activations")

    def test_a_stream_that_is_not_finite_matters_only_where_there_is_a_card(self, here: Path) -> None:
        assert measure(broken=True).absent is not None
        write(here / "model_cards", group())
        with pytest.raises(MeasurementError, match=r"layer 1 holds entries that are not finite \(sequence 0\)"):
            measure(broken=True)

    @pytest.mark.parametrize("figure", ["massive.dims: [7, 32]", "massive.last_layer: 5", "massive.first_layer: 5"])
    def test_a_card_of_another_model_is_refused(self, here: Path, figure: str) -> None:
        write(here / "model_cards", group(f"      {figure}\n"))
        with pytest.raises(
            MeasurementError, match=r"tiny.md:5:7: massive.* is \d+, and this model has 4 blocks of width"
        ):
            measure()


class TestTheShippedProbes:
    """A small Llama with one massive activation at a known place, held to a right card and to a wrong one."""

    def statuses(self, *, value: float = 4000.0) -> dict[str, Status]:
        file = Path("own.probe.yaml")
        text = (PROBES / "published.probe.yaml").read_text(encoding="utf-8")
        inputs = "{corpus: python-docs, sequences: 4, skip: 5, length: 512, bos: auto}"
        assert inputs in text
        texts = "{text: [The quick brown fox jumps over the lazy dog ., the lazy dog jumps over a quick fox .]}"
        file.write_text(text.replace(inputs, texts), encoding="utf-8")
        report = maprobe.check(planted(value=value), tokenizer(prepends_bos=True), file, label="org/planted")
        return {verdict.probe: verdict.status for verdict in report.verdicts}

    def card(self, here: Path, *, dim: int = MASSIVE, exists: bool = True) -> None:
        figures = f"      massive.exists: {str(exists).lower()}\n      massive.dims: [{dim}]\n"
        figures += "      massive.tokens: [first]\n"
        figures += f"      massive.first_layer: {LAYER}\n      massive.last_layer: 4\n      massive.top: 4000\n"
        write(here / "model_cards", group(figures, "{bos: true}"), matches="[org/planted]")

    def test_all_pass_on_the_right_card(self, here: Path) -> None:
        self.card(here)
        assert {Status.PASSED} == set(self.statuses().values())

    def test_a_wrong_dim_is_seen_and_nothing_else(self, here: Path) -> None:
        self.card(here, dim=MASSIVE + 1)
        failed = {probe for probe, status in self.statuses().items() if status is not Status.PASSED}
        assert {"dims-as-published"} == failed

    def test_the_twin_without_a_massive_activation_does_not_pass(self, here: Path) -> None:
        self.card(here)
        statuses = self.statuses(value=0.0)
        assert Status.ABSENT is statuses.pop("layers-as-published")
        assert {Status.FAILED} == set(statuses.values())

    def test_without_a_card_all_are_absent(self, here: Path) -> None:
        assert {Status.ABSENT} == set(self.statuses().values())
