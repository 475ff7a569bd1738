"""How a graph transformer is trained, and the paper's configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maprobe.graphs.configs import Kind, Readout

__all__ = ["PRESETS", "Preset", "PresetName"]

PresetName = Literal["small", "zinc", "tox21", "proteins"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Sizes and rates; what the data decide is not in here.

    Attributes:
        data: the data set, if none is named.
        molecules: how many molecules are drawn from it; None for all.
        layers: number of layers.
        heads: heads of attention in each.
        width: size of the node and edge features.
        readout: how the nodes of a graph are pooled; ``nodes`` for predictions of each.
        dropout: probability of dropout.
        residual: whether layers have residual connections.
        batch: graphs in a step, or nodes that are predicted in it.
        epochs: the most passes through the data.
        rate: the first learning rate, of Adam.
        patience: epochs without a lower validation loss after which the rate is halved.
        min_rate: training ends when the rate has fallen below it.
        early_stop: epochs without a lower validation loss after which training ends; 0 for never.
    """

    data: str
    molecules: int | None = None
    layers: int
    heads: int
    width: int
    readout: Readout
    dropout: float = 0.0
    residual: bool = True
    batch: int
    epochs: int = 1000
    rate: float
    patience: int
    min_rate: float = 1e-6
    early_stop: int = 0


def _small(readout: Readout, width: int = 32) -> Preset:
    return Preset(
        data="molsets",
        molecules=5000,
        layers=4,
        heads=4,
        width=width,
        readout=readout,
        batch=64,
        epochs=60,
        rate=2e-3,
        patience=4,
        min_rate=1e-5,
        early_stop=20,
    )


# arXiv:2409.03463, after the configurations in its code. GraphiT's and SAN's gamma have no part in sparse graphs.
PRESETS: dict[Kind, dict[PresetName, Preset]] = {
    "gt": {
        "small": _small("mean"),
        "zinc": Preset(data="zinc", layers=10, heads=8, width=64, readout="mean", batch=128, rate=7e-4, patience=15),
        "tox21": Preset(
            data="tox21", layers=10, heads=12, width=444, readout="mean", batch=128, rate=7e-4, patience=15
        ),
        "proteins": Preset(
            data="ogbn-proteins",
            layers=3,
            heads=8,
            width=64,
            readout="nodes",
            residual=False,
            batch=512,
            rate=7e-4,
            patience=15,
        ),
    },
    "graphit": {
        "small": _small("sum"),
        "zinc": Preset(data="zinc", layers=10, heads=8, width=64, readout="sum", batch=32, rate=3e-4, patience=25),
        "tox21": Preset(
            data="tox21", layers=10, heads=8, width=88, readout="sum", dropout=0.5, batch=256, rate=7e-4, patience=25
        ),
        "proteins": Preset(
            data="ogbn-proteins",
            layers=3,
            heads=8,
            width=88,
            readout="nodes",
            dropout=0.5,
            residual=False,
            batch=768,
            rate=7e-4,
            patience=25,
            min_rate=1e-5,
        ),
    },
    "san": {
        "small": _small("sum", width=28),  # to GraphiT's as for ZINC; of the same size it would be the same model
        "zinc": Preset(data="zinc", layers=10, heads=8, width=56, readout="sum", batch=32, rate=7e-4, patience=25),
        "tox21": Preset(
            data="tox21", layers=10, heads=8, width=88, readout="sum", dropout=0.5, batch=128, rate=7e-4, patience=25
        ),
        "proteins": Preset(
            data="ogbn-proteins",
            layers=3,
            heads=8,
            width=88,
            readout="nodes",
            dropout=0.5,
            residual=False,
            batch=512,
            rate=7e-4,
            patience=25,
            min_rate=1e-5,
        ),
    },
}
