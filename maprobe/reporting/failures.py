"""What the user reads when a property does not hold: the claim, the number, the place, how to repeat it."""

from __future__ import annotations

from collections.abc import Iterator

from maprobe.reporting.escaping import one_line
from maprobe.reporting.wording import deciding, expected, percent
from maprobe.verdicts import Finding, Verdict

__all__ = ["explain"]

_GAP = 5  # columns at least between what is said and what stands at its right


def explain(verdict: Verdict) -> str:
    """Return the lines that tell why a case came out as it did.

    These are ``claim``, ``expected`` (with ``file:line:column`` of the deciding clause at the right), ``measured``
    (with the margin at the right), ``reason``, ``waived`` and ``note`` where there are any, ``inputs``, ``edit`` and
    ``repeat``; one that has nothing to say is left out. Further clauses that failed follow under ``expected``.
    """
    rows = [(label, one_line(left), one_line(right)) for label, left, right in _rows(verdict) if left]
    edge = max((len(left) + _GAP + len(right) for _, left, right in rows if right), default=0)
    return "\n".join(
        f"{label:<10}{left}{right.rjust(edge - len(left)) if right else ''}" for label, left, right in rows
    )


def _rows(verdict: Verdict) -> Iterator[tuple[str, str, str]]:
    """Yield label, text and what stands at the right end of its line."""
    finding = deciding(verdict)
    margin = percent(finding.margin) if finding else ""
    yield "claim", verdict.claim, ""
    yield "expected", finding.expected if finding else expected(verdict), _mark(finding, verdict)
    for other in verdict.findings:
        if other.holds is False and other is not finding:
            yield "", other.expected, other.mark
    yield "measured", verdict.measured, f"margin {margin}" if margin else ""
    yield "reason", verdict.reason, ""
    yield "waived", verdict.waived, ""
    if verdict.reading:
        yield from (("note", note, "") for note in verdict.reading.notes)
    circumstances = verdict.reading.circumstances if verdict.reading else None
    if circumstances:
        yield "inputs", str(circumstances), ""
        yield "edit", circumstances.edit, ""
    yield "repeat", verdict.repeat, ""


def _mark(finding: Finding | None, verdict: Verdict) -> str:
    return finding.mark if finding and finding.mark else verdict.mark
