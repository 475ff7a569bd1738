"""What the scripts of training share: the device, lines that tell how far they are, and errors as exit statuses."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from maprobe.errors import MaprobeError, TrainingError

__all__ = ["clock", "device_of", "run_script", "tell"]

_INTERRUPTED = 130
_MINUTES = 60


def run_script(
    name: str, work: Callable[[], str], *, unwritable: str, smaller: str, interrupted: str, out: object
) -> int:
    """Do the work of a script and return its exit status: 0, 2 where it cannot be done, 130 if interrupted.

    What goes wrong is told in one sentence; an error that nobody foresaw is raised.

    Args:
        name: of the script's module.
        work: does it, and returns what to print at the end.
        unwritable: what to do where the disk is full.
        smaller: which options need less memory if they are lowered.
        interrupted: what has become of the work where the user stops it.
        out: where the script writes.
    """
    try:
        sys.stdout.write(work())
    except MaprobeError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"{name}: --out {out} cannot be written ({error}); {unwritable}\n")
        return 2
    except (MemoryError, RuntimeError) as error:
        # torch raises RuntimeError for whatever goes wrong, lack of memory included.
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        sys.stderr.write(f"{name}: the memory is too small; lower {smaller}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; {interrupted}\n")
        return _INTERRUPTED
    return 0


def device_of(name: str) -> torch.device:
    """Return the device that ``--device`` names: ``auto`` is the GPU if there is one.

    Raises:
        TrainingError: there is no GPU, and one was asked for.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: torch finds no GPU here; write --device cpu, or install torch for your GPU")
    return torch.device(name)


def tell(line: str) -> None:
    """Write a line that tells how far the work is."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, _MINUTES)
    return f"{hours}:{left:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
