from __future__ import annotations

import os

import pytest
import torch

from maprobe.running.threads import share_cores


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


@pytest.mark.parametrize(("processes", "threads"), [(2, 4), (3, 2), (16, 1)])
def test_processes_share_the_cores(asked_for: list[int], processes: int, threads: int) -> None:
    share_cores(processes)
    assert [threads] == asked_for


def test_a_process_alone_keeps_what_torch_chose(asked_for: list[int]) -> None:
    share_cores(1)
    assert [] == asked_for


def test_what_the_user_said_wins(asked_for: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    share_cores(2)
    assert [] == asked_for
