"""What a model card says that others published: figures with their setting and source, read with their places.

A card is Markdown with YAML front matter (docs/model-cards.md). Read here are its keys ``matches`` and ``published``;
the keys that the tool writes are left to :mod:`maprobe.reporting.cards`, the body to people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maprobe.errors import ProbeFileError, ReportError, did_you_mean
from maprobe.reading.faults import FaultList, Leaf, in_words, keys
from maprobe.reading.loading import load, read_text
from maprobe.reading.nodes import FrozenMapping, Node, frozen
from maprobe.source import SourceMark

__all__ = [
    "CARD_KEYS",
    "QUANTITIES",
    "SURE",
    "WHERE",
    "Card",
    "Figure",
    "Statement",
    "find_card",
    "located",
    "read_card",
]

_TEXT = {"type": "string", "minLength": 1, "pattern": r"\S"}
_LAYER = {"type": "integer", "minimum": 1}
_INDICES = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_GROUPS = {"type": "array", "items": {"enum": ["first", "delimiter", "other"]}, "minItems": 1}
_PLACES = {"type": "array", "items": {**_INDICES, "minItems": 3, "maxItems": 3}, "minItems": 1}

_EDITS = ("untouched", "zero", "mean", "weights_zero", "weights_only")

CARD_KEYS = ("matches", "published", "maprobe_card", "checkpoint", "digests", "measured")

QUANTITIES: Mapping[str, Leaf] = {
    "massive.exists": Leaf({"type": "boolean"}),
    "massive.dims": Leaf(_INDICES, "a list of dims, each an integer of 0 or more"),
    "massive.tokens": Leaf(_GROUPS, "a list of first, delimiter, other"),
    "massive.first_layer": Leaf(_LAYER),
    "massive.last_layer": Leaf(_LAYER),
    "massive.top": Leaf(_POSITIVE),
    **{f"perplexity.{edit}": Leaf(_POSITIVE) for edit in _EDITS},
    **{f"accuracy.{edit}": Leaf(_PERCENT) for edit in _EDITS},
    "sink_heads": Leaf(_PERCENT),
    "weights.layer": Leaf(_LAYER),
    "weights.channels": Leaf(_INDICES, "a list of channels, each an integer of 0 or more"),
    "super_weights": Leaf(_PLACES, "a list of [layer, row, column], each an integer of 0 or more"),
}

WHERE: Mapping[str, Leaf] = {
    "bos": Leaf({"type": "boolean"}),
    "text": Leaf(_TEXT),
    "length": Leaf(_LAYER),
    "sequences": Leaf(_LAYER),
    "dtype": Leaf({"enum": ["float16", "bfloat16", "float32"]}),
}

SURE: Mapping[str, str] = {
    "paper": "read in the paper itself",
    "code": "read in the authors' code",
    "computed": "read off, or counted in, result files that the authors published",
    "quoted": "quoted from the source by others; the source itself was not seen",
}

_FIGURE_KEYS = ("figures", "where", "source", "sure", "note")
_STATEMENT_KEYS = ("fact", "source", "sure", "note")
_SOURCE = Leaf({"type": "string", "pattern": r"arXiv:\d{4}\.\d{5}|https://"}, "a text that names arXiv:NUMBER or a URL")
_FENCE = re.compile(r"---[ \t]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One published figure.

    Attributes:
        quantity: a name of :data:`QUANTITIES`.
        value: a number, a truth value, or a tuple of them. Layers count from 1, dims and channels from 0.
        where: the setting it holds in: keys of :data:`WHERE`.
        source: where it was published.
        sure: a word of :data:`SURE`.
        note: what its reader should know.
        mark: where it is written.
    """

    quantity: str
    value: Any
    source: str
    sure: str
    mark: SourceMark
    where: FrozenMapping = field(default_factory=lambda: FrozenMapping({}))
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One published fact in words."""

    fact: str
    source: str
    sure: str
    mark: SourceMark
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What one card says of its checkpoint.

    Attributes:
        file: the card, as it is named in messages.
        names: what the checkpoint is called after ``--model``, in lower case and without a revision.
        figures: published figures, in the order written.
        statements: published facts in words.
    """

    file: str
    names: frozenset[str]
    figures: tuple[Figure, ...] = ()
    statements: tuple[Statement, ...] = ()

    def of(self, quantity: str) -> tuple[Figure, ...]:
        """Return the figures of one quantity."""
        return tuple(figure for figure in self.figures if figure.quantity == quantity)

    def fitting(self, quantity: str, *, bos: bool | None) -> Figure | None:
        """Return the first figure of a quantity whose setting allows for inputs with that BOS; None without one."""
        return next((figure for figure in self.of(quantity) if figure.where.get("bos") in (None, bos)), None)


def located(path: str) -> Path | None:
    """Return the file or folder of that name, looked for from the working directory upwards."""
    given = Path(path).expanduser()
    places = [Path()] if given.is_absolute() else [Path(), *Path.cwd().parents]
    return next((place / given for place in places if (place / given).exists()), None)


