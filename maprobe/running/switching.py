"""Switching channels of an MLP's hidden state off by their weights, for the time of a pass (arXiv:2410.01866)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.edits import RowsEdit
from maprobe.errors import InterventionError
from maprobe.running.calling import incoming
from maprobe.running.experts import watched_products
from maprobe.running.rows import Lines

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy

__all__ = ["switched_off"]


@contextmanager
def switched_off(anatomy: Anatomy, edit: RowsEdit, lines: Iterable[Lines]) -> Iterator[bool]:
    """Set lines to zero for the time of the context, and yield whether that changed any.

    A copy is kept of these lines alone. In every forward call it is seen to that the channels which they make are zero.

    Args:
        anatomy: the model's parts.
        edit: the channels that are to be off.
        lines: the lines that make them.

    Raises:
        InterventionError: while running, if a channel that is to be off is not zero.
    """
    kept: list[tuple[Lines, torch.Tensor]] = []
    with ExitStack() as stack:
        stack.callback(_put_back, kept)
        for line in lines:
            if line.indices:
                kept.append((line, line.take()))
                line.zero()
        _watch(anatomy, edit, stack)
        yield any(bool(values.any()) for _, values in kept)


def _put_back(kept: list[tuple[Lines, torch.Tensor]]) -> None:
    for line, values in reversed(kept):
        line.put(values)


def _watch(anatomy: Anatomy, edit: RowsEdit, stack: ExitStack) -> None:
    """See to it, in each forward call, that the channels which are to be off are zero."""

    def check(hidden: torch.Tensor) -> None:
        chosen = torch.zeros(hidden.shape[-1], dtype=torch.bool, device=hidden.device)
        chosen[list(edit.channels)] = True
        left = hidden.detach().ne(0).flatten(0, -2).any(0) & (~chosen if edit.keep else chosen)
        if left.any():
            raise InterventionError(
                f"the rows of channel {int(left.nonzero()[0])} in the MLP of layer {edit.layer} are zero, and the "
                f"channel is not, so it is made by something else too: an adapter, which is to be merged first, or an "
                f"activation that is not zero at zero"
            )

    for number, part in enumerate(anatomy.blocks[edit.layer - 1].down):
        if part.parameter:
            stack.enter_context(watched_products(part.module, part.parameter, _of(edit.expert, check)))
        elif not part.routed or number == edit.expert:
            stack.callback(part.module.register_forward_pre_hook(_entering(check), with_kwargs=True).remove)


def _of(expert: int | None, check: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor, int], None]:
    def seen(rows: torch.Tensor, number: int) -> None:
        if number == expert:
            check(rows)

    return seen


def _entering(check: Callable[[torch.Tensor], None]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        value = incoming(args, kwargs)
        if value is not None:
            check(value)

    return hook
