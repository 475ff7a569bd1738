"""How cases are spread over the processes of pytest-xdist: one process for each checkpoint, or series of them."""

from __future__ import annotations

import fnmatch
from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

from maprobe.session import SESSION

__all__ = ["CheckpointScheduling"]


class CheckpointScheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist carries no types
    """Sends all cases of a checkpoint to one process, so that one process loads it; other tests go one by one.

    The checkpoints of a series go together, since its trends are judged where their verdicts are.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, probe = nodeid.partition("::")
        name = PurePosixPath(file).name
        if any(fnmatch.fnmatch(name, pattern) for pattern in self.config.getini("maprobe_files")):
            label = probe.partition("[")[2].removesuffix("]")
            session = self.config.stash.get(SESSION, None)
            return session.group(label) if session and session.selected else label
        return nodeid
