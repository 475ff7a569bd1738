"""What a recipe is: the values by which measurements, interventions and the like are made known.

Recipes are frozen values that hold functions; there is no base class to inherit from. They can be registered,
listed and turned into a schema without torch; only the functions they hold import it, when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from maprobe.cases import InputsRequest, InterveneRequest, MeasureRequest
from maprobe.edits import AnyEdit
from maprobe.facts import CheckpointFacts
from maprobe.materials import Choice, Corpus, GradedPair, Picture
from maprobe.readings import Reading
from maprobe.sites import TokenSet

if TYPE_CHECKING:
    import torch

__all__ = [
    "Architecture",
    "Batch",
    "Choice",
    "Corpus",
    "Fold",
    "FoldContext",
    "GradedPair",
    "InterventionRecipe",
    "MeasurementRecipe",
    "Operator",
    "Parameter",
    "Picture",
    "QuantitySpec",
    "Renderer",
    "Tap",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a recipe as it may be written in a probe file.

    Attributes:
        name: the key.
        schema: JSON Schema (draft 7) of its value.
        default: the value where the key is left out.
        meaning: one line for documentation and editors.
    """

    name: str
    schema: Mapping[str, Any]
    default: Any
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantitySpec:
    """A quantity that a measurement yields: its name, axes and unit. Expectations are checked against it."""

    name: str
    axes: tuple[Literal["layer", "head"], ...] = ()
    unit: str = ""
    meaning: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Tap:
    """One place of a loaded model that a fold wants to see: a site, and the layer where the site has one.

    Where an optional one cannot be read in a model, the fold goes without it; any other leaves it without a Reading.
    """

    site: str
    layer: int = 0
    optional: bool = field(default=False, compare=False)


class Batch(Protocol):
    """The sequences that one forward call carries, all of one length, on the model's device."""

    @property
    def sequences(self) -> tuple[int, ...]:
        """Numbers of the sequences within the inputs."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of sequences, and of tokens in each."""

    @property
    def given(self) -> Any:  # noqa: ANN401 - a model's own inputs may be anything
        """What the model is called on: token ids, pixels of shape (images, channels, height, width), or its own."""

    @property
    def ids(self) -> torch.Tensor:
        """Token ids, shape (sequences, tokens). Raises MeasurementError where the inputs are images."""

    def mask(self, tokens: TokenSet) -> torch.Tensor:
        """Return which tokens belong to the set: bool, shape (sequences, tokens)."""

    def text(self, row: int, position: int) -> str:
        """Return the text of one token of the batch."""


