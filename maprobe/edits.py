"""What an intervention does to a model during one pass: values only, which :mod:`maprobe.running.editing` acts upon."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AnyEdit", "AttentionWindow", "Edit", "NoiseEdit", "RowsEdit", "TokenEdit", "UntrainedEdit", "WeightEdit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Set one entry of one sequence's residual stream to a value. All numbers count from 0 but the layer.

    Attributes:
        site: ``block.out``, or a site for which the model's own code names modules; then the position is that of a row,
            and the dim that of a column.
    """

    layer: int
    sequence: int
    position: int
    dim: int
    value: float
    site: str = "block.out"


@dataclass(frozen=True, slots=True, kw_only=True)
class UntrainedEdit:
    """Give the model the weights that it had before training; its own are put back, bit for bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseEdit:
    """Add noise to what goes into the first block: to the embeddings of rows and of edges (arXiv:2409.03463).

    Attributes:
        deviation: standard deviation of the noise at each of these sites, over all inputs and columns.
        learnt: whether the noise, which is drawn first, is then moved towards a higher loss.
        seed: of what is drawn.
        steps: how many steps of learning, at most.
        rate: the first rate, of Adam.
        patience: steps without a higher loss after which the rate is halved.
        min_rate: learning ends when the rate has fallen below it.
    """

    deviation: float
    learnt: bool = False
    seed: int = 0
    steps: int = 100
    rate: float = 7e-4
    patience: int = 15
    min_rate: float = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEdit:
    """Overwrite a whole token of the residual stream, in every sequence.

    Attributes:
        layer: the layer whose output is edited; 0 is the embedding output.
        position: position of the token, from 0.
        values: one value for each dim.
    """

    layer: int
    position: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightEdit:
    """Set one weight of a block's down projection to a value; it is put back, bit for bit, when the pass is over.

    Attributes:
        layer: number of the block, from 1.
        row: the output channel, which is the dim of the residual stream that the weight writes to, from 0.
        column: the input channel, from 0.
        value: what to set it to.
    """

    layer: int
    row: int
    column: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsEdit:
    """Set to zero the weights that make channels of a block's MLP hidden state; all are put back, bit for bit.

    These are rows of the gate and up projections, with the entries of their biases (arXiv:2410.01866, section 3.2).

    Attributes:
        layer: number of the block, from 1.
        channels: channels of the hidden state, from 0, each once.
        keep: False sets the rows of these channels to zero, True those of all others.
        expert: number of the expert whose rows are meant, from 0; None where the MLP has no experts.
    """

    layer: int
    channels: tuple[int, ...]
    keep: bool = False
    expert: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWindow:
    """Let each query of every layer see the last keys only, and some of the first.

    Attributes:
        size: how many keys up to and including its own position a query sees.
        sinks: how many of the first keys every query sees besides, as far as they are not in its future.
    """

    size: int
    sinks: int = 0


AnyEdit = Edit | TokenEdit | WeightEdit | RowsEdit | AttentionWindow | UntrainedEdit | NoiseEdit
