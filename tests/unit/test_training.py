"""Training from scratch: rates, groups, tokenizers, batches, folders, and what is said about bad arguments."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from test_variants import GPT2, LLAMA

from maprobe.errors import InputError
from maprobe.running.tokens import Vocabulary, frame
from maprobe.training import openwebtext, pretrain
from maprobe.training.optimising import optimizer_of, rate_at
from maprobe.training.presets import PRESETS, config_settings
from maprobe.training.texts import END, SINK, batch_of, byte_level, split, with_sink
from maprobe.training.variants import fresh_model

TEXT = "\n".join(f"The {n * 7919 % 1000}th fox jumps over dog {n}, and {n * n % 97} dogs sleep." for n in range(400))
TINY = ("--layers=2", "--heads=2", "--width=16", "--block=16", "--vocabulary=300", "--device=cpu")


class TestRate:
    def test_it_rises_falls_to_a_tenth_and_stays(self) -> None:
        settings = PRESETS["gpt2-124m"]
        assert 6e-4 / 2000 == pytest.approx(rate_at(0, settings))
        assert 6e-4 == pytest.approx(rate_at(1999, settings))
        assert 6e-4 == pytest.approx(rate_at(2000, settings))
        assert 3.3e-4 == pytest.approx(rate_at((2000 + 600_000) // 2, settings))
        assert 6e-5 == pytest.approx(rate_at(600_000, settings))
        assert 6e-5 == pytest.approx(rate_at(10**7, settings))


class TestRecipe:
    def test_the_paper_s_has_the_paper_s_sizes(self) -> None:
        settings = PRESETS["gpt2-124m"]
        assert 491_520 == settings.tokens
        with torch.device("meta"):
            model = fresh_model("default", "gpt2", config_settings(settings, "gpt2", 50256), seed=0)
        weights = [p for name, p in model.named_parameters() if not name.endswith(".bias")]
        assert 124e6 == pytest.approx(sum(p.numel() for p in weights), rel=0.01)


class TestOptimizer:
    @pytest.mark.parametrize(("architecture", "settings"), [("gpt2", GPT2), ("llama", LLAMA)])
    def test_matrices_and_the_explicit_bias_decay_and_norms_do_not(
        self, architecture: str, settings: dict[str, Any]
    ) -> None:
        model = fresh_model("explicit-bias", architecture, settings, seed=0)
        decayed, rest = optimizer_of(model, PRESETS["small"]).param_groups
        assert (PRESETS["small"].decay, 0.0) == (decayed["weight_decay"], rest["weight_decay"])
        assert (0.9, 0.95) == decayed["betas"]
        inside = {id(p) for p in decayed["params"]}
        for name, parameter in model.named_parameters():
            assert (id(parameter) in inside) == (parameter.dim() >= 2), name
            if "explicit_" in name:
                assert id(parameter) in inside


class TestTexts:
    def test_the_last_tenth_is_held_out(self) -> None:
        train, held_out = split(TEXT)
        assert TEXT == train + held_out
        assert 0.1 == pytest.approx(len(held_out) / len(TEXT), abs=1e-3)

    def test_a_tokenizer_has_the_size_asked_for_and_gives_the_text_back(self) -> None:
        tokenizer = byte_level(TEXT, 300)
        assert 300 == len(tokenizer)
        ids = tokenizer("Füchse jump.")["input_ids"]
        assert "Füchse jump." == tokenizer.decode(ids)
        assert tokenizer.convert_tokens_to_ids(END) not in ids

    def test_too_little_text_for_a_vocabulary_is_told(self) -> None:
        with pytest.raises(
            InputError, match="the text has pieces for \\d+ entries of a vocabulary, and 5000 are asked"
        ):
            byte_level("a b c", 5000)

    def test_the_sink_is_the_bos_that_the_tokenizer_puts_first(self, tmp_path: Path) -> None:
        from transformers import AutoTokenizer

        with_sink(byte_level(TEXT, 300), 304).save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        vocabulary = Vocabulary(tokenizer, "tiny")
        assert 304 == vocabulary.bos == tokenizer("fox")["input_ids"][0]
        assert SINK == tokenizer.bos_token
        assert (304,) == frame("auto", vocabulary, "fox", "text 1", stream=True).prefix
        assert tokenizer("fox")["input_ids"][1:] == byte_level(TEXT, 300)("fox")["input_ids"]

    def test_targets_are_the_next_ids_and_none_at_the_sink(self) -> None:
        tokens = numpy.arange(20, dtype=numpy.uint16)
        ids, targets = batch_of(tokens, [0, 7], 4)
        assert [[0, 1, 2, 3], [7, 8, 9, 10]] == ids.tolist()
        assert [[1, 2, 3, 4], [8, 9, 10, 11]] == targets.tolist()
        ids, targets = batch_of(tokens, [7], 4, sink=99)
        assert [[99, 7, 8, 9, 10]] == ids.tolist()
        assert [[-100, 8, 9, 10, 11]] == targets.tolist()


class TestOpenWebText:
    def test_it_is_tokenised_once_with_every_2000th_document_held_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokenizer = byte_level(TEXT, 300)
        asked: list[str] = []

        def load(name: str, split: str) -> list[dict[str, str]]:
            asked.append(name)
            return [{"text": f"fox {n}"} for n in range(4001)]

        monkeypatch.setattr(openwebtext, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda name: tokenizer))
        # The package comes with an extra that the tests do without.
        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
        data, again = openwebtext.openwebtext(tmp_path), openwebtext.openwebtext(tmp_path)
        assert ["Skylion007/openwebtext"] == asked
        assert "fox 0<|endoftext|>fox 2000<|endoftext|>fox 4000<|endoftext|>" == tokenizer.decode(data.held_out)
        assert tokenizer.decode(data.train[:100]).startswith("fox 1<|endoftext|>fox 2<|endoftext|>")
        assert data.sha256 == again.sha256
        del data, again

    def test_where_it_cannot_be_had_one_sentence_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(name: str) -> None:
            raise OSError("no network\nat all")

        monkeypatch.setattr(openwebtext, "AutoTokenizer", SimpleNamespace(from_pretrained=fail))
        status, said = told(capsys, "--variant=default", f"--out={tmp_path / 'run'}", "--recipe=gpt2-124m")
        assert 2 == status
        assert "OpenWebText cannot be had from the hub (Skylion007/openwebtext)" in said
        assert "OSError: no network;" in said
        assert "train on text of your own with --text, or with --recipe small" in said


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command in this process; its exit status and what it wrote to standard error."""
    capsys.readouterr()
    try:
        status = pretrain.main(arguments)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, capsys.readouterr().err


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ((), "the following arguments are required: --variant"),
            (("--variant=none",), "argument --variant: invalid choice: 'none'"),
            (("--variant=default", "--lr=nan"), "argument --lr: 'nan' is not a number above 0"),
            (("--variant=default", "--steps=0"), "argument --steps: '0' is not a whole number from 1 to"),
            (("--variant=default", "--steps=2.5"), "argument --steps: '2.5' is not a whole number from 1 to"),
            (("--variant=default", "--weight-decay=-1"), "argument --weight-decay: '-1' is not a number of at least 0"),
            (
                ("--variant=default", f"--seed={2**70}"),
                "argument --seed: '1180591620717411303424' is not a whole number",
            ),
            (("--variant=default", "--bogus"), "unrecognized arguments: --bogus"),
            (("--variant=default", "--width=100", "--heads=6"), "--width 100 does not give --heads 6 an even number"),
            (
                ("--variant=default", "--architecture=llama", "--width=96", "--heads=6", "--key-value-heads=4"),
                "--key-value-heads 4 does not divide --heads 6",
            ),
            (("--variant=default", "--key-value-heads=1"), "--key-value-heads is for --architecture llama"),
            (("--variant=default", "--warmup=50", "--horizon=40"), "--horizon 40 is not after --warmup 50"),
            (("--variant=default", "--vocabulary=256"), "--vocabulary 256 is out of range; allowed: 257"),
            (("--variant=default", "--text=nowhere.txt"), "--text nowhere.txt cannot be read: No such file"),
        ],
    )
    def test_each_is_told_in_one_sentence(
        self, arguments: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, said = told(capsys, f"--out={tmp_path / 'run'}", *arguments)
        assert 2 == status
        assert said.startswith(f"maprobe.training.pretrain: {sentence}")
        assert 1 == said.count("\n")

    def test_a_model_that_does_not_fit_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 120000000000 bytes.")

        (tmp_path / "text").write_text(TEXT)
        monkeypatch.setattr(pretrain, "fresh_model", fail)
        text, out = f"--text={tmp_path / 'text'}", f"--out={tmp_path / 'run'}"
        status, said = told(capsys, "--variant=default", text, out, *TINY)
        assert (2, True) == (status, "the memory is too small; lower --batch" in said)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
    def test_a_gpu_that_is_not_there_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, said = told(capsys, "--variant=default", f"--out={tmp_path / 'run'}", "--device=cuda")
        assert (2, True) == (status, "torch finds no GPU here" in said)

    def test_text_that_is_none_and_too_short_a_text_are_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = tmp_path / "text"
        text.write_bytes(b"\xff\xfe")
        status, said = told(capsys, "--variant=default", f"--out={tmp_path / 'run'}", f"--text={text}")
        assert (2, True) == (status, f"--text {text} is not text in UTF-8" in said)
        text.write_text(TEXT)
        status, said = told(
            capsys, "--variant=default", f"--out={tmp_path / 'run'}", f"--text={text}", *TINY, "--block=5000"
        )
        assert (2, True) == (status, "tokens held out, which is not one sequence of --block 5000" in said)

    def test_a_folder_that_is_used_or_cannot_be_written_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("mine")
        status, said = told(capsys, "--variant=default", f"--out={tmp_path}")
        assert (2, True) == (status, f"--out {tmp_path} is not empty; name a new folder" in said)
        status, said = told(capsys, "--variant=default", f"--out={tmp_path / 'file' / 'run'}")
        assert (2, True) == (status, "cannot be written (Not a directory)" in said)
        assert "mine" == (tmp_path / "file").read_text()

    def test_there_must_be_a_run_to_resume(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, said = told(capsys, "--variant=default", f"--out={tmp_path / 'run'}", "--resume")
        assert (2, True) == (status, "there is no run in" in said)

    def test_help_names_every_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            pretrain.main(["--help"])
        shown = capsys.readouterr().out
        options = [option for action in pretrain._parser()._actions for option in action.option_strings]
        assert len(options) > 25
        assert [] == [option for option in options if option not in shown]


class TestRuns:
    def train(self, capsys: pytest.CaptureFixture[str], text: Path, out: Path, *more: str) -> tuple[int, str]:
        return told(capsys, f"--text={text}", f"--out={out}", "--steps=6", "--save-every=2", "--lr=1e-2", *TINY, *more)

    @pytest.fixture
    def text(self, tmp_path: Path) -> Path:
        path = tmp_path / "text"
        path.write_text(TEXT)
        return path

    @pytest.mark.parametrize(
        ("variant", "architecture"), [("explicit-bias", "gpt2"), ("sink-token", "llama"), ("default", "gpt2")]
    )
    def test_interrupted_and_resumed_it_ends_with_the_same_weights(
        self,
        variant: str,
        architecture: str,
        text: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        more = (f"--variant={variant}", f"--architecture={architecture}", "--accumulate=2")
        assert 0 == self.train(capsys, text, tmp_path / "whole", *more)[0]
        make = pretrain.Trainer._step
        with monkeypatch.context() as patch:

            def stop(trainer: Any, step: int, optimizer: Any) -> tuple[float, float]:
                if step == 5:
                    raise KeyboardInterrupt
                return make(trainer, step, optimizer)

            patch.setattr(pretrain.Trainer, "_step", stop)
            status, said = self.train(capsys, text, tmp_path / "parts", *more)
            assert (130, True) == (status, "interrupted; repeat the command with --resume" in said)
        assert ["step-2", "step-4"] == sorted(path.name for path in (tmp_path / "parts").glob("step-*"))
        assert 0 == self.train(capsys, text, tmp_path / "parts", *more, "--resume")[0]
        for name in ("final", "step-6"):
            whole, parts = (tmp_path / run / name / "model.safetensors" for run in ("whole", "parts"))
            assert whole.read_bytes() == parts.read_bytes()
        losses = [
            [(e["step"], e.get("loss"), e.get("validation_loss")) for e in self.log(tmp_path / run)]
            for run in ("whole", "parts")
        ]
        assert losses[0] == losses[1]

    def log(self, run: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]

    def test_resumed_as_another_run_it_is_refused(
        self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert 0 == self.train(capsys, text, tmp_path / "run", "--variant=default")[0]
        status, said = self.train(capsys, text, tmp_path / "run", "--variant=default", "--resume", "--seed=3")
        assert (2, True) == (status, "was begun with seed 1337, and now it is 3; repeat the command" in said)

    def test_a_loss_that_is_not_finite_ends_it(
        self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pretrain.Trainer, "_step", lambda *arguments: (math.nan, 0.0))
        status, said = self.train(capsys, text, tmp_path / "run", "--variant=default")
        assert (2, True) == (status, "the loss of step 1 is nan" in said)

    def test_bfloat16_is_near_to_float32(self, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for precision in ("float32", "bfloat16"):
            more = ("--variant=explicit-bias", "--architecture=llama", f"--precision={precision}")
            assert 0 == self.train(capsys, text, tmp_path / precision, *more)[0]
        full, half = (self.log(tmp_path / run)[-1]["validation_loss"] for run in ("float32", "bfloat16"))
        assert full != half
        assert full == pytest.approx(half, rel=0.01)
