"""``super.weights``: single weights of down projections through which one input channel writes a huge output.

Source: arXiv:2411.07191, section 3.1. The weight lies where a spike of the down projection's input (its column) meets a
spike of its output (its row).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.errors import MeasurementError
from maprobe.readings import Axis, Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap

if TYPE_CHECKING:
    import torch

__all__ = ["SUPER_WEIGHTS"]

SPIKE = 50.0

_HIDDEN = "block.mlp.hidden"
_ADDED = "block.mlp.out"
_ROWS = 4  # output spikes of one token that are kept
_STREAM_AXES = 3


@dataclass(frozen=True, slots=True)
class _Peak:
    """The largest entry of a matrix over tokens and channels; ``channel`` is a column or a row of the projection."""

    sequence: int
    position: int
    channel: int
    value: float
    token: str


_NOTHING = _Peak(0, 0, 0, 0.0, "")


@dataclass
class _SuperWeightFold:
    context: FoldContext
    inputs: dict[int, _Peak] = field(default_factory=dict)
    outputs: dict[int, _Peak] = field(default_factory=dict)
    found: dict[tuple[str, int, int, int], dict[str, Scalar]] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    _entering: dict[tuple[int, int], _Peak] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap(site, layer) for layer in self.context.layers for site in (_HIDDEN, _ADDED))

    @property
    def spike(self) -> float:
        return float(self.context.request.option("spike"))  # type: ignore[arg-type]

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        if value.dim() != _STREAM_AXES:
            raise MeasurementError(
                f"the MLP of layer {tap.layer} consists of experts, each with a down projection of its own, and super "
                f"weights are looked for in dense MLPs; choose other `layers`"
            )
        for row, sequence in enumerate(batch.sequences):
            states = value[row].float()
            peak = _peak(states, sequence, batch, row)
            if not math.isfinite(peak.value):
                self.broken.add(tap.layer)
            elif tap.site == _HIDDEN:
                self.inputs[tap.layer] = max(self.inputs.get(tap.layer, _NOTHING), peak, key=_size)
                self._entering[tap.layer, sequence] = peak
            else:
                self.outputs[tap.layer] = max(self.outputs.get(tap.layer, _NOTHING), peak, key=_size)
                self._meet(tap.layer, sequence, states)

    def _meet(self, layer: int, sequence: int, added: torch.Tensor) -> None:
        """Note the weights at which the input's spike meets spikes of the output, at the input's own token."""
        entering = self._entering.pop((layer, sequence), _NOTHING)
        if abs(entering.value) <= self.spike:
            return
        written = added[entering.position]
        magnitudes = written.abs()
        rows = magnitudes.topk(min(_ROWS, len(written))).indices.tolist()
        middle = float(magnitudes.median())
        ordinary = (magnitudes - middle).abs().argsort(stable=True)[: 2 * _ROWS].tolist()
        spiking = [row for row in rows if float(magnitudes[row]) > self.spike]
        control = [row for row in ordinary if row not in spiking][: len(spiking)]
        for arm, chosen in (("edited", spiking), ("control", control)):
            for row in chosen:
                self._note(arm, layer, row, entering, float(written[row]), sequence)

    def _note(self, arm: str, layer: int, row: int, entering: _Peak, output: float, sequence: int) -> None:
        key = (arm, layer, row, entering.channel)
        known = self.found.get(key)
        sequences = int(known["sequences"] or 0) + 1 if known else 1
        if known and abs(output) <= abs(float(known["output"] or 0)):
            self.found[key] = {**known, "sequences": sequences}
            return
        self.found[key] = {
            "arm": arm,
            "layer": layer,
            "row": row,
            "column": entering.channel,
            "input": entering.value,
            "output": output,
            "sequence": sequence,
            "position": entering.position,
            "token": entering.token,
            "sequences": sequences,
        }

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        # A row that spikes in one sequence may be ordinary in another; it is no control then.
        spiking = {key[1:] for key in self.found if key[0] == "edited"}
        records = [record for key, record in self.found.items() if key[0] == "edited" or key[1:] not in spiking]
        records.sort(key=lambda record: -abs(float(record["output"] or 0)))
        weights = [record for record in records if record["arm"] == "edited"]
        if self.broken:
            raise MeasurementError(
                f"the down projection of layer {min(self.broken)} takes in or gives out entries that are not finite, "
                f"so its spikes cannot be told; a probe of kind `finite` tells where activations stop being finite"
            )
        if not weights:
            layer = max(self.inputs, key=lambda layer: min(_size(self.inputs[layer]), _size(self.outputs[layer])))
            return Reading(
                kind="super.weights",
                absent=(
                    f"no super weight here: in no layer do the input and the output of the down projection exceed "
                    f"{self.spike:g} at one token (nearest: layer {layer}, input {_size(self.inputs[layer]):.4g}, "
                    f"output {_size(self.outputs[layer]):.4g})"
                ),
            )
        layers = sorted({int(record["layer"] or 0) for record in weights})
        largest = weights[0]
        place = Place(
            sequence=int(largest["sequence"] or 0),
            position=int(largest["position"] or 0),
            token=str(largest["token"]),
            dim=int(largest["row"] or 0),
        )
        scalars = {
            "weights": len(weights),
            "layer": int(largest["layer"] or 0),
            "row": int(largest["row"] or 0),
            "column": int(largest["column"] or 0),
            "first_layer": layers[0],
        }
        axis = (Axis(name="layer", labels=self.context.layers),)
        quantities = {
            name: Quantity(name=name, values=(float(value),), places=(place,)) for name, value in scalars.items()
        }
        for name, peaks in (("input_peak", self.inputs), ("output_peak", self.outputs)):
            chosen = [peaks[layer] for layer in self.context.layers]
            quantities[name] = Quantity(
                name=name,
                axes=axis,
                values=tuple(map(_size, chosen)),
                places=tuple(
                    Place(
                        sequence=peak.sequence,
                        position=peak.position,
                        token=peak.token,
                        dim=peak.channel if name == "output_peak" else None,
                    )
                    for peak in chosen
                ),
            )
        return Reading(kind="super.weights", quantities=quantities, records=tuple(records))


def _peak(states: torch.Tensor, sequence: int, batch: Batch, row: int) -> _Peak:
    """Return the largest entry of states, shape (tokens, channels), with its sign."""
    place = int(states.abs().argmax())
    position, channel = divmod(place, states.shape[1])
    return _Peak(sequence, position, channel, float(states[position, channel]), batch.text(row, position))


def _size(peak: _Peak) -> float:
    return abs(peak.value)


SUPER_WEIGHTS = MeasurementRecipe(
    name="super.weights",
    summary="Weights at which a spike of a down projection's input meets a spike of its output.",
    sites=(_HIDDEN,),
    quantities=(
        QuantitySpec(name="weights", meaning="different weights found"),
        QuantitySpec(name="layer", meaning="layer of the one with the largest output"),
        QuantitySpec(name="row", meaning="its row: the output channel, a dim of the residual stream"),
        QuantitySpec(name="column", meaning="its column: the input channel"),
        QuantitySpec(name="first_layer", meaning="first layer in which one was found"),
        QuantitySpec(name="input_peak", axes=("layer",), meaning="largest magnitude that the projection takes in"),
        QuantitySpec(name="output_peak", axes=("layer",), meaning="largest magnitude that the MLP adds"),
    ),
    parameters=(
        Parameter(
            name="spike",
            schema={"type": "number", "exclusiveMinimum": 0},
            default=SPIKE,
            meaning="the magnitude that input and output must exceed",
        ),
    ),
    takes_tokens=False,
    start=_SuperWeightFold,
)
