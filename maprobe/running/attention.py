"""Reading attention through transformers' own registry of attention functions, a block of queries at a time.

A model that looks its attention function up by name is given the name of ours. Ours receives queries, keys and values
after any rotary embedding, works the probabilities out for some queries at a time, hands them on, and leaves the output
to the function that the model would have called: the output is the same to the last bit, and no whole map is held.

Models that compute attention by themselves are asked for their maps instead.

Some modules attend to keys that stand for no token, such as an explicit attention bias. A module says how many by its
attribute ``keys_of_no_token``, and they come first. What is handed on is about tokens: those keys and their values are
left out, so that a row then sums to less than 1 by what goes to them.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from maprobe.edits import AttentionWindow

__all__ = ["OVER", "Observer", "map_in", "narrowed_attention", "watched_attention", "watched_maps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """What is shown of one module's attention, to whom.

    Attributes:
        probabilities: takes probabilities, shape (sequences, heads, some queries, tokens), and the position of the
            first of the queries; None where nobody wants them, so that they are not worked out.
        rows: as ``probabilities``, with the keys that stand for no token, so that each row sums to 1.
        projections: takes queries, keys and values, each of shape (sequences, heads, tokens, dims), before any
            probabilities; None where nobody wants them.
        scores: takes what the softmax takes in, of the shape of probabilities and before them, with the position of the
            first of the queries: scaled products of queries and keys, capped and biased as the model does it, in
            float32, -inf where a key is masked; None where nobody wants them.
    """

    probabilities: Callable[[torch.Tensor, int], None] | None = None
    rows: Callable[[torch.Tensor, int], None] | None = None
    projections: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None
    scores: Callable[[torch.Tensor, int], None] | None = None

    @property
    def wants_maps(self) -> bool:
        """Whether probabilities are to be worked out."""
        return self.probabilities is not None or self.rows is not None

    def show_rows(self, module: nn.Module, rows: torch.Tensor, query: int) -> None:
        """Hand on the attention of some queries to all keys, shape (sequences, heads, some queries, keys)."""
        if self.rows is not None:
            self.rows(rows, query)
        if self.probabilities is not None:
            self.probabilities(rows[..., _keys_of_no_token(module) :], query)

    def show_scores(self, module: nn.Module, scores: torch.Tensor, query: int) -> None:
        """Hand on what the softmax takes in of some queries, by tokens."""
        if self.scores is not None:
            self.scores(scores[..., _keys_of_no_token(module) :], query)

    def show_projections(self, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Hand on queries, and the keys and values of tokens."""
        if self.projections is not None:
            first = _keys_of_no_token(module)
            self.projections(query, key[:, :, first:], value[:, :, first:])


Function = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]

_CHUNK = 1 << 24  # probabilities held at a time
OVER = "maprobe_over_"  # what the names begin with under which our functions are registered
_MAP_AXES = 4
_NOBODY = Observer()
_WATCHED: weakref.WeakKeyDictionary[nn.Module, Observer] = weakref.WeakKeyDictionary()
_NARROWED: weakref.WeakKeyDictionary[nn.Module, tuple[AttentionWindow, Callable[[], None]]] = (
    weakref.WeakKeyDictionary()
)


@contextmanager
def watched_attention(model: nn.Module, observers: Mapping[nn.Module, Observer]) -> Iterator[None]:
    """Hand on the attention of every module that looks its function up in the registry, for the time of the context.

    Args:
        model: the model that the modules belong to.
        observers: by module that may call an attention function, what to hand its probabilities to.
    """
    _WATCHED.update(observers)
    try:
        with _named(model, _registered):
            yield
    finally:
        for module in observers:
            _WATCHED.pop(module, None)


