"""Fine-tune a language model with and without MacDrop and compare: ``python -m maprobe.training.finetune``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from maprobe.corpora import CORPORA
from maprobe.errors import TrainingError
from maprobe.progress import Silent
from maprobe.pruning.calibration import held_out
from maprobe.reading.names import known_checkpoints
from maprobe.references import LoadOptions, parse_reference
from maprobe.running.digests import parameters_digest
from maprobe.running.discovery import discover
from maprobe.running.subjects import ReferencedSource
from maprobe.running.tokens import Vocabulary
from maprobe.training.arguments import Parser, least_zero, positive, probability, whole
from maprobe.training.arms import Adapter, Schedule, Worth, adapted, merged, needed_peft, train, worth
from maprobe.training.curricula import CURRICULA, Curriculum
from maprobe.training.dropping import MASKS
from maprobe.training.instructions import Instructions, encoded, read_instructions
from maprobe.training.macdrop import MacDrop
from maprobe.training.massive_rows import Channels, bos_of, find_channels
from maprobe.training.scripts import device_of, run_script, tell

if TYPE_CHECKING:
    from maprobe.running.checkpoints import LoadedCheckpoint

__all__ = ["main"]

_NAME = "maprobe.training.finetune"
_ABOUT = """Fine-tune a causal language model on instructions, with LoRA or DoRA, without and with MacDrop
(arXiv:2410.01866, algorithm 1), and write a table that compares them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the comparison and return the exit status: 0 for success, 2 where it cannot be done, 130 if interrupted."""
    parsed = _parser().parse_args(arguments)

    def work() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _compare(parsed)

    return run_script(
        _NAME,
        work,
        out=parsed.out,
        unwritable="make room there",
        smaller="--batch (and raise --accumulate) or --length",
        interrupted=f"what was finished is in {parsed.out}",
    )


def _compare(parsed: argparse.Namespace) -> str:
    needed_peft()
    curriculum = Curriculum(kind=parsed.curriculum, p0=parsed.p0, alpha=parsed.curriculum_alpha)
    given = Channels.given(parsed.layer, parsed.channels, parsed.expert)
    cpu = device_of(parsed.device).type == "cpu"
    instructions = read_instructions(parsed.data)
    _make(parsed.out)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    source = ReferencedSource.open(
        parse_reference(parsed.model, known_checkpoints()),
        LoadOptions(dtype="float32", device="cpu" if cpu else parsed.device),
        Silent(),
    )
    if not source.facts["causal"] or source.tokenizer is None:
        raise TrainingError(
            f"--model {parsed.model} is no causal language model with a tokenizer, which learns responses; name one"
        )
    comparison = _Comparison(parsed, source, instructions, curriculum, cpu=cpu)
    comparison.run(given)
    return comparison.table()


class _Comparison:
    """All arms of one comparison, and what came out.

    Args:
        parsed: the arguments.
        source: where the model is from; it is loaded anew for each arm.
        instructions: to learn from.
        curriculum: of MacDrop.
        cpu: whether everything is done on the CPU.
    """

    def __init__(
        self,
        parsed: argparse.Namespace,
        source: ReferencedSource,
        instructions: Instructions,
        curriculum: Curriculum,
        *,
        cpu: bool,
    ) -> None:
        assert source.tokenizer is not None, "it was asked for"
        self._parsed, self._source, self._curriculum = parsed, source, curriculum
        vocabulary = Vocabulary(source.tokenizer, source.facts.label)
        end = _end_of(source.tokenizer)
        self._train, self._held_out = (
            [encoded(item, vocabulary, end=end, length=parsed.length) for item in part]
            for part in (instructions.train, instructions.held_out)
        )
        self._text = held_out(source.tokenizer, source.facts, {corpus.name: corpus for corpus in CORPORA})
        self._schedule = Schedule(
            steps=parsed.steps,
            batch=parsed.batch,
            accumulate=parsed.accumulate,
            rate=parsed.lr,
            warmup=parsed.warmup,
            seed=parsed.seed,
            cpu=cpu,
        )
        self._report: dict[str, Any] = {
            "model": parsed.model,
            "weights_digest": "",
            "data": {"name": instructions.name, "sha256": instructions.sha256},
            "train": len(instructions.train),
            "held_out": len(instructions.held_out),
            "text": self._text.description,
            "schedule": asdict(self._schedule),
            "adapter": {"rank": parsed.rank, "alpha": parsed.alpha, "targets": parsed.targets},
            "macdrop": {"curriculum": curriculum.to_dict(), "k": parsed.k, "masks": parsed.masks, "seed": parsed.seed},
            "zeroed": parsed.zeroed,
            "versions": _versions(),
            "arms": [],
        }

    def run(self, given: Channels | None) -> None:
        """Go through the arms, writing what is known after each."""
        loaded = self._source.load(Silent())
        self._report["weights_digest"] = loaded.provenance.weights_digest
        channels = given or self._found(loaded)
        self._report["channels"] = channels.to_dict()
        tell(f"{self._parsed.model}: layer {channels.layer}, channels {', '.join(map(str, channels.channels))}")
        dropped = replace(channels, channels=channels.channels[: self._parsed.k])
        zeroed = replace(channels, channels=channels.channels[: self._parsed.zeroed])
        self._note("as loaded", worth(loaded.model, self._held_out, self._text, zeroed))
        for kind in self._parsed.adapter:
            adapter = Adapter(
                kind=kind, rank=self._parsed.rank, alpha=self._parsed.alpha, targets=tuple(self._parsed.targets)
            )
            for macdrop in (None, self._macdrop(dropped)):
                self._arm(adapter, macdrop, zeroed)

    def table(self) -> str:
        """Return the table as Markdown."""
        zeroed = f"perplexity, top {self._parsed.zeroed} zeroed"
        head = ("model", "held-out loss", "perplexity", zeroed, "ratio")
        rows = [
            (
                arm["name"],
                f"{float(arm['held_out_loss']):.4f}",
                f"{float(arm['perplexity']):.3f}",
                f"{float(arm['zeroed_perplexity']):.3f}",
                f"{float(arm['zeroed_perplexity']) / float(arm['perplexity']):.3f}",
            )
            for arm in self._report["arms"]
        ]
        lines = [head, ("---", *["---:"] * (len(head) - 1)), *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def _found(self, loaded: LoadedCheckpoint) -> Channels:
        bos = bos_of(loaded.model, loaded.tokenizer)
        most = max(self._parsed.k, self._parsed.zeroed)
        return find_channels(discover(loaded.model, {}), bos, most, self._parsed.layer)

    def _macdrop(self, channels: Channels) -> MacDrop:
        return MacDrop(
            self._curriculum,
            layer=channels.layer,
            channels=channels.channels,
            expert=channels.expert,
            masks=self._parsed.masks,
            seed=self._parsed.seed,
        )

    def _arm(self, adapter: Adapter, macdrop: MacDrop | None, zeroed: Channels) -> None:
        name = {"lora": "LoRA", "dora": "DoRA"}[adapter.kind] + (" + MacDrop" if macdrop else "")
        folder = self._parsed.out / name.lower().replace(" + ", "-")
        base = self._source.load(Silent()).model
        before = parameters_digest(base)
        model = adapted(base, adapter, self._parsed.seed)
        seconds = train(model, self._train, self._schedule, folder, macdrop, name)
        plain = model.unload()
        if parameters_digest(plain) != before:
            raise TrainingError(f"{name}: the frozen weights are not what they were, which is a fault of maprobe")
        self._note(name, worth(merged(plain, folder), self._held_out, self._text, zeroed), seconds=round(seconds, 1))

    def _note(self, name: str, found: Worth, **more: float) -> None:
        self._report["arms"].append({"name": name, **found.to_dict(), **more})
        out: Path = self._parsed.out
        try:
            (out / "finetune.json").write_text(json.dumps(self._report, indent=2) + "\n", encoding="utf-8")
            (out / "finetune.md").write_text(self.table(), encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"--out {out} cannot be written ({error.strerror or error}); make room there") from None
        tell(f"{name}: held-out loss {found.held_out_loss:.4f}, perplexity {found.perplexity:.3f}")


def _make(out: Path) -> None:
    """Make the folder for everything that is written, before much time is spent on it."""
    try:
        if out.is_dir() and any(out.iterdir()):
            raise TrainingError(f"--out {out} is not empty; name a new folder")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"--out {out} cannot be written ({error.strerror or error}); name a folder that can be"
        ) from None


def _end_of(tokenizer: Any) -> int | None:  # noqa: ANN401
    token = tokenizer.special_tokens_map.get("eos_token")
    return None if token is None else int(tokenizer.convert_tokens_to_ids(token))


def _versions() -> dict[str, str]:
    names = ("maprobe", "peft", "torch", "transformers")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "python": platform.python_version()}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(_NAME, _ABOUT)
    what = parser.add_argument_group("what is compared")
    what.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder for tables and adapters")
    what.add_argument(
        "--model",
        default="smollm2-135m",
        metavar="REF",
        help="the model to begin with, as after pytest's --model: smollm2-135m; it is loaded in float32",
    )
    what.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="JSON lines with `instruction` and `response`, of which every tenth is held out; without, the 167 that "
        "come with maprobe",
    )
    what.add_argument(
        "--adapter", nargs="+", default=["lora"], choices=("lora", "dora"), help="one or both, each in two arms: lora"
    )
    what.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto, the default, is the GPU if there is one",
    )
    what.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=1337, metavar="N", help="of adapters, order and masks: 1337"
    )
    learned = parser.add_argument_group("how the adapter is learned", "Defaults are the paper's, but for the sizes.")
    learned.add_argument("--rank", type=whole(1), default=16, metavar="N", help="of the matrices that are added: 16")
    learned.add_argument("--alpha", type=positive, default=16.0, metavar="X", help="their scale, times the rank: 16")
    learned.add_argument(
        "--targets",
        nargs="+",
        default=["all-linear"],
        metavar="NAME",
        help="modules that are adapted, by the end of their names: all-linear, which is all but embedding and head",
    )
    learned.add_argument("--lr", type=positive, default=1e-4, metavar="RATE", help="the highest learning rate: 1e-4")
    learned.add_argument(
        "--warmup", type=probability, default=0.05, metavar="X", help="share of the steps that it rises over: 0.05"
    )
    learned.add_argument("--steps", type=whole(1), default=60, metavar="N", help="optimiser steps: 60")
    learned.add_argument("--batch", type=whole(1), default=8, metavar="N", help="examples in a forward call: 8")
    learned.add_argument("--accumulate", type=whole(1), default=1, metavar="N", help="forward calls in a step: 1")
    learned.add_argument("--length", type=whole(2), default=128, metavar="N", help="the most tokens of an example: 128")
    dropping = parser.add_argument_group("what MacDrop drops")
    dropping.add_argument("--k", type=whole(1), default=5, metavar="N", help="channels whose rows are dropped: 5")
    dropping.add_argument(
        "--p0", type=probability, default=0.8, metavar="P", help="probability that the curriculum begins at: 0.8"
    )
    dropping.add_argument("--curriculum", default="step", choices=tuple(CURRICULA), help="how it falls: step")
    dropping.add_argument(
        "--curriculum-alpha", type=least_zero, metavar="X", help="how fast it falls with --curriculum exp"
    )
    dropping.add_argument(
        "--masks", default="shared", choices=MASKS, help="one mask for gate and up projection (shared), or one for each"
    )
    dropping.add_argument("--layer", type=whole(1), metavar="N", help="the layer, from 1; without, it is found")
    dropping.add_argument(
        "--channels", type=whole(0), nargs="+", metavar="N", help="channels of that layer, from 0; without, found"
    )
    dropping.add_argument(
        "--expert", type=whole(0), metavar="N", help="the expert that --channels are of, from 0, where there are any"
    )
    dropping.add_argument(
        "--zeroed", type=whole(1), default=3, metavar="N", help="channels whose rows are zero for the last column: 3"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
