"""What was found in a model and how it was proven, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from maprobe.reporting.grids import Grid, draw, titled

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy, Block, Part
    from maprobe.running.proofs import Proof

__all__ = ["render"]

_HOLDS = {True: "proven", False: "BROKEN", None: "not told"}


def render(anatomy: Anatomy, proofs: Iterable[Proof], title: str) -> str:
    """Return the parts of a model with the route by which each was found, and every proof.

    Args:
        anatomy: the parts.
        proofs: what was proven of them.
        title: what the model is called.
    """
    parts = Grid(headers=("part", "path", "found by"), rows=tuple(_rows(anatomy)))
    proven = Grid(
        headers=("proof", "result", "detail"),
        rows=tuple((proof.name, _HOLDS[proof.holds], proof.detail) for proof in proofs),
    )
    return "\n\n".join(
        (
            titled(title, draw(parts, format="simple"), "simple"),
            titled("Proofs", draw(proven, format="simple"), "simple"),
        )
    )


def _rows(anatomy: Anatomy) -> Iterable[tuple[str, str, str]]:
    blocks = anatomy.blocks
    width = f"{anatomy.depth} blocks, width {anatomy.width}"
    yield "blocks", f"{blocks[0].path} .. {blocks[-1].path}", f"{anatomy.route} ({width}, {anatomy.residual})"
    yield _row("embedding", anatomy.embedding)
    for group in _alike(blocks):
        layers = f"layers {group[0].layer}-{group[-1].layer}" if len(group) > 1 else f"layer {group[0].layer}"
        first = group[0]
        for name, part in (
            ("attention", first.attention),
            ("attention, as added", first.attention_added),
            ("attention, as read", first.attention_maps),
            ("MLP", first.mlp),
            ("MLP, as added", first.mlp_added),
        ):
            yield _row(f"{name} ({layers})", part, first.path)
        down = first.down[0] if first.down else None
        several = f" and {len(first.down) - 1} more" if len(first.down) > 1 else ""
        told = _row(f"down projection ({layers})", down, first.path)
        yield told[0], told[1] + several, told[2]
    yield _row("final norm", anatomy.final_norm)
    yield _row("head", anatomy.head)


def _row(name: str, part: Part | None, within: str = "") -> tuple[str, str, str]:
    if part is None:
        return name, "-", "not found"
    return name, str(part).removeprefix(f"{within}.") if within else str(part), part.route


def _alike(blocks: Sequence[Block]) -> Iterable[list[Block]]:
    """Group neighbouring blocks whose parts have the same paths, so that 80 equal blocks are told once."""
    group: list[Block] = []
    for block in blocks:
        if group and _shape(block) != _shape(group[0]):
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _shape(block: Block) -> tuple[object, ...]:
    parts = (block.attention, block.attention_added, block.attention_maps, block.mlp, block.mlp_added, *block.down)
    return (block.residual, *(part and str(part).removeprefix(block.path) for part in parts))
