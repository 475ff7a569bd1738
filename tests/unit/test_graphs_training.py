"""Training of graph transformers: losses, rates, where it ends, resuming, and what is said about bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from maprobe.graphs import load_model, train
from maprobe.graphs.loop import GraphTrainer, loss_of
from maprobe.graphs.presets import PRESETS

TINY = ("--layers=2", "--heads=2", "--width=8", "--batch=8", "--device=cpu", "--lr=1e-2")
SMILES = "".join(f"{'C' * length}{end}\n" for length in range(1, 11) for end in ("O", "N", "c1ccccc1", "C#N"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chains.smi"
    path.write_text(SMILES)
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command in this process; its exit status and what it wrote to standard error."""
    capsys.readouterr()
    try:
        status = train.main(arguments)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, capsys.readouterr().err


def run(capsys: pytest.CaptureFixture[str], file: Path, out: Path, *more: str) -> tuple[int, str]:
    model = () if any(argument.startswith("--model") for argument in more) else ("--model=gt",)
    return told(capsys, *model, f"--data={file}", f"--out={out}", *TINY, *more)


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


class TestLoss:
    def test_regression_is_the_mean_absolute_error_of_what_is_known(self) -> None:
        targets = torch.tensor([[1.0], [math.nan], [-2.0]])
        assert 2.5 == float(loss_of(torch.tensor([[2.0], [9.0], [2.0]]), targets, "regression"))

    def test_labels_that_are_not_known_do_not_count(self) -> None:
        predicted, targets = torch.tensor([[0.0, 2.0], [1.0, -3.0]]), torch.tensor([[1.0, math.nan], [math.nan, 0.0]])
        expected = (math.log(2) + math.log(1 + math.exp(-3))) / 2
        assert expected == pytest.approx(float(loss_of(predicted, targets, "multi-label")), abs=1e-6)


