"""Pairs of graph transformers, and the probes that they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from maprobe.selftest.pairs import Lessons, Member, Pair, Rule

if TYPE_CHECKING:
    from maprobe.cases import Probe, Trend
    from maprobe.running.subjects import Source

__all__ = ["GRAPH_RULES", "GRAPH_TRENDS", "GRAPH_TWINS", "graphs"]

_SILENT, _LOUD = (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)
GRAPH_TWINS: Mapping[str, tuple[str, dict[str, object]]] = {
    "graphs-quiet": ("in which no bond is loud", {"massive": False}),
    "graphs-born": ("which had them before any training", {"before": "the-same"}),
    "graphs-triple": ("in which triple bonds alone are loud", {"loud": (0.0, 0.0, 0.0, 1.0)}),
    "graphs-unread": ("in which nothing is read of neighbours", {"reads": False}),
    "graphs-frail": ("which misses its targets by next to nothing", {"little": 1e-7}),
    "graphs-still": ("whose loss hardly hangs on what it predicts", {"cares": False}),
    "graphs-broken": ("in which a loud bond is louder than any number", {"broken": True}),
}
_COUNTS_AS = {"explicit_bias": "counted as one with an explicit bias", "steps": "counted as untrained"}
_STEPS = (1, 2)


def _graph(name: str, told: str, **design: object) -> Member:
    def open_it(lessons: Lessons) -> Source:
        del lessons
        from maprobe.selftest.opening import open_graphs

        return open_graphs(name, **design)

    return Member(name=name, told=told, open=open_it)


_PLANTED = _graph("graphs", "a graph transformer of three layers in which all but triple bonds are loud")


def graphs(twin: str, **both: object) -> Pair:
    """Return the planted graph transformer and one of its twins; what is said of both is built into each."""
    lacks, design = GRAPH_TWINS[twin]
    suffix = "".join(f"-{name}" for name in both)
    words = "".join(f", {_COUNTS_AS[name]}" for name in both)
    planted = _graph(f"{_PLANTED.name}{suffix}", f"{_PLANTED.told}{words}", **both) if both else _PLANTED
    member = _graph(f"{twin}{suffix}", f"the same {lacks}{words}", **{**both, **design})
    return Pair(planted=planted, twin=member, absent=twin == "graphs-quiet")


def _falling(twin: str, lower: str, told: str) -> Pair:
    """Return two series: from the planted model to one that has less of it, and the other way round."""
    less = graphs(lower).twin

    def series(name: str, told: str, *models: Member) -> Member:
        return Member(name=name, told=told, stages=tuple(zip(_STEPS, models, strict=True)))

    return Pair(
        planted=series(f"{twin}-falling", f"two checkpoints, of which the second {told}", _PLANTED, less),
        twin=series(f"{twin}-rising", f"two checkpoints, of which the first {told}", less, _PLANTED),
    )


def _when(fact: str, bound: object) -> Callable[[Probe], bool]:
    """Say whether a probe is for checkpoints of which a fact has this value."""

    def told(probe: Probe) -> bool:
        return any(line.fact == fact and line.operator == "eq" and line.bound == bound for line in probe.when)

    return told


def _rule(
    kinds: str,
    pair: Pair,
    *quantities: str,
    edit: str = "",
    where: Callable[[Probe], bool] = lambda probe: True,  # noqa: ARG005
) -> Rule:
    return Rule(
        kinds=frozenset(kinds.split()),
        pair=pair,
        quantities=frozenset(quantities),
        edit=edit,
        where=where,
        graphs=True,
    )


_OF_EDIT = ("edited", "ratio", "difference", "paired.mean", "paired.low", "paired.high")
_OF_CONTROL = ("control.edited", "control.ratio", "control.difference")
_BIASED, _BEFORE = _when("explicit_bias", bound=True), _when("training_steps", 0)


def _plain(probe: Probe) -> bool:
    return not _BIASED(probe) and not _BEFORE(probe)


GRAPH_RULES: tuple[Rule, ...] = (
    _rule("finite", graphs("graphs-broken")),
    _rule("edge.ratios edge.massive", graphs("graphs-quiet"), where=_plain),
    _rule("edge.ratios", graphs("graphs-quiet", explicit_bias=True), where=_BIASED),
    _rule("edge.ratios", graphs("graphs-quiet", steps=0), where=_BEFORE),
    _rule("edge.ratios edge.distribution", graphs("graphs-born"), *_OF_EDIT, edit="untrained"),
    _rule("edge.kinds", graphs("graphs-triple"), "lift", "within"),
    _rule("loss", graphs("graphs-unread"), *_OF_EDIT, edit="massive-edges"),
    _rule("loss", graphs("graphs-frail"), *_OF_CONTROL, edit="massive-edges"),
    _rule("loss", graphs("graphs-born"), *_OF_EDIT, edit="untrained"),
    _rule("loss", graphs("graphs-still"), "over_control", edit="noise"),
)

# What is asked of a trend, and the pair of series for it.
GRAPH_TRENDS: tuple[tuple[Callable[[Trend], bool], Pair], ...] = (
    (
        lambda trend: trend.monotone is not None and trend.monotone.quantity != "over_control",
        _falling("ratios", "graphs-quiet", "has no loud bond"),
    ),
    (
        lambda trend: trend.monotone is not None and trend.monotone.quantity == "over_control",
        _falling("gains", "graphs-still", "has a loss that hardly hangs on what it predicts"),
    ),
)
