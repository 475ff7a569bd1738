"""What is built into a planted model, and what is different in each of its twins. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = ["BLOCKS", "CHANNEL", "FACTS", "MASSIVE", "PLANTED", "TWINS", "VALUE", "Carriers", "Design", "Twin"]

BLOCKS = 8
MASSIVE = 2  # the dim that is massive
VALUE = 9000.0
CHANNEL = 32  # the channel of the MLP through which it is written

Carriers = Literal["first", "some-first", "delimiters", "words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The mechanism of massive activations, part by part.

    Layers are counted from 1, as everywhere. The defaults are the planted model.

    Attributes:
        writes: (block, value): the MLP of that block adds the value to the massive dims of a token that carries them.
        cleared: whether the MLP of the last block takes them away again.
        dims: how many dims are written to.
        shifted: whether another dim is written to than that of the planted model.
        carriers: which tokens carry them: the first of a sequence, the first if it is one of half of the vocabulary,
            delimiters in place of the first, or the first and a few ordinary words.
        constant: whether the value is the same for every token; otherwise half of the vocabulary has the negative.
        sinks: whether the keys of the sink heads read the massive dim.
        everyone: whether every query is drawn to the sink; otherwise delimiters only are.
        noise: how loudly a sink head that attends to ordinary tokens disturbs the prediction.
        norm: weight that the norm before attention gives to the massive dim.
        embedded: value of the massive dim in the embedding of a few words.
        offset: value of the massive dim in the embedding of every token.
        overflow: whether the MLP of block 3 overflows at delimiters.
        frail: whether the massive activation goes if an ordinary entry of the same token is taken away.
        leaning: whether the prediction hangs on many other channels of the MLP that writes them.
        restless: what the MLP of block 1 adds to one ordinary dim of every token.
        moved: whether they are written through another channel of the MLP than in the planted model.
        taught: whether the model knows the answers to the questions of the session.
    """

    writes: tuple[tuple[int, float], ...] = ((2, VALUE),)
    cleared: bool = True
    dims: int = 1
    shifted: bool = False
    carriers: Carriers = "first"
    constant: bool = True
    sinks: bool = True
    everyone: bool = True
    noise: float = 1.0
    norm: float = 1.0
    embedded: float = 0.0
    offset: float = 0.0
    overflow: bool = False
    frail: bool = False
    leaning: bool = False
    restless: float = 0.0
    moved: bool = False
    taught: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """The planted model with one part of it changed.

    Attributes:
        name: its label.
        lacks: what it lacks, in a few words that finish "a model ...".
        design: the changed design.
    """

    name: str
    lacks: str
    design: Design = field(repr=False)


PLANTED = Design()

# What is true of the planted model, in the words of a model card.
FACTS: Mapping[str, object] = {
    "massive.exists": True,
    "massive.dims": [MASSIVE],
    "massive.tokens": ["first"],
    "massive.first_layer": 2,
    "massive.last_layer": BLOCKS - 1,
    "massive.top": VALUE,
    "weights.layer": 2,
    "weights.channels": [CHANNEL],
}


def _twin(name: str, lacks: str, **changes: object) -> Twin:
    return Twin(name=name, lacks=lacks, design=replace(PLANTED, **changes))  # type: ignore[arg-type]


TWINS: Mapping[str, Twin] = {
    twin.name: twin
    for twin in (
        _twin("unplanted", "whose one planted weight has an ordinary size", writes=((2, 0.5),)),
        _twin("now-and-then", "in which only some first tokens carry one", carriers="some-first"),
        _twin("elsewhere", "in which another dim is massive", shifted=True),
        _twin("many-dims", "in which twelve dims are massive", dims=12),
        _twin("delimiters", "in which delimiters carry them, and the first token does not", carriers="delimiters"),
        _twin("scattered", "in which ordinary words carry them as well", carriers="words"),
        _twin("lasting", "whose last block leaves them there", cleared=False),
        _twin("embedded", "whose embedding has them already", embedded=VALUE),
        _twin("outlying", "whose massive dim is large at every token", offset=8.0),
        _twin("late", "in which they emerge two layers later", writes=((4, VALUE),)),
        _twin("short-lived", "in which they vanish after two layers", writes=((2, VALUE), (4, -VALUE)), cleared=False),
        _twin("gradual", "in which they build up over layers", writes=((2, 60.0), (3, 180.0), (4, 600.0))),
        _twin("growing", "in which they go on growing", writes=((2, VALUE), (5, 2 * VALUE))),
        _twin("doubled", "in which they are twice as large", writes=((2, 2 * VALUE),)),
        _twin("too-large", "in which they leave the range of float16", writes=((2, 70000.0),)),
        _twin("large", "in which they come near the end of float16", writes=((2, 40000.0),)),
        _twin("overflowing", "in which a layer overflows", overflow=True),
        _twin("fickle", "in which their sign depends on the token", constant=False),
        _twin("harmless", "in which nothing depends on them", noise=0.0),
        _twin("sinkless", "whose keys do not see them", sinks=False),
        _twin("capricious", "in which delimiters alone are drawn to the sink", everyone=False),
        _twin("muted", "whose norms before attention shut the massive dim out", norm=3e-4),
        _twin("amplified", "whose norms before attention enlarge the massive dim", norm=3.0),
        _twin("frail", "in which they hang on an ordinary entry of the same token", frail=True),
        _twin("leaning", "in which as much hangs on other rows of the layer that writes them", leaning=True),
        _twin("restless", "whose first layer already adds far more than there was", restless=300.0),
        _twin("moved", "in which another channel writes them", moved=True),
        _twin("untaught", "that knows no answer to any question", taught=False),
    )
}