def find_card(path: Path, names: Iterable[str]) -> Card | None:
    """Return the card of a folder that is of one of these names, or the file's own; None where there is none.

    Files without front matter are no cards.

    Raises:
        ReportError: a card of the folder is malformed, or two are of the same checkpoint.
    """
    if path.is_file():
        return read_card(path)
    wanted = {_bare(name) for name in names}
    cards = [read_card(file) for file in sorted(path.glob("*.md")) if _has_front_matter(file)]
    found = [card for card in cards if card.names & wanted]
    if len(found) > 1:
        shared = sorted(found[0].names & found[1].names & wanted)
        raise ReportError(
            f"{found[0].file} and {found[1].file} are both of {', '.join(shared) or ' and '.join(sorted(wanted))}; "
            f"take the name out of `matches` in one of them"
        )
    return found[0] if found else None


def read_card(path: Path) -> Card:
    """Read what a card says that others published.

    Raises:
        ReportError: naming every fault with its line, the key and what is allowed.
    """
    name = str(path)
    faults = FaultList()
    try:
        root = load(_front_matter(read_text(path, name), name), name, faults)
        card = _card(root or Node({}, SourceMark(file=name)), name, faults)
        faults.raise_if_any()
    except ProbeFileError as error:
        raise ReportError(str(error)) from None
    return card


def _has_front_matter(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        return bool(_FENCE.fullmatch(next(lines, "").rstrip("\r\n")))


def _front_matter(text: str, name: str) -> str:
    """Return the front matter under as many lines as stand above it, so that places are those of the card."""
    lines = text.removeprefix("\ufeff").splitlines()
    fences = [number for number, line in enumerate(lines) if _FENCE.fullmatch(line)]
    if not fences or fences[0] != 0:
        raise ReportError(f"{name}:1:1: a card begins with `---`, its front matter and another `---`; add them")
    if len(fences) == 1:
        raise ReportError(f"{name}:1:1: the front matter has no closing line `---`; add it below the last key")
    return "\n".join(["", *lines[1 : fences[1]], ""])


def _card(root: Node, name: str, faults: FaultList) -> Card:
    entries = root.entries
    if not isinstance(root.value, dict):
        faults.add(root.mark, f"{in_words(root)} is not allowed; allowed: `key: value` lines")
    for key, entry in entries.items():
        # Other keys are the user's own; one that is nearly one of these is a slip.
        if key not in CARD_KEYS and (near := did_you_mean(key, CARD_KEYS)):
            faults.add(entry.place, f"unknown key {key!r}{near}; allowed: {', '.join(CARD_KEYS)}, or one quite unlike")
    names = _texts(entries.get("matches"), faults)
    written = entries["checkpoint"].entries if "checkpoint" in entries else {}
    names += [str(written[key].value) for key in ("label", "reference") if key in written]
    figures: list[Figure] = []
    statements: list[Statement] = []
    for node in _items(entries.get("published"), "figures and facts", faults):
        if "fact" in node.entries:
            statements.append(_statement(node, faults))
        else:
            figures.extend(_figures(node, faults))
    return Card(
        file=name,
        names=frozenset(map(_bare, names)),
        figures=tuple(figures),
        statements=tuple(statements),
    )


def _items(node: Node | None, what: str, faults: FaultList) -> tuple[Node, ...]:
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, tuple):
        faults.add(node.mark, f"{in_words(node)} is not allowed; allowed: a list of {what}")
    return node.items


def _texts(node: Node | None, faults: FaultList) -> list[str]:
    return [str(_take(Leaf(_TEXT), item, faults) or "") for item in _items(node, "names", faults)]


def _statement(node: Node, faults: FaultList) -> Statement:
    entries = keys(node, _STATEMENT_KEYS, faults, required=("fact", "source"))
    told = {key: str(_take(Leaf(_TEXT), entries.get(key), faults) or "") for key in ("fact", "source", "note")}
    return Statement(**told, sure=_sure(entries, faults), mark=node.mark)


def _figures(node: Node, faults: FaultList) -> list[Figure]:
    """Read figures of one setting and source; of use only where no fault was noted."""
    entries = keys(node, _FIGURE_KEYS, faults, required=("figures", "source", "sure"))
    settings = keys(entries["where"], WHERE, faults) if "where" in entries else {}
    where = {key: _take(WHERE[key], entry, faults) for key, entry in settings.items()}
    source = str(_take(_SOURCE, entries.get("source"), faults))
    note = str(_take(Leaf(_TEXT), entries.get("note"), faults) or "")
    sure = _sure(entries, faults)
    values = keys(entries["figures"], QUANTITIES, faults) if "figures" in entries else {}
    return [
        Figure(
            quantity=quantity,
            value=frozen(_take(QUANTITIES[quantity], entry, faults)),
            where=FrozenMapping(where),
            source=source,
            sure=sure,
            note=note,
            mark=entry.place,
        )
        for quantity, entry in values.items()
    ]


def _sure(entries: Mapping[str, Node], faults: FaultList) -> str:
    return str(_take(Leaf({"enum": list(SURE)}), entries.get("sure"), faults) or "")


def _take(leaf: Leaf, node: Node | None, faults: FaultList) -> Any | None:  # noqa: ANN401 - whatever the leaf allows
    return leaf.take(node, faults) if node is not None else None


def _bare(name: str) -> str:
    return name.partition("@")[0].casefold()
