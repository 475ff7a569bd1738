"""Proving on the loaded model that its parts are what discovery takes them for, before anything is measured.

Each proof makes short forward passes over random token ids, other ones than discovery looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from maprobe.errors import DiscoveryError
from maprobe.running.anatomy import Anatomy, Block
from maprobe.running.attention import Observer, watched_attention, watched_maps
from maprobe.running.calling import Arguments, call, incoming, outgoing, resting, stream_of, with_outgoing
from maprobe.running.own_sites import proofs_of_sites
from maprobe.running.residuals import excess
from maprobe.running.tracing import Event, is_norm, traced
from maprobe.running.trials import trial
from maprobe.running.vision import layout_of

__all__ = ["Proof", "prove", "require"]

_SEED = 1405
_TOLERANCE = 2e-2  # of a row's sum from 1, and of an output computed another way: both come in the model's own dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One thing that must be true of a model whose parts were found.

    Attributes:
        name: what is proven, in words.
        holds: whether it holds; None where the model has not what it takes, so that nothing can be said.
        detail: the figure, or the place where it does not hold.
    """

    name: str
    holds: bool | None
    detail: str


def prove(anatomy: Anatomy) -> tuple[Proof, ...]:
    """Try every proof on the model, in evaluation mode; nothing of it is changed."""
    with resting(anatomy.model):
        given = trial(anatomy.model, anatomy.own, _SEED, last=True)
        plain = _answer(call(anatomy.model, given, logits=True))
        events: list[Event] = []
        with traced([(path, module) for path, module in anatomy.model.named_modules() if path], events.append):
            call(anatomy.model, given, logits=True)
        by_path = {event.path: event for event in events}
        return (
            _shapes(anatomy, by_path),
            *_layout(anatomy, given),
            _chain(anatomy, by_path),
            _additivity(anatomy, events, by_path),
            _identity(anatomy, given, plain),
            *_nudges(anatomy, given, plain),
            _attention(anatomy, given, plain),
            *_sites(anatomy, given, plain),
        )


def _sites(anatomy: Anatomy, given: torch.Tensor | Arguments, plain: torch.Tensor) -> Iterator[Proof]:
    """Show of every site that the model's own code names that it can be read."""
    if isinstance(given, Arguments):
        for name, holds, detail in proofs_of_sites(anatomy, given, plain, _answer):
            yield Proof(name=name, holds=holds, detail=detail)


def require(proofs: Iterable[Proof]) -> None:
    """Refuse a model of which a proof does not hold.

    Raises:
        DiscoveryError: naming every proof that does not hold; those of which nothing can be said are let pass.
    """
    broken = [f"{proof.name}: {proof.detail}" for proof in proofs if proof.holds is False]
    if broken:
        raise DiscoveryError(
            f"what was found in this model did not stand the proof ({'; '.join(broken)}), so nothing is measured; "
            f"`maprobe doctor --model ...` shows all that was found, and a row of the architecture table can name it"
        )


def _answer(output: object) -> torch.Tensor:
    """Return the tensor by which two passes are compared: the logits, or the last hidden state."""
    found = getattr(output, "logits", None)
    if found is None:
        found = getattr(output, "last_hidden_state", None)
    if found is None:
        found = outgoing(output)
    if not isinstance(found, torch.Tensor):
        raise DiscoveryError(
            f"the model returns {type(output).__name__} without logits or a last hidden state, so that two passes "
            f"cannot be compared; maprobe measures models that return one of them"
        )
    return found.clone()


def _shapes(anatomy: Anatomy, events: Mapping[str, Event]) -> Proof:
    name = "every block maps a residual stream to one of the same shape"
    for block in anatomy.blocks:
        event = events.get(block.path)
        if event is None:
            return Proof(name=name, holds=False, detail=f"{block.path} was not called")
        if event.before.shape != event.after.shape or event.after.shape[-1] != anatomy.width:
            shapes = f"{tuple(event.before.shape)} -> {tuple(event.after.shape)}"
            return Proof(name=name, holds=False, detail=f"{block.path}: {shapes}, width {anatomy.width}")
    shape = tuple(events[anatomy.blocks[0].path].after.shape)
    return Proof(name=name, holds=True, detail=f"{anatomy.depth} blocks, {shape}")


