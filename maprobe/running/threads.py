"""How many threads a process computes with where several share the machine."""

from __future__ import annotations

import os

import torch

__all__ = ["share_cores"]


def share_cores(processes: int) -> None:
    """Let torch use this process' share of the cores, unless the user said how many with ``OMP_NUM_THREADS``.

    Threads of several processes that wait for one core spin, which makes all of them many times slower.

    Args:
        processes: how many processes measure at a time.
    """
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
