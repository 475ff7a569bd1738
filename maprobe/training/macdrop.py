"""MacDrop (arXiv:2410.01866, algorithm 1): an adapter learns while weights that make massive activations are dropped.

The rows of the up and gate projections that make the largest channels of the MLP's hidden state are found once, before
anything is learned. In every optimiser step single entries of them are zero, with a probability that falls in the
course of the training; after it they are what they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from maprobe.errors import TrainingError
from maprobe.running.discovery import discover
from maprobe.training.adapters import base_of, is_dora, require_frozen, require_plain, without_adapters
from maprobe.training.curricula import Curriculum, Moment
from maprobe.training.dropping import MASKS, Dropped, Masks, left_over
from maprobe.training.massive_rows import Channels, bos_of, find_channels

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy
    from maprobe.running.rows import Lines

__all__ = ["MacDrop"]

STATE = "maprobe.macdrop"  # where the trainer's own state, which it saves with every checkpoint, keeps ours
_MATRIX = 2
_MOST_EPOCHS = 10**6  # transformers counts more where a dataset has no length


class MacDrop(TrainerCallback):
    """A callback of transformers' ``Trainer`` that drops rows in every optimiser step and puts them back after it.

    The base model must be frozen, and what is trained must be an adapter (peft's LoRA, DoRA and their like). Under
    gradient accumulation one mask holds for the whole step. The weights are the original ones whenever the trainer
    evaluates, saves, or logs. What is dropped in a step depends on ``seed`` and the step's number alone, and the
    channels are kept in the trainer's state, so that a training resumed from a checkpoint is the one that was
    interrupted. A training that stops with an error leaves rows dropped unless the callback is also the context that it
    runs in::

        with MacDrop() as callback:
            Trainer(model=adapted, callbacks=[callback], ...).train()

    The next training of the same model, with any ``MacDrop``, puts back what was left behind, with a warning.

    Args:
        curriculum: the probability of dropping, by step; None for the paper's, 0.8 (1 - t/T).
        k: how many channels are dropped, where they are found; 5 in the paper.
        layer: number of the block, from 1, to look for channels in, or whose ``channels`` are given; None for the one
            whose MLP makes the token massive.
        channels: the channels themselves, from 0; None to find them.
        expert: number of the expert, from 0, where channels are given and the MLP consists of experts.
        bos: id of the token that channels are found on; None for the tokenizer's BOS, or else the config's.
        masks: ``shared``, one mask for the up and the gate projection, as the paper prints it, or ``separate``.
        seed: of the masks.

    Attributes:
        found: the channels; None before a training begins.
        steps: how many steps rows were dropped in, in the training under way or the last one.

    Raises:
        TrainingError: an argument is out of range; when a training begins, the model is not one that this can be done
            to, or the checkpoint that is resumed was made with other settings.
    """

    def __init__(
        self,
        curriculum: Curriculum | None = None,
        *,
        k: int = 5,
        layer: int | None = None,
        channels: Sequence[int] | None = None,
        expert: int | None = None,
        bos: int | None = None,
        masks: Masks = "shared",
        seed: int = 0,
    ) -> None:
        given = Channels.given(layer, channels, expert)
        if k < 1:
            raise TrainingError(f"k = {k} channels cannot be dropped; allowed: 1 and more")
        if masks not in MASKS:
            raise TrainingError(f"masks = {masks!r} does not exist; allowed: {', '.join(MASKS)}")
        if seed < 0:
            raise TrainingError(f"seed = {seed} is below 0; allowed: 0 and more")
        self.curriculum = curriculum or Curriculum()
        self.found: Channels | None = None
        self.steps = 0
        self._given, self._layer, self._k, self._bos = given, layer, k, bos
        self._masks: Masks = masks
        self._seed = seed
        self._lines: tuple[Lines, ...] = ()
        self._dropped: Dropped | None = None

    def __enter__(self) -> MacDrop:
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the rows back, if they are dropped."""
        dropped, self._dropped = self._dropped, None
        if dropped is not None:
            dropped.restore()

    # The trainer evaluates and saves between on_step_end and the next on_step_begin, and after on_epoch_end. Rows are
    # back before any callback is told of the end of a step: nothing after the last backward call needs them dropped.

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Find the rows, or take those of the checkpoint that the training goes on from."""
        del args, control
        model: nn.Module = kwargs["model"]
        self._tidy(model)
        require_plain(model)
        first = Moment(step=1, steps=max(1, state.max_steps), epoch=1, epochs=max(1, state.num_train_epochs))
        self._check(model, first)
        with without_adapters(model):
            anatomy = discover(base_of(model), {})
            self.found = self._channels(anatomy, state, kwargs.get("processing_class"))
            self._lines = tuple(line for line in self.found.lines(anatomy) if line.parameter.dim() >= _MATRIX)
        require_frozen(self._lines)
        _kept(state)[STATE] = {**self._settings(), "found": self.found.to_dict()}
        self.steps = 0

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Drop entries of the rows for the optimiser step that begins."""
        del args, control, kwargs
        assert self.found is not None, "a training has begun"
        self.restore()
        epochs = max(1, state.num_train_epochs)
        step = state.global_step + 1
        moment = Moment(
            step=step, steps=max(step, state.max_steps), epoch=min(int(state.epoch or 0) + 1, epochs), epochs=epochs
        )
        dropped = Dropped(
            self._lines,
            self.curriculum.at(moment),
            channels=len(self.found.channels),
            seed=self._seed,
            step=step,
            masks=self._masks,
        )
        self._dropped = dropped.__enter__()
        self.steps += 1

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Put the rows back: the gradients of the step are there."""
        self.restore()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Put the rows back."""
        self.restore()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Put the rows back, also where the epoch ended within a step."""
        self.restore()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Put the rows back."""
        self.restore()

    def _tidy(self, model: nn.Module) -> None:
        own = [] if self._dropped is None else [self._dropped]
        if any([dropped.restore() for dropped in (*left_over(model), *own)]):  # noqa: C419 - each is restored
            warnings.warn(
                "a training of this model was interrupted within a step of MacDrop and left rows dropped, which have "
                "been put back now; run trainings within `with MacDrop(...) as callback:` to have it done at once",
                stacklevel=2,
            )

    def _check(self, model: nn.Module, first: Moment) -> None:
        if self.curriculum.kind.startswith("epoch") and first.epochs > _MOST_EPOCHS:
            raise TrainingError(
                f"the curriculum {self.curriculum.kind} needs a number of epochs, and the dataset has no length that "
                f"would tell it; choose step or exp"
            )
        if self.curriculum.at(first) >= 1 and is_dora(model):
            raise TrainingError(
                "DoRA divides by the norm of each row, and a row that is dropped with probability 1 has none; choose a "
                "p0 below 1"
            )

    def _channels(self, anatomy: Anatomy, state: TrainerState, tokenizer: Any) -> Channels:  # noqa: ANN401
        saved = _kept(state).get(STATE)
        if saved is None:
            if self._given is not None:
                return self._given
            bos = bos_of(anatomy.model, tokenizer) if self._bos is None else self._bos
            return find_channels(anatomy, bos, self._k, self._layer)
        for name, value in self._settings().items():
            if saved[name] != value:
                raise TrainingError(
                    f"the checkpoint was made by a MacDrop with {name} = {saved[name]}, and this one has {value}; go "
                    f"on with the same settings, or begin anew"
                )
        return Channels.from_dict(saved["found"])

    def _settings(self) -> dict[str, Any]:
        """Return all that decides what is dropped, as plain data."""
        return {
            "curriculum": self.curriculum.to_dict(),
            "k": self._k,
            "layer": self._layer,
            "channels": self._given and self._given.to_dict(),
            "bos": self._bos,
            "masks": self._masks,
            "seed": self._seed,
        }


def _kept(state: TrainerState) -> dict[str, Any]:
    """Return what the trainer saves for callbacks; transformers makes a dict of the list that the type speaks of."""
    kept: Any = state.stateful_callbacks
    return cast("dict[str, Any]", kept)
