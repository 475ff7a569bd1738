"""A graph transformer trained on real molecules, in seconds: what the shipped probes say of it is what is so."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from maprobe.graphs import load_model, train
from maprobe.graphs.checkpoints import open_checkpoint
from maprobe.reporting.report import PropertyReport
from maprobe.verdicts import Status, Verdict

ROOT = Path(__file__).parents[2]
SIZES = ("--molecules=1000", "--epochs=6", "--seed=41", "--width=16", "--layers=3")


@dataclass(frozen=True)
class Run:
    """A trained model, and the report of the shipped probes on it and on its untrained twin."""

    folder: Path
    report: PropertyReport

    def quantity(self, probe: str, name: str, member: str = "final") -> tuple[float, ...]:
        """The values of a quantity of a probe on one checkpoint of the run."""
        reading = self.verdicts(member)[probe].reading
        assert reading is not None
        return reading[name].values

    def verdicts(self, member: str) -> dict[str, Verdict]:
        """Verdicts by probe on one checkpoint of the run."""
        return {verdict.probe: verdict for verdict in self.report.verdicts if verdict.case.endswith(f"@{member}]")}

    def scores(self, member: str) -> list[torch.Tensor]:
        """|a| of each layer over all graphs kept for measuring, edges x channels, by hooks of the test's own."""
        model, _ = load_model(self.folder / member)
        seen: list[list[torch.Tensor]] = [[] for _ in model.layers]
        for at, layer in enumerate(model.layers):
            layer.attention.scores.register_forward_hook(  # type: ignore[union-attr,operator]
                lambda module, args, output, at=at: seen[at].append(output.abs())
            )
        with torch.no_grad():
            for item in open_checkpoint(self.folder / member).inputs["test"]:
                model(item.given)
        return [torch.cat(each) for each in seen]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("graphs") / "gt"
    assert 0 == train.main(["--model=gt", f"--out={folder}", *SIZES])
    report = folder.parent / "report.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", f"--model={folder}", "probes/graphs", "-q", "-p", "no:cacheprovider"),
            *("-k", "not learnt-noise and not smaller-gain", f"--property-report={report}"),
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    return Run(folder, PropertyReport.from_dict(json.loads(report.read_text(encoding="utf-8"))))


def test_every_probe_has_an_answer_on_the_trained_model_and_on_its_twin(run: Run) -> None:
    for member in ("final", "step-0"):
        found = run.verdicts(member)
        assert not [verdict.reason for verdict in found.values() if verdict.status is Status.UNMEASURED]
        assert Status.PASSED is found["finite"].status
    assert run.quantity("learnt", "ratio")[0] > 1.2
    assert Status.PASSED is run.verdicts("step-0")["none-before-training"].status


def test_ratios_are_those_of_plain_torch_on_both(run: Run) -> None:
    for member in ("final", "step-0"):
        for layer, sizes in enumerate(run.scores(member)):
            edge = float((sizes / sizes.median(dim=1, keepdim=True).values).max())
            whole = float(sizes.max() / sizes.flatten().median())
            assert edge == pytest.approx(run.quantity("ratios", "edge_ratio", member)[layer], rel=1e-4)
            assert whole == pytest.approx(run.quantity("ratios", "layer_ratio", member)[layer], rel=1e-4)
    untrained = run.quantity("grows-of-the-layer", "edited")
    assert untrained == pytest.approx(run.quantity("ratios", "layer_ratio", "step-0"), rel=1e-4)


def test_the_loss_is_that_of_the_molecules_kept_for_measuring(run: Run) -> None:
    losses = {}
    for member in ("final", "step-0"):
        model, _ = load_model(run.folder / member)
        with torch.no_grad():
            errors = [
                float((model(item.given) - item.given.targets).abs())
                for item in open_checkpoint(run.folder / member).inputs["test"]
            ]
        losses[member] = sum(errors) / len(errors)
    assert 100 == len(errors)
    assert (losses["final"],) == pytest.approx(run.quantity("learnt", "untouched"), rel=1e-4)
    assert (losses["step-0"],) == pytest.approx(run.quantity("learnt", "edited"), rel=1e-4)


def test_the_distribution_is_fitted_as_scipy_fits_it(run: Run) -> None:
    import numpy as np
    from scipy import stats

    sizes = run.scores("final")[0].double().numpy()
    middle = (sizes.shape[1] - 1) // 2
    ratios = sizes / np.partition(sizes, middle, axis=1)[:, [middle]]
    x = -np.log10(ratios.ravel() + np.finfo(np.float64).eps)
    fit = stats.gamma.fit(x)
    assert stats.kstest(x, "gamma", fit).statistic == pytest.approx(run.quantity("distribution", "ks")[0], abs=2e-3)
