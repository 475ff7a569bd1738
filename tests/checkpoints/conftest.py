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

PROBES = Path(__file__).parents[2] / "probes"


def loaded(name: str) -> LoadedCheckpoint:
    options = LoadOptions(dtype="float32", device="cpu")
    inspected = checkpoints.inspect(parse_reference(name, known_checkpoints()), options, Silent())
    return checkpoints.load(inspected, options, Silent())


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
