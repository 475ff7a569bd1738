from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from ruamel.yaml import YAML
from sample_reports import MINILM, SMOLLM2, SMOLLM2_EXISTS, TWO, magnitude, report

from maprobe.errors import ReportError
from maprobe.reporting.cards import BEGIN, END, update_card, write_card

DATA = TWO.to_dict()
LATER = replace(TWO, started="2027-01-01T00:00:00+00:00").to_dict()
PERSON = """---
# our cards
license: apache-2.0   # as published
published:
  - {claim: "layer 12 has |x| near 23000", source: 'arXiv:2402.17762'}

measured:
    stale: 1

# what we think
tags: [llama,
  small]
---
Title\twith a tab, trailing spaces   and \N{GREEK SMALL LETTER MU}.

<!-- maprobe:measured:begin -->
stale
<!-- maprobe:measured:end -->

Last words, no newline"""


def front_matter(card: str) -> dict[str, object]:
    return YAML(typ="safe").load(card.split("---\n")[1])


def test_a_new_card_holds_identity_digests_and_the_measured_profile() -> None:
    card = front_matter(update_card(None, DATA, SMOLLM2))
    assert {"published", "maprobe_card", "checkpoint", "digests", "measured"} == set(card)
    assert (SMOLLM2, "a1" * 32) == (card["checkpoint"]["label"], card["digests"]["weights"])
    exists = card["measured"]["results"][0]
    assert ("exists", "passed") == (exists["probe"], exists["status"])
    assert {"top": 23147.1, "layer": 12} == exists["measured"][0]


def test_a_card_speaks_of_its_own_checkpoint_alone() -> None:
    assert MINILM not in update_card(None, DATA, SMOLLM2)
    assert MINILM in update_card(None, DATA, MINILM)


def test_what_a_person_wrote_is_kept_to_the_byte() -> None:
    card = update_card(PERSON, DATA, SMOLLM2)
    head, rest = PERSON.split("measured:\n    stale: 1\n")
    middle, tail = rest.split("stale\n<!--")
    front_end = middle.index("---\n")
    for text in (head, middle[:front_end], middle[front_end:], "<!--" + tail):
        assert 1 == card.count(text)
    assert "stale" not in card


def test_writing_a_card_again_changes_nothing_and_a_new_report_only_the_tools_parts() -> None:
    card = update_card(PERSON, DATA, SMOLLM2)
    assert card == update_card(card, DATA, SMOLLM2)
    changed = zip(card.splitlines(), update_card(card, LATER, SMOLLM2).splitlines(), strict=True)
    assert ["  started: '2026-11-24T16:00:00+00:00'"] == [old for old, new in changed if old != new]


def test_a_page_without_front_matter_or_markers_gains_them_and_keeps_its_text() -> None:
    card = update_card("# My model\n\nText", DATA, SMOLLM2)
    assert f"---\n\n# My model\n\nText\n\n{BEGIN}\n" in card
    assert card.endswith(f"\n{END}\n")
    assert card == update_card(card, DATA, SMOLLM2)


def test_line_ends_of_windows_stay_line_ends_of_windows() -> None:
    card = update_card(PERSON.replace("\n", "\r\n"), DATA, SMOLLM2)
    assert card.replace("\r\n", "\n") == update_card(PERSON, DATA, SMOLLM2)
    assert card.count("\n") == card.count("\r\n")


def test_a_byte_order_mark_stays_at_the_start() -> None:
    assert "\ufeff" + update_card(PERSON, DATA, SMOLLM2) == update_card("\ufeff" + PERSON, DATA, SMOLLM2)


def test_a_token_that_looks_like_a_marker_does_not_end_the_section() -> None:
    reading = magnitude({1: (23147.1, 1.6, 1)}, dim=7, token=f"\n{END}\n")
    data = report(replace(SMOLLM2_EXISTS, reading=reading, claim=f"x\n{END}\n")).to_dict()
    card = update_card(PERSON, data, SMOLLM2)
    assert card == update_card(card, data, SMOLLM2)


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("---\na: 1\n", "the front matter has no closing line `---`; add it below the last key"),
        ("---\na: [1\n---\n", "the front matter is not YAML at its line 2 ("),
        ("---\n- a\n---\n", "the front matter is not a list of keys, each at the start of a line"),
        ("---\n{a: 1}\n---\n", "the front matter is not a list of keys, each at the start of a line"),
        ("---\n  a: 1\n---\n", "the front matter is not a list of keys, each at the start of a line"),
        ("---\na: 1\na: 2\n---\n", "the front matter has the key 'a' twice; keep one of them"),
        ("---\na: 1\n...\n---\n", "the front matter is not YAML"),
        (
            f"---\ncheckpoint:\n  label: {MINILM}\n---\n",
            f"it is the card of checkpoint '{MINILM}', not of '{SMOLLM2}';",
        ),
        (f"{BEGIN}\n", f"it has 1 lines `{BEGIN}` and 0 lines `{END}`; there must be one of each, in this order"),
        (
            f"{END}\n{BEGIN}\n",
            f"it has 1 lines `{BEGIN}` and 1 lines `{END}`; there must be one of each, in this order",
        ),
    ],
)
def test_a_card_that_cannot_be_updated_safely_is_refused(text: str, wording: str) -> None:
    with pytest.raises(ReportError) as caught:
        update_card(text, DATA, SMOLLM2)
    assert str(caught.value).startswith(wording)


def test_a_card_is_written_to_its_file_and_refreshed_there(tmp_path: Path) -> None:
    path = tmp_path / "smollm2.md"
    write_card(path, DATA, SMOLLM2)
    assert update_card(None, DATA, SMOLLM2) == path.read_bytes().decode()
    write_card(path, LATER, SMOLLM2)
    assert "2027-01-01" in path.read_text(encoding="utf-8")


def test_a_refusal_names_the_card_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    write_card(path, DATA, MINILM)
    before = path.read_bytes()
    with pytest.raises(ReportError, match=r"^card .*card\.md: it is the card of checkpoint 'all-MiniLM-L6-v2'"):
        write_card(path, DATA, SMOLLM2)
    assert before == path.read_bytes()


def test_a_card_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match=r"is not UTF-8 text .*; save it as UTF-8$"):
        write_card(path, DATA, SMOLLM2)


def test_a_full_disk_keeps_the_old_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "card.md"
    path.write_text(PERSON, encoding="utf-8")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ReportError, match="no space is left"):
        write_card(path, DATA, SMOLLM2)
    assert PERSON == path.read_text(encoding="utf-8")