def _layout(anatomy: Anatomy, given: torch.Tensor | Arguments) -> Iterator[Proof]:
    """Show which token an image's patch becomes, by changing the pixels of one patch and looking which token moves."""
    if isinstance(given, Arguments) or not given.is_floating_point():
        return
    layout = layout_of(anatomy.model.config, *given.shape[-2:])
    name = "an image becomes its class token, registers and patches, row by row"
    row, column = layout.rows - 1, layout.columns // 2
    height, width = given.shape[-2] // layout.rows, given.shape[-1] // layout.columns
    changed = given.clone()
    changed[..., row * height : (row + 1) * height, column * width : (column + 1) * width] += 1
    plain, moved = (_embedded(anatomy, pixels) for pixels in (given, changed))
    if plain.shape[1] != layout.tokens:
        told = f"{plain.shape[1]} tokens, where its config tells {layout.tokens}"
        yield Proof(name=name, holds=False, detail=told)
        return
    found = (plain != moved).any(dim=-1)[0].nonzero().flatten().tolist()
    wanted = layout.positions("patches")[row * layout.columns + column]
    told = f"{layout.classes} + {layout.registers} + {layout.rows} x {layout.columns} tokens"
    yield Proof(name=name, holds=found == [wanted], detail=f"{told}; a change of one patch moves tokens {found}")


def _embedded(anatomy: Anatomy, given: torch.Tensor | Arguments) -> torch.Tensor:
    """Return the residual stream before the first block."""
    seen: list[torch.Tensor] = []

    def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        del module
        stream = incoming(args, kwargs)
        assert stream is not None, "the first block is called on the embedding output"
        seen.append(stream.clone())

    handle = anatomy.blocks[0].module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        call(anatomy.model, given, logits=False)
    finally:
        handle.remove()
    return seen[0]


def _chain(anatomy: Anatomy, events: Mapping[str, Event]) -> Proof:
    name = "each block takes in exactly what the one before gave out"
    for before, after in zip(anatomy.blocks, anatomy.blocks[1:], strict=False):
        if not torch.equal(events[before.path].after, events[after.path].before):
            return Proof(name=name, holds=False, detail=f"{before.path} -> {after.path}")
    return Proof(name=name, holds=True, detail=f"{anatomy.depth - 1} hand-overs, bit-equal")


def _additivity(anatomy: Anatomy, events: Sequence[Event], by_path: Mapping[str, Event]) -> Proof:
    name = f"block.in + attention + MLP = block.out ({anatomy.residual})"
    if anatomy.residual == "unknown":
        odd = next((block.path for block in anatomy.blocks if block.residual == "unknown"), "blocks differ")
        detail = f"not told for {odd}: block.attn.out and block.mlp.out cannot be read there"
        if anatomy.row:
            return Proof(name=name, holds=False, detail=f"{detail}, though the architecture table has a row")
        return Proof(name=name, holds=None, detail=detail)
    worst = 0.0
    for block in anatomy.blocks:
        off = _residual_excess(block, events, by_path)
        if not off <= 1:
            return Proof(name=name, holds=False, detail=f"{block.path} is off by {off:.3g} x what rounding explains")
        worst = max(worst, off)
    return Proof(name=name, holds=True, detail=f"at most {worst:.2f} x what rounding explains, every block")


def _residual_excess(block: Block, events: Sequence[Event], by_path: Mapping[str, Event]) -> float:
    assert block.attention_added is not None, "a known residual has both addends"
    assert block.mlp_added is not None, "a known residual has both addends"
    event = by_path[block.path]
    attention = by_path[block.attention_added.path].after
    mlp = by_path[block.mlp_added.path].after
    dtype = event.after.dtype
    x, a, m = (value.double().reshape(event.before.shape) for value in (event.before, attention, mlp))
    if block.residual != "post-norm":
        return excess(event.after, x + a + m, x.abs() + a.abs() + m.abs(), dtype)
    # y = norm(u + m), u = norm(x + a): both norms are among the block's modules, told by what they are called on.
    norms = [other for other in events if other.path.startswith(f"{block.path}.") and is_norm(other.module)]
    norms = [norm for norm in norms if norm.before.numel() == x.numel()]  # others are of the edges of a graph
    best = float("inf")
    for first in norms:
        entry = excess(first.before.reshape(x.shape), x + a, x.abs() + a.abs(), dtype)
        u = first.after.double().reshape(x.shape)
        for second in norms:
            if torch.equal(second.after.reshape(x.shape), event.after):
                last = excess(second.before.reshape(x.shape), u + m, u.abs() + m.abs(), dtype)
                best = min(best, max(entry, last))
    return best


