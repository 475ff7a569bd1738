"""Noise on what goes into a model, random or learnt to raise its loss (arXiv:2409.03463, the adversarial framework)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maprobe.edits import NoiseEdit
from maprobe.errors import InterventionError
from maprobe.running.calling import Arguments, call, moved, resting
from maprobe.running.digests import parameters_digest
from maprobe.running.own_inputs import OwnInputs
from maprobe.running.own_sites import loss_of, rows_of, shown

if TYPE_CHECKING:
    from maprobe.progress import Progress
    from maprobe.python_models import PythonModel
    from maprobe.running.anatomy import Anatomy, Part
    from maprobe.running.inputs import AnyInputs

__all__ = ["SITES_OF_NOISE", "Noise", "make_noise"]

SITES_OF_NOISE = ("embed.out", "edge.embed")
_TOGETHER = 128  # inputs that go through the model in one call while noise is learnt
_FEWEST = 2  # numbers that have a standard deviation
_FACTOR = 0.5  # of the rate that is left when nothing got worse for long enough


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Noise:
    """Noise for every input, ready to be added.

    Attributes:
        parts: by site, what is added to the rows of each input: rows x width, one after the other.
        losses: the mean loss over all inputs, first of the noise as it was drawn, then after each step; of random
            noise, none.
        rate: the rate with which learning ended; of random noise, nan.
    """

    parts: Mapping[str, tuple[torch.Tensor, ...]]
    losses: tuple[float, ...] = ()
    rate: float = math.nan

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return max(len(self.losses) - 1, 0)

    @property
    def told(self) -> str:
        """How far learning went, in a sentence; empty for random noise."""
        if not self.losses:
            return ""
        return (
            f"noise was learnt in {self.steps} steps, in which the mean loss over the inputs rose from "
            f"{self.losses[0]:.4g} to {max(self.losses):.4g}; the rate ended at {self.rate:.2g}"
        )

    def added(self, site: str, number: int, value: torch.Tensor) -> torch.Tensor:
        """Return what a site shows of an input, rows x columns, with the noise of that input added."""
        return _added(site, value, self.parts[site][number])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chunk:
    """Inputs that go through the model together, and which rows of the noise of each site are theirs."""

    given: Any
    count: int
    rows: Mapping[str, slice]


def make_noise(anatomy: Anatomy, inputs: AnyInputs, edit: NoiseEdit, device: torch.device, progress: Progress) -> Noise:
    """Draw noise for all inputs, and learn it, if that is asked for.

    Of each site the noise n of all inputs together is a tensor of its own, and n / std(n) * deviation is what is added.
    Learning moves n by Adam towards a higher mean loss over the inputs; the rate is halved when the loss has not risen
    for more than ``patience`` steps. The noise with the highest loss of all steps is kept. The model is frozen.

    Raises:
        InterventionError: the model's code names no embedding or brings no loss; an embedding is called more or less
            than once for an input, or gives too little to have a deviation; inputs cannot be joined, or their rows do
            not follow one another then; the loss is not finite; or the weights are not what they were.
    """
    own, parts = anatomy.own, _places(anatomy)
    if own is None or own.loss is None or not isinstance(inputs, OwnInputs):
        raise InterventionError("noise is learnt against the loss that a model's own code brings; give its code one")
    generator = torch.Generator().manual_seed(edit.seed)
    with resting(anatomy.model), _frozen(anatomy.model):
        heights, widths = _sizes(anatomy, inputs, parts, device)
        drawn = {
            site: torch.randn((sum(heights[site]), widths[site]), generator=generator).to(device) for site in parts
        }
        if not edit.learnt:
            return Noise(parts=_apart(_scaled(drawn, edit.deviation), heights))
        before = parameters_digest(anatomy.model)
        chunks = _chunks(own, inputs, heights, device)
        learner = _Learner(anatomy, own, parts, chunks, edit)
        noise, losses, rate = learner.learn(drawn, progress)
        if parameters_digest(anatomy.model) != before:
            raise InterventionError("the weights changed while noise was learnt, so that nothing can be compared")
    return Noise(parts=_apart(noise, heights), losses=tuple(losses), rate=rate)


@dataclass(slots=True, eq=False)
class _Learner:
    anatomy: Anatomy
    own: PythonModel
    parts: Mapping[str, Part]
    chunks: Sequence[_Chunk]
    edit: NoiseEdit

    def learn(
        self, drawn: Mapping[str, torch.Tensor], progress: Progress
    ) -> tuple[dict[str, torch.Tensor], list[float], float]:
        """Return the noise with the highest loss, the loss at the start and after each step, and the last rate."""
        edit = self.edit
        noise = {site: value.clone().requires_grad_() for site, value in drawn.items()}
        optimizer = torch.optim.Adam(noise.values(), lr=edit.rate, maximize=True)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=_FACTOR, patience=edit.patience
        )
        losses: list[float] = []
        best, kept = -math.inf, _scaled(drawn, edit.deviation)
        with progress.bar(f"learning noise of deviation {edit.deviation:g}", edit.steps, "step") as bar:
            for step in range(edit.steps + 1):
                scaled = _scaled(noise, edit.deviation)
                added = {site: value.detach().requires_grad_() for site, value in scaled.items()}
                rate = float(optimizer.param_groups[0]["lr"])
                last = step == edit.steps or rate < edit.min_rate
                loss = self._loss(added, differentiate=not last)
                if not math.isfinite(loss):
                    raise InterventionError(f"the loss is {loss} at step {step} of learning noise; lower `rate`")
                losses.append(loss)
                if loss > best:
                    best, kept = loss, {site: value.detach().clone() for site, value in added.items()}
                if last:
                    break
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(list(scaled.values()), [_gradient(value) for value in added.values()])
                optimizer.step()
                schedule.step(loss)
                bar.advance()
        return kept, losses, rate

    def _loss(self, added: Mapping[str, torch.Tensor], *, differentiate: bool) -> float:
        """Return the mean loss over all inputs; gradients of what is added are summed up where they are asked for."""
        total = sum(chunk.count for chunk in self.chunks)
        summed = 0.0
        for chunk in self.chunks:
            with ExitStack() as stack:
                for site, part in self.parts.items():
                    add = partial(_added, site, noise=added[site][chunk.rows[site]])
                    stack.callback(shown(part, site, lambda value, add=add: add(value)))  # type: ignore[misc]
                output = call(
                    self.anatomy.model,
                    Arguments.of(chunk.given),
                    logits=True,
                    gradients="now" if differentiate else "later",
                )
            assert self.own.loss is not None, "looked at before"
            with torch.set_grad_enabled(differentiate):
                loss = loss_of(self.own.loss, output, chunk.given).sum()
            if differentiate and loss.requires_grad:
                loss.backward(torch.full_like(loss, chunk.count / total))  # type: ignore[no-untyped-call]
            summed += float(loss.detach()) * chunk.count
        return summed / total


def _added(site: str, value: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return a value with noise of the same form added, in the dtype of the value."""
    if value.shape[-2:] != noise.shape or value.numel() != noise.numel():
        raise InterventionError(
            f"{site} has the form {tuple(value.shape)}, and the same inputs have {len(noise)} rows of "
            f"{noise.shape[-1]} numbers there when each is run alone; let `join` put their rows one after another, or "
            f"leave it out"
        )
    return value + noise.to(value.dtype)


