"""Models that Python code brings, with inputs of their own: what a factory named after ``--model python:`` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["ModelInput", "PythonModel"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelInput:
    """One input of a model: what goes through it in one forward call, and what its rows are called.

    Attributes:
        given: what the module is called on: a tuple as its positional arguments, a mapping as its keyword arguments,
            anything else as its one argument. Tensors in it, and what has a method ``to``, are moved to the device.
        rows: words for the rows of what sites show, by what their rows are: ``token`` for those of the residual stream
            (the nodes of a graph), ``edge`` for those of ``edge.attn``. May be left out.
        name: what the input is called in tables; its number by default.
    """

    given: Any
    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PythonModel:
    """A model that is not one of transformers, or one that code has made.

    Attributes:
        module: the model.
        inputs: what it is called on, one forward call each; or several such sequences by name, of which the first is
            run where a probe names none. None for a model of token ids, which is run on texts like any other.
        sites: which modules stand for which sites: ``{"block.out": "layers.*", "edge.attn": "layers.*.scores"}``. A
            star stands for every number there is, in order; a list names the modules of layer 1, 2, ... one by one.
            Names of one's own begin with ``own.``. A site that is what a module is called on (``block.mid``,
            ``block.mlp.in``, ``block.mlp.hidden``, ``block.attn.in``) names that module; every other one names the
            module that gives it out. Where ``block.out`` is left out, blocks are looked for as in any other model.
        tokenizer: of a model of token ids; of a transformers model of images, its image processor.
        loss: returns the mean loss, a single number, of an output and what the module was called on.
        join: makes one ``given`` of several, whose rows follow one another as those of the several do; by it, inputs
            can go through the module together where nothing but the loss is looked at.
        untrained: makes the same module as it was before training, for comparison.
        config: what describes the model, as plain data; its digest is recorded.
        facts: values for facts that ``when`` is matched against, such as ``model_type`` or ``modality``.
        resolved: where it comes from, in words; by default the class of the module.
        weights_digest: sha256 of the weights' files; by default the weights in memory are digested.
    """

    module: nn.Module
    inputs: Sequence[ModelInput] | Mapping[str, Sequence[ModelInput]] | None = None
    sites: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    tokenizer: Any = None
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    join: Callable[[Sequence[Any]], Any] | None = None
    untrained: Callable[[], nn.Module] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    resolved: str = ""
    weights_digest: str = ""

    @property
    def input_sets(self) -> dict[str, Sequence[ModelInput]]:
        """The inputs by name; ``default`` where they have none. Empty for a model of token ids."""
        if self.inputs is None:
            return {}
        if isinstance(self.inputs, Mapping):
            return dict(self.inputs)
        return {"default": self.inputs}
