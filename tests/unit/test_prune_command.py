"""``maprobe prune``: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import WORDS, bert_config, loaded, mixtral_config, save, save_gguf, save_llama, save_vit
from transformers import BertModel, GPT2Config, GPT2LMHeadModel, MixtralForCausalLM, PreTrainedModel

from maprobe.commands import main
from maprobe.errors import PruningError
from maprobe.progress import Silent
from maprobe.pruning.folders import RECORD, write

SMALL = ("--sequences", "3", "--length", "16", "--device", "cpu")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Prune; returns the status, what was printed, and what was printed on standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["prune", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "llama", with_tokenizer=True)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(WORDS[4 + (7 * index) % 11] for index in range(400)), encoding="utf-8")
    return path


def zeros(folder: Path) -> dict[str, float]:
    """The share of zeros in every matrix of the blocks, from the file itself."""
    weights = load_file(folder / "model.safetensors")
    return {
        name: float((weight == 0).float().mean())
        for name, weight in weights.items()
        if weight.dim() == 2 and ("layers." in name or ".h." in name)
    }


class TestWritten:
    def test_wanda_writes_a_folder_that_loads_and_has_the_zeros(
        self, run: Any, llama: Path, text: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "new" / "pruned"
        status, printed, errors = run(
            *("--model", llama, "--out", out, "--method", "wanda", "--calibration", text, *SMALL)
        )
        assert (0, "") == (status, errors)
        assert f"llama, pruned by wanda, calibrated on 3 x 16 tokens of {text}" == printed.splitlines()[0]
        assert ["all", "0.5000", "0.5000"] in [line.split() for line in printed.splitlines()]
        assert f"wrote {out}" == printed.splitlines()[-1]
        assert {0.5} == {*zeros(out).values()}
        assert 21 == len(zeros(out))
        model = loaded(out).model
        with torch.inference_mode():
            assert bool(model(torch.tensor([[4, 5, 6]])).logits.isfinite().all())
        assert [] == [path.name for path in out.parent.iterdir() if path != out]

    def test_layers_follows_the_counts_and_keeps_the_mean(
        self, run: Any, llama: Path, text: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "pruned"
        arguments = ("--model", llama, "--out", out, "--calibration", text, "--gamma", "1e-6", "--sparsity", "0.4")
        status, printed, _ = run(*arguments, *SMALL)
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        asked = [layer["asked"] for layer in record["layers"]]
        assert (0, "layers", pytest.approx(0.4)) == (status, record["method"], sum(asked) / 3)
        assert 3 == len({*asked})
        for layer, share in enumerate(asked):
            found = [value for name, value in zeros(out).items() if f"layers.{layer}." in name]
            assert pytest.approx([share] * 7, abs=0.5 / (8 * 16)) == found
        rows = [line.split() for line in printed.splitlines()]
        assert [
            [str(layer["layer"]), str(layer["active"]), f"{layer['asked']:.4f}", f"{layer['counted']:.4f}"]
            for layer in record["layers"]
        ] == rows[3:6]

    def test_gpt2_is_pruned_along_its_outputs_too(self, run: Any, text: Path, tmp_path: Path) -> None:
        config = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=4, n_positions=32)
        folder = save(GPT2LMHeadModel(config), tmp_path / "gpt2", with_tokenizer=True)
        status, _, _ = run(
            "--model", folder, "--out", tmp_path / "o", "--method", "wanda", "--calibration", text, *SMALL
        )
        weight = load_file(tmp_path / "o" / "model.safetensors")["transformer.h.1.mlp.c_fc.weight"]
        assert (0, [8] * 64) == (status, (weight == 0).sum(dim=0).tolist())  # shape (inputs, outputs)

    def test_what_was_done_is_told_beside_the_weights(self, run: Any, llama: Path, text: Path, tmp_path: Path) -> None:
        run("--model", llama, "--out", tmp_path / "o", "--calibration", text, "--gamma", "1e-6", *SMALL)
        record = json.loads((tmp_path / "o" / RECORD).read_text(encoding="utf-8"))
        assert (1, 0.5, 2.0, 0.2, 1e-6) == tuple(
            record[key] for key in ("maprobe_pruning", "sparsity", "alpha", "beta", "gamma")
        )
        assert (3, 48, 64) == (
            record["calibration"]["sequences"],
            record["calibration"]["tokens"],
            len(record["calibration"]["digest"]),
        )
        assert str(llama) == record["checkpoint"]["resolved"]
        assert {"maprobe", "torch", "transformers"} <= {*record["checkpoint"]["versions"]}
        assert 21 == len(record["matrices"])

    def test_a_gguf_file_becomes_a_folder_of_plain_numbers(self, run: Any, tmp_path: Path) -> None:
        path = save_gguf(tmp_path / "tiny.gguf")
        status, _, errors = run("--model", path, "--out", tmp_path / "o", "--method", "wanda", *SMALL)
        assert (0, "") == (status, errors)
        assert "quantization_config" not in json.loads((tmp_path / "o" / "config.json").read_text())
        assert {0.5} == {*zeros(tmp_path / "o").values()}
        assert "none" == loaded(tmp_path / "o").facts["quantization"]

    def test_an_empty_folder_will_do(self, run: Any, llama: Path, text: Path, tmp_path: Path) -> None:
        (tmp_path / "o").mkdir()
        arguments = ("--model", llama, "--out", tmp_path / "o", "--method", "wanda", "--calibration", text)
        assert 0 == run(*arguments, *SMALL)[0]
        assert (tmp_path / "o" / "config.json").exists()

    def test_an_encoder_is_pruned_by_wanda(self, run: Any, text: Path, tmp_path: Path) -> None:
        folder = save(BertModel(bert_config()), tmp_path / "bert", with_tokenizer=True)
        arguments = ("--model", folder, "--out", tmp_path / "o", "--method", "wanda", "--calibration", text, *SMALL)
        status, printed, _ = run(*arguments)
        assert (0, True) == (status, "Written as BertModel" in printed)

    def test_fused_experts_are_told_of(self, run: Any, text: Path, tmp_path: Path) -> None:
        folder = save(MixtralForCausalLM(mixtral_config()), tmp_path / "mixtral", with_tokenizer=True)
        arguments = ("--model", folder, "--out", tmp_path / "o", "--method", "wanda", "--calibration", text, *SMALL)
        status, printed, _ = run(*arguments)
        assert 0 == status
        assert "Left as they are, being no matrix of a linear layer: model.layers.0.mlp" in printed

    def test_a_seed_draws_other_sequences_and_the_same_ones_again(
        self, run: Any, llama: Path, text: Path, tmp_path: Path
    ) -> None:
        digests = []
        for number, seed in enumerate(("1", "1", "2")):
            out = tmp_path / f"o{number}"
            run("--model", llama, "--out", out, "--method", "wanda", "--calibration", text, "--seed", seed, *SMALL)
            digests.append(json.loads((out / RECORD).read_text())["calibration"]["digest"])
        assert digests[0] == digests[1] != digests[2]


class TestCompared:
    def test_all_three_start_from_the_same_weights(self, run: Any, llama: Path, tmp_path: Path) -> None:
        arguments = ("--model", llama, "--gamma", "1e-6", "--skip", "60", *SMALL)
        status, printed, errors = run(*arguments, "--out", tmp_path / "o", "--compare")
        assert (0, "") == (status, errors)
        rows = {line.split()[0]: line.split() for line in printed.split("Perplexity on")[1].splitlines()[3:6]}
        assert ["dense", "wanda", "layers"] == [*rows]
        assert ["0.0000", "0.5000"] == [rows["dense"][1], rows["wanda"][1]]
        assert "4 x 64 tokens of python-docs (skipping 5)" in printed
        alone = json.loads((tmp_path / "o" / RECORD).read_text())
        for method in ("wanda", "layers"):
            run(*arguments, "--out", tmp_path / method, "--method", method)
            weights = [load_file(tmp_path / name / "model.safetensors") for name in ("o", method)]
            same = all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
            assert same == (method == alone["method"])
        assert rows["wanda"][2] == f"{alone['perplexity']['wanda']:.3f}"

    def test_calibration_on_what_is_held_out_is_refused(self, run: Any, llama: Path, tmp_path: Path) -> None:
        status, _, errors = run(
            "--model", llama, "--out", tmp_path / "o", "--compare", "--skip", "8", "--sequences", "2"
        )
        assert (2, 1) == (status, len(errors.splitlines()))
        assert "calibration reads some of them; raise --skip to 9 or more" in errors
        assert not (tmp_path / "o").exists()


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--sparsity", "1.5"), "sparsity 1.5 is not allowed; allowed: above 0 and below 1"),
            (("--sparsity", "0"), "sparsity 0 is not allowed"),
            (("--sparsity", "half"), "--sparsity 'half' is not a number"),
            (("--sparsity", "nan"), "--sparsity 'nan' is not a number"),
            (("--method", "wands"), "--method 'wands' is unknown (did you mean 'wanda'?); allowed: layers, wanda"),
            (("--gamma", "-1"), "--gamma -1 is not allowed; allowed: 0 or more"),
            (("--gamma", "1e9"), "every layer has 0 active parameters, which tells no layers apart"),
            (("--gamma", "1e-6", "--beta", "30"), "would get a sparsity of"),
            (("--sequences", "0"), "--sequences '0' is not allowed; allowed: a whole number from 1 on"),
            (("--skip", "-1"), "--skip '-1' is not allowed; allowed: a whole number from 0 on"),
            (("--seed", "x"), "--seed 'x' is not allowed"),
            (("--length", "65"), "a sequence of 65 tokens is longer than llama was made for"),
            (("--sequences", "400", "--seed", "1"), "and --sequences 400 are to be drawn"),
            (("--calibration", "python-doc"), "--calibration 'python-doc' is no corpus of texts and no file (did you"),
            (("--calibration", "test-images"), "--calibration 'test-images' is no corpus of texts"),
            (("--dtype", "int8"), "--maprobe-dtype 'int8' is unknown"),
        ],
    )
    def test_an_option_out_of_range_is_told_in_one_sentence(
        self, run: Any, llama: Path, text: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str
    ) -> None:
        before = ("--model", llama, "--out", tmp_path / "o", "--calibration", text, *SMALL)
        status, printed, errors = run(*before, *arguments)
        assert (2, "", 1) == (status, printed, len(errors.splitlines()))
        assert errors.startswith("maprobe prune: ")
        assert sentence in errors
        assert not (tmp_path / "o").exists()

    @pytest.mark.parametrize("arguments", [(), ("--method", "wanda", "--compare")])
    def test_an_encoder_has_no_logits_to_count_by(self, run: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        folder = save(BertModel(bert_config()), tmp_path / "bert", with_tokenizer=True)
        status, _, errors = run("--model", folder, "--out", tmp_path / "o", *arguments)
        assert (2, 1) == (status, len(errors.splitlines()))
        assert "needs next-token logits, which bert has not; allowed for it: --method wanda without --compare" in errors

    def test_a_model_of_images_is_refused(self, run: Any, tmp_path: Path) -> None:
        status, _, errors = run("--model", save_vit(tmp_path / "vit"), "--out", tmp_path / "o")
        assert (2, "maprobe prune: vit is no model of texts, and only those are pruned\n") == (status, errors)

    def test_a_quantised_checkpoint_is_refused(self, run: Any, tmp_path: Path) -> None:
        folder = save_llama(tmp_path / "llama", quantization_config={"quant_method": "gptq", "bits": 4})
        status, _, errors = run("--model", folder, "--out", tmp_path / "o")
        assert (2, 1) == (status, len(errors.splitlines()))
        assert "llama is quantised (gptq), and only plain numbers can be set to zero one by one" in errors

    def test_a_checkpoint_without_a_tokenizer_is_refused(self, run: Any, tmp_path: Path) -> None:
        status, _, errors = run("--model", save_llama(tmp_path / "llama"), "--out", tmp_path / "o")
        assert (2, 1) == (status, len(errors.splitlines()))
        assert "llama has no tokenizer" in errors

    def test_a_folder_that_holds_something_is_left_alone(self, run: Any, llama: Path) -> None:
        before = sorted(path.name for path in llama.iterdir())
        status, _, errors = run("--model", llama, "--out", llama)
        assert (2, f"maprobe prune: --out {llama} is not empty, and nothing is overwritten; name a new folder\n") == (
            status,
            errors,
        )
        assert before == sorted(path.name for path in llama.iterdir())

    def test_a_file_is_no_folder(self, run: Any, llama: Path, text: Path) -> None:
        assert (
            f"maprobe prune: --out {text} is no folder; name a new folder\n" == run("--model", llama, "--out", text)[2]
        )
        link = text.with_name("link")
        link.symlink_to(text.parent)
        assert f"--out {link} is no folder; name a new folder\n" in run("--model", llama, "--out", link)[2]
        status, _, errors = run("--model", llama, "--out", text / "below")
        assert (2, 1) == (status, len(errors.splitlines()))
        assert "cannot be written (" in errors


@pytest.mark.parametrize(
    ("raised", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "maprobe prune: interrupted; nothing was written\n"),
        (OSError(28, "No space left on device"), 2, "cannot be written (No space left on device); name a folder"),
        (ValueError("no such\nthing"), 2, "transformers cannot write this model as a folder: no such thing"),
    ],
)
def test_a_write_that_does_not_end_leaves_nothing(
    run: Any,
    llama: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    status: int,
    sentence: str,
) -> None:
    saved = PreTrainedModel.save_pretrained

    def half(self: PreTrainedModel, folder: Path, **arguments: Any) -> None:
        saved(self, folder, **arguments)
        raise raised

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", half)
    out = tmp_path / "there" / "o"
    found = run("--model", llama, "--out", out, "--method", "wanda", "--calibration", text, *SMALL)
    assert (status, True) == (found[0], sentence in found[2])
    assert [] == list(out.parent.iterdir())


def test_a_module_that_is_no_model_of_transformers_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=r"^Linear is no model of transformers"):
        write(tmp_path / "o", torch.nn.Linear(2, 2), None, {}, Silent())
    assert [] == [*tmp_path.iterdir()]
