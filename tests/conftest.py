"""How the tests are spread over processes: all of one real checkpoint go to one, so that it is loaded there alone."""

from __future__ import annotations

from typing import Any

import pytest

SMOLLM2 = "tests/checkpoints/test_smollm2"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    # pytest-xdist's own `loadgroup` changes ids in a way that pytest 9.2 takes no notice of.
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class CheckpointsTogether(LoadScopeScheduling):  # type: ignore[misc] # xdist carries no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith(SMOLLM2):
                return SMOLLM2
            return file if file.startswith("tests/checkpoints/") else nodeid

    return CheckpointsTogether(config, log)
