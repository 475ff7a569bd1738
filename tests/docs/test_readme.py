from __future__ import annotations

import re
from pathlib import Path

from tiny_models import FAMILIES

from maprobe.builtin import builtin_registry
from maprobe.reading.parsing import parse_text

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_ci_runs_the_second_command_to_the_letter() -> None:
    main, tests = (block.strip() for block in blocks("sh")[:2])
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert tests in lines
    assert main.endswith("&& pytest probes/")


def test_the_probe_file_that_is_shown_can_be_read() -> None:
    shown = next(block for block in blocks("yaml") if block.startswith("version: 1"))
    assert ["exists", "zeroing-destroys-perplexity"] == [
        probe.id for probe in parse_text(shown, builtin_registry(), name="README.md")
    ]


def test_the_table_that_is_shown_is_that_of_the_shipped_probes() -> None:
    table = next(block for block in blocks("text") if "= properties =" in block)
    registry = builtin_registry()
    files = sorted((ROOT / "probes").rglob("*.probe.yaml"))
    probes = [probe for file in files for probe in parse_text(file.read_text(), registry, name=str(file))]
    shipped = [
        probe.id for probe in probes if not probe.of_series_only
    ]  # on one checkpoint, as shown, these have no case
    # A name that is broken at a hyphen goes on in the next line.
    rows = re.findall(r"^([a-z0-9-]+) +(?:passed|absent|info) .*\n(?=(?:([a-z0-9-]+) )?)", table, re.MULTILINE)
    told = [name + rest if name.endswith("-") else name for name, rest in rows]
    for part in table.split("not applicable\n")[1:]:
        below = re.findall(r"^  \S.*?: ([a-z0-9, \n-]+)$", part.partition("\n\n")[0], re.MULTILINE)
        told += [name.strip() for names in below for name in names.split(",")]
    assert sorted(shipped) == sorted(told)


def test_every_family_that_is_named_as_tested_is_tested() -> None:
    told = README.split("Tested from small random configs:")[1].split("\n\n")[0].rstrip(".")
    names = {re.sub(r"[^a-z0-9]", "", name.lower()) for name in re.split(r",|\band\b", told)}
    families = {re.sub(r"[^a-z0-9]", "", family.partition("-")[0]) for family in FAMILIES}
    assert {"qwen2", "qwen3", "gemma2", "gemma3"} <= families
    assert families - {"qwen2", "qwen3", "gemma2", "gemma3"} == {
        n for n in names if not re.fullmatch(r"(qwen|gemma)?\d", n)
    }


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(targets) > 8
    assert [] == [target for target in targets if not (ROOT / target).exists()]
