"""``maprobe prune``: a checkpoint with some of its weights set to zero, as a folder that probes can be run on."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maprobe.bars import TerminalProgress
from maprobe.builtin import builtin_registry
from maprobe.errors import OptionError, PruningError, allowed_names, did_you_mean
from maprobe.reading.names import known_checkpoints
from maprobe.references import LoadOptions, parse_reference
from maprobe.reporting.pruning import comparison_table, layers_table, notes
from maprobe.sparsity import SparsityRule, check_sparsity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maprobe.progress import Progress
    from maprobe.pruning.calibration import Calibration
    from maprobe.pruning.pruner import Counter, Outcome, Pruner
    from maprobe.running.inputs import Inputs
    from maprobe.running.subjects import Subject

__all__ = ["add_prune"]

_METHODS = ("layers", "wanda")
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """The command line, read and checked."""

    reference: str
    out: Path
    method: str
    rule: SparsityRule
    gamma: float
    calibration: Calibration
    options: LoadOptions
    compare: bool


def add_prune(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the console script."""
    # Values are read by _settings, so that a wrong one is told in one sentence, as everywhere else.
    prune = commands.add_parser("prune", help="set weights to zero by Wanda, and write the model as a folder")
    prune.add_argument("--model", required=True, metavar="REF", help="as for pytest --model")
    prune.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder, or an empty one")
    prune.add_argument("--sparsity", default="0.5", metavar="S", help="share of the weights to set to zero: 0.5")
    prune.add_argument(
        "--method",
        default="layers",
        metavar="NAME",
        help="layers, the default: the sparsity of each layer by its count of active parameters (arXiv:2405.17799); "
        "wanda: every layer the same (arXiv:2306.11695)",
    )
    rule = prune.add_argument_group("the rule of layers")
    rule.add_argument("--alpha", default="2", metavar="A", help="how much the first layers are spared: 2")
    rule.add_argument("--beta", default="0.2", metavar="B", help="how far layers differ, as a share of S: 0.2")
    rule.add_argument("--gamma", default="2e-5", metavar="G", help="above it a parameter is active: 2e-5")
    texts = prune.add_argument_group("calibration")
    texts.add_argument("--calibration", default="python-docs", metavar="TEXT", help="a corpus, a text file or JSONL")
    texts.add_argument("--sequences", default="16", metavar="N", help="sequences: 16")
    texts.add_argument("--length", default="", metavar="N", help="tokens in each: 512, or what the model was made for")
    texts.add_argument("--skip", default="", metavar="N", help="sequences to leave out: 16 of python-docs, else 0")
    texts.add_argument("--seed", default="", metavar="N", help="draw them at random; without, the first are taken")
    prune.add_argument(
        "--compare",
        action="store_true",
        help="also tell the perplexity of the dense model and by both methods, on other text",
    )
    for name in ("dtype", "device"):
        prune.add_argument(f"--{name}", default="auto")
    prune.add_argument("--allow-pickle", action="store_true")
    prune.set_defaults(run=_prune)


def _settings(parsed: argparse.Namespace) -> _Settings:
    from maprobe.pruning.calibration import Calibration

    if parsed.method not in _METHODS:
        raise OptionError(
            f"--method {parsed.method!r} is unknown{did_you_mean(parsed.method, _METHODS)}; allowed: "
            f"{allowed_names(_METHODS)}"
        )
    sparsity = _number("--sparsity", parsed.sparsity)
    check_sparsity(sparsity)
    rule = SparsityRule(sparsity=sparsity, alpha=_number("--alpha", parsed.alpha), beta=_number("--beta", parsed.beta))
    gamma = _number("--gamma", parsed.gamma)
    if gamma < 0:
        raise OptionError(f"--gamma {parsed.gamma} is not allowed; allowed: 0 or more")
    return _Settings(
        reference=parsed.model,
        out=parsed.out,
        method=parsed.method,
        rule=rule,
        gamma=gamma,
        calibration=Calibration(
            text=parsed.calibration,
            sequences=_whole("--sequences", parsed.sequences, 1),
            length=_whole("--length", parsed.length, 1) if parsed.length else None,
            skip=_whole("--skip", parsed.skip, 0) if parsed.skip else None,
            seed=_whole("--seed", parsed.seed, 0) if parsed.seed else None,
        ),
        options=LoadOptions(dtype=parsed.dtype, device=parsed.device, allow_pickle=parsed.allow_pickle),
        compare=parsed.compare,
    )