def _gradient(value: torch.Tensor) -> torch.Tensor:
    """Return the gradient of what was added; zeros where nothing hangs on it."""
    return torch.zeros_like(value) if value.grad is None else value.grad


def _places(anatomy: Anatomy) -> dict[str, Part]:
    parts = {site: part for site in SITES_OF_NOISE if (part := anatomy.at(site, 1)) is not None}
    if not parts:
        raise InterventionError(
            f"noise is added to {' and '.join(SITES_OF_NOISE)}, and the model's own code names a module for neither; "
            f"name one under `sites`"
        )
    return parts


def _sizes(
    anatomy: Anatomy, inputs: OwnInputs, parts: Mapping[str, Part], device: torch.device
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Return how many rows each input has at each site, and how wide they are."""
    heights: dict[str, list[int]] = {site: [] for site in parts}
    widths: dict[str, int] = {}

    def see(site: str, value: torch.Tensor) -> None:
        _, rows, widths[site] = rows_of(value, site).shape
        heights[site].append(rows)

    with ExitStack() as stack:
        for site, part in parts.items():
            stack.callback(shown(part, site, lambda value, site=site: see(site, value)))  # type: ignore[misc]
        for number in range(len(inputs.items)):
            call(anatomy.model, inputs.batch((number,), device).given, logits=True, gradients="later")
            for site, each in heights.items():
                if len(each) != number + 1:
                    raise InterventionError(
                        f"{parts[site].path}, named for {site}, was called {len(each) - number} times on input "
                        f"{number}, so that it is not known what noise is added to; name a module that is called once"
                    )
    for site, each in heights.items():
        if sum(each) * widths[site] < _FEWEST:
            raise InterventionError(
                f"{site} gives {sum(each)} x {widths[site]} numbers over all inputs, and noise with a deviation takes "
                f"{_FEWEST} at least; run more inputs"
            )
    return heights, widths


def _chunks(
    own: PythonModel, inputs: OwnInputs, heights: Mapping[str, Sequence[int]], device: torch.device
) -> list[_Chunk]:
    """Put inputs together, as far as the model's code says how."""
    size = 1 if own.join is None else _TOGETHER
    starts = dict.fromkeys(heights, 0)
    chunks = []
    for first in range(0, len(inputs.items), size):
        some = inputs.items[first : first + size]
        given = some[0].given if own.join is None else _joined(own.join, [item.given for item in some])
        rows = {}
        for site, each in heights.items():
            end = starts[site] + sum(each[first : first + size])
            rows[site], starts[site] = slice(starts[site], end), end
        chunks.append(_Chunk(given=moved(given, device), count=len(some), rows=rows))
    return chunks


def _joined(join: Callable[[Sequence[Any]], Any], given: Sequence[Any]) -> Any:  # noqa: ANN401 - of the model's code
    try:
        return join(given)
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise InterventionError(
            f"`join` of the model's code failed on {len(given)} inputs with {type(error).__name__}: {first}; correct "
            f"it, or leave it out"
        ) from error


def _scaled(noise: Mapping[str, torch.Tensor], deviation: float) -> dict[str, torch.Tensor]:
    return {site: value / value.std() * deviation for site, value in noise.items()}


def _apart(
    noise: Mapping[str, torch.Tensor], heights: Mapping[str, Sequence[int]]
) -> dict[str, tuple[torch.Tensor, ...]]:
    return {site: torch.split(value.detach(), list(heights[site])) for site, value in noise.items()}


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Ask no weight for a gradient for the time of the context."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad = True
