"""How much memory is free, as far as the system tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maprobe.running import memory
from maprobe.running.memory import free_memory

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def container(system: Path, limit: str) -> None:
    for name, text in (("max", limit), ("current", "7000"), ("stat", "anon 1\ninactive_file 500\nactive_file 300\n")):
        (system / f"memory.{name}").write_text(text)


def test_a_system_that_does_not_tell_is_not_guessed(system: Path) -> None:
    assert free_memory(CPU) is None
    (system / "meminfo").write_text("nonsense\nMemAvailable:\n")
    assert free_memory(CPU) is None
    assert free_memory(torch.device("meta")) is None


def test_what_linux_can_free_counts_and_so_does_its_swap(system: Path) -> None:
    (system / "meminfo").write_text("MemTotal:  99 kB\nMemAvailable:   10 kB\nSwapFree: 5 kB\nHugePages_Total: 0\n")
    assert free_memory(CPU) == 15 * 1024


def test_the_limit_of_a_container_counts_where_it_is_lower(system: Path) -> None:
    (system / "meminfo").write_text("MemAvailable: 10 kB\n")
    container(system, "8000")
    assert free_memory(CPU) == 8000 - 7000 + 800
    container(system, "max")
    assert free_memory(CPU) == 10 * 1024
