"""Following parameters through products that no module stands for: experts that hold their projections in one tensor.

A product is told by the torch function that makes it. Which expert a row belongs to is told by where in the parameter
the factor lies, by the offsets of a grouped product, or by the index with which the experts' matrices were gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["Product", "Products", "watched_products"]

_SUMMED = {"addmm", "baddbmm", "addbmm"}  # a summand comes first
_GROUPED = {"_grouped_mm", "grouped_mm", "grouped_mm_fallback", "transformers.grouped_mm_fallback"}
_PRODUCTS = {"linear", "matmul", "__matmul__", "bmm", "mm", "einsum", *_SUMMED, *_GROUPED}
_FUSED = 3

Experts = int | torch.Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """One product that a followed parameter takes part in.

    Attributes:
        parameter: the parameter.
        weight: the part, view or copy of it that was multiplied.
        factor: the other factor, shape (rows, inputs).
        result: what came out.
        first: whether the weight stood first, so that it was applied to columns.
        transposed: whether lines of the weight's second to last axis are outputs though it stood second (``linear``).
        experts: the expert of all rows, of each row, or None where the parameter is of no experts or nothing tells.
        ends: for a grouped product, behind which row each expert's rows end.
    """

    parameter: torch.Tensor
    weight: torch.Tensor
    factor: torch.Tensor
    result: torch.Tensor
    first: bool
    transposed: bool
    experts: Experts
    ends: torch.Tensor | None

    def parts(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the factor's rows expert by expert, with the expert's number; 0 where nothing tells it."""
        if self.ends is not None:
            start = 0
            for expert, end in enumerate(self.ends.tolist()):
                if end > start:
                    yield expert, self.factor[start:end]
                start = end
        elif isinstance(self.experts, torch.Tensor):
            for expert in sorted(set(self.experts.tolist())):
                yield int(expert), self.factor[self.experts == expert]
        else:
            yield self.experts or 0, self.factor


class Products(TorchFunctionMode):
    """Sees every torch function that is called; follows parameters through views and copies to their products.

    Args:
        parameters: the parameters to follow.
        observe: is told of every product, at the time that it is made.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], observe: Callable[[Product], None]) -> None:
        super().__init__()
        # What is followed is kept, so that no other tensor can take its id.
        self._followed: dict[int, tuple[torch.Tensor, torch.Tensor, Experts]] = {
            id(parameter): (parameter, parameter, None) for parameter in parameters
        }
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
            name = getattr(func, "__name__", "")
            if name in _PRODUCTS:
                self._multiplied(name, tensors, dict(kwargs or {}), result)
            elif tensors and id(tensors[0]) in self._followed:
                for part in result if isinstance(result, tuple | list) else (result,):
                    if isinstance(part, torch.Tensor):
                        self._follow(tensors[0], args, part)
        return result

    def _follow(self, source: torch.Tensor, args: tuple[Any, ...], result: torch.Tensor) -> None:
        parameter, _, experts = self._followed[id(source)]
        # Matrices of experts that were gathered row by row are a copy, and lie nowhere in the parameter.
        if source.dim() == _FUSED and result.dim() == _FUSED and len(args) > 1 and isinstance(args[1], torch.Tensor):
            experts = args[1] if args[1].dim() == 1 and not args[1].is_floating_point() else experts
        elif parameter.dim() == _FUSED and result.dim() == _FUSED - 1 and not isinstance(experts, torch.Tensor):
            inside = result.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()
            if inside:
                experts = (result.storage_offset() - parameter.storage_offset()) // parameter.stride(0)
        self._followed[id(result)] = (result, parameter, experts)

    def _multiplied(self, name: str, tensors: Sequence[torch.Tensor], named: Mapping[str, Any], result: object) -> None:
        if name in _SUMMED:
            tensors = tensors[1:]
        weights = [value for value in tensors if id(value) in self._followed]
        others = [value for value in tensors if id(value) not in self._followed and value.is_floating_point()]
        if not weights or not others or not isinstance(result, torch.Tensor):
            return
        _, parameter, experts = self._followed[id(weights[0])]
        first = tensors[0] is weights[0]
        # A weight that stands first is applied to columns.
        factor = others[0].mT if first else others[0]
        ends = named.get("offs") if name in _GROUPED else None
        if name in _GROUPED and ends is None:
            ends = next((value for value in tensors if not value.is_floating_point()), None)
        elif name not in _GROUPED and experts is None and weights[0].dim() == factor.dim() == _FUSED:
            # All experts at once, each on rows of its own (Llama 4: on every token, zero where not routed to it).
            ends = torch.arange(1, factor.shape[0] + 1) * factor.shape[1]
        self._observe(
            Product(
                parameter=parameter,
                weight=weights[0],
                factor=factor.reshape(-1, factor.shape[-1]),
                result=result,
                first=first,
                transposed=name == "linear",
                experts=experts,
                ends=ends,
            )
        )


@contextmanager
def watched_products(owner: nn.Module, parameter: str, observe: Callable[[torch.Tensor, int], None]) -> Iterator[None]:
    """Report whatever is multiplied with one of a module's parameters, for the time of the context.

    Args:
        owner: the module, for example the experts of a block.
        parameter: name of the fused parameter, for example ``down_proj``, shape (experts, outputs, inputs).
        observe: takes the other factor, shape (rows, inputs), of which each row is a routed token, and the number of
            the expert that they are routed to, from 0.
    """
    modes: list[Products] = []

    def told(product: Product) -> None:
        for expert, rows in product.parts():
            observe(rows, expert)

    def enter(module: nn.Module, args: object) -> None:
        del args
        mode = Products([getattr(module, parameter)], told)
        mode.__enter__()  # type: ignore[no-untyped-call]
        modes.append(mode)

    def leave(module: nn.Module, args: object, output: object) -> None:
        del module, args, output
        modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    with ExitStack() as stack:
        stack.callback(owner.register_forward_pre_hook(enter).remove)
        stack.callback(owner.register_forward_hook(leave, always_call=True).remove)
        yield
