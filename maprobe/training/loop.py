"""One training run: steps, losses, checkpoints. Everything that a step does is decided by its number and the seed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from maprobe.errors import TrainingError
from maprobe.training.folders import RunFolder
from maprobe.training.optimising import optimizer_of, rate_at
from maprobe.training.presets import Settings
from maprobe.training.scripts import clock, tell
from maprobe.training.texts import IGNORED, Data, batch_of

__all__ = ["Trainer"]

_TOLD = 20  # reports of the loss in a run, at least


@dataclass(kw_only=True)
class Trainer:
    """A model in training.

    Attributes:
        model: on its device, in float32.
        tokenizer: is saved with every checkpoint.
        data: token ids to learn from and held out.
        settings: of the run.
        folder: where it writes.
        seed: of the order of the data.
        sink: id of the sink token that stands before every sequence; None without.
        autocast: whether forward calls are made in bfloat16.
        state: what :meth:`maprobe.training.folders.RunFolder.resume` gave back, to go on from; None to begin.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    data: Data
    settings: Settings
    folder: RunFolder
    seed: int
    sink: int | None = None
    autocast: bool = False
    state: dict[str, Any] | None = None

    def run(self) -> float:
        """Make the steps that are left, write the final model, and return its validation loss in nats.

        Raises:
            TrainingError: the loss is not finite, or a file cannot be written.
        """
        optimizer = optimizer_of(self.model, self.settings)
        first = 0
        if self.state is not None:
            first = self.state["step"]
            optimizer.load_state_dict(self.state["optimizer"])
            torch.set_rng_state(self.state["random"])
        began, every = time.monotonic(), max(1, self.settings.steps // _TOLD)
        loss = float("nan")
        for step in range(first, self.settings.steps):
            loss, norm = self._step(step, optimizer)
            done = step + 1
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss of step {done} is {loss}, so nothing can be learned any more; lower --lr, or lengthen "
                    f"--warmup"
                )
            last = done == self.settings.steps
            if done % every == 0 or last or done == 1:
                seconds = time.monotonic() - began
                rate = rate_at(step, self.settings)
                entry = {"step": done, "loss": loss, "rate": rate, "gradient_norm": norm, "seconds": seconds}
                self.folder.log({**entry, "tokens": done * self.settings.tokens})
                left = seconds / (done - first) * (self.settings.steps - done)
                tell(f"step {done}/{self.settings.steps}  loss {loss:.4f}  {clock(left)} left")
            if done % self.settings.evaluate == 0 and not last:
                self._report(done)
            if done % self.settings.save == 0 and not last:
                self._save(done, optimizer)
        return self._finish(optimizer)

    def validation_loss(self) -> float:
        """Return the mean cross-entropy in nats over the held-out sequences, one after another from its start."""
        block, tokens = self.settings.block, self.data.held_out
        count = min(self.settings.windows, (len(tokens) - 1) // block)
        total = 0.0
        self.model.eval()
        with torch.no_grad():
            for start in range(count):
                ids, targets = batch_of(tokens, [start * block], block, self.sink)
                total += float(self._loss(ids, targets))
        self.model.train()
        return total / count

    def _finish(self, optimizer: torch.optim.Optimizer) -> float:
        steps = self.settings.steps
        saved = self.state is not None and self.state["step"] == steps
        loss = self._report(steps, log=not saved)
        if not saved:
            self._save(steps, optimizer)
        self.folder.save_model("final", self.model, self.tokenizer)
        return loss

    def _step(self, step: int, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
        """Make one step and return its loss and the norm of its gradient before clipping."""
        self.model.train()
        total = torch.zeros((), device=self.model.device)
        for ids, targets in self._batches(step):
            loss = self._loss(ids, targets) / self.settings.accumulate
            loss.backward()
            total += loss.detach()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(trained, self.settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, self.settings)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total), float(norm)

    def _batches(self, step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Draw the sequences of a step. The draw depends on seed and step alone, so that a run can be resumed."""
        block, tokens = self.settings.block, self.data.train
        draw = numpy.random.default_rng((self.seed, step))
        starts = draw.integers(0, len(tokens) - block, size=(self.settings.accumulate, self.settings.batch))
        for row in starts.tolist():
            yield batch_of(tokens, row, block, self.sink)

    def _loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        device: torch.device = self.model.device
        context: AbstractContextManager[Any] = nullcontext()
        if self.autocast:
            context = torch.autocast(device.type, dtype=torch.bfloat16)
        with context:
            logits: torch.Tensor = self.model(input_ids=ids.to(device), use_cache=False).logits
        return cross_entropy(logits.flatten(0, 1).float(), targets.to(device).flatten(), ignore_index=IGNORED)

    def _report(self, step: int, *, log: bool = True) -> float:
        loss = self.validation_loss()
        if log:
            self.folder.log({"step": step, "validation_loss": loss, "perplexity": math.exp(loss)})
        tell(f"step {step}/{self.settings.steps}  validation loss {loss:.4f}  perplexity {math.exp(loss):.2f}")
        return loss

    def _save(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self.folder.save_model(f"step-{step}", self.model, self.tokenizer)
        self.folder.save_state({"step": step, "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()})
