"""Inputs that a model from Python code brings with it: each goes through the model in one forward call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from maprobe.errors import InputError, MeasurementError, allowed_names, did_you_mean
from maprobe.modalities import DEFAULT
from maprobe.python_models import ModelInput
from maprobe.running.calling import Arguments, moved
from maprobe.running.masks import at_positions

if TYPE_CHECKING:
    from maprobe.cases import InputsRequest
    from maprobe.facts import CheckpointFacts
    from maprobe.recipes import Choice, GradedPair
    from maprobe.sites import TokenSet

__all__ = ["TOKENS", "InputSets", "OwnBatch", "OwnInputs", "prepare_own"]

InputSets = Mapping[str, Sequence[ModelInput]]
TOKENS = "token"  # what the rows of a residual stream are called where a site says nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnInputs:
    """Inputs of a model, ready to be run, and what is recorded of them.

    Attributes:
        items: the inputs, one a sequence.
        description: the inputs in words, for example ``"500 inputs of test"``.
        digest: sha256 over what the model is called on; see docs/python-models.md.
    """

    items: tuple[ModelInput, ...] = field(repr=False)
    description: str
    digest: str
    bos: str = ""
    choices: tuple[Choice, ...] = ()
    labels: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    pairs: tuple[GradedPair, ...] = ()

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(item.name or f"input {number}" for number, item in enumerate(self.items))

    @property
    def alike(self) -> tuple[int, ...]:
        """Inputs never share a forward call: each has its own number."""
        return tuple(range(len(self.items)))

    @property
    def tokens(self) -> int:
        """Number of rows of all inputs, as far as they are named."""
        return sum(len(item.rows.get(TOKENS, ())) for item in self.items)

    @property
    def length(self) -> int:
        """Number of rows of the input that has the most, as far as they are named."""
        return max(len(item.rows.get(TOKENS, ())) for item in self.items)

    def batch(self, numbers: tuple[int, ...], device: torch.device) -> OwnBatch:
        """Return the batch of one input."""
        (number,) = numbers
        item = self.items[number]
        value = moved(item.given, device)
        return OwnBatch(sequences=numbers, value=value, rows=item.rows, device=device)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnBatch:
    """One input; the ``Batch`` that folds are shown, once for every site, whose rows it speaks of.

    Attributes:
        sequences: its number within the inputs, from 0.
        value: what the model is called on, on the device of the model.
        rows: words for rows, by what they are.
        device: of the model.
        unit: what the rows of this site are: ``token``, or ``edge``.
        count: how many rows there are.
    """

    sequences: tuple[int, ...]
    value: Any
    rows: Mapping[str, Sequence[str]]
    device: torch.device
    unit: str = TOKENS
    count: int = 0

    @property
    def given(self) -> Arguments:
        """What the model is called on."""
        return Arguments.of(self.value)

    @property
    def shape(self) -> tuple[int, int]:
        """One sequence, and the number of its rows."""
        return 1, self.count

    @property
    def ids(self) -> torch.Tensor:
        """There are no token ids.

        Raises:
            MeasurementError: always.
        """
        raise MeasurementError("this measurement reads token ids, and the inputs are a model's own, which have none")

    def at(self, unit: str, count: int) -> OwnBatch:
        """Return the batch as it is at a site that has ``count`` rows.

        Raises:
            MeasurementError: the input names another number of rows.
        """
        named = self.rows.get(unit)
        if named is not None and len(named) != count:
            raise MeasurementError(
                f"input {self.sequences[0]} has words for {len(named)} rows ({unit}), and a site has {count} of them; "
                f"correct `rows` of the input"
            )
        return replace(self, unit=unit, count=count)

    def mask(self, tokens: TokenSet) -> torch.Tensor:
        """Return which rows belong to the set: bool, shape (1, rows).

        Raises:
            MeasurementError: a position lies outside the rows.
        """
        if tokens.kind == "all":
            return torch.ones(self.shape, dtype=torch.bool, device=self.device)
        positions = tokens.positions if tokens.kind == "index" else ()
        return at_positions(positions, self.shape, self.device, sequence=self.sequences[0])

    def text(self, row: int, position: int) -> str:
        """Return the word for a row; empty where there is none."""
        del row
        words = self.rows.get(self.unit)
        return words[position] if words else ""


def prepare_own(request: InputsRequest, sets: InputSets, facts: CheckpointFacts) -> OwnInputs:
    """Take the inputs that a probe asks for out of those that a model brings.

    Raises:
        InputError: there are none of that name, or fewer than are asked for.
    """
    if not sets:
        raise InputError(f"{facts.label} brings no inputs of its own; name a text or a corpus under `inputs`")
    asked = request.value[0]
    name = next(iter(sets)) if asked == DEFAULT and DEFAULT not in sets else asked
    if name not in sets:
        raise InputError(
            f"{facts.label} brings no inputs named {name!r}{did_you_mean(name, sets)}; it brings {allowed_names(sets)}"
        )
    items, skip = sets[name], request.skip
    wanted = request.sequences if isinstance(request.sequences, int) else max(len(items) - skip, 1)
    if skip + wanted > len(items):
        skipping = f" after {skip} skipped ones" if skip else ""
        raise InputError(
            f"{facts.label} brings {len(items)} inputs named {name!r}, but the probe asks for {wanted}{skipping}; "
            f"lower `sequences` or `skip`"
        )
    chosen = tuple(_input(items[number], number, name) for number in range(skip, skip + wanted))
    digest = hashlib.sha256()
    for item in chosen:
        _digest(item.given, digest)
    noun = "graph" if facts["modality"] == "graph" else "input"
    count = f"{len(chosen)} {noun}{'' if len(chosen) == 1 else 's'}"
    skipping = f" (skipping {skip})" if skip else ""
    return OwnInputs(items=chosen, description=f"{count} of {name}{skipping}", digest=digest.hexdigest())


def _input(item: object, number: int, name: str) -> ModelInput:
    if not isinstance(item, ModelInput):
        raise InputError(
            f"input {number} of {name!r} is {type(item).__name__}, where maprobe.ModelInput is wanted; write "
            f"ModelInput(given=...)"
        )
    return item


def _digest(value: object, digest: Any) -> None:  # noqa: ANN401 - hashlib names no type
    """Take in a value: its type and size, and then what it consists of."""
    if isinstance(value, torch.Tensor):
        shape = ",".join(map(str, value.shape))
        digest.update(f"{str(value.dtype).removeprefix('torch.')} {shape}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}\n".encode())
        for key, entry in value.items():
            digest.update(f"{key}\n".encode())
            _digest(entry, digest)
    elif isinstance(value, tuple | list):
        digest.update(f"sequence {len(value)}\n".encode())
        for entry in value:
            _digest(entry, digest)
    elif is_dataclass(value) and not isinstance(value, type):
        _digest({part.name: getattr(value, part.name) for part in fields(value)}, digest)
    elif isinstance(value, str | int | float | bool | None):
        digest.update(f"{type(value).__name__} {value}\n".encode())
    elif hasattr(value, "__dict__"):
        _digest(dict(sorted(vars(value).items())), digest)
    else:
        digest.update(f"{type(value).__name__}\n".encode())