@contextmanager
def narrowed_attention(
    model: nn.Module, modules: Sequence[nn.Module], window: AttentionWindow, narrowed: Callable[[], None]
) -> Iterator[None]:
    """Let the queries of modules see a window of keys only, for the time of the context.

    Args:
        model: the model that the modules belong to.
        modules: the modules that may call an attention function.
        window: what a query still sees.
        narrowed: called whenever the window hides a key that some query saw before.
    """
    _NARROWED.update((module, (window, narrowed)) for module in modules)
    try:
        with _named(model, _registered):
            yield
    finally:
        for module in modules:
            _NARROWED.pop(module, None)


@contextmanager
def _named(model: nn.Module, rename: Callable[[str | None], str]) -> Iterator[None]:
    """Give a model other names of attention functions to look up, for the time of the context."""
    originals = [(config, config._attn_implementation) for config in _configs(model)]
    try:
        for config, original in originals:
            config._attn_implementation = rename(original)
        yield
    finally:
        # Parents first, as _configs has them: to set one sets its sub-configs too, which then get their own name.
        for config, original in originals:
            config._attn_implementation = original


def _configs(model: nn.Module) -> list[Any]:
    found: dict[int, Any] = {}

    def add(config: object) -> None:
        if hasattr(config, "_attn_implementation") and id(config) not in found:
            found[id(config)] = config
            for name in getattr(config, "sub_configs", ()):
                add(getattr(config, name, None))

    for module in model.modules():
        add(getattr(module, "config", None))
    return list(found.values())


def _registered(original: str | None) -> str:
    """Return the name under which our function over another is registered."""
    # Others (flash attention, flex attention) never see a mask that we could read, so they are measured over SDPA.
    under = "eager" if original in ("eager", None) else "sdpa"
    name = OVER + under
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        AttentionInterface.register(name, _over_eager if under == "eager" else _over_sdpa)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[under])
    return name


def _over_sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,  # noqa: ANN401 - passed on as they come
) -> tuple[torch.Tensor, torch.Tensor | None]:
    observer = _WATCHED.get(module, _NOBODY)
    attention_mask = _narrow(module, query, key, attention_mask, options)
    observer.show_projections(module, query, key, value)
    if observer.wants_maps or observer.scores is not None:
        causal = _causal(module, query.shape[2], attention_mask, options)
        # SDPA caps nothing, whatever the config says.
        for start, scores in _scored(query, key, attention_mask, {**options, "softcap": None}, causal=causal):
            observer.show_scores(module, scores, start)
            if observer.wants_maps:
                observer.show_rows(module, scores.softmax(dim=-1), start)
    return cast("Function", ALL_ATTENTION_FUNCTIONS["sdpa"])(module, query, key, value, attention_mask, **options)


def _over_eager(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,  # noqa: ANN401 - passed on as they come
) -> tuple[torch.Tensor, torch.Tensor | None]:
    observer = _WATCHED.get(module, _NOBODY)
    attention_mask = _narrow(module, query, key, attention_mask, options)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        # Eager functions add their mask.
        shut = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, shut)
    observer.show_projections(module, query, key, value)
    if observer.scores is not None:
        for start, scores in _scored(query, key, attention_mask, options, causal=False):
            observer.show_scores(module, scores, start)
    output, probabilities = _eager_of(module)(module, query, key, value, attention_mask, **options)
    if probabilities is not None:
        observer.show_rows(module, probabilities, 0)
    return output, probabilities


def _keys_of_no_token(module: nn.Module) -> int:
    return int(getattr(module, "keys_of_no_token", 0))


def _narrow(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    options: Mapping[str, Any],
) -> torch.Tensor | None:
    """Return the mask with all keys outside a module's window hidden, if it has one."""
    if module not in _NARROWED:
        return mask
    window, narrowed = _NARROWED[module]
    queries, keys = query.shape[2], key.shape[2]
    places = torch.arange(keys, device=query.device)
    last = torch.arange(queries, device=query.device)[:, None] + (keys - queries)
    seen = (places > last - window.size) | (places < window.sinks + _keys_of_no_token(module))
    if bool((~seen & (places <= last)).any()):
        narrowed()
    if _causal(module, queries, mask, options):
        seen = seen & (places <= last)
    if mask is None:
        return seen[None, None]
    mask = mask[..., :keys]
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


