"""The training script as it is run from a shell, and what maprobe makes of the model that comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from inner_sessions import EXISTS, PERPLEXITY, Inner, told

from maprobe.training import pretrain

TEXT = "\n".join(f"The {n * 7919 % 1000}th quick brown fox jumps over the lazy dog {n} times ." for n in range(400))
TINY = ("--layers=3", "--heads=2", "--width=16", "--block=32", "--batch=2", "--vocabulary=300", "--device=cpu")
SHARE = (
    "  - {id: share, claim: The bias has a share., measure: {kind: attention.concentration}, "
    "expect: {every: layers, bias_share: {gt: 0.01}}}\n"
)
BOS = (
    "  - {id: bos, claim: The sink is there., measure: {kind: magnitude, tokens: bos}, "
    "expect: {every: layers, top: {gt: 0}}}\n"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of ten steps, made by a process of its own."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "text").write_text(TEXT)
    command = [sys.executable, "-m", "maprobe.training.pretrain", "--variant=explicit-bias", "--architecture=gpt2"]
    done = subprocess.run(
        [*command, f"--text={folder / 'text'}", f"--out={folder / 'run'}", "--steps=10", "--save-every=5", *TINY],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert 0 == done.returncode, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("explicit-bias gpt2: ")
    assert "step 1/10  loss " in done.stderr
    assert lines[-2].endswith(" left")
    assert "validation loss" in lines[-1]
    assert done.stdout.startswith(f"{folder / 'run' / 'final'}: validation loss ")
    return folder / "run"


def test_a_run_leaves_checkpoints_a_log_and_what_it_was(run: Path) -> None:
    assert ["final", "log.jsonl", "run.json", "step-10", "step-5", "trainer"] == sorted(p.name for p in run.iterdir())
    assert ["step-10.pt"] == [path.name for path in (run / "trainer").iterdir()]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [*range(1, 11)] == [entry["step"] for entry in log if "loss" in entry]
    assert 10 * 32 * 2 == log[-2]["tokens"]
    assert {"step", "validation_loss", "perplexity"} == set(log[-1])
    noted = json.loads((run / "run.json").read_text())
    assert ("explicit-bias", "gpt2", 1337, 10) == tuple(noted[k] for k in ("variant", "architecture", "seed", "steps"))


@pytest.mark.parametrize("name", ["final", "step-5"])
def test_probes_run_on_every_checkpoint(name: str, run: Path, inner: Inner) -> None:
    inner.write("a.probe.yaml", PERPLEXITY + EXISTS + SHARE)
    result = inner.run("--property-report=report.json", model=run / name)
    result.assert_outcomes(passed=2, failed=1)
    assert {"passed", "failed"} == set(inner.statuses().values())
    assert "passed" == inner.statuses()[f"share[{name}]"]


def test_a_process_that_knows_nothing_of_variants_loads_one_without_trusting_code(run: Path) -> None:
    code = (
        "import sys, maprobe.plugin; from maprobe.commands import main; "
        "before = 'maprobe.training' in sys.modules; status = main(sys.argv[1:]); print(before, status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", f"--model={run / 'final'}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "False 0" == done.stdout.splitlines()[-1]
    assert "3 of 3 blocks through: interface; rows sum to 1" in done.stdout


def test_the_sink_is_the_first_token_of_every_sequence(tmp_path: Path, inner: Inner) -> None:
    (tmp_path / "text").write_text(TEXT)
    command = ("--variant=sink-token", "--architecture=gpt2", f"--text={tmp_path / 'text'}", "--steps=2", *TINY)
    assert 0 == pretrain.main((*command, f"--out={tmp_path / 'run'}"))
    head, _, _ = PERPLEXITY.rpartition("  - ")
    inner.write("a.probe.yaml", head + BOS)
    result = inner.run("--property-report=report.json", model=tmp_path / "run" / "final")
    result.assert_outcomes(passed=1)
    assert "<|sink|> at the start of each" in json.dumps(inner.report())
    assert "token 0 '<|sink|>'" in told(result)
