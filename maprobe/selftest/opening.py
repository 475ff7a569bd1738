"""Planted models as sources of checkpoints, on the road of :func:`maprobe.check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maprobe.running.checkpoints import held
from maprobe.running.own_models import facts_of_own, held_own
from maprobe.running.subjects import HeldSource
from maprobe.selftest.graphs import GraphDesign, make_graphs
from maprobe.selftest.language import WORDS
from maprobe.selftest.llama import make_llama
from maprobe.selftest.patterns import PatternDesign, make_patterns
from maprobe.selftest.tokenizer import make_tokenizer
from maprobe.selftest.vision import VisionDesign, make_vision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maprobe.selftest.design import Design

__all__ = ["open_graphs", "open_llama", "open_patterns", "open_vision"]


def open_llama(label: str, design: Design, lessons: Mapping[str, float]) -> HeldSource:
    """Make a Llama of that design, and a tokenizer that has its words and those of the lessons."""
    tokenizer = make_tokenizer((*(f"Ġ{word}" for word in WORDS), *lessons))
    return HeldSource(loaded=held(make_llama(design, tokenizer, lessons), tokenizer, label))


def open_graphs(label: str, **design: object) -> HeldSource:
    """Make a graph transformer of that design, with its graphs."""
    model = make_graphs(GraphDesign(**design))  # type: ignore[arg-type]
    return HeldSource(loaded=held_own(model, facts_of_own(model, label=label, reference=label)))


def open_vision(label: str, **design: object) -> HeldSource:
    """Make a DINOv2 of that design; its images are processed as is usual."""
    return HeldSource(loaded=held(make_vision(VisionDesign(**design)), None, label))  # type: ignore[arg-type]


def open_patterns(label: str, **design: object) -> HeldSource:
    """Make a Llama whose weights say which texts hang on which of them, with the tokenizer of the planted one."""
    tokenizer = make_tokenizer(f"Ġ{word}" for word in WORDS)
    model = make_patterns(PatternDesign(**design), tokenizer)  # type: ignore[arg-type]
    return HeldSource(loaded=held(model, tokenizer, label))
