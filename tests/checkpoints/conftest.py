"""Real trained checkpoints, fetched once into the user's cache; a fetch that fails is a failure."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from dinov2_from_onnx import convert
from ground_truth import Truth

from maprobe.checking import check
from maprobe.progress import Silent
from maprobe.reading.names import known_checkpoints
from maprobe.references import LoadOptions, parse_reference
from maprobe.reporting.report import PropertyReport
from maprobe.running import checkpoints
from maprobe.running.checkpoints import LoadedCheckpoint
from maprobe.running.storage import cache_folder
from maprobe.running.wheels import fetch_member

ASTRONAUT = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
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
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(tmp_path_factory.mktemp("checkpoints") / "dinov2-small")


@pytest.fixture(scope="session")
def astronaut() -> Path:
    """A photograph of NASA's in the public domain, 512 x 512 pixels, out of a wheel of scikit-image."""
    # Wheels differ between versions of Python and platforms; the photograph in them is the same, and pinned.
    version = "0.25.2" if sys.version_info < (3, 14) else "0.26.0"
    member = "skimage/data/astronaut.png"
    path = fetch_member("scikit-image", version, member, sha256="", cache=cache_folder(), progress=Silent())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ASTRONAUT, f"{path} is not the photograph it was"
    return path


@pytest.fixture(scope="session")
def shipped(smollm2: LoadedCheckpoint) -> PropertyReport:
    """The shipped suite on the default checkpoint, run once."""
    return check(smollm2.model, smollm2.tokenizer, PROBES / "massive_activations", label="smollm2-135m")


@pytest.fixture(scope="session")
def truth(smollm2: LoadedCheckpoint) -> Truth:
    """The same figures by a few plain lines of torch, which share no code with maprobe."""
    return Truth.of(smollm2.model, smollm2.tokenizer)