def _causal(module: nn.Module, queries: int, mask: torch.Tensor | None, options: Mapping[str, Any]) -> bool:
    """Whether queries see no later key although no mask says so."""
    declared = options.get("is_causal")
    return mask is None and queries > 1 and bool(getattr(module, "is_causal", True) if declared is None else declared)


def _eager_of(module: nn.Module) -> Function:
    """Return the function that a module falls back on, which lives beside its class."""
    for kind in type(module).__mro__:
        found = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if found is not None:
            return cast("Function", found)
    raise LookupError(f"{type(module).__name__} has no eager attention function")


def _scored(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    options: Mapping[str, Any],
    *,
    causal: bool,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield what the softmax takes in, some queries at a time, each with the position of its first query."""
    batch, heads, queries, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    scaling, cap = options.get("scaling"), options.get("softcap")
    scale = width**-0.5 if scaling is None else float(scaling)
    bias: torch.Tensor | None = options.get("position_bias")
    turned = key.float().transpose(2, 3)[:, :, None]
    rows = max(1, _CHUNK // (batch * heads * keys))
    for start in range(0, queries, rows):
        stop = min(start + rows, queries)
        part = query[:, :, start:stop].float().reshape(batch, groups, heads // groups, stop - start, width)
        scores = ((part @ turned) * scale).reshape(batch, heads, stop - start, keys)
        if cap is not None:
            scores = (scores / cap).tanh() * cap
        if bias is not None:
            scores = scores + bias[..., start:stop, :keys]
        if causal:
            last = torch.arange(start, stop, device=query.device)[:, None] + (keys - queries)
            scores = scores.masked_fill(torch.arange(keys, device=query.device) > last, -torch.inf)
        elif mask is not None:
            shown = mask[..., start:stop, :keys]
            if shown.dtype == torch.bool:
                scores = scores.masked_fill(~shown, -torch.inf)
            else:
                # A mask that is added closes a key with the lowest number of its dtype.
                scores = (scores + shown).masked_fill(shown <= torch.finfo(shown.dtype).min / 2, -torch.inf)
        yield start, scores


@contextmanager
def watched_maps(model: nn.Module, observers: Mapping[nn.Module, Observer]) -> Iterator[None]:
    """Hand on the maps that modules return when they are asked for them, for the time of the context.

    A map is replaced by an empty tensor as soon as it was seen, since a model that was asked for maps keeps them all.
    The model runs its eager attention meanwhile: Falcon, prepared for SDPA, leaves the causal mask out of its maps.
    """

    def hook(observer: Observer) -> Callable[..., object]:
        def seen(module: nn.Module, args: object, output: object) -> object:
            del args
            found = map_in(output)
            if found is None:
                return None
            observer.show_rows(module, found, 0)
            return tuple(entry.new_empty(0) if entry is found else entry for entry in cast("tuple[Any, ...]", output))

        return seen

    with ExitStack() as stack:
        stack.enter_context(_named(model, lambda original: "eager"))  # noqa: ARG005 - whatever it was
        for module, observer in observers.items():
            stack.callback(module.register_forward_hook(hook(observer)).remove)
        yield


def map_in(output: object) -> torch.Tensor | None:
    """Return the attention map among a module's outputs, shape (sequences, heads, queries, keys), or None.

    A map is told by what it is: square over tokens, with rows that sum to 1.
    """
    for entry in output if isinstance(output, tuple) else ():
        if isinstance(entry, torch.Tensor) and entry.dim() == _MAP_AXES and entry.shape[2] == entry.shape[3] > 0:
            row = entry[0, 0, -1].float()
            if entry.is_floating_point() and bool((row >= 0).all()) and abs(float(row.sum()) - 1) < 0.01:  # noqa: PLR2004
                return entry
    return None