def _prune(parsed: argparse.Namespace) -> int:
    try:
        return _pruned(_settings(parsed))
    except KeyboardInterrupt:
        sys.stderr.write("maprobe prune: interrupted; nothing was written\n")
        return _INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise PruningError(
            "the memory is too small; lower --sequences or --length, leave --compare out, or load with --dtype bfloat16"
        ) from None


def _pruned(settings: _Settings) -> int:
    from maprobe.pruning.calibration import held_out
    from maprobe.pruning.folders import check_target, write
    from maprobe.pruning.pruner import Pruner, perplexity, require_prunable
    from maprobe.running.subjects import ReferencedSource, examine

    check_target(settings.out)
    registry, progress = builtin_registry(), TerminalProgress()
    reference = parse_reference(settings.reference, known_checkpoints())
    source = ReferencedSource.open(reference, settings.options, progress)
    facts = source.facts
    require_prunable(facts, logits="--compare" if settings.compare else _logits(settings.method))
    inputs = settings.calibration.inputs(source.tokenizer, facts, registry.corpora)
    if settings.compare:
        settings.calibration.check_apart(facts)
        others = held_out(source.tokenizer, facts, registry.corpora)
    subject = examine(source.load(progress), registry.architectures)
    pruner = Pruner(
        subject=subject, inputs=inputs, rule=settings.rule, count=_counter(settings.gamma, progress), progress=progress
    )
    if settings.compare:
        order: Any = sorted(_METHODS, key=lambda name: name == settings.method)  # the one that is written comes last
        outcomes = pruner.compared(order, lambda: perplexity(subject, others))
    else:
        method: Any = settings.method
        outcomes = (pruner.by(method),)
    outcome = outcomes[-1]
    # First of all, so that a pipe which is closed early costs no folder.
    write(settings.out, subject.loaded.model, source.tokenizer, _record(outcomes, pruner, settings), progress)
    title = f"{facts.label}, pruned by {outcome.method}, calibrated on {inputs.description}"
    _say(layers_table(outcome, title))
    if settings.compare:
        _say(comparison_table(outcomes, f"Perplexity on {others.description}"))
    for sentence in notes(outcome, pruner.left, type(subject.loaded.model).__name__, facts["causal"]):
        _say(sentence)
    _say(f"wrote {settings.out}")
    return 0


def _record(outcomes: Sequence[Outcome], pruner: Pruner, settings: _Settings) -> dict[str, Any]:
    """Return what was done, as plain data for the file beside the weights."""
    outcome, inputs, rule = outcomes[-1], pruner.inputs, settings.rule
    weighed = outcome.method == "layers"
    own = {"alpha": rule.alpha, "beta": rule.beta, "gamma": settings.gamma} if weighed else {}
    return {
        "maprobe_pruning": 1,
        "method": outcome.method,
        "sparsity": rule.sparsity,
        **own,
        "counted": outcome.counted(),
        "layers": [
            {
                "layer": layer,
                **({"active": outcome.counts[layer - 1]} if weighed else {}),
                "asked": outcome.shares[layer - 1],
                "counted": outcome.counted(layer),
            }
            for layer in outcome.layers
        ],
        "matrices": [asdict(matrix) for matrix in outcome.matrices],
        "left_out": list(pruner.left),
        "calibration": {
            "inputs": inputs.description,
            "digest": inputs.digest,
            "bos": inputs.bos,
            "sequences": len(inputs.sequences),
            "tokens": inputs.tokens,
        },
        "perplexity": {each.method: each.perplexity for each in outcomes if math.isfinite(each.perplexity)},
        "checkpoint": pruner.subject.loaded.provenance.to_dict(),
    }


def _counter(gamma: float, progress: Progress) -> Counter:
    def count(subject: Subject, inputs: Inputs) -> tuple[int, ...]:
        from maprobe.running.attributions import densities

        with progress.bar("active parameters", subject.anatomy.depth, "layer") as bar:
            found = densities(subject.anatomy, inputs.sequences, (gamma,), advance=bar.advance)
        return tuple(counts[0] for counts in found)

    return count


def _logits(method: str) -> str:
    return f"--method {method}" if method == "layers" else ""


def _number(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise OptionError(f"{option} {text!r} is not a number")
    return value


def _whole(option: str, text: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise OptionError(f"{option} {text!r} is not allowed; allowed: a whole number from {least} on")
    return int(text)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n\n" if "\n" in text else f"{text}\n")