class Fold(Protocol):
    """A measurement under way: sees activations one at a time and keeps only what it needs of each."""

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The places to be shown."""

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        """Take in one activation during the forward pass. The tensor must be neither kept nor changed.

        Its shape follows the site's axes. Where a site is handed over in parts, ``offset`` says which one this is: for
        ``block.attn.probs`` and ``block.attn.scores``, whose value holds the rows from position ``offset`` on, and
        for ``block.mlp.hidden`` of experts, the number of the expert whose routed tokens are its rows. For
        ``block.attribution`` it is the number of the first weight in the value within its layer; every value has all
        sequences as its rows, in the order of ``batch.sequences``, and a batch of all sequences has no ids.
        """

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        """Return the Reading once every batch has passed; ``companions`` are those the recipe asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldContext:
    """What a fold may know before the first pass.

    Attributes:
        request: the measurement as asked for.
        layers: its layers, resolved against this model; empty for sites without layers.
        depth: number of blocks.
        facts: the checkpoint's facts.
        sequences: number of sequences.
        choices: the options, question by question, where the inputs are multiple-choice questions; else empty.
        labels: the right class of each image, as a number of the checkpoint's classes, where the inputs name it; else
            empty.
        groups: the domain of each sequence, where the inputs are of several; else empty.
        pairs: which sequences belong together and the grade of each pair, where the inputs are graded pairs; else
            empty.
        untouched: the Reading of this same measurement in the untouched pass over the same inputs, where this is a pass
            with an edit; None in the untouched pass itself. What the fold has kept there is its ``kept``.
        memo: scratch space shared by the folds of one pass, so that what two of them need is computed once. Keys
            start with the name of the module that writes them; values must be small.
    """

    request: MeasureRequest
    layers: tuple[int, ...]
    depth: int
    facts: CheckpointFacts
    sequences: int
    choices: tuple[Choice, ...] = ()
    labels: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    pairs: tuple[GradedPair, ...] = ()
    untouched: Reading | None = None
    memo: dict[tuple[Hashable, ...], Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementRecipe:
    """A kind of measurement.

    Attributes:
        name: the ``kind`` in probe files.
        summary: one sentence.
        sites: sites it can read; the first is the default.
        quantities: what it yields.
        headline: the quantity that an intervention compares (``ratio``, ``difference``); empty if none.
        items: the number in each record that an intervention compares item by item (``paired.low``); its records then
            have an ``item`` each, the same ones in every pass over the same inputs. Empty if none.
        parameters: its own keys under ``measure``.
        takes_layers: whether ``layers`` may be written.
        takes_tokens: whether ``tokens`` may be written.
        causal: whether it needs a causal language model.
        source: the source of inputs that it needs; empty for any.
        modality: ``text``, ``image``, or ``own`` for models that bring their inputs, where it makes sense for such a
            checkpoint only; empty for any.
        companions: kinds to measure in the same pass, whose Readings ``finish`` is given.
        start: makes a Fold for one pass.
    """

    name: str
    summary: str
    sites: tuple[str, ...]
    quantities: tuple[QuantitySpec, ...]
    start: Callable[[FoldContext], Fold]
    headline: str = ""
    items: str = ""
    parameters: tuple[Parameter, ...] = ()
    takes_layers: bool = True
    takes_tokens: bool = True
    causal: bool = False
    source: str = ""
    modality: Literal["", "text", "image", "own"] = ""
    companions: tuple[str, ...] = ()

    def quantity(self, name: str) -> QuantitySpec | None:
        """Return the quantity of that name, or None."""
        return next((quantity for quantity in self.quantities if quantity.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionRecipe:
    """A kind of intervention: what it looks for in the untouched pass, and the edits that follow from it.

    Attributes:
        name: the ``target`` in probe files.
        summary: one sentence.
        locate: the measurement that finds what to edit, made in the untouched pass over the same inputs. If its
            Reading is absent, so is every case that depends on it, and no further pass is spent. None where nothing has
            to be found.
        edits: turns what was found (None where nothing had to be) into edits, for the arm asked about or for its
            control arm.
        at: allowed values of ``at``; the first is the default.
        at_layer: whether ``at`` may also be the number of a layer.
        sets: allowed values of ``set``; the first is the default. Empty where there is nothing to set.
        controls: allowed values of ``control``, besides ``none``; the first is the default. Empty where there is none.
        handed: which of ``at`` and its own parameters are handed on to the measurement that locates, under the same
            name.
        inputs: gives the inputs that the measurement which locates is made on, or None for those of the probe; without
            it, they are those of the probe.
        parameters: its own keys under ``intervene``.
        learning: the parameter that says how many steps of learning over all inputs its edit takes, at most; empty
            where nothing is learnt.
    """

    name: str
    summary: str
    locate: MeasureRequest | None
    edits: Callable[[Reading | None, InterveneRequest, Literal["edited", "control"]], tuple[AnyEdit, ...]]
    at: tuple[str, ...]
    at_layer: bool = False
    sets: tuple[Literal["zero", "mean", "value"], ...] = ("zero", "mean", "value")
    controls: tuple[str, ...] = ("median",)
    handed: tuple[str, ...] = ()
    inputs: Callable[[InterveneRequest], InputsRequest | None] | None = None
    parameters: tuple[Parameter, ...] = ()
    learning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A comparison usable as a key under a quantity.

    Attributes:
        name: the key.
        meaning: one line.
        schema: JSON Schema (draft 7) of the bound.
        holds: observed value and bound to truth. Never called with NaN.
        margin: room to the bound relative to it, positive where it holds; None where that has no meaning.
        words: the comparison in words, with ``{bound}`` in place of the bound, for example ``"> {bound}"``.
    """

    name: str
    meaning: str
    schema: Mapping[str, Any]
    holds: Callable[[Any, Any], bool]
    margin: Callable[[Any, Any], float | None]
    words: Callable[[Any], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What roles cannot tell about the modules of one model family; every field may stay empty.

    Paths are attribute names: ``blocks`` from the model, the others from the block.

    Attributes:
        model_type: the config's model_type that the row is for.
        blocks: path of the list of blocks.
        attention: path of the attention sub-layer within a block.
        mlp: path of the MLP or expert sub-layer within a block.
        down: path of the down projection within the MLP.
        embedding: path, from the model, of the module whose output enters the first block.
        final_norm: path of the final norm.
        note: why the row is needed.
    """

    model_type: str
    blocks: str = ""
    attention: str = ""
    mlp: str = ""
    down: str = ""
    embedding: str = ""
    final_norm: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """A report format, chosen by file suffix.

    Attributes:
        suffix: with its dot, such as ``.md``.
        summary: one sentence.
        render: turns the report's plain data (see docs/reports.md) into the file's text.
    """

    suffix: str
    summary: str
    render: Callable[[Mapping[str, Any]], str]


Recipe = MeasurementRecipe | InterventionRecipe | Operator | Corpus | Architecture | Renderer
Recipes = Sequence[Recipe]
