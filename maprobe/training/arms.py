"""One arm of a comparison: an adapter trained on instructions, and what the model with it is worth afterwards."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from maprobe.edits import RowsEdit
from maprobe.errors import TrainingError
from maprobe.measurements.perplexity import PERPLEXITY
from maprobe.progress import Silent
from maprobe.running.calling import resting
from maprobe.running.discovery import discover
from maprobe.running.inputs import batches
from maprobe.running.measuring import measured
from maprobe.running.quiet import hushed
from maprobe.running.switching import switched_off
from maprobe.training.instructions import Example, batch_of
from maprobe.training.texts import IGNORED

if TYPE_CHECKING:
    from maprobe.running.anatomy import Anatomy
    from maprobe.running.inputs import Inputs
    from maprobe.training.macdrop import MacDrop
    from maprobe.training.massive_rows import Channels

__all__ = ["Adapter", "Schedule", "Worth", "adapted", "merged", "needed_peft", "train", "worth"]

_TOLD = 10  # reports of the loss in a training
_CHUNK = 8  # examples in a forward call without gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What is learned: a low-rank adapter.

    Attributes:
        kind: ``lora`` or ``dora``.
        rank: of the matrices that are added.
        alpha: what they are scaled by, times the rank.
        targets: names of the modules that are adapted, or ``all-linear`` for all but embedding and head.
    """

    kind: str
    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How it is learned.

    Attributes:
        steps: optimiser steps.
        batch: examples in a forward call.
        accumulate: forward calls in a step.
        rate: the highest learning rate of Adam.
        warmup: share of the steps over which the rate rises to it; afterwards it falls in a straight line to zero.
        seed: of the adapter's first weights and of the order of the examples.
        cpu: whether it is learned on the CPU though there is an accelerator.
    """

    steps: int
    batch: int
    accumulate: int
    rate: float
    warmup: float
    seed: int
    cpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a model is worth.

    Attributes:
        held_out_loss: mean cross-entropy of the responses held out, in nats per token.
        perplexity: of running text.
        zeroed_perplexity: the same, while the rows of the largest massive channels are zero.
    """

    held_out_loss: float
    perplexity: float
    zeroed_perplexity: float

    def to_dict(self) -> dict[str, float | str]:
        """Return it as plain data; JSON has no infinity, which is written as a text."""
        return {name: value if math.isfinite(value) else str(value) for name, value in asdict(self).items()}


def needed_peft() -> Any:  # noqa: ANN401 - a module that may be missing
    """Return the package peft.

    Raises:
        TrainingError: it cannot be imported.
    """
    try:
        with hushed(Silent()):
            import peft
    except ImportError as error:
        raise TrainingError(
            f"adapters need the package peft, which cannot be imported ({error}); install it with "
            f"`pip install 'maprobe[train]'`"
        ) from None
    return peft


def adapted(model: nn.Module, adapter: Adapter, seed: int) -> Any:  # noqa: ANN401 - peft may be missing
    """Return a model with a fresh adapter; everything else of it is frozen.

    Raises:
        TrainingError: peft is missing, or it finds nothing to adapt.
    """
    peft = needed_peft()
    targets: Any = adapter.targets[0] if adapter.targets == ("all-linear",) else [*adapter.targets]
    torch.manual_seed(seed)
    try:
        with hushed(Silent()):
            config = peft.LoraConfig(
                r=adapter.rank,
                lora_alpha=adapter.alpha,
                target_modules=targets,
                use_dora=adapter.kind == "dora",
                task_type="CAUSAL_LM",
            )
            return peft.get_peft_model(model, config)
    except ValueError as error:
        first = str(error).strip().splitlines()[0]
        raise TrainingError(f"--targets {' '.join(adapter.targets)}: peft adapts nothing by it ({first})") from error


def merged(model: nn.Module, folder: Path) -> nn.Module:
    """Return a model with the saved adapter of a folder merged into its weights."""
    peft = needed_peft()
    with hushed(Silent()):
        whole: Any = peft.PeftModel.from_pretrained(model, str(folder))
        module: nn.Module = whole.merge_and_unload()
    return module


def train(
    model: Any,  # noqa: ANN401 - a PeftModel
    examples: Sequence[Example],
    schedule: Schedule,
    folder: Path,
    macdrop: MacDrop | None,
    name: str,
) -> float:
    """Train the adapter, save it into a folder, and return how many seconds the training took.

    Args:
        model: with an adapter.
        examples: to learn from.
        schedule: how.
        folder: where the adapter goes.
        macdrop: what drops rows; None for a plain training.
        name: of the arm, for the lines that tell how far it is.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch,
        gradient_accumulation_steps=schedule.accumulate,
        learning_rate=schedule.rate,
        warmup_steps=math.ceil(schedule.warmup * schedule.steps),
        lr_scheduler_type="linear",
        seed=schedule.seed,
        logging_steps=max(1, schedule.steps // _TOLD),
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=schedule.cpu,
    )
    rows: Any = [*examples]
    callbacks: list[TrainerCallback] = [_Telling(name)]
    began = time.monotonic()
    if macdrop is None:
        _trainer(model, arguments, rows, callbacks).train()
    else:
        with macdrop:
            _trainer(model, arguments, rows, [*callbacks, macdrop]).train()
    seconds = time.monotonic() - began
    with hushed(Silent()):
        model.save_pretrained(str(folder))
    return seconds


def worth(model: nn.Module, held_out: Sequence[Example], text: Inputs, channels: Channels) -> Worth:
    """Measure a model without adapters; it is left as it was.

    Args:
        model: a plain model, or one into which its adapter was merged.
        held_out: examples that nothing was learned from.
        text: running text.
        channels: whose rows are set to zero for the last of the numbers.
    """
    anatomy = discover(model, {})
    off = RowsEdit(layer=channels.layer, channels=channels.channels, expert=channels.expert)
    lines = channels.lines(anatomy)
    with resting(model):
        loss = _held_out_loss(model, held_out)
        plain = _perplexity(anatomy, text)
        with switched_off(anatomy, off, lines):
            zeroed = _perplexity(anatomy, text)
    return Worth(held_out_loss=loss, perplexity=plain, zeroed_perplexity=zeroed)


class _Telling(TrainerCallback):
    def __init__(self, name: str) -> None:
        self._name = name

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Tell the loss."""
        del args, control, kwargs
        if logs and "loss" in logs:
            loss = float(logs["loss"])
            sys.stderr.write(f"{self._name}: step {state.global_step}/{state.max_steps}  loss {loss:.4f}\n")
            sys.stderr.flush()


def _trainer(model: Any, arguments: TrainingArguments, rows: Any, callbacks: list[TrainerCallback]) -> Trainer:  # noqa: ANN401
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=batch_of, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _held_out_loss(model: nn.Module, examples: Sequence[Example]) -> float:
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for start in range(0, len(examples), _CHUNK):
        batch = batch_of(examples[start : start + _CHUNK])
        targets = batch.pop("labels")[:, 1:].to(device)
        with torch.inference_mode():
            logits = model(**{name: value.to(device) for name, value in batch.items()}, use_cache=False).logits
            losses = cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
            )
        total += float(losses)
        count += int((targets != IGNORED).sum())
    return total / count


def _perplexity(anatomy: Anatomy, text: Inputs) -> float:
    device = next(anatomy.model.parameters()).device
    return measured(anatomy, PERPLEXITY, batches(text, size=1, device=device))["perplexity"].value
