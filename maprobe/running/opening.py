"""What a reference leads to: a checkpoint in transformers' layout, a graph transformer, or what Python code makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maprobe.graphs.checkpoints import GraphCheckpoint, is_graph_checkpoint, open_checkpoint
from maprobe.running.own_models import PythonSource, facts_stated, on_device
from maprobe.running.placement import check_options
from maprobe.running.subjects import ReferencedSource, Source

if TYPE_CHECKING:
    from maprobe.facts import CheckpointFacts
    from maprobe.progress import Progress
    from maprobe.references import CheckpointReference, LoadOptions
    from maprobe.running.checkpoints import LoadedCheckpoint
    from maprobe.running.own_inputs import InputSets

__all__ = ["GraphSource", "open_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSource:
    """A folder that :mod:`maprobe.graphs.train` wrote.

    Attributes:
        checkpoint: its config and its graphs.
        facts: what its config tells.
        options: how it is to be loaded.
        tokenizer: None: it has none.
    """

    checkpoint: GraphCheckpoint
    facts: CheckpointFacts
    options: LoadOptions
    tokenizer: None = None

    @classmethod
    def open(cls, reference: CheckpointReference, options: LoadOptions, progress: Progress) -> GraphSource:
        """Read the config and the graphs that were kept for measuring.

        Raises:
            OptionError: an option cannot be honoured.
            CheckpointError: they cannot be read.
        """
        check_options(options)
        checkpoint = open_checkpoint(reference.location, progress)
        facts = facts_stated(checkpoint.facts, label=reference.label, reference=reference.text)
        return cls(checkpoint=checkpoint, facts=facts, options=options)

    @property
    def own(self) -> InputSets:
        """Its graphs."""
        return self.checkpoint.inputs

    def load(self, progress: Progress) -> LoadedCheckpoint:
        """Load the weights.

        Raises:
            CheckpointError: they cannot be read.
        """
        return on_device(self.checkpoint.load(progress=progress), self.facts, self.options)


def open_source(reference: CheckpointReference, options: LoadOptions, progress: Progress) -> Source:
    """Return where a checkpoint comes from, having looked at what is to be known before its weights are loaded.

    Raises:
        OptionError: an option cannot be honoured.
        CheckpointError: it cannot be had.
    """
    if reference.kind == "python":
        return PythonSource.open(reference, options)
    if reference.kind == "folder" and is_graph_checkpoint(Path(reference.location)):
        return GraphSource.open(reference, options, progress)
    return ReferencedSource.open(reference, options, progress)
