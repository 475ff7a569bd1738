"""maprobe.check: probe files against a model in memory, in plain Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import llama_config, tokenizer
from torch import nn
from transformers import LlamaForCausalLM

import maprobe
from maprobe.builtin import builtin_registry
from maprobe.errors import MaprobeError, OptionError, ProbeFileError
from maprobe.recipes import Operator
from maprobe.verdicts import Status

HEAD = """\
version: 1
suite: s
defaults:
  inputs: {text: [The quick brown fox ., The lazy dog jumps .]}
  measure: {kind: perplexity}
probes:
"""
HOLDS = "  - {id: holds, claim: C., expect: {targets: {eq: 8}}}\n"
FAILS = "  - {id: fails, claim: C., expect: {targets: {gt: 1000}}}\n"
SKIPS = "  - {id: skips, claim: C., skip: not now, expect: {targets: {gt: 1000}}}\n"


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config()).eval()


def write(path: Path, *probes: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "".join(probes), encoding="utf-8")
    return path


def statuses(report: maprobe.checking.PropertyReport) -> dict[str, Status]:
    return {verdict.case: verdict.status for verdict in report.verdicts}


def test_a_file_is_judged_probe_by_probe(tmp_path: Path, model: nn.Module) -> None:
    path = write(tmp_path / "a.probe.yaml", HOLDS, FAILS)
    report = maprobe.check(model, tokenizer(), path)
    assert {f"{path}::holds[model]": Status.PASSED, f"{path}::fails[model]": Status.FAILED} == statuses(report)
    assert (8.0, 2) == (report.verdicts[0].findings[0].observed, report.plan["forwards"])


def test_a_folder_is_all_its_probe_files(tmp_path: Path, model: nn.Module) -> None:
    write(tmp_path / "b.probe.yml", HOLDS)
    write(tmp_path / "a" / "c.probe.yaml", FAILS)
    write(tmp_path / "other.yaml", "no probe file")
    report = maprobe.check(model, tokenizer(), str(tmp_path), label="step-3")
    assert {
        f"{tmp_path}/a/c.probe.yaml::fails[step-3]": Status.FAILED,
        f"{tmp_path}/b.probe.yml::holds[step-3]": Status.PASSED,
    } == statuses(report)
    assert 1 == report.plan["passes"]


def test_a_probe_that_says_skip_is_not_applicable_with_its_reason(tmp_path: Path, model: nn.Module) -> None:
    report = maprobe.check(model, tokenizer(), write(tmp_path / "a.probe.yaml", SKIPS))
    assert [(Status.NOT_APPLICABLE, "not now")] == [(found.status, found.reason) for found in report.verdicts]
    assert (0, ()) == (report.plan["passes"], report.checkpoints)


def test_the_report_says_what_was_measured(tmp_path: Path, model: nn.Module) -> None:
    report = maprobe.check(model, tokenizer(), write(tmp_path / "a.probe.yaml", HOLDS), batch=2)
    (checkpoint,) = report.checkpoints
    assert ("model", "in memory (LlamaForCausalLM)") == (checkpoint["label"], checkpoint["resolved"])
    assert sum(parameter.numel() for parameter in model.parameters()) == checkpoint["parameters"]
    assert (1, False) == (report.plan["forwards"], report.interrupted)


def test_every_module_gets_its_own_mode_back(tmp_path: Path, model: nn.Module) -> None:
    model.train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    maprobe.check(model, tokenizer(), write(tmp_path / "a.probe.yaml", HOLDS, FAILS))
    assert before == [module.training for module in model.modules()]
    assert {True, False} == set(before)
    assert [] == [hook for module in model.modules() for hook in module._forward_hooks]


def test_the_mode_comes_back_after_an_error(tmp_path: Path, model: nn.Module) -> None:
    model.train()
    (tmp_path / "a.probe.yaml").write_text("version: 1\n", encoding="utf-8")
    with pytest.raises(ProbeFileError):
        maprobe.check(model, tokenizer(), tmp_path)
    assert model.training


def test_the_faults_of_all_files_are_told_at_once(tmp_path: Path, model: nn.Module) -> None:
    write(tmp_path / "a.probe.yaml", HOLDS.replace("eq", "equal"), FAILS.replace("claim", "clame"))
    write(tmp_path / "b.probe.yaml", HOLDS)
    write(tmp_path / "c.probe.yaml", HOLDS.replace("targets", "target"))
    with pytest.raises(ProbeFileError) as caught:
        maprobe.check(model, tokenizer(), tmp_path)
    assert ["a", "a", "a", "c"] == [Path(fault.mark.file).name[0] for fault in caught.value.faults]
    assert "(did you mean 'targets'?)" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"), [("none", "does not exist; name a probe file"), (".", "holds no probe file")]
)
def test_a_folder_without_probe_files_is_refused(tmp_path: Path, model: nn.Module, name: str, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        maprobe.check(model, tokenizer(), tmp_path / name)


def test_a_model_without_a_tokenizer_is_told_for_each_case(tmp_path: Path, model: nn.Module) -> None:
    (verdict,) = maprobe.check(model, None, write(tmp_path / "a.probe.yaml", HOLDS)).verdicts
    assert (Status.UNMEASURED, True) == (verdict.status, "tokenizer" in verdict.reason)


def test_a_registry_of_ones_own_is_used(tmp_path: Path, model: nn.Module) -> None:
    registry = builtin_registry()
    even = Operator(
        name="even",
        meaning="an even number",
        schema={"const": True},
        holds=lambda observed, bound: observed % 2 == 0,
        margin=lambda observed, bound: None,
        words=lambda bound: "even",
    )
    registry.add([even], plugin="mine")
    path = write(tmp_path / "a.probe.yaml", HOLDS.replace("{eq: 8}", "{even: true}"))
    assert [Status.PASSED] == list(statuses(maprobe.check(model, tokenizer(), path, registry=registry)).values())
    with pytest.raises(MaprobeError, match="unknown key 'even'"):
        maprobe.check(model, tokenizer(), path)


def test_importing_the_package_imports_neither_torch_nor_pytest() -> None:
    code = "import sys, maprobe; print(sorted({'torch', 'transformers', 'pytest'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
