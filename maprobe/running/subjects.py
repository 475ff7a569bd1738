"""A checkpoint under test: loaded, its parts found and proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from maprobe.running import checkpoints
from maprobe.running.anatomy import Anatomy
from maprobe.running.discovery import discover
from maprobe.running.proofs import Proof, prove, require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from maprobe.facts import CheckpointFacts
    from maprobe.progress import Progress
    from maprobe.recipes import Architecture
    from maprobe.references import CheckpointReference, LoadOptions
    from maprobe.running.checkpoints import Inspected, LoadedCheckpoint
    from maprobe.running.images import ImageReader
    from maprobe.running.own_inputs import InputSets

__all__ = ["HeldSource", "ReferencedSource", "Source", "Subject", "examine"]


class Source(Protocol):
    """Where a checkpoint comes from: known by config and tokenizer, its weights loaded only when asked."""

    @property
    def facts(self) -> CheckpointFacts:
        """What its config and tokenizer tell."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Its tokenizer, or None where it has none."""

    def load(self, progress: Progress) -> LoadedCheckpoint:
        """Load the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencedSource:
    """A checkpoint named by a reference."""

    inspected: Inspected
    options: LoadOptions

    @classmethod
    def open(cls, reference: CheckpointReference, options: LoadOptions, progress: Progress) -> ReferencedSource:
        """Fetch what is missing and read config and tokenizer.

        Raises:
            CheckpointError: it cannot be had.
        """
        return cls(inspected=checkpoints.inspect(reference, options, progress), options=options)

    @property
    def facts(self) -> CheckpointFacts:
        """What its config and tokenizer tell."""
        return self.inspected.facts

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Its tokenizer, or None where it has none."""
        return self.inspected.tokenizer

    @property
    def reader(self) -> ImageReader | None:
        """Its way with images, or None for a model of texts."""
        return self.inspected.reader

    def load(self, progress: Progress) -> LoadedCheckpoint:
        """Load the weights.

        Raises:
            CheckpointError: they cannot be read.
        """
        return checkpoints.load(self.inspected, self.options, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSource:
    """A checkpoint that the caller has in memory already."""

    loaded: LoadedCheckpoint

    @property
    def facts(self) -> CheckpointFacts:
        """What its config and tokenizer tell."""
        return self.loaded.facts

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Its tokenizer, or None where it has none."""
        return self.loaded.tokenizer

    @property
    def reader(self) -> ImageReader | None:
        """Its way with images, or None for a model of texts."""
        return self.loaded.reader

    @property
    def own(self) -> InputSets:
        """The inputs that it brings itself; empty for a model of texts or images."""
        return self.loaded.own.input_sets if self.loaded.own is not None else {}

    def load(self, progress: Progress) -> LoadedCheckpoint:  # noqa: ARG002 - a protocol
        """Return it."""
        return self.loaded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A loaded checkpoint whose parts were found and stood the proof."""

    loaded: LoadedCheckpoint
    anatomy: Anatomy
    proofs: tuple[Proof, ...]

    @property
    def device(self) -> torch.device:
        """The device that token ids go to, or what else the model is called on."""
        embedding = self.anatomy.embedding if self.loaded.own is None else None
        parameters = (embedding.module if embedding else self.loaded.model).parameters()
        return next((parameter.device for parameter in parameters), torch.device("cpu"))


def examine(loaded: LoadedCheckpoint, rows: Mapping[str, Architecture]) -> Subject:
    """Find the parts of a loaded checkpoint and prove them on it.

    Raises:
        DiscoveryError: the parts were not found, or a proof does not hold.
    """
    anatomy = discover(loaded.model, rows, loaded.own)
    proofs = prove(anatomy)
    require(proofs)
    return Subject(loaded=loaded, anatomy=anatomy, proofs=proofs)
