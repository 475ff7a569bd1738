"""all-MiniLM-L6-v2: an encoder without massive activations, so a true negative."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maprobe.checking import check
from maprobe.reporting.report import PropertyReport
from maprobe.running.checkpoints import LoadedCheckpoint
from maprobe.verdicts import Status

ROOT = Path(__file__).parents[2]
DEPENDENT = {
    "zeroing-destroys-accuracy",
    "mean-restores-accuracy",
    "attention-concentrates",
    "norm-leaves-one-direction",
    "massive-tokens-act-as-a-bias",
    "constant-value",
    "in-every-sequence",
    "zeroing-destroys-perplexity",
    "mean-restores-perplexity",
    "emerge-at-once",
    "persist",
    "persist-in-the-mean",
    "keep-their-size",
    "few-dims",
    "at-the-first-token",
    "vanish-in-the-end",
    "on-known-tokens",
    "apart-from-outlier-features",
}
# Claims about causal models, about models with a beginning-of-sequence token, or about models of images.
INAPPLICABLE = {
    "first-token-is-a-sink",
    "first-token-with-bos",
    "first-token-without-bos",
    "perplexity-with-bos",
    "perplexity-without-bos",
    "window-needs-first-tokens",
    "super-weights",
    "zeroing-one-weight",
    "images-exist",
    "images-layerwise",
    "images-few-dims",
    "images-on-patches",
    "images-on-registers",
    "images-zeroing",
    "images-mean",
    "high-norm-tokens",
    "registers-as-biases",
}
HOLD = {"not-in-the-embedding", "finite", "fits-float16", "landscape", "attention-map"}


@pytest.fixture(scope="module")
def report(minilm: LoadedCheckpoint) -> PropertyReport:
    return check(minilm.model, minilm.tokenizer, ROOT / "probes" / "massive_activations", label="minilm-l6-v2")


def test_exists_fails_and_what_depends_on_it_is_absent(report: PropertyReport) -> None:
    status = {verdict.probe: verdict.status for verdict in report.verdicts}
    assert Status.FAILED is status.pop("exists")
    assert dict.fromkeys(DEPENDENT, Status.ABSENT) == {name: status.pop(name) for name in DEPENDENT}
    assert dict.fromkeys(INAPPLICABLE, Status.NOT_APPLICABLE) == {name: status.pop(name) for name in INAPPLICABLE}
    assert dict.fromkeys(HOLD, Status.PASSED) == status


def test_no_entry_comes_near_the_criterion(report: PropertyReport) -> None:
    exists = next(verdict for verdict in report.verdicts if verdict.probe == "exists").reading
    assert exists is not None
    assert 12 > max(exists["top"].values)
    assert 100 > max(exists["ratio"].values)


def test_no_edited_pass_is_made_where_there_is_nothing_to_edit(
    minilm: LoadedCheckpoint, report: PropertyReport
) -> None:
    taken = [verdict.reading.circumstances for verdict in report.verdicts if verdict.reading]
    assert {""} == {circumstances.edit for circumstances in taken if circumstances}
    reasons = {verdict.reason for verdict in report.verdicts if verdict.status is Status.ABSENT}
    assert all("nothing massive here" in reason for reason in reasons)


def test_under_pytest_the_failure_is_explained_and_the_session_fails() -> None:
    command = [sys.executable, "-m", "pytest", "--model", "minilm-l6-v2", "probes", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = {line.split(" ")[0] for line in done.stdout.splitlines()}
    assert 1 == done.returncode
    assert {"claim", "expected", "measured", "inputs", "repeat"} <= told
    assert "1 failed, 5 passed, 80 skipped" in done.stdout
    assert "absent: nothing massive here" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
