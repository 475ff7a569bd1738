"""The parts of a model, by the words that probes use. What :mod:`maprobe.running.discovery` finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import nn

from maprobe.sites import is_own

if TYPE_CHECKING:
    from maprobe.python_models import PythonModel

__all__ = ["Anatomy", "AttentionRoute", "Block", "Part", "Residual"]

Residual = Literal["sequential", "parallel", "post-norm", "unknown"]
AttentionRoute = Literal["interface", "eager maps", "none"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """One module that plays a role.

    Attributes:
        path: its attribute path from the model.
        module: the module.
        route: how it was found, in words.
        parameter: name of the fused parameter that is the part, where experts hold their projections in one tensor;
            then ``module`` is its owner.
        routed: whether it sees only the tokens routed to it, as rows, rather than whole sequences.
        pooling: whether the model calls it on the class token alone, though it may be called on all.
    """

    path: str
    module: nn.Module
    route: str
    parameter: str = ""
    routed: bool = False
    pooling: bool = False

    def __str__(self) -> str:
        return f"{self.path}.{self.parameter}" if self.parameter else self.path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One block of the stack.

    Attributes:
        layer: its number, from 1.
        path: its attribute path from the model.
        module: the block itself.
        attention: the attention sub-layer.
        attention_added: the module whose output the attention sub-layer adds to the residual stream; None where no
            module's output is what is added, so that ``block.attn.out`` cannot be read.
        attention_maps: the module that attention is read from, by the anatomy's route; None where it cannot be.
        between: the module that is called on the residual stream between attention and MLP, where one follows the
            other.
        mlp: the MLP or expert sub-layer.
        mlp_added: as ``attention_added``, for the MLP.
        down: the down projections; several for experts.
        residual: how the sub-layers' outputs come together.
    """

    layer: int
    path: str
    module: nn.Module
    attention: Part | None
    attention_added: Part | None
    attention_maps: Part | None
    between: Part | None
    mlp: Part | None
    mlp_added: Part | None
    down: tuple[Part, ...]
    residual: Residual


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """The parts of one loaded model.

    Attributes:
        model: the model.
        blocks: the stack that is executed, in order.
        embedding: the token embedding.
        final_norm: the norm that the last block's output goes through.
        tail: whatever module takes in the last block's output; the final norm where there is one.
        head: the language-model head.
        route: how the blocks were found, in words.
        residual: how sub-layers come together in every block; ``unknown`` where blocks differ or cannot be told.
        attention_route: how attention maps can be read.
        attention_layers: numbers of the blocks whose attention maps can be read.
        width: size of the residual stream.
        row: whether a row of the architecture table was used.
        sites: modules that the model's own code names for sites: that of each layer, in order, or the only one.
        own: what the model's own code brings besides; None for other models.
    """

    model: nn.Module
    blocks: tuple[Block, ...]
    embedding: Part | None
    final_norm: Part | None
    tail: Part | None
    head: Part | None
    route: str
    residual: Residual
    attention_route: AttentionRoute
    attention_layers: tuple[int, ...]
    width: int
    row: bool = False
    sites: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    own: PythonModel | None = None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def exact_attention(self) -> bool:
        """Whether reading attention through the interface leaves the output to the very function that is configured.

        Attention functions other than eager and SDPA show no mask, so such models are measured over SDPA instead.
        """
        configured = getattr(getattr(self.model, "config", None), "_attn_implementation", None)
        return configured in (None, "eager", "sdpa")

    def at(self, site: str, layer: int) -> Part | None:
        """Return the module that the model's own code names for a site; None where it names none."""
        parts = self.sites.get(site, ())
        return parts[max(layer, 1) - 1] if max(layer, 1) <= len(parts) else None

    def layers(self, site: str) -> int:
        """Return how many layers a site has: as many as there are blocks, or modules that the model's code names."""
        return len(self.sites[site]) if is_own(site) and site in self.sites else self.depth

    def consumer(self, layer: int) -> Part | None:
        """Return the module that takes in the residual stream after a layer; None if no module does."""
        if layer < self.depth:
            block = self.blocks[layer]
            return Part(path=block.path, module=block.module, route="the next block")
        return self.tail
