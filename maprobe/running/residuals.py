"""Telling, from one traced call of a block, which of its modules add to the residual stream.

Names only suggest candidates; arithmetic decides. With x the block's input, y its output, a and m the outputs of a
candidate for the attention and one for the MLP:

    sequential  y = x + a + m, and something in between is called on x + a
    parallel    y = x + a + m, and nothing is
    post-norm   y = norm(u + m) with u = norm(x + a)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from maprobe.running.anatomy import Residual
from maprobe.running.tracing import Event, handing_on, has_matrix, is_norm, owns_matrix, wraps

__all__ = ["SubLayers", "excess", "find_sub_layers", "within"]

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|ffw|feed_?forward|moe|expert", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubLayers:
    """The sub-layers of one block, as events of its trace.

    ``*_added`` are those whose output is added. ``between``, where the MLP follows the attention, is called on the sum
    of the block's input and what attention adds to it.
    """

    attention: Event | None
    attention_added: Event | None
    between: Event | None
    mlp: Event | None
    mlp_added: Event | None
    down: Event | None
    residual: Residual


def find_sub_layers(block: Event, inner: Sequence[Event], *, attention: str = "", mlp: str = "") -> SubLayers:
    """Find the sub-layers of a block in the events of its submodules.

    Args:
        block: the block's own event.
        inner: the events within it, in the order in which the calls ended; their paths start from the block.
        attention: path of the attention sub-layer where a row of the architecture table names it.
        mlp: the same for the MLP.
    """
    # An adapter stands for the matrix that it wraps; what is called within it plays no role of its own.
    adapters = tuple(f"{event.path}." for event in inner if wraps(event.module))
    inner = [event for event in inner if not event.path.startswith(adapters)]
    size, width = block.after.numel(), block.after.shape[-1]
    sized = [event for event in inner if event.after.numel() == size and event.after.shape[-1] == width]
    found_attention = _role(sized, _ATTENTION, attention)
    outside = [event for event in sized if not _inside(event, found_attention)]
    found_mlp = _role(outside, _MLP, mlp) or _last_matrix(outside)
    down = _down([event for event in inner if _inside(event, found_mlp)], width)
    for first in _candidates(sized, found_attention, exact=bool(attention)):
        for second in _candidates(sized, found_mlp, exact=bool(mlp)):
            residual, between = _residual(block, inner, first, second)
            if residual != "unknown":
                return SubLayers(
                    attention=found_attention,
                    attention_added=first,
                    between=between,
                    mlp=found_mlp,
                    mlp_added=second,
                    down=down,
                    residual=residual,
                )
    # What a row states is taken at its word here, so that the proof can show that it is wrong.
    return SubLayers(
        attention=found_attention,
        attention_added=found_attention if attention else None,
        between=None,
        mlp=found_mlp,
        mlp_added=found_mlp if attention or mlp else None,
        down=down,
        residual="unknown",
    )


def _role(events: Sequence[Event], pattern: re.Pattern[str], given: str) -> Event | None:
    """Return the outermost module that is called so, by its own name or else its class, and holds weights."""
    if given:
        return next((event for event in events if event.path == given), None)
    weighty = sorted((event for event in events if has_matrix(event.module)), key=lambda event: event.path.count("."))
    for name in (lambda event: event.path.rpartition(".")[2], lambda event: type(event.module).__name__):
        found = next((event for event in weighty if pattern.search(name(event))), None)
        if found:
            return found
    return None


def _inside(event: Event, owner: Event | None) -> bool:
    return owner is not None and (event.path == owner.path or event.path.startswith(f"{owner.path}."))


def _last_matrix(events: Sequence[Event]) -> Event | None:
    """Return the last weight matrix that is applied."""
    return next((event for event in reversed(events) if owns_matrix(event.module)), None)


def _down(events: Sequence[Event], width: int) -> Event | None:
    """Return the down projection: that of the experts where there are some, else the last matrix of that width."""
    matrices = [event for event in events if owns_matrix(event.module) and event.after.shape[-1] == width]
    return _last_matrix([event for event in matrices if "experts" in event.path.split(".")]) or _last_matrix(matrices)


def _candidates(events: Sequence[Event], role: Event | None, *, exact: bool) -> Iterator[Event]:
    """Yield what may be the addend of a sub-layer, likeliest first.

    That is the sub-layer, or a norm or dropout that its output runs through next, or, where the sub-layer adds the
    residual by itself, its last matrix.
    """
    if role is None:
        return
    # A module that is called more than once (one dropout for both sub-layers) cannot be told apart by a hook.
    calls = Counter(event.path for event in events)
    once = [event for event in events if calls[event.path] == 1]
    yield from reversed(list(handing_on(once, role)))
    if not exact:
        last = _last_matrix([event for event in once if _inside(event, role)])
        if last is not None and last is not role:
            yield from reversed(list(handing_on(once, last)))


def _residual(block: Event, inner: Sequence[Event], attention: Event, mlp: Event) -> tuple[Residual, Event | None]:
    """Return how two sub-layers come together, and what is called on the residual stream between them."""
    x, a, m, y = (value.double().flatten() for value in (block.before, attention.after, mlp.after, block.after))
    scale = x.abs() + a.abs() + m.abs()
    dtype = block.after.dtype
    if within(x + a + m, y, scale, dtype):
        between = next((event for event in inner if _called_on(event, x + a, scale, dtype)), None)
        return ("sequential" if between else "parallel"), between
    for first in inner:
        if is_norm(first.module) and _called_on(first, x + a, scale, dtype):
            u = first.after.double().flatten()
            for second in inner:
                if is_norm(second.module) and _called_on(second, u + m, u.abs() + m.abs(), dtype):
                    last = torch.equal(second.after.double().flatten(), y)
                    return ("post-norm" if last else "unknown"), None
    return "unknown", None


def _called_on(event: Event, expected: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> bool:
    source = event.before
    return source.numel() == expected.numel() and within(source.double().flatten(), expected, scale, dtype)


def excess(left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> float:
    """Return the largest difference of two sums in units of what rounding in ``dtype`` can explain; nan if unknown.

    Two roundings of half a unit in the last place are made where three numbers are added, each of a number no larger
    than the sum of the magnitudes, ``scale``. The expected sum is to be given in double precision, without roundings.
    """
    allowed = torch.finfo(dtype).eps * scale.double() + torch.finfo(torch.float32).tiny
    return float(((left.double() - right.double()).abs() / allowed).max())


def within(left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two sums agree as far as rounding lets them; never for what is not finite."""
    return excess(left, right, scale, dtype) <= 1
