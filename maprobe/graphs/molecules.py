"""From SMILES to graphs: atoms are nodes of a type, bonds are edges of a type, both by RDKit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from maprobe.errors import InputError
from maprobe.graphs.batches import Graph, GraphSet
from maprobe.graphs.extras import needed
from maprobe.graphs.penalised_logp import parts_of
from maprobe.graphs.smiles import Line
from maprobe.progress import Progress

if TYPE_CHECKING:
    from rdkit.Chem import Atom, Mol

__all__ = ["ATOM_TYPES", "BOND_TYPES", "graph_of", "molecule_graphs", "parsed"]

# As many types as the benchmark's ZINC has, with an order of our own. Whatever is not listed is the last.
_ELEMENTS = ("C", "N", "O", "F", "S", "Cl", "Br", "I", "P", "B", "Si", "Se", "H")
_CHARGED = ("N+", "N-", "O+", "O-", "S+", "S-", "C+", "C-", "P+", "B-", "Cl-", "Br-", "Na+", "K+")
ATOM_TYPES: tuple[str, ...] = (*_ELEMENTS, *_CHARGED, "other")
BOND_TYPES: tuple[str, ...] = ("other", "single", "double", "triple")
_ATOM_NUMBERS = {name: number for number, name in enumerate(ATOM_TYPES)}
_PURPOSE = "reading SMILES"


def parsed(line: Line) -> Mol:
    """Return RDKit's molecule of a line.

    Raises:
        InputError: RDKit cannot read it.
    """
    chem, base = needed("rdkit.Chem", _PURPOSE), needed("rdkit.rdBase", _PURPOSE)
    with base.BlockLogs():
        molecule: Mol | None = chem.MolFromSmiles(line.smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise InputError(
            f"{line}: {line.smiles!r} is not a SMILES of a molecule that RDKit can read; correct or remove that line"
        )
    return molecule


def graph_of(molecule: Mol, targets: Sequence[float]) -> Graph:
    """Return the graph of RDKit's molecule.

    Hydrogens are left out, as they are in a SMILES. A node's type is its element with its charge. Rings that RDKit
    calls aromatic are taken apart into single and double bonds, as in the benchmark's ZINC. Each bond is two edges, one
    each way.

    Args:
        molecule: the molecule; it is left as it was.
        targets: what is to be predicted, NaN where it is not known.
    """
    chem = needed("rdkit.Chem", _PURPOSE)
    molecule = chem.Mol(molecule)
    chem.Kekulize(molecule)
    nodes = [[_atom_type(atom)] for atom in molecule.GetAtoms()]
    pairs, kinds = [], []
    for bond in molecule.GetBonds():
        one, other = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        kind = bond.GetBondTypeAsDouble()
        number = int(kind) if kind in (1.0, 2.0, 3.0) and bond.GetBondType().name != "DATIVE" else 0
        pairs += [(one, other), (other, one)]
        kinds += [[number], [number]]
    return Graph(
        nodes=torch.tensor(nodes),
        edge_index=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T,
        edges=torch.tensor(kinds, dtype=torch.long).reshape(-1, 1),
        targets=torch.tensor([list(targets)], dtype=torch.float32),
    )


def molecule_graphs(lines: Iterable[Line], progress: Progress) -> tuple[GraphSet, int]:
    """Return the graphs of molecules, and how many were left out.

    What is to be predicted are the numbers beside a SMILES, where there are any, else its standardised penalised logP.

    Molecules without a bond are left out, since attention over edges has nothing to do in them.

    Raises:
        InputError: a line is no molecule, or none of them has a bond.
    """
    listed = list(lines)
    graphs = []
    with progress.bar("molecules", len(listed), "molecule") as bar:
        for line in listed:
            molecule = parsed(line)
            if molecule.GetNumBonds():
                graphs.append(graph_of(molecule, line.values or (parts_of(molecule).standardised,)))
            bar.advance()
    if not graphs:
        raise InputError("no molecule has a bond, so there is nothing to learn from; name a file of larger molecules")
    return GraphSet.of(graphs), len(listed) - len(graphs)


def _atom_type(atom: Atom) -> int:
    charge = atom.GetFormalCharge()
    sign = {0: "", 1: "+", -1: "-"}.get(charge, "?")
    return _ATOM_NUMBERS.get(atom.GetSymbol() + sign, len(ATOM_TYPES) - 1)
