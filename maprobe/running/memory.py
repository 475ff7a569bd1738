"""Whether weights fit into memory, asked before they are loaded: a system that runs out of it kills the process."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["free_memory"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be had on a device, or None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = [amount for amount in (_of_machine(), _of_container()) if amount is not None]
    return min(known) if known else None


def _of_machine() -> int | None:
    """Return what Linux says it can free, swap included; other systems grow their swap as they need it."""
    fields = dict.fromkeys(("MemAvailable", "SwapFree"), 0)
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        fields.update((name, int(rest.split()[0])) for name, _, rest in (line.partition(":") for line in lines) if rest)
    except (OSError, ValueError, IndexError):
        return None
    return (fields["MemAvailable"] + fields["SwapFree"]) * 1024 if fields["MemAvailable"] else None


def _of_container() -> int | None:
    """Return what is left of a container's limit; its file cache counts as free."""
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit - used + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    except (OSError, ValueError):
        return None
