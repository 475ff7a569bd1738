"""Which pairs of models a probe is shown to hold and to fail on: a table of rules, of which all that fit count.

To add a pair, write its models (a Member says how each is opened) and a Rule for the probes that it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from maprobe.selftest.design import PLANTED, TWINS, Design
from maprobe.selftest.graph_rules import GRAPH_RULES, GRAPH_TRENDS, graphs
from maprobe.selftest.pairs import Lessons, Member, Pair, Rule, of_graphs, of_images
from maprobe.sites import LayerRange

if TYPE_CHECKING:
    from maprobe.cases import Probe, Trend
    from maprobe.running.subjects import Source

__all__ = ["RULES", "TRENDS", "pairs_of"]

_DEFAULT = "unplanted"


_WITHOUT_REGISTERS: Mapping[str, tuple[str, dict[str, object]]] = {
    "images-unplanted": ("whose one planted weight has an ordinary size", {"value": 0.5}),
    "images-many-dims": ("in which twelve dims are massive", {"dims": 12}),
    "images-at-places": ("in which the class token and one place carry them", {"carriers": "places"}),
    "images-harmless": ("in which nothing depends on them", {"noise": 0.0}),
    "images-fickle": ("in which dark patches have larger ones of the other sign", {"fickle": True}),
}
_WITH_REGISTERS: Mapping[str, tuple[str, dict[str, object]]] = {
    "register-idle": ("in which bright patches carry them", {"carriers": "patches"}),
    "register-wavering": ("in which a register hands on what it has read of the image", {"wavering": True}),
}
_PATTERNS: Mapping[str, tuple[str, dict[str, object]]] = {
    "indifferent": ("in which no block reads them", {"telling": False}),
    "early": ("in which the shallow blocks read them and the deep ones do not", {"late": False}),
    "dipped": ("in which the first and the last block write the most", {"arched": False}),
}
_STEPS = (0, 1000, 2000, 4000)


def pairs_of(probe: Probe) -> tuple[Pair, ...]:
    """Return the pairs for a probe, at least one and each once.

    A trend is put to series of models. Where no rule fits, the pair is the planted model and the one without its
    planted weight: any probe of something massive should tell these two apart.
    """
    alone = probe.expect is not None or probe.bands
    fitting = dict.fromkeys(rule.pair for rule in RULES if alone and rule.fits(probe))
    table = GRAPH_TRENDS if of_graphs(probe) else TRENDS
    trends = dict.fromkeys(pair for asks, pair in table if probe.trend and asks(probe.trend))
    return (*fitting, *trends) or (_default(probe),)


def _default(probe: Probe) -> Pair:
    if of_graphs(probe):
        return graphs("graphs-quiet")
    return _patches("images-unplanted") if of_images(probe) else _llamas(_DEFAULT)


def _llama(name: str, told: str, design: Design) -> Member:
    def open_llama(lessons: Lessons) -> Source:
        from maprobe.selftest.opening import open_llama

        return open_llama(name, design, lessons)

    return Member(name=name, told=told, open=open_llama)


_PLANTED = _llama("planted", "a Llama of eight blocks with a massive activation at the first token", PLANTED)


def _llamas(twin: str) -> Pair:
    made = TWINS[twin]
    member = _llama(twin, f"the planted model {made.lacks}", made.design)
    # Where nothing is massive at all, many a question has no object.
    return Pair(planted=_PLANTED, twin=member, absent=twin == _DEFAULT)


def _series(twin: str, told: str, *models: str) -> Pair:
    """Return a pair of series: a training in which the massive activation emerges and stays, and another one."""

    def series(name: str, told: str, names: tuple[str, ...]) -> Member:
        members = tuple(_PLANTED if each == _PLANTED.name else _llamas(each).twin for each in names)
        return Member(name=name, told=told, stages=tuple(zip(_STEPS, members, strict=True)))

    risen = ("unplanted", "unplanted", "planted", "planted")
    emerging = series("emerging", "four checkpoints, unplanted up to step 1000 and planted from step 2000 on", risen)
    return Pair(planted=emerging, twin=series(twin, told, models))


def _vision(name: str, told: str, **design: object) -> Member:
    def open_vision(lessons: Lessons) -> Source:
        del lessons
        from maprobe.selftest.opening import open_vision

        return open_vision(name, **design)

    return Member(name=name, told=told, open=open_vision)


def _patches(twin: str) -> Pair:
    """Return a pair of models of images without registers."""
    lacks, design = _WITHOUT_REGISTERS[twin]
    planted = _vision("patches", "a DINOv2 of six blocks with massive activations at bright patches")
    return Pair(planted=planted, twin=_vision(twin, f"the same {lacks}", **design), absent=twin == "images-unplanted")


def _registers(twin: str) -> Pair:
    """Return a pair of models of images with registers."""
    lacks, design = _WITH_REGISTERS[twin]
    own = {"registers": True, "carriers": "register"}
    planted = _vision("registers", "a DINOv2 of six blocks with a massive activation at a register", **own)
    return Pair(planted=planted, twin=_vision(twin, f"the same {lacks}", **{**own, **design}))


def _patterns(twin: str) -> Pair:
    """Return a pair of models whose weights say which texts hang on which of them."""

    def member(name: str, told: str, **design: object) -> Member:
        def open_it(lessons: Lessons) -> Source:
            del lessons
            from maprobe.selftest.opening import open_patterns

            return open_patterns(name, **design)

        return Member(name=name, told=told, open=open_it)

    lacks, design = _PATTERNS[twin]
    planted = member("patterned", "a Llama of eight blocks of which the deep ones read what words a text is made of")
    return Pair(planted=planted, twin=member(twin, f"the same {lacks}", **design))


def _rule(
    kinds: str,
    twin: str,
    *quantities: str,
    edit: str = "",
    where: Callable[[Probe], bool] = lambda probe: True,  # noqa: ARG005
) -> Rule:
    return Rule(
        kinds=frozenset(kinds.split()),
        pair=_llamas(twin),
        quantities=frozenset(quantities),
        edit=edit,
        where=where,
    )


def _without_bos(probe: Probe) -> bool:
    """Whether the first token may differ between sequences, as some twins need it to."""
    return probe.inputs.bos != "require"


def _of_rows(*kinds: str) -> Callable[[Probe], bool]:
    """Say whether an intervention sets these rows of an MLP to zero: the top ones, all others, or all there are."""

    def told(probe: Probe) -> bool:
        if probe.intervene is None:
            return False
        others = "others" if probe.intervene.option("top") else "all"
        return ("top" if probe.intervene.option("rows") == "top" else others) in kinds

    return told


_OF_EDIT = ("edited", "ratio", "difference", "paired.mean", "paired.low", "paired.high")
_OF_CONTROL = ("control.edited", "control.ratio", "control.difference")

RULES: tuple[Rule, ...] = (
    _rule("magnitude", "unplanted", "top", "ratio", "hits", "sequences_hit"),
    _rule("magnitude", "embedded", "layers_hit", where=lambda probe: probe.measure.layers == LayerRange(0, 0)),
    _rule("magnitude", "unplanted", "layers_hit", where=lambda probe: probe.measure.layers != LayerRange(0, 0)),
    _rule("magnitude massive", "now-and-then", "sequence_share", where=_without_bos),
    _rule("magnitude", "many-dims", "dims"),
    _rule("magnitude", "delimiters", "first_token_sequences", "first_token_share"),
    _rule("magnitude", "scattered", "positions"),
    _rule("magnitude massive", "late", "first_layer"),
    _rule("magnitude", "lasting", "last_layer", "last_depth"),
    _rule("layerwise", "gradual", "emergence_jump"),
    _rule("layerwise", "late", "emergence_layer"),
    _rule("layerwise", "short-lived", "persistence", "persistence_share", "vanishing_layer"),
    _rule("layerwise", "growing", "steadiness"),
    _rule("massive.tokens", "scattered"),
    _rule("constancy", "fickle", where=_without_bos),
    _rule("outliers", "outlying"),
    _rule("perplexity accuracy", "harmless", *_OF_EDIT, edit="massive zero"),
    _rule("perplexity accuracy", "fickle", *_OF_EDIT, edit="massive mean", where=_without_bos),
    _rule("perplexity accuracy", "frail", *_OF_CONTROL, edit="massive zero"),
    _rule("perplexity accuracy", "harmless", *_OF_EDIT, edit="super-weight"),
    _rule("perplexity accuracy", "frail", *_OF_CONTROL, edit="super-weight"),
    _rule("perplexity accuracy", "harmless", *_OF_EDIT, edit="attention-window"),
    _rule("accuracy", "untaught", "untouched", "accuracy", "low", "high"),
    _rule("attention.concentration attention.sink", "sinkless"),
    _rule("attention.norms", "muted", "massive_cosine", "sparsity"),
    _rule("attention.norms", "amplified", "input_ratio"),
    _rule("attention.bias", "capricious"),
    _rule("super.weights", "unplanted"),
    _rule("token.trace", "unplanted"),
    _rule("massive.weights", "restless", "margin"),
    _rule("massive.weights", "unplanted", "gain", "hidden", "hidden_ratio", "stream", "stream_ratio"),
    _rule("perplexity accuracy", "harmless", *_OF_EDIT, edit="massive-weights", where=_of_rows("top", "all")),
    _rule("perplexity accuracy", "leaning", *_OF_CONTROL, edit="massive-weights", where=_of_rows("top")),
    _rule("perplexity accuracy", "leaning", *_OF_EDIT, edit="massive-weights", where=_of_rows("others")),
    _rule("perplexity accuracy", "harmless", *_OF_CONTROL, edit="massive-weights", where=_of_rows("others")),
    _rule("finite", "overflowing", "nonfinite"),
    _rule("finite", "too-large", "range_share", "largest"),
    _rule("finite", "large", where=lambda probe: any(band.level == "warn" for band in probe.bands)),
    _rule("published", "unplanted", "existence"),
    _rule("published", "elsewhere", "dims_jaccard", "dims_missing", "dims_extra"),
    _rule("published", "scattered", "tokens_extra"),
    _rule("published", "delimiters", "tokens_missing"),
    _rule("published", "late", "first_layer_offset"),
    _rule("published", "short-lived", "last_layer_offset"),
    _rule("published", "doubled", "top_ratio"),
    _rule("published.weights", "late", "layer_offset"),
    _rule("published.weights", "moved", "channel", "channels_jaccard"),
)

RULES += tuple(
    Rule(kinds=frozenset({kind}), quantities=frozenset(quantities), pair=_patterns(twin))
    for kind, twin, *quantities in (
        ("parameters.density", "dipped"),
        ("parameters.similarity", "indifferent", "separation", "deep_within", "deep_across", "within", "across"),
        ("parameters.similarity", "early", "decline", "across_peak_layer", "shallow_within", "shallow_across"),
        ("parameters.relatedness", "indifferent"),
    )
)

RULES += tuple(
    Rule(kinds=frozenset(kinds.split()), quantities=frozenset(quantities), edit=edit, pair=pair, images=True)
    for kinds, quantities, edit, pair in (
        ("magnitude token.norms", (), "", _patches("images-unplanted")),
        ("massive.image_tokens", ("dims",), "", _patches("images-many-dims")),
        ("massive.image_tokens", ("patch", "wandering", "class"), "", _patches("images-at-places")),
        ("massive.image_tokens", ("register",), "", _registers("register-idle")),
        ("features", (), "massive zero", _patches("images-harmless")),
        ("features", (), "massive mean", _patches("images-fickle")),
        ("features", (), "registers", _registers("register-wavering")),
    )
)

RULES += GRAPH_RULES

# What is asked of a trend, and the pair of series for it.
TRENDS: tuple[tuple[Callable[[Trend], bool], Pair], ...] = (
    (
        lambda trend: trend.emerges_by is not None,
        _series("never-emerging", "four checkpoints, all unplanted", *["unplanted"] * 4),
    ),
    (
        lambda trend: trend.emerges_after is not None,
        _series("from-the-start", "four checkpoints, all planted", *["planted"] * 4),
    ),
    (
        lambda trend: trend.stays or trend.monotone is not None,
        _series(
            "lost-again",
            "four checkpoints, planted at step 2000 alone",
            *("unplanted", "unplanted", "planted", "unplanted"),
        ),
    ),
)
