"""Reading the input of a down projection that is no module: experts that hold their projections in one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["watched_products"]

_PRODUCTS = {"linear", "matmul", "__matmul__", "bmm", "baddbmm", "mm", "_grouped_mm", "grouped_mm", "einsum"}


class _Products(TorchFunctionMode):
    """Sees every torch function that is called; follows one weight through views and copies to its products."""

    def __init__(self, weight: torch.Tensor, observe: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self._followed = {id(weight): weight}
        self._observe = observe

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        if any(id(value) in self._followed for value in tensors):
            if getattr(func, "__name__", "") in _PRODUCTS:
                others = [value for value in tensors if id(value) not in self._followed and value.is_floating_point()]
                if others:
                    # A weight that stands first is applied to columns.
                    factor = others[0].mT if id(tensors[0]) in self._followed else others[0]
                    self._observe(factor.reshape(-1, factor.shape[-1]))
            elif isinstance(result, torch.Tensor) and id(tensors[0]) in self._followed:
                self._followed[id(result)] = result  # kept, so that no other tensor can take its id
        return result


@contextmanager
def watched_products(owner: nn.Module, parameter: str, observe: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Report whatever is multiplied with one of a module's parameters, for the time of the context.

    Args:
        owner: the module, for example the experts of a block.
        parameter: name of the fused parameter, for example ``down_proj``, shape (experts, outputs, inputs).
        observe: takes the other factor, shape (rows, inputs); for routed experts a row is a routed token.
    """
    modes: list[_Products] = []

    def enter(module: nn.Module, args: object) -> None:
        del args
        mode = _Products(getattr(module, parameter), observe)
        mode.__enter__()  # type: ignore[no-untyped-call]
        modes.append(mode)

    def leave(module: nn.Module, args: object, output: object) -> None:
        del module, args, output
        modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    with ExitStack() as stack:
        stack.callback(owner.register_forward_pre_hook(enter).remove)
        stack.callback(owner.register_forward_hook(leave, always_call=True).remove)
        yield
