"""Real trained checkpoints, fetched once into the user's cache; a fetch that fails is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ground_truth import Truth

from maprobe.checking import check
from maprobe.progress import Silent
from maprobe.reading.names import known_checkpoints
from maprobe.references import LoadOptions, parse_reference
from maprobe.reporting.report import PropertyReport
from maprobe.running import checkpoints
from maprobe.running.checkpoints import LoadedCheckpoint

_WITHOUT_SMOLLM2 = ("test_minilm.py", "test_dinov2.py")
PROBES = Path(__file__).parents[2] / "probes"


def loaded(name: str) -> LoadedCheckpoint:
    options = LoadOptions(dtype="float32", device="cpu")
    inspected = checkpoints.inspect(parse_reference(name, known_checkpoints()), options, Silent())
    return checkpoints.load(inspected, options, Silent())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process run all tests of a checkpoint, so that it is loaded, and the suite run on it, once."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            group = item.path.stem if item.path.name in _WITHOUT_SMOLLM2 else "smollm2"
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def smollm2() -> LoadedCheckpoint:
    torch.manual_seed(0)
    return loaded("smollm2-135m")


@pytest.fixture(scope="session")
def minilm() -> LoadedCheckpoint:
    return loaded("minilm-l6-v2")


@pytest.fixture(scope="session")
def shipped(smollm2: LoadedCheckpoint) -> PropertyReport:
    """The shipped suite on the default checkpoint, run once."""
    return check(smollm2.model, smollm2.tokenizer, PROBES / "massive_activations", label="smollm2-135m")


@pytest.fixture(scope="session")
def truth(smollm2: LoadedCheckpoint) -> Truth:
    """The same figures by a few plain lines of torch, which share no code with maprobe."""
    return Truth.of(smollm2.model, smollm2.tokenizer)
