"""The folder of a training run: checkpoints that maprobe can load, the trainer's state, the log.

DIR/run.json            what the run is: its settings, text, versions
DIR/log.jsonl           one line for each report of a loss
DIR/step-100/           a checkpoint: weights, config, tokenizer
DIR/final/              the last one
DIR/trainer/step-100.pt optimiser and random state at the newest checkpoint, to go on from
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from maprobe.errors import TrainingError

__all__ = ["RunFolder"]

_STATE = re.compile(r"^step-(\d+)\.pt$")


class RunFolder:
    """Where a run writes. Checkpoints and the state are written beside their place and put there whole.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._states = path / "trainer"
        self._log = path / "log.jsonl"

    def check(self) -> None:
        """Make the folder, before much time is spent on what goes into it.

        Raises:
            TrainingError: there is something in it, or it cannot be written.
        """
        try:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise TrainingError(
                    f"--out {self.path} is not empty; name a new folder, or go on with the run in it by --resume"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("probe", "")
            (self.path / "probe").unlink()
        except OSError as error:
            raise TrainingError(
                f"--out {self.path} cannot be written ({error.strerror or error}); name a folder that can be"
            ) from None

    def begin(self, run: Mapping[str, Any]) -> None:
        """Note what the run is."""
        self._states.mkdir(exist_ok=True)
        self._write("run.json", json.dumps(run, indent=2) + "\n")

    def begun(self) -> dict[str, Any]:
        """Return what the run in the folder is.

        Raises:
            TrainingError: there is none.
        """
        try:
            run: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise TrainingError(
                f"--resume: there is no run in {self.path} to go on with (no run.json); leave --resume out"
            ) from None
        return run

    def resume(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trainer's state at the newest checkpoint, with its number of steps as ``step``.

        Raises:
            TrainingError: there is none, it cannot be read, or the run in the folder is another one.
        """
        begun = self.begun()
        for name, value in run.items():
            if begun.get(name) != value:
                raise TrainingError(
                    f"--resume: the run in {self.path} was begun with {name} {_told(begun.get(name))}, and now it is "
                    f"{_told(value)}; repeat the command that began it, with --resume added"
                )
        steps = [int(match[1]) for path in self._states.glob("*") if (match := _STATE.match(path.name))]
        if not steps:
            raise TrainingError(
                f"--resume: the run in {self.path} has no checkpoint yet; remove the folder and begin anew"
            )
        path = self._states / f"step-{max(steps)}.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise TrainingError(
                f"--resume: {path} cannot be read ({type(error).__name__}); remove the folder and begin anew"
            ) from error
        self._cut_log(state["step"])
        return state

    def save_model(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Write a checkpoint: weights, config and tokenizer."""

        def write(path: Path) -> None:
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)

        self.save(name, write)

    def save(self, name: str, write: Callable[[Path], None]) -> None:
        """Have a folder written, beside its place and then put there."""
        target, beside = self.path / name, self.path / f".writing-{name}"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            write(beside)
            shutil.rmtree(target, ignore_errors=True)
            beside.replace(target)
        except OSError as error:
            raise TrainingError(f"{target} cannot be written ({error.strerror or error}); make room there") from None

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write the trainer's state, then remove older ones; ``step`` in it says how many steps were made."""
        target = self._states / f"step-{state['step']}.pt"
        beside = target.with_suffix(".writing")
        try:
            torch.save(dict(state), beside)
            beside.replace(target)
        except OSError as error:
            raise TrainingError(f"{target} cannot be written ({error.strerror or error}); make room there") from None
        for path in self._states.glob("step-*.pt"):
            if path != target:
                path.unlink()

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _cut_log(self, step: int) -> None:
        """Drop what was logged after a step, since it will be done again."""
        if self._log.exists():
            lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            self._write(self._log.name, "".join(kept))

    def _write(self, name: str, text: str) -> None:
        beside = self.path / f".writing-{name}"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self.path / name)  # noqa: PTH105 - the name says that it is atomic


def _told(value: object) -> str:
    return json.dumps(value) if value is not None else "nothing"
