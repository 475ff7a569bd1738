"""How a case was judged: plain data, both ways."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from maprobe.readings import Reading, plain, unplain

__all__ = ["Finding", "Severity", "Status", "Verdict"]

Severity = Literal["error", "warn", "info"]


class Status(enum.Enum):
    """What became of a case.

    ``passed`` and ``failed`` are answers. ``absent`` means that the property asked about does not exist in
    this checkpoint, so the question has no object; ``not-applicable`` that the probe's ``when`` excludes the
    checkpoint; ``unmeasured`` that no number could be had, which is an error.
    """

    PASSED = "passed"
    FAILED = "failed"
    ABSENT = "absent"
    NOT_APPLICABLE = "not-applicable"
    UNMEASURED = "unmeasured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one clause of an expectation.

    Attributes:
        quantity: the quantity compared.
        expected: the comparison in words, for example ``"ratio > 1000"``.
        observed: the deciding value: under a quantifier, the best or worst cell, whichever decides.
        holds: whether the clause holds as quantified; None where the value was unknown.
        margin: room to the bound relative to it, positive where it holds; None where there is no such number.
        labels: axis labels of the deciding cell, for example ``{"layer": 8}``.
        where: place of the deciding value in words, for example ``"dim 507  token 0 'The'"``.
        mark: ``file:line:column`` of the clause.
    """

    quantity: str
    expected: str
    observed: float | None
    holds: bool | None
    margin: float | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    where: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is known of one case.

    Attributes:
        case: the case's stable id, for example ``massive.probe.yaml::exists[smollm2-135m]``.
        probe: the probe's id with its parameters, without the checkpoint.
        suite: the suite the probe belongs to.
        checkpoint: the checkpoint's label.
        status: see :class:`Status`.
        severity: what a failure of this case counts as.
        claim: the claim as written.
        cite: the source of the claim.
        mark: ``file:line:column`` of the probe.
        expected: the whole expectation in words; empty where nothing is expected.
        measured: the deciding numbers in words.
        findings: the outcome of each clause, in the order written.
        reason: why there is no answer, why an override applies, why a waiver has run out.
        waived: the waiver's reason where a failure is a known one (``xfail``); empty otherwise.
        reading: what was measured; under an intervention the comparison of its arms.
        repeat: the command that repeats this one case.
        members: of a trend, the labels of the checkpoints that it was judged by; its ``checkpoint`` is the series.
    """

    case: str
    probe: str
    suite: str
    checkpoint: str
    status: Status
    severity: Severity = "error"
    claim: str = ""
    cite: str = ""
    mark: str = ""
    expected: str = ""
    measured: str = ""
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    waived: str = ""
    reading: Reading | None = None
    repeat: str = ""
    members: tuple[str, ...] = ()

    @property
    def margin(self) -> float | None:
        """The smallest margin over the clauses, or None where none has one."""
        return min((finding.margin for finding in self.findings if finding.margin is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON and xdist can carry."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data["status"] = self.status.value
        data["members"] = list(self.members)
        data["reading"] = self.reading.to_dict() if self.reading else None
        data["findings"] = [
            {
                **{name: getattr(finding, name) for name in finding.__dataclass_fields__},
                "observed": plain(finding.observed),
                "margin": plain(finding.margin),
                "labels": dict(finding.labels),
            }
            for finding in self.findings
        ]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Rebuild a Verdict from :meth:`to_dict`."""
        values = dict(data)
        values["status"] = Status(data["status"])
        values["members"] = tuple(data.get("members", ()))
        values["reading"] = Reading.from_dict(data["reading"]) if data["reading"] else None
        values["findings"] = tuple(
            Finding(**{**finding, "observed": unplain(finding["observed"]), "margin": unplain(finding["margin"])})
            for finding in data["findings"]
        )
        return cls(**values)
