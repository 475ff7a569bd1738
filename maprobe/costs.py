"""What passes cost in memory, estimated before they are made, and the limit that a user sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maprobe.errors import PlanError

if TYPE_CHECKING:
    from maprobe.cases import InputsRequest
    from maprobe.facts import CheckpointFacts
    from maprobe.planning import InputSize, Plan, Run

__all__ = ["memory_of", "require_memory"]

_GIB = 1 << 30
_FLOAT = 4
_CHUNK = 1 << 24  # floats that a statistic over logits or attention holds at a time


def memory_of(
    run: Run,
    sizes: Mapping[tuple[str, InputsRequest], InputSize],
    facts: Mapping[str, CheckpointFacts],
) -> int:
    """Estimate the extra bytes a pass holds at once beyond the weights: statistics, logits, attention."""
    size, fact = sizes[run.key.checkpoint, run.key.inputs], facts[run.key.checkpoint]
    rows = -(-size.sequences // max(1, size.batches)) * size.length
    stream = rows * int(fact["hidden_size"])
    # The residual stream itself, its float32 magnitudes, and the copy that is partitioned.
    total = 3 * _FLOAT * stream
    sites = {measure.site for measure in run.measures}
    if "logits" in sites:
        total += _FLOAT * (rows * int(fact["vocab_size"]) + _CHUNK)
    if sites & {"block.attn.probs", "block.attn.scores"}:
        total += 3 * _FLOAT * _CHUNK
    if run.differentiates:
        # What each block took in; what went into and came out of the linear layers of one block, for all sequences.
        hidden, wide, depth = (int(fact[name]) for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
        total += _FLOAT * (size.tokens * (depth * hidden + 8 * hidden + 4 * (wide or 4 * hidden)) + _CHUNK)
    return total


def require_memory(plan: Plan, limit: float | None) -> None:
    """Refuse a plan over the limit, given in GiB.

    Raises:
        PlanError: the plan's largest pass needs more.
    """
    if limit is not None and plan.memory > limit * _GIB:
        raise PlanError(
            f"the plan needs about {plan.memory / _GIB:.2f} GiB beyond the weights, and --maprobe-memory allows "
            f"{limit:g} GiB; shorten `length`, lower --maprobe-batch, or raise the limit"
        )
