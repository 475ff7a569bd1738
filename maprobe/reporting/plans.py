"""A plan as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maprobe.reporting.grids import Grid, draw

__all__ = ["plan_table"]

_MIB = 1 << 20


def plan_table(plan: Mapping[str, Any], *, format: str = "simple", width: int | None = 110) -> str:  # noqa: A002
    """Return the passes of a plan and what they cost.

    Args:
        plan: as plain data, from ``Plan.to_dict``.
        format: a table format of tabulate.
        width: columns to keep within; None for as wide as it comes.
    """
    grid = Grid(
        headers=("pass", "checkpoint", "model", "inputs", "forwards", "measures"),
        rows=tuple(
            (
                str(position),
                run["checkpoint"],
                run["edit"] or "untouched",
                run["inputs"],
                str(run["forwards"]),
                ", ".join(run["measures"]),
            )
            for position, run in enumerate(plan["runs"], start=1)
        ),
        numeric=frozenset({"pass", "forwards"}),
    )
    extra = plan["memory"] / _MIB
    backwards = f", {plan['backwards']} backward calls" if plan.get("backwards") else ""
    learning = f", at most {plan['learning']} steps of learning over all inputs" if plan.get("learning") else ""
    cost = (
        f"{plan['passes']} passes, {plan['forwards']} forward calls{backwards}{learning}, {plan['tokens']} tokens, "
        f"about {extra:.0f} MiB beyond the weights; passes with an edit are not made where nothing is found to edit."
    )
    return f"{draw(grid, format=format, width=width)}\n\n{cost}"
