"""Sessions of pytest within these tests, on checkpoints of a few thousand weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

# Loaded once and for all: pytester forgets what a session within this one imports, and torch cannot be loaded twice.
import maprobe.checking
import maprobe.distributing
import maprobe.reading.names

ONCE = (jsonschema, maprobe.checking, maprobe.distributing, maprobe.reading.names)

# Threads cost more than they bring on models this small, many times over where cores are shared.
torch.set_num_threads(1)

TEXTS = "[The quick brown fox jumps over the lazy dog ., the lazy dog jumps over a quick fox .]"
HEAD = f"version: 1\nsuite: s\ndefaults:\n  inputs: {{text: {TEXTS}}}\nprobes:\n"
PERPLEXITY = (
    HEAD + "  - {id: ppl, claim: It has a perplexity., measure: {kind: perplexity}, expect: {targets: {gt: 1}}}\n"
)
EXISTS = "  - {id: exists, claim: Something is massive., measure: {kind: magnitude}, expect: {layers_hit: {gt: 0}}}\n"
ZEROING = (
    "  - {id: zeroing, claim: Zeroing destroys perplexity., measure: {kind: perplexity}, intervene: {target: massive}, "
    "expect: {ratio: {gt: 10}, control.ratio: {between: [0.95, 1.05]}}}\n"
)


@dataclass(frozen=True)
class Checkpoints:
    """Folders of checkpoints that all tests share, and none changes."""

    planted: Path
    twin: Path
    plain: Path
    encoder: Path


@dataclass
class Watch:
    """Sees every pass that is made, and every forward call of the model in it; proofs come before and do not count."""

    passes: list[tuple[str, str]] = field(default_factory=list)
    forwards: int = 0
    models: dict[str, nn.Module] = field(default_factory=dict)

    def pytest_maprobe_execute_run(self, run: Any, subject: Any) -> None:
        self.passes.append((run.key.checkpoint, str(run.key.edit or "")))
        if subject.loaded.model not in self.models.values():
            self.models[run.key.checkpoint] = subject.loaded.model
            subject.loaded.model.register_forward_pre_hook(self._count)

    def _count(self, module: object, args: object) -> None:
        self.forwards += 1


@dataclass
class Inner:
    """A folder of probe files, and sessions in it."""

    pytester: pytest.Pytester
    checkpoints: Checkpoints

    @property
    def path(self) -> Path:
        return self.pytester.path

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def run(
        self, *arguments: str | Path, model: Path | tuple[Path, ...] | None = None, plugins: tuple[object, ...] = ()
    ) -> pytest.RunResult:
        """Run pytest in this process. Hypothesis is left out, since its plugin is slow to start."""
        models = (model,) if isinstance(model, Path) else model or ()
        options = ["-p", "no:hypothesispytest", "-W", "error", "--maprobe-device=cpu"]
        options += [f"--model={path}" for path in models]
        return self.pytester.runpytest_inprocess(*options, *arguments, plugins=list(plugins), no_reraise_ctrlc=True)

    def report(self, name: str = "report.json") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return found

    def statuses(self, name: str = "report.json") -> dict[str, str]:
        """Status by probe and checkpoint, as in ``exists[planted]``."""
        return {verdict["case"].split("::")[1]: verdict["status"] for verdict in self.report(name)["verdicts"]}


def printed(result: pytest.RunResult) -> str:
    return result.stdout.str() + "\n" + result.stderr.str()


def told(result: pytest.RunResult) -> str:
    """All that was printed, as one line, so that sentences can be looked for wherever they were broken."""
    return " ".join(printed(result).split())
