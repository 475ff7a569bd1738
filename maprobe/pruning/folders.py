"""Writing a pruned model as a folder of transformers: weights, config, tokenizer, and what was done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from maprobe.errors import PruningError
from maprobe.running.quiet import hushed
from maprobe.running.wording import one_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from maprobe.progress import Progress

__all__ = ["RECORD", "check_target", "write"]

RECORD = "maprobe-pruning.json"


def check_target(path: Path) -> None:
    """See that a folder can be written, before much time is spent on what goes into it; nothing is made.

    Raises:
        PruningError: there is something in it already, or it cannot be written.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise PruningError(f"--out {path} is no folder; name a new folder")
        if path.is_dir() and any(path.iterdir()):
            raise PruningError(f"--out {path} is not empty, and nothing is overwritten; name a new folder")
        above = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None
    if not above.is_dir():
        raise _unwritable(path, f"{above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _unwritable(path, f"{above} is not yours to write in")


def write(
    path: Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    record: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write the folder: beside its place first, then put there whole; nothing is left of a write that does not end.

    Args:
        path: the folder; if it exists, it is empty.
        model: a model of transformers.
        tokenizer: None where there is none.
        record: what was done, plain data, written as ``maprobe-pruning.json``.
        progress: whether libraries may show bars.

    Raises:
        PruningError: it cannot be written.
    """
    if not isinstance(model, PreTrainedModel):
        raise PruningError(f"{type(model).__name__} is no model of transformers, and cannot be written as a folder")
    beside = path.absolute().parent / f".writing-{path.absolute().name}"
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        with hushed(progress):
            model.save_pretrained(beside)
            if tokenizer is not None:
                tokenizer.save_pretrained(beside)
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (beside / RECORD).write_text(f"{text}\n", encoding="utf-8")
        if path.is_dir():
            path.rmdir()  # an empty one; not every system lets it be replaced
        beside.replace(path)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None
    except (ValueError, RuntimeError, NotImplementedError) as error:
        # What save_pretrained raises for weights that are shared in odd ways, or of a kind that it cannot write.
        raise PruningError(f"transformers cannot write this model as a folder: {one_line(error)}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _unwritable(path: Path, why: str) -> PruningError:
    return PruningError(f"--out {path} cannot be written ({why}); name a folder that can be")
