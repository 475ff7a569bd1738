"""Making edits while a model runs: to the residual stream, to weights, and to what attention sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.edits import AnyEdit, AttentionWindow, Edit, NoiseEdit, RowsEdit, TokenEdit, UntrainedEdit, WeightEdit
from maprobe.errors import InterventionError
from maprobe.running.attention import narrowed_attention
from maprobe.running.calling import incoming, stream_of, with_incoming, with_outgoing
from maprobe.running.noise import Noise
from maprobe.running.own_inputs import OwnBatch
from maprobe.running.own_sites import rows_of, shown
from maprobe.running.rows import feeding
from maprobe.running.switching import switched_off
from maprobe.running.tracing import wraps
from maprobe.running.untrained import untrained

if TYPE_CHECKING:
    from maprobe.recipes import Batch
    from maprobe.running.anatomy import Anatomy

__all__ = ["Editor"]

_MATRIX_AXES = 2
_STREAM = "block.out"
_DOCTOR = "`maprobe doctor --model ...` shows what was found in this model"


class Editor:
    """A context in which edits are made to a model; everything is as it was when it is left, on every path.

    Args:
        anatomy: the model's parts.
        edits: what to edit. A fold that taps an edited layer sees the edited stream if it is hooked in later.

    Attributes:
        batch: the sequences under way; set before every forward call.

    Raises:
        InterventionError: on entering, if an edit cannot be made in this model; while running, if an edit does not
            arrive at the module that takes the edited stream in; from :meth:`require_change`, if the edits changed
            nothing.
    """

    def __init__(self, anatomy: Anatomy, edits: Sequence[AnyEdit | Noise]) -> None:
        self.batch: Batch | None = None
        self._anatomy = anatomy
        self._stack = ExitStack()
        self._changed = not edits
        self._entries: dict[tuple[str, int], dict[int, list[Edit]]] = {}
        self._noises: list[Noise] = []
        self._untrained = False
        self._tokens: dict[int, list[TokenEdit]] = {}
        self._weights: list[WeightEdit] = []
        self._rows: list[RowsEdit] = []
        self._windows: list[AttentionWindow] = []
        for edit in edits:
            if isinstance(edit, Edit):
                entries = self._entries.setdefault((edit.site, edit.layer), {})
                entries.setdefault(edit.sequence, []).append(edit)
            elif isinstance(edit, TokenEdit):
                self._tokens.setdefault(edit.layer, []).append(edit)
            elif isinstance(edit, WeightEdit):
                self._weights.append(edit)
            elif isinstance(edit, RowsEdit):
                self._rows.append(edit)
            elif isinstance(edit, UntrainedEdit):
                self._untrained = True
            elif isinstance(edit, Noise):
                self._noises.append(edit)
            elif isinstance(edit, NoiseEdit):
                raise InterventionError("noise is made of the inputs, so it is made before the model is edited")
            else:
                self._windows.append(edit)

    def __enter__(self) -> Editor:
        # Looking for rows calls the model, which nothing may edit at that time.
        rows = [
            (edit, feeding(self._anatomy, edit.layer, edit.channels, expert=edit.expert, others=edit.keep))
            for edit in self._rows
        ]
        try:
            if self._untrained:
                self._changed = self._stack.enter_context(untrained(self._anatomy)) or self._changed
            for layer in sorted({*(layer for site, layer in self._entries if site == _STREAM), *self._tokens}):
                self._hook(layer)
            for site, layer in self._entries:
                if site != _STREAM:
                    self._hook_site(site, layer)
            for noise in self._noises:
                self._add(noise)
            for edit in self._weights:
                self._changed = self._stack.enter_context(_set_weight(self._anatomy, edit)) or self._changed
            for channels, lines in rows:
                self._changed = self._stack.enter_context(switched_off(self._anatomy, channels, lines)) or self._changed
            for window in self._windows:
                self._narrow(window)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def require_change(self) -> None:
        """See to it that something was changed, once the forward calls are made.

        Raises:
            InterventionError: nothing was.
        """
        if not self._changed:
            raise InterventionError(
                "the intervention changed nothing: whatever was to be edited already was as it was to be set, so "
                "nothing can be learned from it; choose another `set`, or other inputs"
            )

    def _narrow(self, window: AttentionWindow) -> None:
        if self._anatomy.attention_route != "interface":
            raise InterventionError(
                f"attention cannot be narrowed to a window in this model: it computes attention by itself; {_DOCTOR}"
            )
        maps = [block.attention_maps.module for block in self._anatomy.blocks if block.attention_maps is not None]

        def narrowed() -> None:
            self._changed = True

        self._stack.enter_context(narrowed_attention(self._anatomy.model, maps, window, narrowed))

    def _hook(self, layer: int) -> None:
        if layer == 0:
            first = self._anatomy.blocks[0].module
            self._stack.callback(first.register_forward_pre_hook(self._edit_incoming, with_kwargs=True).remove)
            return
        block = self._anatomy.blocks[layer - 1]
        self._stack.callback(block.module.register_forward_hook(self._edit_outgoing(layer, block.path)).remove)
        consumer = self._anatomy.consumer(layer)
        if consumer is not None:
            arrival = self._arrival(layer, consumer.path)
            self._stack.callback(consumer.module.register_forward_pre_hook(arrival, with_kwargs=True).remove)

    def _add(self, noise: Noise) -> None:
        """Add noise to what the modules of its sites give out."""
        for site in noise.parts:
            part = self._anatomy.at(site, 1)
            assert part is not None, "noise is made for sites that there are"

            def add(value: torch.Tensor, site: str = site) -> torch.Tensor:
                assert self.batch is not None, "hooks are only called within a forward call"
                self._changed = True
                return noise.added(site, self.batch.sequences[0], value)

            self._stack.callback(shown(part, site, add))

    def _hook_site(self, site: str, layer: int) -> None:
        """Edit what a module gives out, or is called on, that the model's own code names for a site."""
        part = self._anatomy.at(site, layer)
        if part is None:
            raise InterventionError(
                f"{site} of layer {layer} cannot be edited: this model's own code names no module for it; {_DOCTOR}"
            )

        def change(value: torch.Tensor) -> torch.Tensor:
            return self._edited(layer, value, site)

        self._stack.callback(shown(part, site, change))

    def _edit_incoming(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        del module
        value = incoming(args, kwargs)
        assert value is not None, "the first block is called on the embedding output"
        return with_incoming(args, kwargs, self._edited(0, value))

    def _edit_outgoing(self, layer: int, path: str) -> Callable[..., object]:
        def hook(module: nn.Module, args: object, output: object) -> object:
            del module, args
            return with_outgoing(output, self._edited(layer, stream_of(output, path)))

        return hook

    def _edited(self, layer: int, stream: torch.Tensor, site: str = _STREAM) -> torch.Tensor:
        """Return the stream with the edits of this batch made; the tensor itself is left alone."""
        whole = self._whole(stream, site)
        places = list(self._places(layer, whole, site))
        if not places:
            return stream
        new = stream.clone()
        edited = self._whole(new, site)
        for index, values in places:
            edited[index] = values
        self._changed = self._changed or not torch.equal(new, stream)
        return new

    def _arrival(self, layer: int, path: str) -> Callable[..., None]:
        def check(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del module
            value = incoming(args, kwargs)
            whole = None if value is None else self._whole(value, _STREAM)
            if whole is None or any(not torch.equal(whole[at], wanted) for at, wanted in self._places(layer, whole)):
                raise InterventionError(
                    f"the edit of layer {layer} did not arrive at {path}, which takes that layer in; {_DOCTOR}"
                )

        return check

    def _whole(self, value: torch.Tensor, site: str) -> torch.Tensor:
        """Return a view of a value with an axis of sequences, which the one input of a model's own may lack."""
        return rows_of(value, site) if isinstance(self.batch, OwnBatch) else value

    def _places(self, layer: int, stream: torch.Tensor, site: str = _STREAM) -> Iterable[tuple[Any, torch.Tensor]]:
        """Yield what is edited of a stream: an index, and the new values in the stream's own dtype."""
        assert self.batch is not None, "hooks are only called within a forward call"
        for token in self._tokens.get(layer, ()) if site == _STREAM else ():
            wanted = torch.tensor(token.values, dtype=stream.dtype, device=stream.device)
            yield (slice(None), token.position), wanted.expand(stream.shape[0], -1)
        rows = {sequence: row for row, sequence in enumerate(self.batch.sequences)}
        entries = self._entries.get((site, layer), {})
        edits = [edit for sequence in rows for edit in entries.get(sequence, ())]
        if edits:
            places = [[rows[edit.sequence] for edit in edits], [e.position for e in edits], [e.dim for e in edits]]
            index = tuple(torch.tensor(axis, dtype=torch.long, device=stream.device) for axis in places)
            yield index, torch.tensor([edit.value for edit in edits], dtype=stream.dtype, device=stream.device)


@contextmanager
def _set_weight(anatomy: Anatomy, edit: WeightEdit) -> Iterator[bool]:
    """Set one weight for the time of the context, and yield whether that changed it."""
    weight, index = _weight(anatomy, edit)
    before = weight[index].clone()
    with torch.no_grad():
        weight[index] = edit.value
    try:
        yield not torch.equal(weight[index], before)
    finally:
        with torch.no_grad():
            weight[index] = before


def _weight(anatomy: Anatomy, edit: WeightEdit) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return the matrix of a block's down projection, and where in it an edit lies."""
    place = f"the down projection of layer {edit.layer}"
    downs = anatomy.blocks[edit.layer - 1].down
    if len(downs) != 1 or downs[0].routed or downs[0].parameter:
        what = "is that of several experts" if downs else "was not found"
        raise InterventionError(f"{place} {what}, so no single weight of it can be edited; {_DOCTOR}")
    module = downs[0].module
    while wraps(module):
        module = module.base_layer  # type: ignore[assignment]
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point() or weight.dim() != _MATRIX_AXES:
        raise InterventionError(
            f"{place} ({downs[0].path}) holds no plain matrix of weights, as in a quantised model, so no single weight "
            f"of it can be edited; load the checkpoint with --maprobe-dtype float32 from weights that are not quantised"
        )
    if weight.device.type == "meta":
        raise InterventionError(
            f"{place} ({downs[0].path}) is kept off the device, so no single weight of it can be edited; load the "
            f"whole model, without --maprobe-device-map"
        )
    # GPT-2's Conv1D, the one matrix that transformers stores the other way round, is told by its name.
    turned = type(module).__name__ == "Conv1D"
    index = (edit.column, edit.row) if turned else (edit.row, edit.column)
    if index[0] >= weight.shape[0] or index[1] >= weight.shape[1]:
        rows, columns = reversed(weight.shape) if turned else weight.shape
        raise InterventionError(
            f"{place} has {rows} rows and {columns} columns, and row {edit.row}, column {edit.column} was to be edited"
        )
    return weight, index
