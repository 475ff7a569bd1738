"""What a pair of models is that a probe must tell apart, and what a rule is that says which probes it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maprobe.cases import Probe
    from maprobe.running.subjects import Source

__all__ = ["Lessons", "Member", "Pair", "Rule", "asked", "of_graphs", "of_images"]

Lessons = Mapping[str, float]

# Measurements of images only.
_IMAGES = frozenset({"massive.image_tokens", "registers", "features", "classification"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model of a pair, or a series of models.

    Attributes:
        name: its label.
        told: what it is, in a few words.
        open: makes the model; takes what the questions of the session teach. None for a series.
        stages: the models of a series, each with its number of steps; empty for a single one.
    """

    name: str
    told: str
    open: Callable[[Lessons], Source] | None = field(default=None, repr=False, compare=False)
    stages: tuple[tuple[int, Member], ...] = ()

    @property
    def models(self) -> tuple[Member, ...]:
        """The models to be made: those of the series, or itself."""
        return tuple(model for _, model in self.stages) or (self,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models that differ in one part of a mechanism: a probe about that part holds on one of them only.

    Attributes:
        planted: the one that has it.
        twin: the one that lacks it.
        absent: whether it is enough that the object of the probe is absent in one of them, so that the probe is skipped
            there and does not fail.
    """

    planted: Member
    twin: Member
    absent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The probes that a pair is for. All that is said must fit.

    Attributes:
        kinds: kinds of measurement.
        pair: the pair.
        quantities: quantities of which the probe expects at least one; empty for any.
        edit: how the intervention begins, as target and what it sets; empty for any, and for probes without one.
        where: any further condition.
        images: whether it is for probes of images.
        graphs: whether it is for probes of graphs; those of the two of which neither is said are of texts.
    """

    kinds: frozenset[str]
    pair: Pair
    quantities: frozenset[str] = frozenset()
    edit: str = ""
    where: Callable[[Probe], bool] = lambda probe: True  # noqa: ARG005
    images: bool = False
    graphs: bool = False

    def fits(self, probe: Probe) -> bool:
        """Whether the pair is for this probe."""
        edit = f"{probe.intervene.target} {probe.intervene.set}" if probe.intervene else ""
        return (
            probe.measure.kind in self.kinds
            and (not self.quantities or not self.quantities.isdisjoint(asked(probe)))
            and edit.startswith(self.edit)
            and self.images == of_images(probe)
            and self.graphs == of_graphs(probe)
            and self.where(probe)
        )


def of_images(probe: Probe) -> bool:
    """Whether a probe is put to models of images."""
    return probe.inputs.source == "images" or probe.inputs.value == ("test-images",) or probe.measure.kind in _IMAGES


def of_graphs(probe: Probe) -> bool:
    """Whether a probe is put to models of graphs, or others that bring their inputs."""
    return (
        probe.inputs.source == "own" or probe.measure.kind.startswith("edge.") or probe.measure.site.startswith("edge.")
    )


def asked(probe: Probe) -> Iterator[str]:
    """Yield the quantities that a probe expects something of."""
    for expectation in (probe.expect, *(band.condition for band in probe.bands)):
        if expectation is not None:
            yield from (clause.quantity for clause in expectation.clauses)
