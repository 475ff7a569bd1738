"""Train a graph transformer from scratch: ``python -m maprobe.graphs.train``."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch

from maprobe.errors import TrainingError
from maprobe.graphs.configs import MODELS, BiasWeights, GraphConfig
from maprobe.graphs.datasets import DATASETS, GraphData, load_data
from maprobe.graphs.loop import GraphTrainer
from maprobe.graphs.models import fresh_model
from maprobe.graphs.presets import PRESETS, Preset, PresetName
from maprobe.progress import Silent
from maprobe.running.storage import cache_folder
from maprobe.training.arguments import Parser, positive, share, whole
from maprobe.training.folders import RunFolder
from maprobe.training.scripts import device_of, run_script

__all__ = ["main"]

_NAME = "maprobe.graphs.train"
_ABOUT = """Train a graph transformer, with or without the explicit bias term (arXiv:2409.03463). DIR/step-0 is the
model as it was before training, DIR/final as it is after. With the same seed, the variants begin with the same weights
where they share them, and see the same graphs in the same order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one model and return the exit status: 0 for success, 2 where it cannot be done, 130 if interrupted."""
    parsed = _parser().parse_args(arguments)

    def work() -> str:
        return f"{parsed.out / 'final'}: validation loss {_train(parsed):.4f}\n"

    return run_script(
        _NAME,
        work,
        out=parsed.out,
        unwritable="make room there and go on by --resume",
        smaller="--batch, --width or --layers",
        interrupted="repeat the command with --resume to go on from the last epoch",
    )


def _train(parsed: argparse.Namespace) -> float:
    preset = _preset(parsed)
    device = device_of(parsed.device)
    folder = RunFolder(parsed.out)
    if parsed.resume:
        folder.begun()
    else:
        folder.check()
    molecules = preset.molecules if parsed.data is None else parsed.molecules
    data = load_data(parsed.data or preset.data, molecules, cache_folder(), Silent(), parsed.targets)
    config = _config(parsed, preset, data)
    run = _run(parsed, preset, config, data)
    state = folder.resume(run) if parsed.resume else None
    if state is None:
        folder.begin(run)
    model = fresh_model(config, seed=parsed.seed).to(device)
    count = sum(parameter.numel() for parameter in model.parameters())
    sys.stderr.write(
        f"{parsed.model}{' with an explicit bias' if config.explicit_bias else ''}: {count} weights, "
        f"{len(data.train)} {'nodes' if config.readout == 'nodes' else 'graphs'} of {data.about['name']} to learn "
        f"from, on {device}\n"
    )
    trainer = GraphTrainer(
        model=model, data=data, preset=preset, folder=folder, seed=parsed.seed, save=parsed.save_every, state=state
    )
    return trainer.run()


def _config(parsed: argparse.Namespace, preset: Preset, data: GraphData) -> GraphConfig:
    nodewise = preset.readout == "nodes"
    if nodewise != (data.about["name"] == "ogbn-proteins"):
        raise TrainingError(
            f"--preset {parsed.preset} predicts {'nodes' if nodewise else 'graphs'}, and --data {data.about['name']} "
            f"has targets for the other; choose another preset"
        )
    return GraphConfig(
        model=parsed.model,
        node_types=data.node_types,
        edge_types=data.edge_types,
        edge_numbers=data.edge_numbers,
        layers=preset.layers,
        heads=preset.heads,
        width=preset.width,
        outputs=data.outputs,
        readout=preset.readout,
        dropout=preset.dropout,
        residual=preset.residual,
        edge_stream=parsed.model == "gt" and not nodewise,
        use_bias=parsed.use_bias or parsed.explicit_bias,
        explicit_bias=parsed.explicit_bias,
        bias_weights=parsed.bias_weights,
    )


def _preset(parsed: argparse.Namespace) -> Preset:
    chosen = PRESETS[parsed.model][parsed.preset]
    given = {name: value for name in asdict(chosen) if (value := getattr(parsed, name, None)) is not None}
    return replace(chosen, **given)


def _run(parsed: argparse.Namespace, preset: Preset, config: GraphConfig, data: GraphData) -> dict[str, Any]:
    settings = asdict(preset)
    return {
        "model": parsed.model,
        "preset": parsed.preset,
        "seed": parsed.seed,
        "data": data.about,
        "use_bias": config.use_bias,
        "explicit_bias": config.explicit_bias,
        "bias_weights": config.bias_weights,
        **{name: value for name, value in settings.items() if name not in ("data", "molecules")},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser(_NAME, _ABOUT)
    what = parser.add_argument_group("what is trained")
    what.add_argument("--model", required=True, choices=MODELS, help="which graph transformer")
    what.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder for what is written")
    what.add_argument(
        "--preset",
        default="small",
        choices=get_args(PresetName),
        help="presets of all that follows: small, the default, takes minutes on two cores; the others are the paper's",
    )
    what.add_argument("--use-bias", action="store_true", help="biases in the linear maps of attention")
    what.add_argument("--explicit-bias", action="store_true", help="the explicit bias term; implies --use-bias")
    what.add_argument(
        "--bias-weights",
        default="scores",
        choices=get_args(BiasWeights),
        help="what weighs an edge beside an explicit bias: its scores, the default, or the bias alone, as in the "
        "published code of graphit and san",
    )
    what.add_argument(
        "--data",
        metavar="NAME|FILE",
        help=f"{', '.join(DATASETS)}, or a file of SMILES (.smi, .csv, packed or not); without, the preset's",
    )
    what.add_argument(
        "--targets",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="columns of a .csv file that are predicted instead of penalised logP: labels if all are 0 or 1",
    )
    what.add_argument(
        "--molecules", type=whole(10), metavar="N", help="how many molecules are drawn; without, the preset's, or all"
    )
    what.add_argument("--seed", type=whole(0, 2**32), default=41, metavar="N", help="of weights, order, dropout: 41")
    what.add_argument("--resume", action="store_true", help="go on from the last epoch of the run in DIR")
    what.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto is the GPU if there is one"
    )
    what.add_argument(
        "--save-every", type=whole(0), default=0, metavar="N", help="epochs between checkpoints; 0, the default: none"
    )
    sizes = parser.add_argument_group("sizes and rates", "Those left out are the preset's.")
    rows: list[tuple[str, str, str, Callable[[str], Any], str]] = [
        ("layers", "layers", "N", whole(1), "number of layers"),
        ("heads", "heads", "N", whole(1), "heads of attention in each"),
        ("width", "width", "N", whole(4), "size of node and edge features"),
        ("dropout", "dropout", "X", share, "probability of dropout"),
        ("batch", "batch", "N", whole(1), "graphs, or nodes to be predicted, in a step"),
        ("epochs", "epochs", "N", whole(0), "the most passes through the data; 0 leaves the model untrained"),
        ("lr", "rate", "RATE", positive, "the first learning rate"),
        ("patience", "patience", "N", whole(0), "epochs without a lower validation loss until the rate is halved"),
        ("min-lr", "min_rate", "RATE", positive, "training ends below this rate"),
        ("early-stop", "early_stop", "N", whole(0), "epochs without a lower validation loss until it ends; 0: never"),
    ]
    for name, field, letter, kind, meaning in rows:
        sizes.add_argument(f"--{name}", dest=field, type=kind, metavar=letter, help=meaning)
    return parser


if __name__ == "__main__":
    sys.exit(main())
