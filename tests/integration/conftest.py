"""Checkpoints that are made once, and sessions that measure them."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from inner_sessions import Checkpoints, Inner
from planted import save_planted
from tiny_checkpoints import save_bert, save_llama, tokenizer


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_bert(folder / "encoder")
    tokenizer(prepends_bos=True).save_pretrained(folder / "encoder")
    # What is loaded by now stays: looking through it whenever memory is freed would take much of the time.
    gc.freeze()
    return Checkpoints(
        planted=save_planted(folder / "planted"),
        twin=save_planted(folder / "twin", value=0.0),
        plain=save_llama(folder / "plain", with_tokenizer=True),
        encoder=folder / "encoder",
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def inner(pytester: pytest.Pytester, checkpoints: Checkpoints, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Inner:
    monkeypatch.setenv("MAPROBE_CACHE", str(cache))
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)  # those of the session around, where it has several processes
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the processes that a session starts
    return Inner(pytester, checkpoints)
