"""Training a graph transformer: epochs, the learning rate that falls when nothing gets better, and where it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from maprobe.errors import TrainingError
from maprobe.graphs.batches import GraphBatch, GraphSet
from maprobe.graphs.datasets import GraphData, Part
from maprobe.graphs.losses import loss_of
from maprobe.graphs.models import GraphModel
from maprobe.graphs.presets import Preset
from maprobe.graphs.saving import write_model
from maprobe.training.folders import RunFolder
from maprobe.training.scripts import clock, tell

__all__ = ["GraphTrainer", "loss_of"]

_FACTOR = 0.5  # of the learning rate that is left when nothing got better for long enough
_TOLD = 20  # lines that tell how far the training is, at least


@dataclass(kw_only=True)
class GraphTrainer:
    """A graph transformer in training.

    Attributes:
        model: on its device.
        data: what it learns from.
        preset: rates, batch, and where it ends.
        folder: where it writes.
        seed: of the order of the data and of dropout.
        save: epochs between checkpoints; 0 for none but the first and the last.
        state: what :meth:`maprobe.training.folders.RunFolder.resume` gave back, to go on from; None to begin.
    """

    model: GraphModel
    data: GraphData
    preset: Preset
    folder: RunFolder
    seed: int
    save: int = 0
    state: dict[str, Any] | None = None

    def run(self) -> float:
        """Make the epochs that are left, write the final model, and return its validation loss.

        Raises:
            TrainingError: the loss is not finite, or a file cannot be written.
        """
        preset = self.preset
        optimizer = torch.optim.Adam(self.model.parameters(), lr=preset.rate)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="min", factor=_FACTOR, patience=preset.patience
        )
        epoch, best, best_epoch = 0, math.inf, 0
        if self.state is None:
            self._checkpoint("step-0", 0)
        else:
            self.model.load_state_dict(self.state["model"])
            optimizer.load_state_dict(self.state["optimizer"])
            schedule.load_state_dict(self.state["schedule"])
            epoch, best, best_epoch = self.state["epoch"], self.state["best"], self.state["best_epoch"]
        began, first, every = time.monotonic(), epoch, max(1, preset.epochs // _TOLD)
        while (why := self._ended(epoch, best_epoch, optimizer)) is None:
            loss = self._epoch(epoch, optimizer)
            epoch += 1
            held = self.loss(self.data.valid)
            for what, value in (("training", loss), ("validation", held)):
                if not math.isfinite(value):
                    raise TrainingError(f"the {what} loss of epoch {epoch} is {value}; begin anew with a lower --lr")
            if held < best:
                best, best_epoch = held, epoch
            schedule.step(held)
            rate, seconds = float(optimizer.param_groups[0]["lr"]), time.monotonic() - began
            step = epoch * self._steps
            entry = {"step": step, "epoch": epoch, "loss": loss, "validation_loss": held, "rate": rate}
            self.folder.log({**entry, "seconds": seconds})
            if epoch % every == 0 or epoch == first + 1:
                left = seconds / (epoch - first) * (preset.epochs - epoch)
                tell(
                    f"epoch {epoch}/{preset.epochs}  loss {loss:.4f}  validation {held:.4f}  rate {rate:.2g}  "
                    f"{clock(left)} left at most"
                )
            if self.save and epoch % self.save == 0:
                self._checkpoint(f"step-{step}", epoch)
            saved: dict[str, Any] = {"step": step, "epoch": epoch, "best": best, "best_epoch": best_epoch}
            saved |= {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}
            self.folder.save_state({**saved, "schedule": schedule.state_dict()})
        self._checkpoint("final", epoch)
        held = self.loss(self.data.valid)
        lowest = f" (lowest {best:.4f} in epoch {best_epoch})" if best_epoch else ""
        tell(f"ended after {epoch} epochs: {why}; validation loss {held:.4f}{lowest}")
        return held

    def loss(self, part: Part) -> float:
        """Return the mean loss over a part, each batch weighed by its known targets, in eval mode."""
        self.model.eval()
        total, count = 0.0, 0
        torch.manual_seed(self.seed)  # where neighbours are drawn, the same are drawn each time
        with torch.no_grad():
            for batch in self._batches(part, list(range(len(part)))):
                known = int((~batch.targets.isnan()).sum())
                total += known * float(loss_of(self.model(batch), batch.targets, self.data.task))
                count += known
        return total / count

    @property
    def _steps(self) -> int:
        return math.ceil(len(self.data.train) / self.preset.batch)

    def _ended(self, epoch: int, best_epoch: int, optimizer: torch.optim.Optimizer) -> str | None:
        """Say why the training is over; None while it is not."""
        if epoch >= self.preset.epochs:
            return "all epochs were made"
        rate = float(optimizer.param_groups[0]["lr"])
        if rate < self.preset.min_rate:
            return f"the rate {rate:.2g} fell below {self.preset.min_rate:.2g}"
        if self.preset.early_stop and epoch - best_epoch >= self.preset.early_stop:
            return f"the validation loss was not lower in {self.preset.early_stop} epochs"
        return None

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> float:
        """Go through the data once. Order and dropout depend on seed and epoch alone, so that a run can be resumed."""
        self.model.train()
        order = numpy.random.default_rng((self.seed, epoch)).permutation(len(self.data.train)).tolist()
        torch.manual_seed(self.seed * 1_000_003 + epoch)
        total, count = 0.0, 0
        for batch in self._batches(self.data.train, order):
            loss = loss_of(self.model(batch), batch.targets, self.data.task)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            known = int((~batch.targets.isnan()).sum())
            total, count = total + known * float(loss.detach()), count + known
        return total / count

    def _batches(self, part: Part, order: list[int]) -> Iterator[GraphBatch]:
        device = next(self.model.parameters()).device
        for start in range(0, len(order), self.preset.batch):
            yield part.batch(order[start : start + self.preset.batch]).to(device)

    def _checkpoint(self, name: str, epoch: int) -> None:
        data, test = self.data, self.data.test
        about = {**data.about, **({"path": data.path} if data.path else {})}
        training = {"steps": epoch * self._steps, "epochs": epoch, "seed": self.seed}
        kept = test if isinstance(test, GraphSet) else None
        self.folder.save(name, lambda path: write_model(path, self.model, about, training=training, test=kept))