class TestRuns:
    @pytest.mark.parametrize("more", [("--model=gt",), ("--model=san", "--explicit-bias", "--dropout=0.2")])
    def test_interrupted_and_resumed_it_ends_with_the_same_weights(
        self,
        more: tuple[str, ...],
        file: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        more = (*more, "--epochs=4", "--patience=0", "--save-every=3")
        assert 0 == run(capsys, file, tmp_path / "whole", *more)[0]
        make = GraphTrainer._epoch
        with monkeypatch.context() as patch:

            def stop(trainer: Any, epoch: int, optimizer: Any) -> float:
                if epoch == 2:
                    raise KeyboardInterrupt
                return make(trainer, epoch, optimizer)

            patch.setattr(GraphTrainer, "_epoch", stop)
            status, said = run(capsys, file, tmp_path / "parts", *more)
            assert (130, True) == (status, "interrupted; repeat the command with --resume" in said)
        assert 0 == run(capsys, file, tmp_path / "parts", *more, "--resume")[0]
        for name in ("step-0", "step-12", "final"):
            whole, parts = (tmp_path / out / name / "model.safetensors" for out in ("whole", "parts"))
            assert whole.read_bytes() == parts.read_bytes(), name
        entries = [[{**entry, "seconds": 0} for entry in log(tmp_path / out)] for out in ("whole", "parts")]
        assert entries[0] == entries[1]
        assert [1, 2, 3, 4] == [entry["epoch"] for entry in entries[0]]

    def test_no_epochs_leave_the_untrained_twin_of_a_trained_model(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert 0 == run(capsys, file, tmp_path / "trained", "--epochs=2")[0]
        assert 0 == run(capsys, file, tmp_path / "untrained", "--epochs=0")[0]
        first, untrained, final = (
            (tmp_path / name / "model.safetensors").read_bytes()
            for name in ("trained/step-0", "untrained/final", "trained/final")
        )
        assert first == untrained
        assert first != final

    def test_the_loss_falls_and_the_checkpoint_says_what_it_is(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert 0 == run(capsys, file, tmp_path / "run", "--epochs=15", "--width=32", "--explicit-bias")[0]
        losses = [entry["loss"] for entry in log(tmp_path / "run")]
        assert losses[-1] < 0.7 * losses[0]
        model, about = load_model(tmp_path / "run" / "final")
        assert ("gt", True, True) == (model.config.model, model.config.use_bias, model.config.explicit_bias)
        assert {"train": 32, "valid": 4, "test": 4} == about["graphs"]
        noted = json.loads((tmp_path / "run" / "run.json").read_text())
        assert (41, "gt", "small", 15, True) == tuple(
            noted[name] for name in ("seed", "model", "preset", "epochs", "explicit_bias")
        )

    def test_labels_are_learned_from_a_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = tmp_path / "labels.csv"
        rows = "".join(f"{'C' * length}{end},{int(end == 'O')},\n" for length in range(1, 21) for end in "ON")
        table.write_text("smiles,alcohol,empty\n" + rows.replace(",\n", ",1\n", 20))
        more = ("--targets", "alcohol", "empty", "--epochs=15", "--width=32")
        assert 0 == run(capsys, table, tmp_path / "run", *more)[0]
        losses = [entry["loss"] for entry in log(tmp_path / "run")]
        assert 0.35 > losses[-1]
        assert 2 == load_model(tmp_path / "run" / "final")[0].config.outputs

    def test_seeds_decide(self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            assert 0 == run(capsys, file, tmp_path / name, "--epochs=1", f"--seed={seed}")[0]
        weights = {name: (tmp_path / name / "final" / "model.safetensors").read_bytes() for name in "abc"}
        assert weights["a"] == weights["b"] != weights["c"]


class TestEnd:
    """The validation loss is made to stay where it is."""

    @pytest.fixture(autouse=True)
    def _flat(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GraphTrainer, "loss", lambda trainer, part: 1.0)

    def test_the_rate_is_halved_after_patience_and_training_ends_below_the_least(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        more = ("--epochs=50", "--patience=1", "--min-lr=3e-3", "--early-stop=0")
        status, said = run(capsys, file, tmp_path / "run", *more)
        # The first epoch is the best there is; each second one after it that is no better halves the rate.
        expected = [1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3]
        assert expected == pytest.approx([entry["rate"] for entry in log(tmp_path / "run")])
        assert (0, True) == (status, "ended after 5 epochs: the rate 0.0025 fell below 0.003" in said)

    def test_it_stops_early_where_nothing_gets_better(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, said = run(capsys, file, tmp_path / "run", "--epochs=50", "--patience=40", "--early-stop=3")
        assert (0, True) == (status, "ended after 4 epochs: the validation loss was not lower in 3 epochs" in said)

    def test_the_small_presets_stop_early_and_the_paper_s_do_not(self) -> None:
        for model, presets in PRESETS.items():
            assert {False} == {bool(p.early_stop) for name, p in presets.items() if name != "small"}, model
            assert presets["small"].early_stop > presets["small"].patience


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ((), "the following arguments are required: --model"),
            (("--model=gat",), "argument --model: invalid choice: 'gat'"),
            (("--model=gt", "--epochs=-1"), "argument --epochs: '-1' is not a whole number from 0 to"),
            (("--model=gt", "--lr=0"), "argument --lr: '0' is not a number above 0"),
            (("--model=gt", "--dropout=1"), "argument --dropout: '1' is not a number from 0, below 1"),
            (("--model=gt", "--molecules=9"), "argument --molecules: '9' is not a whole number from 10 to"),
            (("--model=gt", "--data=nowhere.smi"), "--data nowhere.smi is neither a file nor a data set; allowed:"),
        ],
    )
    def test_each_fault_is_told_in_one_sentence(
        self, arguments: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, said = told(capsys, f"--out={tmp_path / 'run'}", *arguments)
        assert 2 == status
        assert f"maprobe.graphs.train: {sentence}" in said
        assert 1 == said.count("\n")

    def test_heads_must_divide_the_width(self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, said = run(capsys, file, tmp_path / "run", "--heads=3")
        assert (2, True) == (status, "width 8 cannot be shared by 3 heads; choose a multiple of 3" in said)

    def test_a_preset_must_fit_what_is_predicted(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, said = run(capsys, file, tmp_path / "run", "--preset=proteins")
        assert (2, True) == (status, "--preset proteins predicts nodes, and --data chains.smi has targets for" in said)

    def test_a_folder_that_is_used_is_told_and_so_is_a_run_of_another_kind(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert 0 == run(capsys, file, tmp_path / "run", "--epochs=1")[0]
        status, said = run(capsys, file, tmp_path / "run", "--epochs=1")
        assert (2, True) == (status, "is not empty; name a new folder, or go on with the run in it by --resume" in said)
        status, said = run(capsys, file, tmp_path / "run", "--epochs=1", "--resume", "--explicit-bias")
        assert (2, True) == (status, "was begun with use_bias false, and now it is true; repeat the command" in said)
        status, said = run(capsys, file, tmp_path / "none", "--resume")
        assert (2, True) == (status, "there is no run in" in said)

    def test_a_loss_that_is_not_finite_ends_it(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(GraphTrainer, "_epoch", lambda *arguments: math.nan)
        status, said = run(capsys, file, tmp_path / "run", "--epochs=2")
        assert (2, True) == (status, "the training loss of epoch 1 is nan; begin anew with a lower --lr" in said)

    def test_a_model_that_does_not_fit_is_told(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 120000000000 bytes.")

        monkeypatch.setattr(GraphTrainer, "_epoch", fail)
        status, said = run(capsys, file, tmp_path / "run", "--epochs=2")
        assert (2, True) == (status, "the memory is too small; lower --batch, --width or --layers" in said)

    def test_help_names_every_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            train.main(["--help"])
        shown = capsys.readouterr().out
        options = [option for action in train._parser()._actions for option in action.option_strings]
        assert len(options) > 20
        assert [] == [option for option in options if option not in shown]
