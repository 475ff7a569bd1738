"""The console script ``maprobe``: what does not need a test session."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maprobe
from maprobe.bars import TerminalProgress
from maprobe.builtin import builtin_registry
from maprobe.errors import MaprobeError, ReportError
from maprobe.prune_command import add_prune
from maprobe.reading.folders import probe_files
from maprobe.reading.parsing import parse_file
from maprobe.reading.schema import build_schema
from maprobe.references import LoadOptions, parse_reference
from maprobe.reporting.cards import write_card
from maprobe.reporting.plots.gallery import hang
from maprobe.reporting.report import PropertyReport

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 for success, 1 for a finding, 2 for a command that cannot run."""
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except MaprobeError as error:
        print(f"maprobe {parsed.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maprobe", description="Properties of models, asserted. The probes themselves are run by pytest."
    )
    parser.add_argument("--version", action="version", version=f"maprobe {maprobe.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    schema = commands.add_parser("schema", help="print the JSON Schema of probe files, for editors")
    schema.add_argument("--compact", action="store_true", help="on one line, as it is installed with the package")
    schema.set_defaults(run=_schema)

    check = commands.add_parser("check", help="validate probe files without loading any model")
    check.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="probe files, or folders of them")
    check.set_defaults(run=_check)

    listing = commands.add_parser("list", help="list what can be named in a probe file")
    listing.add_argument("what", choices=("measurements", "interventions", "operators", "corpora", "checkpoints"))
    listing.set_defaults(run=_list)

    doctor = commands.add_parser("doctor", help="show which parts of a model were found, by which route, and prove it")
    doctor.add_argument("--model", required=True, metavar="REF", help="as for pytest --model")
    for name in ("dtype", "device"):
        doctor.add_argument(f"--{name}", default="auto")
    doctor.add_argument("--device-map", default="")
    doctor.add_argument("--attn", default="")
    for name in ("allow-pickle", "trust-remote-code", "allow-python"):
        doctor.add_argument(f"--{name}", action="store_true", help=f"as for pytest --maprobe-{name}")
    doctor.set_defaults(run=_doctor)

    card = commands.add_parser("card", help="write or refresh a model card from a JSON report")
    card.add_argument("report", type=Path, metavar="REPORT.json", help="written by pytest --property-report")
    card.add_argument("card", type=Path, metavar="CARD.md", help="what a person wrote in it is kept")
    card.add_argument("--checkpoint", default="", help="label of the checkpoint, if the report has several")
    card.set_defaults(run=_card)

    plots = commands.add_parser("plots", help="draw the pictures of a JSON report")
    plots.add_argument("report", type=Path, metavar="REPORT.json", help="written by pytest --property-report")
    plots.add_argument("folder", type=Path, metavar="DIR", help="made if it does not exist")
    plots.set_defaults(run=_plots)

    add_prune(commands)
    return parser


def _schema(parsed: argparse.Namespace) -> int:
    indent = None if parsed.compact else 2
    print(json.dumps(build_schema(builtin_registry()), indent=indent, ensure_ascii=False))
    return 0


def _check(parsed: argparse.Namespace) -> int:
    registry = builtin_registry()
    paths = [path for given in parsed.paths for path in probe_files(given)]
    faults = 0
    for path in paths:
        try:
            probes = parse_file(path, registry)
            print(f"{path}: {len(probes)} probes")
        except MaprobeError as error:
            faults += 1
            print(error, file=sys.stderr)
    return 1 if faults else 0


def _list(parsed: argparse.Namespace) -> int:
    from maprobe.reading.names import known_checkpoints

    registry = builtin_registry()
    rows = {
        "measurements": [(recipe.name, recipe.summary) for recipe in registry.measurements.values()],
        "interventions": [(recipe.name, recipe.summary) for recipe in registry.interventions.values()],
        "operators": [(operator.name, operator.meaning) for operator in registry.operators.values()],
        "corpora": [(corpus.name, corpus.summary) for corpus in registry.corpora.values()],
        "checkpoints": [(known.name, known.reference) for known in known_checkpoints().values()],
    }[parsed.what]
    width = max(len(name) for name, _ in rows)
    for name, meaning in rows:
        print(f"{name:<{width}}  {meaning}")
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    from maprobe.reading.names import known_checkpoints
    from maprobe.reporting.doctor import render
    from maprobe.running.discovery import discover
    from maprobe.running.opening import open_source
    from maprobe.running.proofs import prove

    options = LoadOptions(
        dtype=parsed.dtype,
        device=parsed.device,
        device_map=parsed.device_map,
        attention=parsed.attn,
        trust_remote_code=parsed.trust_remote_code,
        allow_pickle=parsed.allow_pickle,
        allow_python=parsed.allow_python,
    )
    progress = TerminalProgress()
    source = open_source(parse_reference(parsed.model, known_checkpoints()), options, progress)
    loaded = source.load(progress)
    anatomy = discover(loaded.model, builtin_registry().architectures, loaded.own)
    proofs = prove(anatomy)
    print(render(anatomy, proofs, f"{parsed.model} ({loaded.provenance.resolved})"))
    return 1 if any(proof.holds is False for proof in proofs) else 0


def _card(parsed: argparse.Namespace) -> int:
    data = _read(parsed.report)
    labels = _labels(data, parsed.report)
    label = parsed.checkpoint or (labels[0] if len(labels) == 1 else "")
    if label not in labels:
        raise ReportError(
            f"{parsed.report} has the checkpoints {', '.join(labels) or 'none'}; name one with --checkpoint"
        )
    report = PropertyReport.from_dict(data).relinked(parsed.report.parent, parsed.card.parent)
    write_card(parsed.card, report.to_dict(), label)
    print(f"wrote {parsed.card}")
    return 0


def _plots(parsed: argparse.Namespace) -> int:
    data = _read(parsed.report)
    _labels(data, parsed.report)
    hanging = hang(PropertyReport.from_dict(data), parsed.folder)
    for link in hanging.links:
        print(f"picture: {link.path} (and .svg)")
    for sentence in hanging.lacking:
        print(sentence, file=sys.stderr)
    if not hanging.links and not hanging.lacking:
        print(f"{parsed.report} holds nothing that a picture shows: measure magnitude, layerwise or landscape")
    return 1 if hanging.failed else 0


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReportError(f"{path} is not a JSON report: {error}") from None


def _labels(report: object, path: Path) -> list[str]:
    """Return the labels of the checkpoints that a report speaks of."""
    if not isinstance(report, dict):
        raise ReportError(f"{path} is not a JSON report: it holds no object")
    try:
        return [str(checkpoint["label"]) for checkpoint in PropertyReport.from_dict(report).checkpoints]
    except (ReportError, KeyError) as error:
        fault = error if isinstance(error, ReportError) else "a checkpoint has no label"
        raise ReportError(f"{path} is not a JSON report: {fault}") from None