def _identity(anatomy: Anatomy, given: torch.Tensor | Arguments, plain: torch.Tensor) -> Proof:
    name = "a hook that hands a block's output on as a copy changes nothing"
    with _edited(anatomy.blocks, lambda stream: stream.clone()):
        again = _answer(call(anatomy.model, given, logits=True))
    return Proof(
        name=name, holds=torch.equal(again, plain), detail="on every block at once, outputs compared bit by bit"
    )


def _nudges(anatomy: Anatomy, given: torch.Tensor | Arguments, plain: torch.Tensor) -> Iterator[Proof]:
    """Show at both ends and in the middle that an edit arrives; :func:`_chain` vouches for the blocks between."""
    for layer in sorted({1, (anatomy.depth + 1) // 2, anatomy.depth}):
        block = anatomy.blocks[layer - 1]
        with _edited([block], _nudged):
            again = _answer(call(anatomy.model, given, logits=True))
        moved = float((again.float() - plain.float()).abs().max())
        name = f"a nudge to the output of block {layer} changes the output of the model"
        yield Proof(name=name, holds=moved > 0, detail=f"by at most {moved:.3g}")


def _nudged(stream: torch.Tensor) -> torch.Tensor:
    """Move every second entry by the size of the stream: a shift of all of them alike is lost in a LayerNorm."""
    moved = stream.clone()
    moved[..., ::2] += stream.abs().mean() + 1
    return moved


@contextmanager
def _edited(blocks: Iterable[Block], edit: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    def hook(path: str) -> Callable[..., object]:
        def change(module: nn.Module, args: object, output: object) -> object:
            del module, args
            return with_outgoing(output, edit(stream_of(output, path)))

        return change

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.module.register_forward_hook(hook(block.path)).remove)
        yield


def _attention(anatomy: Anatomy, given: torch.Tensor | Arguments, plain: torch.Tensor) -> Proof:
    name = "attention can be read, and reading it changes nothing"
    if anatomy.attention_route == "none":
        return Proof(name=name, holds=None, detail="this model shows its attention in no way that maprobe knows")
    seen: dict[int, float] = {}
    observers: dict[nn.Module, Observer] = {}
    for block in anatomy.blocks:
        if block.attention_maps is not None:
            observers[block.attention_maps.module] = Observer(rows=_row_sums(seen, block.layer))
    if anatomy.attention_route == "interface":
        with watched_attention(anatomy.model, observers):
            again = _answer(call(anatomy.model, given, logits=True))
        equal = torch.equal(again, plain) if anatomy.exact_attention else _close(again, plain)
    else:
        # A model asked for its maps may take another way to its output, which then differs by rounding.
        with watched_maps(anatomy.model, observers):
            again = _answer(call(anatomy.model, given, logits=True, attentions=True))
        equal = _close(again, plain)
    off = max(seen.values(), default=float("inf"))
    missing = [layer for layer in anatomy.attention_layers if layer not in seen]
    detail = f"{len(seen)} of {anatomy.depth} blocks through: {anatomy.attention_route}; rows sum to 1 within {off:.1g}"
    holds = equal and not missing and off <= _TOLERANCE
    return Proof(name=name, holds=holds, detail=detail + ("" if equal else "; the output differs"))


def _close(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.allclose(left.float(), right.float(), rtol=_TOLERANCE, atol=_TOLERANCE)


def _row_sums(seen: dict[int, float], layer: int) -> Callable[[torch.Tensor, int], None]:
    def note(probabilities: torch.Tensor, query: int) -> None:
        del query
        off = float((probabilities.float().sum(dim=-1) - 1).abs().max())
        seen[layer] = max(seen.get(layer, 0.0), off)

    return note
