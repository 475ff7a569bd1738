"""Train a small language model from scratch: ``python -m maprobe.training.pretrain``."""

from __future__ import annotations

import argparse
import logging
import math
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from maprobe.errors import TrainingError
from maprobe.running.storage import cache_folder
from maprobe.training.arguments import Parser, least_zero, positive, whole
from maprobe.training.folders import RunFolder
from maprobe.training.loop import Trainer
from maprobe.training.openwebtext import openwebtext
from maprobe.training.presets import PRESETS, Settings, config_settings
from maprobe.training.scripts import device_of, run_script
from maprobe.training.texts import Data, read_texts, tokenised, with_sink
from maprobe.training.variants import ARCHITECTURES, VARIANTS, fresh_model

__all__ = ["main"]

_NAME = "maprobe.training.pretrain"
_ABOUT = """Train a language model from scratch, as the default, with a sink token, or with an explicit attention bias
(arXiv:2402.17762, section 4). Every checkpoint is a folder that `pytest --model=DIR/step-100` can measure; the last one
is DIR/final. With the same seed, variants begin with the same weights where they share them, and see the same data."""
_FEWEST = 257
_MOST = 2**16  # entries of a vocabulary whose ids are kept in two bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one model and return the exit status: 0 for success, 2 where it cannot be done, 130 if interrupted."""
    parsed = _parser().parse_args(arguments)

    def work() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = _train(parsed)
        return f"{parsed.out / 'final'}: validation loss {loss:.4f}, perplexity {math.exp(loss):.2f}\n"

    return run_script(
        _NAME,
        work,
        out=parsed.out,
        unwritable="make room there and go on by --resume",
        smaller="--batch (and raise --accumulate), --width or --layers",
        interrupted="repeat the command with --resume to go on from the last checkpoint",
    )


def _train(parsed: argparse.Namespace) -> float:
    settings = _settings(parsed)
    device = device_of(parsed.device)
    _quiet()
    folder = RunFolder(parsed.out)
    if parsed.resume:
        folder.begun()
    else:
        folder.check()
    data = _data(parsed, settings)
    for what, tokens in (("to learn from", data.train), ("held out", data.held_out)):
        if len(tokens) <= settings.block:
            raise TrainingError(
                f"the text has {len(tokens)} tokens {what}, which is not one sequence of --block {settings.block} and "
                f"the token after it; name more text with --text, or lower --block"
            )
    run = _run(parsed, settings, data)
    state = folder.resume(run) if parsed.resume else None
    end = data.end
    tokenizer, sink = data.tokenizer, None
    if parsed.variant == "sink-token":
        sink = settings.vocabulary
        tokenizer = with_sink(tokenizer, sink)
    model = _model(parsed, settings, end)
    if state is None:
        folder.begin(run)
    else:
        model.load_state_dict(_weights(parsed.out / f"step-{state['step']}").state_dict())
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sys.stderr.write(
        f"{parsed.variant} {parsed.architecture}: {count / 1e6:.2f} M weights, {len(data.train)} tokens of {data.name} "
        f"to learn from, {settings.tokens} in a step, on {device}\n"
    )
    cast("torch.nn.Module", model).to(device)
    trainer = Trainer(
        model=model,
        tokenizer=tokenizer,
        data=data,
        settings=settings,
        folder=folder,
        seed=parsed.seed,
        sink=sink,
        autocast=_autocast(parsed.precision, device),
        state=state,
    )
    return trainer.run()


def _model(parsed: argparse.Namespace, settings: Settings, end: int) -> transformers.PreTrainedModel:
    model = fresh_model(
        parsed.variant, parsed.architecture, config_settings(settings, parsed.architecture, end), seed=parsed.seed
    )
    # The paper's GPT-2 has no biases in its linear maps and norms. transformers' always has them; they stay at zero.
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.requires_grad = False
    return model


def _weights(folder: Path) -> transformers.PreTrainedModel:
    try:
        model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
    except Exception as error:
        raise TrainingError(
            f"--resume: the checkpoint {folder} cannot be loaded ({type(error).__name__}); begin anew in another folder"
        ) from error
    return model


def _data(parsed: argparse.Namespace, settings: Settings) -> Data:
    if settings.source == "openwebtext" and not parsed.text:
        return openwebtext(cache_folder())
    text, name = read_texts(parsed.text)
    return tokenised(text, name, settings.vocabulary)


def _run(parsed: argparse.Namespace, settings: Settings, data: Data) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "variant": parsed.variant,
        "architecture": parsed.architecture,
        "seed": parsed.seed,
        "text": data.name,
        "text_sha256": data.sha256,
        **asdict(settings),
        "precision": parsed.precision,
        "versions": {**versions, "transformers": transformers.__version__},
    }


