"""What was measured: numbers over named axes, with unit, place and count, or the reason why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maprobe.errors import MeasurementError, allowed_names, did_you_mean

__all__ = ["Axis", "Circumstances", "Place", "Quantity", "Reading"]

Scalar = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a quantity and the label of each of its entries (layer numbers, head numbers ...)."""

    name: str
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the inputs and the hidden state a value was found. Positions and dims count from 0.

    Attributes:
        sequence: number of the sequence.
        position: position of the token, or of what else the rows of a site are.
        token: its text, or the word for it.
        dim: number of the dim, or of what else the columns are.
        unit: what the rows are, such as ``token`` or ``edge``.
    """

    sequence: int | None = None
    position: int | None = None
    token: str | None = None
    dim: int | None = None
    unit: str = "token"

    def __str__(self) -> str:
        parts = []
        if self.dim is not None:
            parts.append(f"dim {self.dim}")
        if self.position is not None:
            parts.append(f"{self.unit} {self.position}" + (f" {self.token!r}" if self.token else ""))
        return "  ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One named number, or one number for each cell of its axes.

    Attributes:
        name: as used in ``expect``.
        values: row-major over the axes; a single value where there are no axes. ``nan`` means unknown.
        axes: the axes, outermost first.
        unit: for example ``"nats/token"``; empty for ratios, counts and activations (which have no unit).
        places: for each value, where it was found; empty where that has no meaning.
        absent: why there is no value (the property looked for does not exist here); then ``values`` is empty.
    """

    name: str
    values: tuple[float, ...] = ()
    axes: tuple[Axis, ...] = ()
    unit: str = ""
    places: tuple[Place, ...] = ()
    absent: str | None = None

    def __post_init__(self) -> None:
        cells = math.prod(len(axis.labels) for axis in self.axes)
        if self.absent is None and len(self.values) != cells:
            raise ValueError(f"quantity {self.name!r} has {len(self.values)} values for {cells} cells")
        if self.places and len(self.places) != len(self.values):
            raise ValueError(f"quantity {self.name!r} has {len(self.places)} places for {len(self.values)} values")

    @property
    def value(self) -> float:
        """The single value of a quantity without axes."""
        if self.axes or self.absent is not None:
            raise ValueError(f"quantity {self.name!r} has no single value")
        return self.values[0]

    def labels(self, index: int) -> dict[str, int]:
        """Return the axis labels of the value at a row-major index, for example ``{"layer": 3, "head": 0}``."""
        found: dict[str, int] = {}
        for axis in reversed(self.axes):
            index, offset = divmod(index, len(axis.labels))
            found[axis.name] = axis.labels[offset]
        return dict(reversed(found.items()))

    def at(self, **labels: int) -> float:
        """Return the value at the given axis labels, for example ``quantity.at(layer=12)``."""
        index = 0
        for axis in self.axes:
            index = index * len(axis.labels) + axis.labels.index(labels[axis.name])
        return self.values[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Under which conditions a Reading was taken; recorded with every Reading.

    Attributes:
        inputs: the inputs in words, for example ``"4 x 512 tokens of python-docs"``.
        digest: sha256 over the token ids of all sequences.
        sequences: number of sequences.
        tokens: number of tokens in all of them.
        length: tokens of the longest sequence.
        bos: the policy and what it did, for example ``"auto: none added"``.
        dtype: dtype of the weights the pass ran in (statistics are always taken in float32).
        device: device of the pass.
        attention: attention implementation of the pass, and how attention was read where it was.
        padding: always ``"none"``: sequences of unequal length are never batched together.
        edit: the intervention in words, or empty.
        measure: what was measured where, in words, for example ``"magnitude block.out 2..-2 at first top=3"``.
    """

    inputs: str
    digest: str
    sequences: int
    tokens: int
    length: int
    bos: str
    dtype: str
    device: str
    attention: str
    padding: str = "none"
    edit: str = ""
    measure: str = ""

    def __str__(self) -> str:
        parts = (self.inputs, f"BOS {self.bos}" if self.bos else "", self.dtype, self.attention)
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All that one measurement found in one pass.

    Attributes:
        kind: the name of the measurement recipe.
        quantities: the numbers, by name.
        records: table rows for reports (for example the top entries of each layer); plain values only.
        circumstances: filled in by the runner.
        notes: sentences the reader of the number should see.
        absent: why there is nothing to read here as a whole; None where something was measured.
        kept: what a later pass over the same inputs needs of this one, such as vectors; for as long as the session
            runs, and never in a report.
    """

    kind: str
    quantities: Mapping[str, Quantity] = field(default_factory=dict)
    records: tuple[Mapping[str, Scalar], ...] = ()
    circumstances: Circumstances | None = None
    notes: tuple[str, ...] = ()
    absent: str | None = None
    kept: Mapping[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getitem__(self, name: str) -> Quantity:
        try:
            return self.quantities[name]
        except KeyError:
            raise MeasurementError(
                f"measurement {self.kind!r} has no quantity {name!r}{did_you_mean(name, self.quantities)}; "
                f"it has: {allowed_names(self.quantities)}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (dict, list, str, float, int, None) that JSON and xdist can carry.

        Non-finite numbers become the strings ``"nan"``, ``"inf"`` and ``"-inf"``, since JSON has none.
        """
        return {
            "kind": self.kind,
            "absent": self.absent,
            "notes": list(self.notes),
            "circumstances": _fields(self.circumstances) if self.circumstances else None,
            "quantities": {name: _quantity_to_dict(quantity) for name, quantity in self.quantities.items()},
            "records": [{key: plain(value) for key, value in record.items()} for record in self.records],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reading:
        """Rebuild a Reading from :meth:`to_dict`."""
        circumstances = data["circumstances"]
        return cls(
            kind=data["kind"],
            absent=data["absent"],
            notes=tuple(data["notes"]),
            circumstances=Circumstances(**circumstances) if circumstances else None,
            quantities={name: _quantity_from_dict(name, entry) for name, entry in data["quantities"].items()},
            # As they are: a token may well read "nan", so a text cannot be told from a number here.
            records=tuple(dict(row) for row in data["records"]),
        )


def plain(value: Scalar) -> Scalar:
    """Return the value as JSON can hold it: non-finite floats become ``"nan"``, ``"inf"`` or ``"-inf"``."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def unplain(value: Scalar) -> Scalar:
    """Undo :func:`plain`."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def _fields(value: object) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}  # type: ignore[attr-defined]


def _quantity_to_dict(quantity: Quantity) -> dict[str, Any]:
    return {
        "values": [plain(value) for value in quantity.values],
        "axes": [{"name": axis.name, "labels": list(axis.labels)} for axis in quantity.axes],
        "unit": quantity.unit,
        "places": [_fields(place) for place in quantity.places],
        "absent": quantity.absent,
    }


def _quantity_from_dict(name: str, data: Mapping[str, Any]) -> Quantity:
    return Quantity(
        name=name,
        values=tuple(float(value) for value in data["values"]),
        axes=tuple(Axis(axis["name"], tuple(axis["labels"])) for axis in data["axes"]),
        unit=data["unit"],
        places=tuple(Place(**place) for place in data["places"]),
        absent=data["absent"],
    )
