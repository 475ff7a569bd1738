"""Penalised logP, the number that the benchmark's ZINC asks a model to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maprobe.graphs.extras import needed

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["PenalisedLogP", "parts_of"]

_PURPOSE = "penalised logP"
_RING = 6  # atoms of a ring up to which there is no penalty
# Mean and standard deviation of the three parts over 250,000 molecules of ZINC, as published with the target
# (Kusner et al., arXiv:1703.01925; You et al., arXiv:1806.02473). The second and third are those of -SA and -cycles.
_LOGP = (2.4570953396190123, 1.434324401111988)
_SA = (-3.0525811293166134, 0.8335207024513095)
_CYCLES = (-0.0485696876403053, 0.2860212110245455)


@dataclass(frozen=True, slots=True, kw_only=True)
class PenalisedLogP:
    """What penalised logP is made of.

    Attributes:
        logp: logarithm of the octanol-water partition coefficient, by Crippen's method.
        sa: synthetic accessibility by Ertl and Schuffenhauer, from 1 (easy) to 10.
        cycles: atoms that the largest ring has above six.
    """

    logp: float
    sa: float
    cycles: float

    @property
    def plain(self) -> float:
        """``logp - sa - cycles``."""
        return self.logp - self.sa - self.cycles

    @property
    def standardised(self) -> float:
        """The sum of the three terms, each less its mean and divided by its standard deviation over ZINC."""
        terms = ((self.logp, _LOGP), (-self.sa, _SA), (-self.cycles, _CYCLES))
        return sum((value - mean) / deviation for value, (mean, deviation) in terms)


def parts_of(molecule: Mol) -> PenalisedLogP:
    """Return the parts of penalised logP for RDKit's molecule.

    The largest ring is that of the smallest set of smallest rings, which RDKit finds. The published target takes the
    largest ring of a basis of cycles that depends on the order of the atoms; the two differ in fused rings only.

    Raises:
        InputError: RDKit, or the score of synthetic accessibility that comes with it, is not installed.
    """
    crippen = needed("rdkit.Chem.Crippen", _PURPOSE)
    scorer = needed("rdkit.Contrib.SA_Score.sascorer", _PURPOSE)
    largest = max((len(ring) for ring in molecule.GetRingInfo().AtomRings()), default=0)
    return PenalisedLogP(
        logp=crippen.MolLogP(molecule), sa=scorer.calculateScore(molecule), cycles=float(max(0, largest - _RING))
    )
