"""Every card of model_cards/ can be read, and docs/model-cards.md tells what the reader of cards allows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, columns, names, page, whole_file

from maprobe.builtin import builtin_registry
from maprobe.reading.cards import CARD_KEYS, QUANTITIES, SURE, WHERE, find_card, read_card
from maprobe.reading.parsing import parse_file, parse_text

PAGE = page("model-cards.md")
FOLDER = ROOT / "model_cards"
FILES = sorted(FOLDER.glob("*.md"))
CARDS = {path.stem: read_card(path) for path in FILES}

cards = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


class TestCards:
    @cards
    def test_every_figure_and_fact_names_its_source(self, path: Path) -> None:
        card = CARDS[path.stem]
        assert card.figures or card.statements
        assert all(re.search(r"arXiv:\d{4}\.\d{5}|https://", figure.source) for figure in card.figures)
        assert all(figure.sure in SURE for figure in card.figures)
        assert all(statement.source for statement in card.statements)

    @cards
    def test_a_file_of_a_repository_is_named_at_a_commit(self, path: Path) -> None:
        for figure in CARDS[path.stem].figures:
            assert figure.sure not in ("code", "computed") or re.search(
                r"https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{7,40}/\S+$", figure.source
            )

    @cards
    def test_it_is_found_by_each_of_its_names_and_no_two_are_of_one_checkpoint(self, path: Path) -> None:
        for name in CARDS[path.stem].names:
            found = find_card(FOLDER, [name])
            assert found is not None
            assert str(path) == found.file

    @cards
    def test_its_figures_agree_with_one_another(self, path: Path) -> None:
        card = CARDS[path.stem]
        for bos in (True, False):
            figures = {name: card.fitting(name, bos=bos) for name in QUANTITIES}
            value = {name: figure.value for name, figure in figures.items() if figure}
            if value.get("massive.exists") is False:
                assert not {"massive.dims", "massive.first_layer", "massive.last_layer", "massive.top"} & set(value)
            assert value.get("massive.first_layer", 1) <= value.get("massive.last_layer", 1000)
            assert value.get("massive.top", 101) > 100
        for figure in card.figures:
            assert not isinstance(figure.value, tuple) or len(set(figure.value)) == len(figure.value)

    @cards
    def test_dims_and_channels_of_the_text_are_published(self, path: Path) -> None:
        card = CARDS[path.stem]
        text = path.read_text(encoding="utf-8").split("\n---\n", 1)[1].split("<!-- maprobe")[0]
        runs = re.findall(r"\b(?:[Dd]ims?|[Cc]hannels?) ((?:\d+(?:, | and )?)+)", " ".join(text.split()))
        told = {number for run in runs for number in re.findall(r"\d+", run)}
        places = {"massive.dims", "weights.channels", "super_weights"}
        published = {
            number
            for words in (
                *(str(figure.value) for figure in card.figures if figure.quantity in places),
                *(statement.fact for statement in card.statements),
            )
            for number in re.findall(r"\d+", words)
        }
        assert not card.figures or told <= published

    def test_a_card_says_that_zeroing_is_harmless_where_it_is(self) -> None:
        for name in ("gpt2", "opt-6.7b", "phi-2"):
            text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
            assert re.search(r"zeroing (it|them) is harmless\*\* \(arXiv:2503\.22329\)", text)
            for bos in (True, False):
                zeroed = CARDS[name].fitting("perplexity.zero", bos=bos)
                untouched = CARDS[name].fitting("perplexity.untouched", bos=bos)
                assert zeroed
                assert untouched
                assert zeroed.value / untouched.value < 1.05

    def test_a_card_whose_checkpoint_was_not_measured_has_no_measured_part(self) -> None:
        for path in FILES:
            text = path.read_text(encoding="utf-8")
            assert ("\nmeasured:" in text) == ("<!-- maprobe:measured:begin -->" in text)

    def test_links_between_cards_lead_somewhere(self) -> None:
        for path in FILES:
            for target in re.findall(r"\]\(([\w.-]+\.md)\)", path.read_text(encoding="utf-8")):
                assert (FOLDER / target).exists(), f"{path.name} links to {target}"


class TestPage:
    def test_the_quantities_are_those_of_the_code(self) -> None:
        told = [name for cell in columns(PAGE.section("Quantities", 3).table(), 0) for name in names(cell)]
        assert list(QUANTITIES) == told

    def test_the_settings_are_those_of_the_code(self) -> None:
        told = [names(cell)[0] for cell in columns(PAGE.section("Setting", 3).table(), 0)]
        assert list(WHERE) == told
        dtypes = [names(row[1]) for row in PAGE.section("Setting", 3).table() if names(row[0]) == ["dtype"]]
        assert [WHERE["dtype"].schema["enum"]] == dtypes

    def test_how_sure_is_told_in_the_words_of_the_code(self) -> None:
        told = {names(word)[0]: meaning for word, meaning in PAGE.section("How sure", 3).table()}
        assert SURE == told

    def test_the_parts_of_the_front_matter_are_those_of_the_code(self) -> None:
        told = [name for cell in columns(PAGE.table(), 0) for name in names(cell)]
        assert list(CARD_KEYS) == told

    def test_the_front_matter_that_is_shown_can_be_read(self, tmp_path: Path) -> None:
        path = tmp_path / "card.md"
        path.write_text(f"---\n{PAGE.section('The front matter', 2).examples('yaml')[0].text}---\n", encoding="utf-8")
        card = read_card(path)
        assert (2, 1) == (len(card.figures), len(card.statements))

    def test_the_probe_that_is_shown_can_be_read_and_names_a_card_that_is_there(self) -> None:
        example = PAGE.section("Holding a checkpoint to it", 2).example("yaml")
        (probe,) = parse_text(whole_file(example.text), builtin_registry(), name=str(example))
        assert read_card(ROOT / str(probe.measure.option("card"))).figures

    def test_every_card_is_listed_with_the_name_it_matches(self) -> None:
        told = {
            re.search(r"model_cards/([\w.-]+)\.md", link)[1]: names(name)[0]  # type: ignore[index]
            for link, name in PAGE.section("The cards", 2).table()
        }
        assert sorted(CARDS) == sorted(told)
        assert all(told[stem].lower() in card.names for stem, card in CARDS.items())

    def test_the_shipped_probes_ask_for_nothing_that_is_not_measured(self) -> None:
        probes = parse_file(ROOT / "probes" / "published" / "published.probe.yaml", builtin_registry())
        assert {"published"} == {probe.measure.kind for probe in probes}
