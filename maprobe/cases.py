"""Probes as written, and Cases as run. Data only: nothing here knows a model or a recipe.

Every value is frozen and hashable, and marks do not take part in equality: two probes that ask for the same
measurement on the same inputs compare equal wherever they were written, so that a plan can serve both with
one pass.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from maprobe.sites import ALL_LAYERS, ALL_TOKENS, LayerRange, TokenSet
from maprobe.source import SourceMark
from maprobe.verdicts import Severity

__all__ = [
    "TASKS",
    "BosPolicy",
    "Case",
    "Clause",
    "Condition",
    "Domain",
    "Expectation",
    "InputsRequest",
    "InterveneRequest",
    "MeasureRequest",
    "Monotone",
    "Options",
    "Override",
    "Probe",
    "Quantifier",
    "SeverityBand",
    "StepBound",
    "Trend",
    "Waiver",
]

BosPolicy = Literal["auto", "require", "never", "first"]
TASKS = ("plain", "boolq", "piqa", "winogrande", "arc")  # forms of the lines of a file of questions
OptionValue = str | int | float | bool | None | tuple[str | int | float | bool, ...]
Options = tuple[tuple[str, OptionValue], ...]
Bound = float | int | str | bool | tuple[float | int | str | bool, ...] | Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One of several kinds of texts that inputs are made of.

    Attributes:
        name: what it is called in records and messages.
        source: where its texts are from.
        value: the path as written, or the name of the corpus.
        text_field: as in :class:`InputsRequest`.
    """

    name: str
    source: Literal["file", "jsonl", "corpus"]
    value: str
    text_field: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputsRequest:
    """The inputs a probe asks for.

    Attributes:
        source: ``text``, ``file``, ``jsonl``, ``choices``, ``pairs``, ``domains``, ``images``, ``corpus``, ``token``
            or ``own`` for what the model itself brings; ``default`` is what goes with the modality of the checkpoint,
            where a probe leaves its inputs out.
        value: the literal texts, the path or paths as written, or the name of the corpus, the token, the own inputs.
        text_field: name of the field that holds the text in each line of a JSONL file.
        task: how the lines of a file of questions are written; one of :data:`TASKS`.
        domains: of ``domains``, what each of them is; numbers and policies are those of every one.
        labels: how images are labelled: ``none``, or ``subfolders`` for a folder with a subfolder for each class.
        sequences: how many sequences, or questions; None takes the source's own number, ``"all"`` every one there is.
        length: tokens in each sequence; None leaves literal texts and JSONL lines whole.
        skip: how many sequences, or questions, to leave out at the head of the source.
        bos: see :data:`BosPolicy` and docs/inputs.md; None takes the source's own protocol.
        folder: folder that relative paths start from: the one the probe file lies in.
    """

    source: Literal[
        "text", "file", "jsonl", "choices", "pairs", "domains", "images", "corpus", "token", "own", "default"
    ] = "corpus"
    value: tuple[str, ...] = ("python-docs",)
    text_field: str = "text"
    task: str = "plain"
    domains: tuple[Domain, ...] = ()
    labels: str = "none"
    sequences: int | Literal["all"] | None = None
    length: int | None = None
    skip: int = 0
    bos: BosPolicy | None = None
    folder: str = ""
    mark: SourceMark | None = field(default=None, compare=False, repr=False)

    @property
    def corpora(self) -> tuple[str, ...]:
        """The names of the corpora that are read."""
        if self.source == "domains":
            return tuple(domain.value for domain in self.domains if domain.source == "corpus")
        return self.value if self.source == "corpus" else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """One measurement as asked for: a recipe's name, where to read, and the recipe's own parameters."""

    kind: str
    site: str
    layers: LayerRange = ALL_LAYERS
    tokens: TokenSet = ALL_TOKENS
    options: Options = ()
    mark: SourceMark | None = field(default=None, compare=False, repr=False)

    def option(self, name: str) -> OptionValue:
        """Return the value of one of the recipe's own parameters (defaults are filled in when parsing)."""
        return dict(self.options)[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterveneRequest:
    """An intervention as asked for.

    Attributes:
        target: name of the intervention recipe, which finds what to edit.
        at: where along the depth: a word that the recipe allows, or the number of a layer.
        set: ``zero``, ``mean`` or ``value``; empty for a target that sets nothing.
        value: the value to set, for ``value`` only.
        control: the control arm (``median`` is as many entries of near-median size), or ``none``.
    """

    target: str
    at: str | int = "first-layer"
    set: Literal["zero", "mean", "value", ""] = "zero"
    value: float | None = None
    control: str = "median"
    options: Options = ()
    mark: SourceMark | None = field(default=None, compare=False, repr=False)

    def option(self, name: str) -> OptionValue:
        """Return the value of one of the recipe's own parameters (defaults are filled in when parsing)."""
        return dict(self.options)[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantifier:
    """Over which axis an expectation ranges, and how many of its cells must satisfy every clause at once."""

    kind: Literal["every", "some", "none", "at_least"]
    axis: str
    count: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        singular = self.axis.removesuffix("s")
        if self.kind == "at_least":
            amount = f"{self.share:.0%}" if self.share is not None else str(self.count)
            return f"in at least {amount} of the {self.axis}"
        return {"every": f"in every {singular}", "some": f"in some {singular}", "none": f"in no {singular}"}[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One comparison: quantity, operator, bound."""

    quantity: str
    operator: str
    bound: Bound
    mark: SourceMark | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Clauses that must all hold, jointly at each cell the quantifier ranges over."""

    clauses: tuple[Clause, ...]
    quantifier: Quantifier | None = None
    mark: SourceMark | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeverityBand:
    """A level and the condition that brings it about (the condition describes the *bad* state)."""

    level: Severity
    condition: Expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBound:
    """A point of a training: a number of steps, or a share of the last checkpoint's."""

    step: int | None = None
    share: float | None = None
    mark: SourceMark | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"step {self.step}" if self.share is None else f"{100 * self.share:g} % of the steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Monotone:
    """A quantity with one value a checkpoint that never falls, or never rises, by more than a tolerance.

    Attributes:
        quantity: its name.
        direction: ``increasing`` or ``decreasing``.
        tolerance: how far a value may fall behind the best before it, as a share of that.
    """

    quantity: str
    direction: Literal["increasing", "decreasing"]
    tolerance: float = 0.0
    mark: SourceMark | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What must hold of the checkpoints of a series together; all that is given must hold.

    Attributes:
        of: the condition that is asked of each checkpoint; None where only ``monotone`` is given.
        emerges_after: up to this point it holds in none.
        emerges_by: up to this point it holds in at least one.
        stays: whether it must hold in each that follows the first in which it does.
        monotone: how a quantity must develop.
    """

    of: Expectation | None = None
    emerges_after: StepBound | None = None
    emerges_by: StepBound | None = None
    stays: bool = False
    monotone: Monotone | None = None
    mark: SourceMark | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One line of a ``when``: a fact of the loaded checkpoint and a comparison. All lines must hold.

    A plain value is written as ``eq``, a list of allowed values as ``in``.
    """

    fact: str
    operator: str
    bound: Bound
    mark: SourceMark | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A known failure (``xfail``): why, until when, and whether an unexpected pass is a failure."""

    reason: str
    strict: bool = True
    until: datetime.date | None = None

    def expired(self, today: datetime.date) -> bool:
        """Whether the waiver's last day lies before ``today``."""
        return self.until is not None and today > self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """The whole probe as it stands where the conditions hold, and why it differs there."""

    when: tuple[Condition, ...]
    because: str
    probe: Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question: inputs, what to measure, an optional intervention, what to expect of it, alone and in a series.

    ``id`` already carries the parameters of a parametrized probe (``effect-zero``). Overrides are tried in
    order; the first whose conditions all hold replaces the probe.
    """

    id: str
    suite: str
    claim: str
    measure: MeasureRequest
    inputs: InputsRequest
    mark: SourceMark
    cite: str = ""
    intervene: InterveneRequest | None = None
    expect: Expectation | None = None
    trend: Trend | None = None
    severity: Severity = "error"
    bands: tuple[SeverityBand, ...] = ()
    when: tuple[Condition, ...] = ()
    overrides: tuple[Override, ...] = ()
    xfail: Waiver | None = None
    skip: str | None = None
    marks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def of_series_only(self) -> bool:
        """Whether it asks nothing of a checkpoint by itself: it has a trend, and expects nothing else."""
        return self.trend is not None and self.expect is None and not self.bands


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A Probe on a checkpoint; or its trend on a series of checkpoints.

    Attributes:
        id: ``FILE::PROBE[CHECKPOINT]``: stable, and what reports are keyed by.
        probe: the probe as written, before any override is chosen.
        checkpoint: the label of the checkpoint, or of the series; unique within a session.
        members: of a trend, the labels of the checkpoints by whose verdicts it is judged; else empty.
    """

    id: str
    probe: Probe
    checkpoint: str
    members: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The id without the checkpoint."""
        return self.id.removesuffix(f"[{self.checkpoint}]")

    def on(self, checkpoint: str) -> str:
        """Return the id of the same probe's case on another checkpoint."""
        return f"{self.stem}[{checkpoint}]"
