"""How cases are spread over the processes of pytest-xdist: one process for each checkpoint."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

__all__ = ["CheckpointScheduling"]

_CASE = re.compile(r"\.ya?ml::[^\[]+\[(?P<checkpoint>.+)\]$")


class CheckpointScheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist carries no types
    """Sends all cases of a checkpoint to one process, so that one process loads it; other tests go one by one."""

    def _split_scope(self, nodeid: str) -> str:
        case = _CASE.search(nodeid)
        return case["checkpoint"] if case else nodeid