def _settings(parsed: argparse.Namespace) -> Settings:
    chosen = PRESETS[parsed.recipe]
    given = {name: value for name in asdict(chosen) if (value := getattr(parsed, name, None)) is not None}
    settings = replace(chosen, **given)
    if parsed.recipe == "small" and parsed.horizon is None:
        settings = replace(settings, horizon=settings.steps)
    if parsed.recipe == "small" and parsed.warmup is None:
        settings = replace(settings, warmup=min(settings.warmup, settings.horizon // 10))
    if parsed.heads is not None and parsed.key_value_heads is None:
        settings = replace(settings, key_value_heads=settings.heads)
    if settings.width % settings.heads or settings.width // settings.heads % 2:
        raise TrainingError(
            f"--width {settings.width} does not give --heads {settings.heads} an even number of dims each; choose a "
            f"multiple of {2 * settings.heads}"
        )
    if settings.heads % settings.key_value_heads:
        raise TrainingError(
            f"--key-value-heads {settings.key_value_heads} does not divide --heads {settings.heads}; choose a divisor"
        )
    if parsed.architecture == "gpt2" and settings.key_value_heads != settings.heads:
        raise TrainingError("--key-value-heads is for --architecture llama; a GPT-2 has as many as --heads")
    if settings.horizon <= settings.warmup:
        raise TrainingError(
            f"--horizon {settings.horizon} is not after --warmup {settings.warmup}; raise it or lower the warm-up"
        )
    if not _FEWEST <= settings.vocabulary < _MOST:
        raise TrainingError(
            f"--vocabulary {settings.vocabulary} is out of range; allowed: {_FEWEST} (one entry for each byte, and the "
            f"end of text) to {_MOST - 1}"
        )
    return settings


def _autocast(precision: str, device: torch.device) -> bool:
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def _quiet() -> None:
    """Keep libraries from writing among the lines that tell how far the training is."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(_NAME, _ABOUT)
    small = PRESETS["small"]
    what = parser.add_argument_group("what is trained")
    what.add_argument("--variant", required=True, choices=VARIANTS, help="of attention")
    what.add_argument(
        "--architecture", default="gpt2", choices=ARCHITECTURES, help="family of the model: gpt2 unless llama is named"
    )
    what.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a new folder for everything that is written"
    )
    what.add_argument(
        "--recipe",
        default="small",
        choices=tuple(PRESETS),
        help="presets of all that follows: small, the default, takes minutes on two cores; gpt2-124m is the paper's "
        "and takes days on a GPU",
    )
    what.add_argument(
        "--seed",
        type=whole(0, 2**32),
        default=1337,
        metavar="N",
        help="of the first weights and of the order of the data: 1337",
    )
    what.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in DIR")
    what.add_argument(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="text files to learn from, in UTF-8, whose last tenth is held out; without, the recipe's corpus",
    )
    what.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto, the default, is the GPU if there is one",
    )
    what.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of forward calls; weights are float32; auto, the default, is bfloat16 on a GPU and float32 on a CPU",
    )
    sizes = parser.add_argument_group("sizes and rates", "Those left out are the recipe's; here are those of small.")
    rows: list[tuple[str, str, Callable[[str], Any], str]] = [
        ("vocabulary", "N", whole(1), "entries of the vocabulary, without a sink token"),
        ("layers", "N", whole(1), "blocks"),
        ("heads", "N", whole(1), "heads of attention in a block"),
        ("key-value-heads", "N", whole(1), "heads of keys and values, for llama"),
        ("width", "N", whole(1), "size of the residual stream"),
        ("block", "N", whole(1), "tokens in a sequence, without a sink token"),
        ("batch", "N", whole(1), "sequences in a forward call"),
        ("accumulate", "N", whole(1), "forward calls in a step"),
        ("steps", "N", whole(1), "steps in all"),
        ("lr", "RATE", positive, "the highest learning rate"),
        ("warmup", "N", whole(0), "steps over which the rate rises to it"),
        (
            "horizon",
            "N",
            whole(1),
            "the step at which it has fallen to a tenth, along a cosine; with small --steps, now",
        ),
        ("weight-decay", "X", least_zero, "of tensors of two axes and more, k' and v' included"),
        ("clip", "X", positive, "the largest norm of the gradient"),
        ("save-every", "N", whole(1), "steps between checkpoints"),
        ("evaluate-every", "N", whole(1), "steps between validation losses"),
        ("windows", "N", whole(1), "the most held-out sequences that a validation loss is taken over"),
    ]
    fields = {"lr": "rate", "weight-decay": "decay", "save-every": "save", "evaluate-every": "evaluate"}
    for name, letter, kind, meaning in rows:
        field = fields.get(name, name.replace("-", "_"))
        text = f"{meaning}: {getattr(small, field):g}"
        sizes.add_argument(f"--{name}", dest=field, type=kind, metavar=letter, help=text, default=argparse.SUPPRESS)
        parser.set_defaults(**{field: None})
    return parser


if __name__ == "__main__":
    sys.exit(main())
