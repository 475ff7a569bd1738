"""Whether a probe was seen both to hold and to fail, from its verdicts on the two models of a pair. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from maprobe.cases import Probe
from maprobe.selftest.pairs import Pair
from maprobe.verdicts import Finding, Status, Verdict

__all__ = ["Showing", "expects", "show", "unasked", "unseen"]

_ANSWERED = (Status.PASSED, Status.FAILED, Status.ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What one probe said of the two models of its pair. Plain data, so that xdist can carry it.

    Attributes:
        file: the probe file.
        line: the probe's line in it.
        suite: the probe's suite.
        probe: the probe's id.
        claim: its claim.
        planted: status and numbers on the planted model.
        twin: label of the twin.
        told: what the twin is.
        on_twin: status and numbers on the twin.
        shown: whether the probe told the two apart; None where there was nothing to be seen.
        verdict: the outcome in a word or two.
        reason: why it was not shown; empty where it was.
        clauses: each clause that was judged, and whether it did not hold on the model on which the probe failed.
    """

    file: str
    line: int
    suite: str
    probe: str
    claim: str
    planted: str
    twin: str
    told: str
    on_twin: str
    shown: bool | None
    verdict: str
    reason: str = ""
    clauses: Mapping[str, bool] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Showing:
        """Rebuild a Showing from :meth:`to_dict`."""
        return cls(**data)


def show(probe: Probe, pair: Pair, planted: Verdict, twin: Verdict) -> Showing:
    """Return what the two verdicts on a probe say of it.

    It is shown where it passes on one model, and on the other fails (or finds its object absent, if the pair says that
    this is enough). Which of the two it passes on does not matter: a claim of absence holds on the twin.
    """
    shown, verdict, reason = _outcome(pair, planted, twin)
    return replace(
        unasked(probe, pair, reason),
        planted=_told(planted),
        on_twin=_told(twin),
        shown=shown,
        verdict=verdict,
        clauses=_clauses(planted, twin) if shown else {},
    )


def expects(probe: Probe) -> bool:
    """Whether a probe expects anything, as written or where it is overridden, so that it can fail."""
    versions = (probe, *(override.probe for override in probe.overrides))
    return any(version.expect is not None or version.bands or version.trend for version in versions)


def unasked(probe: Probe, pair: Pair, reason: str) -> Showing:
    """Return what is said of a probe that was put to no model."""
    return Showing(
        file=probe.mark.file,
        line=probe.mark.line,
        suite=probe.suite,
        probe=probe.id,
        claim=probe.claim,
        planted="",
        twin=pair.twin.name,
        told=pair.twin.told,
        on_twin="",
        shown=None,
        verdict="not asked",
        reason=reason,
    )


def unseen(showings: Iterable[Showing]) -> list[tuple[str, str]]:
    """Return each probe with each of its clauses that failed on no twin, in order: (probe, clause)."""
    failed: dict[tuple[str, str], bool] = {}
    for showing in showings:
        for clause, fails in showing.clauses.items():
            key = (showing.probe, clause)
            failed[key] = failed.get(key, False) or fails
    return [key for key, fails in failed.items() if not fails]


def _clauses(planted: Verdict, twin: Verdict) -> dict[str, bool]:
    broken = planted if twin.status is Status.PASSED else twin
    clauses = {_clause(finding): False for verdict in (planted, twin) for finding in verdict.findings}
    clauses.update({_clause(finding): True for finding in broken.findings if finding.holds is False})
    return clauses


def _clause(finding: Finding) -> str:
    return f"{finding.quantity} ({finding.mark})"


def _outcome(pair: Pair, planted: Verdict, twin: Verdict) -> tuple[bool | None, str, str]:
    statuses = (planted.status, twin.status)
    if set(statuses) == {Status.NOT_APPLICABLE}:
        return None, "not asked", f"there is no pair of models that its `when` admits: {planted.reason}"
    for member, verdict in ((pair.planted, planted), (pair.twin, twin)):
        if verdict.status not in _ANSWERED:
            return False, "not shown", f"it is {verdict.status.value} on {member.name}: {verdict.reason}"
    if statuses == (Status.PASSED, Status.PASSED):
        reason = f"it holds on both models, so it was not seen to fail: {pair.twin.name} is {pair.twin.told}"
        return False, "never failed", reason
    if Status.PASSED not in statuses:
        what = f"{pair.planted.name} is {pair.planted.told}"
        return False, "never held", f"it holds on neither model, not even where its object is built in: {what}"
    other = twin if planted.status is Status.PASSED else planted
    if other.status is Status.ABSENT:
        lacks = f"it is absent on {pair.twin.name}, where it should fail: {other.reason}"
        return (True, "holds, is absent", "") if pair.absent else (False, "never failed", lacks)
    return True, "holds, fails", ""


def _told(verdict: Verdict) -> str:
    counts = f" ({verdict.severity})" if verdict.status is Status.FAILED and verdict.severity != "error" else ""
    numbers = " ".join((verdict.measured or verdict.reason).split())
    return f"{verdict.status.value}{counts}{': ' if numbers else ''}{numbers}"
