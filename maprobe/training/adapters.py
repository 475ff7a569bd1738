"""What MacDrop must know of adapters: the model beneath them, and whether it is frozen and plain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from maprobe.errors import TrainingError

if TYPE_CHECKING:
    from maprobe.running.rows import Lines

__all__ = ["base_of", "is_dora", "require_frozen", "require_plain", "without_adapters"]

_SHARDED = ("DTensor", "FlatParameter")


def base_of(model: nn.Module) -> nn.Module:
    """Return the transformers model that peft has wrapped, or the model itself."""
    getter = getattr(model, "get_base_model", None)
    return cast("nn.Module", getter()) if callable(getter) else model


def is_dora(model: nn.Module) -> bool:
    """Return whether some matrix is adapted by DoRA, which divides by the norm of its rows."""
    return any(any(getattr(module, "use_dora", {}).values()) for module in _wrapping(model))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Let a model compute as if it had no adapters, for the time of the context."""
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with ExitStack() as stack:
        outer: Any = model
        if hasattr(outer, "disable_adapter"):  # peft's own wrapper
            stack.enter_context(outer.disable_adapter())
        elif any(True for _ in _wrapping(model)) and hasattr(outer, "disable_adapters"):  # transformers' add_adapter
            outer.disable_adapters()
            stack.callback(outer.enable_adapters)
        try:
            yield
        finally:
            stack.close()
            # Both ways back let every adapter learn, also one that was frozen on purpose.
            for parameter, before in trained:
                parameter.requires_grad_(before)


def require_frozen(lines: Iterable[Lines]) -> None:
    """See to it that the weights which are put back after every step are plain ones that nothing learns.

    Raises:
        TrainingError: one of them is trained, or is quantised.
    """
    for line in lines:
        if type(line.parameter.data) is not torch.Tensor:
            raise TrainingError(_quantised(f"{line.path} is a {type(line.parameter.data).__name__}"))
        if line.parameter.requires_grad:
            raise TrainingError(
                f"MacDrop puts rows of {line.path} back after every step, which would undo what the step taught them, "
                f"and this parameter is trained; freeze the base model and train an adapter, as peft's get_peft_model "
                f"does"
            )


def require_plain(model: nn.Module) -> None:
    """See to it that weights are numbers that can be dropped one by one.

    Raises:
        TrainingError: the model is quantised, or spread over processes.
    """
    base = base_of(model)
    if any(hasattr(parameter, "ds_id") or type(parameter).__name__ in _SHARDED for parameter in base.parameters()):
        raise TrainingError(
            "MacDrop edits whole matrices, and those of this model are spread over processes (FSDP, or DeepSpeed's "
            "ZeRO-3); train with whole weights in each process"
        )
    if getattr(base, "is_quantized", False):
        raise TrainingError(_quantised(f"{type(base).__name__} is quantised"))


def _quantised(what: str) -> str:
    return (
        f"MacDrop drops single weights of plain matrices, and {what}; load the base model without quantisation, in "
        f"float32 or bfloat16"
    )


def _wrapping(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that wrap another one, as adapters do."""
    return (module for module in model.modules() if isinstance(getattr(module, "base_layer", None), nn.Module))
