"""Showing the places of a model to folds, and editing them, while it runs: hooks that are removed on every path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.edits import AnyEdit
from maprobe.errors import DiscoveryError, MaprobeError, MeasurementError
from maprobe.recipes import Batch, Fold, Tap
from maprobe.running.attention import Observer, watched_attention, watched_maps
from maprobe.running.attributions import AllSequences, show_attributions
from maprobe.running.calling import call, incoming, logits_of, outgoing, stream_of
from maprobe.running.editing import Editor
from maprobe.running.experts import watched_products
from maprobe.running.matrices import left_out, matrices_of
from maprobe.running.noise import Noise
from maprobe.running.own_inputs import OwnBatch
from maprobe.running.own_sites import at_site, loss_shown, not_named, shown
from maprobe.running.rows import taking_in
from maprobe.sites import ATTRIBUTION, LOSS, site_named

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy, Block, Part

__all__ = ["Recorder"]

_ATTENTION = "block.attn.probs"
_SCORES = "block.attn.scores"
_PROJECTIONS = ("block.attn.queries", "block.attn.keys", "block.attn.values")
_FROM_ATTENTION = (_ATTENTION, _SCORES, *_PROJECTIONS)
_LOGITS = ("logits", "class.logits")
_WITHOUT_ROWS = (*_LOGITS, LOSS)
_NAMED_ONLY = ("own.", "edge.")  # sites that the model's own code names, or nobody


class Recorder:
    """A context in which a model shows what folds tap, and in which edits are made to it.

    Args:
        anatomy: the model's parts.
        folds: what watches; a tap that several share is hooked once.
        edits: what to edit. A fold that taps an edited layer sees the edited stream.

    Attributes:
        forwards: forward calls made so far; the blocks of a gradient pass are called twice, which counts as two.
        backwards: how many of them were differentiated.
        left_out: after a gradient pass, the weights that belong to no linear layer.

    A fold that cannot go on (its site cannot be read in this model, its tokens lie outside the inputs) is left out from
    then on, and its error kept for :meth:`failure`; the pass is made for the others.

    Raises:
        InterventionError: on entering, if an edit cannot be made in this model; on leaving without another error, if
            the edits changed nothing; while running, if an edit does not arrive where it should.
    """

    def __init__(self, anatomy: Anatomy, folds: Sequence[Fold], edits: Sequence[AnyEdit | Noise] = ()) -> None:
        self.forwards = self.backwards = 0
        self.left_out: tuple[str, ...] = ()
        self._anatomy = anatomy
        self._stack = ExitStack()
        self._batch: Batch | None = None
        self._editor = Editor(anatomy, edits)
        self._edited = bool(edits)
        self._failures: dict[int, MaprobeError] = {}
        self._mlps: dict[int, Part | None] = {}
        self._folds: dict[Tap, list[Fold]] = {}
        self._optional: set[tuple[Tap, int]] = set()
        for fold in folds:
            for tap in fold.taps:
                self._folds.setdefault(tap, []).append(fold)
                if tap.optional:
                    self._optional.add((tap, id(fold)))

    def __enter__(self) -> Recorder:
        # Looking for these calls the model, which nothing may watch or edit at that time.
        layers = sorted({tap.layer for tap in self._folds if tap.site == "block.mlp.in"})
        self._mlps = {layer: taking_in(self._anatomy, layer) for layer in layers}
        try:
            # Edits come in before what watches, so that what is watched is what the model goes on with.
            self._stack.enter_context(self._editor)
            for tap in self._folds:
                self._attempt(tap, lambda tap=tap: self._show(tap))  # type: ignore[misc]
            self._show_attention()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stack.close()
        if kind is None and self.forwards:
            self._editor.require_change()

    def run(self, batch: Batch) -> None:
        """Make one forward call, showing every tap to its folds on the way."""
        self._batch = self._editor.batch = batch
        try:
            maps = self._anatomy.attention_route == "eager maps" and any(tap.site == _ATTENTION for tap in self._folds)
            taps = [Tap(site) for site in _LOGITS if Tap(site) in self._folds]
            output = call(self._anatomy.model, batch.given, logits=bool(taps), attentions=maps)
            self.forwards += 1
            if Tap(LOSS) in self._folds and isinstance(batch, OwnBatch):
                self._observe(Tap(LOSS), loss_shown(self._anatomy, output, batch))
            for tap in taps:
                logits = logits_of(output)
                if logits is None:
                    head = "a language-model head"
                    if tap.site == "class.logits":
                        head = (
                            "a head that classifies images, or restrict the probe with `when: {num_classes: {gt: 0}}`"
                        )
                    error = MeasurementError(f"this model returns no logits; measure one with {head}")
                    self._failures.update((id(fold), error) for fold in self._folds[tap])
                else:
                    self._observe(tap, logits)
        finally:
            self._batch = self._editor.batch = None

    @property
    def observes(self) -> bool:
        """Whether a forward pass is asked for: not where attributions are all that folds want to see."""
        return any(tap.site != ATTRIBUTION for tap in self._folds) or not self.attributed

    @property
    def attributed(self) -> tuple[int, ...]:
        """The layers whose weights are attributed to."""
        return tuple(tap.layer for tap in self._folds if tap.site == ATTRIBUTION)

    def differentiate(self, sequences: Sequence[Sequence[int]], advance: Callable[[], None] = lambda: None) -> None:
        """Make the gradient pass over all sequences of token ids, where a fold wants to see attributions.

        It comes after all forward passes: nothing is watched or edited any more, so that the blocks that it calls again
        show nothing to folds that have seen them.

        Args:
            sequences: token ids; empty where the inputs are none.
            advance: called when a block is done with.
        """
        layers = self.attributed
        if not layers:
            return
        self._stack.close()

        def show(layer: int, value: torch.Tensor, batch: AllSequences, offset: int) -> None:
            self._batch = batch
            self._observe(Tap(ATTRIBUTION, layer), value, offset)

        try:
            if not sequences:
                raise MeasurementError(f"{ATTRIBUTION} is of next-token logits, and the inputs are images; name texts")
            if self._edited:
                raise MeasurementError(
                    f"{ATTRIBUTION} is not read under an edit: each block is called once more by itself, and the edit "
                    f"would have to be differentiated too; measure it without `intervene`"
                )
            calls = show_attributions(self._anatomy, sequences, layers, show, advance=advance)
            self.forwards, self.backwards = self.forwards + 2 * calls, self.backwards + calls
            self.left_out = left_out(
                self._anatomy, (matrix for block in self._anatomy.blocks for matrix in matrices_of(block))
            )
        except MeasurementError as error:
            for layer in layers:
                self._let_go(Tap(ATTRIBUTION, layer), error)
        finally:
            self._batch = None

    def failure(self, fold: Fold) -> MaprobeError | None:
        """Return why a fold was left out, or None."""
        return self._failures.get(id(fold))

    def _observe(self, tap: Tap, value: torch.Tensor, offset: int = 0) -> None:
        assert self._batch is not None, "hooks are only called within run"
        if not value.numel():
            return  # an expert that no token was routed to
        batch = self._batch
        if isinstance(batch, OwnBatch) and tap.site not in _WITHOUT_ROWS:
            try:
                value, batch = at_site(value, tap.site, batch)
            except MaprobeError as error:
                self._let_go(tap, error)
                return
        for fold in self._folds[tap]:
            if id(fold) not in self._failures:
                try:
                    fold.observe(tap, value, batch, offset=offset)
                except MaprobeError as error:
                    self._failures[id(fold)] = error

    def _attempt(self, tap: Tap, show: Callable[[], None]) -> None:
        try:
            show()
        except MeasurementError as error:
            self._let_go(tap, error)

    def _let_go(self, tap: Tap, error: MaprobeError) -> None:
        """Leave out the folds that need a tap."""
        needing = (id(fold) for fold in self._folds[tap] if (tap, id(fold)) not in self._optional)
        self._failures = {**dict.fromkeys(needing, error), **self._failures}

    def _show(self, tap: Tap) -> None:
        named = self._anatomy.at(tap.site, tap.layer) if tap.layer or not site_named(tap.site).per_layer else None
        if named is not None:
            self._stack.callback(shown(named, tap.site, lambda value: self._observe(tap, value)))
        elif tap.site.startswith(_NAMED_ONLY):
            raise not_named(self._anatomy, tap.site)
        elif tap.site == LOSS:
            if self._anatomy.own is None or self._anatomy.own.loss is None:
                raise MeasurementError("this model brings no loss; give its code one, or measure perplexity")
        else:
            self._show_found(tap)

    def _show_found(self, tap: Tap) -> None:
        """Show a site of which discovery knows what stands for it."""
        if tap.site in _FROM_ATTENTION:
            self._require_attention(tap)
        elif tap.site == "embed.out" or (tap.site == "block.out" and tap.layer == 0):
            self._before(self._block(1).module, lambda value: self._observe(tap, value))
        elif tap.site == "block.out":
            block = self._block(tap.layer)
            self._after(block.module, lambda output: self._observe(tap, stream_of(output, block.path)))
        elif tap.site == "block.attn.in":
            self._show_input(tap, self._block(tap.layer).attention, "no attention sub-layer was found")
        elif tap.site == "block.mid":
            self._show_input(tap, self._block(tap.layer).between, "its attention and its MLP do not follow one another")
        elif tap.site == "block.mlp.in":
            self._show_input(tap, self._mlps[tap.layer], "no MLP was found")
        elif tap.site == "block.mlp.hidden":
            self._show_hidden(tap)
        elif tap.site not in (*_LOGITS, ATTRIBUTION):
            self._show_output(tap, self._giving(tap))

    def _giving(self, tap: Tap) -> Part | None:
        """Return the module whose output a site is."""
        if tap.site == "final.norm.out":
            return self._anatomy.final_norm
        block = self._block(tap.layer)
        try:
            return {"block.attn.out": block.attention_added, "block.mlp.out": block.mlp_added}[tap.site]
        except KeyError:
            raise MeasurementError(f"no site is named {tap.site!r}, so it cannot be read") from None

    def _require_attention(self, tap: Tap) -> None:
        if self._block(tap.layer).attention_maps is None:
            raise MeasurementError(_unreadable(tap, "it shows its attention in no way that maprobe knows"))
        if tap.site != _ATTENTION and self._anatomy.attention_route != "interface":
            raise MeasurementError(_unreadable(tap, "it computes attention by itself and shows its maps alone"))

    def _block(self, layer: int) -> Block:
        return self._anatomy.blocks[layer - 1]

    def _show_output(self, tap: Tap, part: Part | None) -> None:
        if part is None:
            raise MeasurementError(_unreadable(tap, "no module's output is what this site stands for"))
        if part.pooling:
            # The model norms the class token alone; shown is what the same norm makes of every token.
            last, norm = self._block(self._anatomy.depth), part.module
            self._after(last.module, lambda output: self._observe(tap, norm(stream_of(output, last.path))))
            return
        path = part.path

        def see(output: object) -> None:
            found = outgoing(output)
            if found is None:
                raise DiscoveryError(f"{path} returned {type(output).__name__}, and a tensor was expected")
            self._observe(tap, self._as_stream(found))

        self._after(part.module, see)

    def _show_input(self, tap: Tap, part: Part | None, without: str) -> None:
        if part is None:
            raise MeasurementError(_unreadable(tap, without))
        self._before(part.module, lambda value: self._observe(tap, self._as_stream(value)))

    def _show_hidden(self, tap: Tap) -> None:
        downs = self._block(tap.layer).down
        if not downs:
            raise MeasurementError(_unreadable(tap, "no down projection was found"))
        for number, part in enumerate(downs):
            if part.parameter:
                self._stack.enter_context(
                    watched_products(part.module, part.parameter, lambda value, at: self._observe(tap, value, at))
                )
            elif part.routed:
                self._before(part.module, lambda value, at=number: self._observe(tap, value, at))  # type: ignore[misc]
            else:
                self._before(part.module, lambda value: self._observe(tap, self._as_stream(value)))

    def _as_stream(self, value: torch.Tensor) -> torch.Tensor:
        """Give back the sequence axis to what a module sees flattened to rows (OPT's MLP, experts' routers)."""
        assert self._batch is not None, "hooks are only called within run"
        sequences, tokens = self._batch.shape
        if value.dim() == 2 and value.shape[0] == sequences * tokens:  # noqa: PLR2004 - rows and width
            return value.view(sequences, tokens, value.shape[1])
        return value

    def _show_attention(self) -> None:
        layers = {tap.layer for tap in self._folds if tap.site in _FROM_ATTENTION}
        observers: dict[nn.Module, Observer] = {}
        for layer in sorted(layers):
            maps = self._block(layer).attention_maps
            if maps is not None:
                observers[maps.module] = self._observer(layer)
        if observers:
            watched = watched_attention if self._anatomy.attention_route == "interface" else watched_maps
            self._stack.enter_context(watched(self._anatomy.model, observers))

    def _observer(self, layer: int) -> Observer:
        wanted = [
            (index, Tap(site, layer)) for index, site in enumerate(_PROJECTIONS) if Tap(site, layer) in self._folds
        ]
        maps, scores = Tap(_ATTENTION, layer), Tap(_SCORES, layer)

        def project(*projections: torch.Tensor) -> None:
            for index, tap in wanted:
                self._observe(tap, projections[index])

        return Observer(
            probabilities=(lambda value, query: self._observe(maps, value, query)) if maps in self._folds else None,
            projections=project if wanted else None,
            scores=(lambda value, query: self._observe(scores, value, query)) if scores in self._folds else None,
        )

    def _before(self, module: nn.Module, see: Callable[[torch.Tensor], Any]) -> None:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = incoming(args, kwargs)
            if value is None:
                raise DiscoveryError(f"{type(module).__name__} was called on no tensor, and one was expected")
            see(value)

        self._stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _after(self, module: nn.Module, see: Callable[[object], Any]) -> None:
        def hook(module: nn.Module, args: object, output: object) -> None:
            del module, args
            see(output)

        self._stack.callback(module.register_forward_hook(hook).remove)


def _unreadable(tap: Tap, why: str) -> str:
    return (
        f"{tap.site} of layer {tap.layer} cannot be read in this model: {why}; `maprobe doctor --model ...` shows what "
        f"was found"
    )
