"""Fine-tuning with and without MacDrop: instructions, the script, its tables, and what it says about bad arguments."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import WORDS, llama_config, save_llama, save_vit, tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from maprobe.corpora import CORPORA
from maprobe.errors import InputError
from maprobe.running.tokens import Vocabulary
from maprobe.training import arms, finetune
from maprobe.training.finetune import main
from maprobe.training.instructions import OWN, Instruction, batch_of, encoded, read_instructions

FOX = Instruction(instruction="The quick brown fox", response="jumps over the lazy dog .", place="here")


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def some(count: int) -> list[dict[str, str]]:
    return [
        {"instruction": f"The {WORDS[4 + n % 10]}", "response": f"{WORDS[4 + n % 7]} over {WORDS[4 + n % 9]} ."}
        for n in range(count)
    ]


class TestInstructions:
    def test_those_of_maprobe_are_short_different_and_enough(self) -> None:
        found = read_instructions(None)
        items = [*found.train, *found.held_out]
        assert 167 == len(items)
        assert 16 == len(found.held_out)
        assert len({item.instruction for item in items}) == len(items)
        assert max(len(item.instruction) + len(item.response) for item in items) < 250
        assert "maprobe" == found.name

    def test_every_tenth_is_held_out(self, tmp_path: Path) -> None:
        records = [{"instruction": f"ask {n}", "response": f"say {n}"} for n in range(1, 26)]
        found = read_instructions(write(tmp_path / "a.jsonl", *records))
        assert ["ask 10", "ask 20"] == [item.instruction for item in found.held_out]
        assert 23 == len(found.train)

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ('{"instruction": "a"}', "line 12 has no field `response` (it has instruction); each line needs"),
            ('{"response": "a"}', "line 12 has no field `instruction` (it has response)"),
            ("{}", "line 12 has no field `instruction` (it has none)"),
            ('{"instruction": "a", "response": 3}', "line 12: `response` is not a text"),
            ('{"instruction": " ", "response": "b"}', "line 12: `instruction` is not a text"),
            ("[1]", "line 12 is no JSON object; write "),
            ("{'a': 1}", "line 12 is not JSON ("),
        ],
    )
    def test_a_line_that_is_none_is_named(self, line: str, sentence: str, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", *some(10))
        path.write_text(path.read_text() + f"\n{line}\n")
        with pytest.raises(InputError) as caught:
            read_instructions(path)
        assert str(caught.value).startswith(f"--data {path}, {sentence}")

    def test_a_file_that_cannot_be_used_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "bytes").write_bytes(b"\xff\xfe")
        with pytest.raises(InputError, match="is not text in UTF-8"):
            read_instructions(tmp_path / "bytes")
        with pytest.raises(InputError, match="cannot be read: No such file or directory; name a file of JSON lines"):
            read_instructions(tmp_path / "nowhere")
        with pytest.raises(InputError, match="holds 9 instructions, of which every 10th is held out"):
            read_instructions(write(tmp_path / "few", *some(9)))

    @pytest.mark.parametrize("prepends", [False, True])
    def test_the_response_and_the_end_are_learned_and_the_instruction_is_not(self, prepends: bool) -> None:
        words = tokenizer(prepends_bos=prepends)
        ids, targets = encoded(FOX, Vocabulary(words, "tiny"), end=2, length=100)
        assert ([1] if prepends else []) == [token for token in ids if token == 1]
        assert len(ids) == len(targets)
        learned = [token for token in targets if token != -100]
        assert [*words("jumps over the lazy dog .", add_special_tokens=False)["input_ids"], 2] == learned
        assert list(ids[-len(learned) :]) == learned
        assert "The quick brown fox" in words.decode(ids[: -len(learned)])

    def test_what_exceeds_the_length_is_left_out_and_an_instruction_that_fills_it_is_refused(self) -> None:
        words = Vocabulary(tokenizer(), "tiny")
        ids, _ = encoded(FOX, words, end=2, length=100)
        assert ids[:12] == encoded(FOX, words, end=2, length=12)[0]
        with pytest.raises(InputError, match="here: the instruction takes 8 tokens, and --length 8 leaves none to the"):
            encoded(FOX, words, end=2, length=8)

    def test_a_batch_is_filled_up_with_what_is_neither_seen_nor_learned(self) -> None:
        batch = batch_of([((5, 6, 7), (-100, 6, 7)), ((8,), (8,))])
        assert [[5, 6, 7], [8, 0, 0]] == batch["input_ids"].tolist()
        assert [[1, 1, 1], [1, 0, 0]] == batch["attention_mask"].tolist()
        assert [[-100, 6, 7], [8, -100, -100]] == batch["labels"].tolist()


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; its exit status, and what it wrote to standard output and standard error."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with its tokenizer."""
    return save_llama(tmp_path_factory.mktemp("models") / "tiny", with_tokenizer=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.jsonl", *some(40))


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--adapter=qlora",), "argument --adapter: invalid choice: 'qlora'"),
            (("--p0=1.2",), "argument --p0: '1.2' is not a number from 0 to 1"),
            (("--steps=0",), "argument --steps: '0' is not a whole number from 1 to"),
            (("--lr=x",), "argument --lr: 'x' is not a number above 0"),
            (("--curriculum=exp",), "alpha = None is not a rate for the curriculum exp"),
            (("--curriculum-alpha=1",), "alpha is for the curriculum exp alone"),
            (("--channels", "1", "2"), "channels are given without the layer that they are in"),
            (("--model=no such model",), "--model 'no such model' is not a checkpoint reference"),
            (("--model=./nowhere",), "./nowhere: there is no such folder"),
            (("--data=nowhere.jsonl",), "--data nowhere.jsonl cannot be read: No such file"),
            (("--bogus",), "unrecognized arguments: --bogus"),
        ],
    )
    def test_each_is_told_in_one_sentence(
        self, arguments: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, _, said = told(capsys, f"--out={tmp_path / 'run'}", *arguments)
        assert 2 == status
        assert said.startswith(f"maprobe.training.finetune: {sentence}")
        assert 1 == said.count("\n")

    def test_a_folder_that_is_used_or_cannot_be_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("mine")
        status, _, said = told(capsys, f"--out={tmp_path}")
        assert (2, True) == (status, f"--out {tmp_path} is not empty; name a new folder" in said)
        status, _, said = told(capsys, f"--out={tmp_path / 'file' / 'run'}")
        assert (2, True) == (status, "cannot be written (Not a directory)" in said)

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--targets", "nothing"), "--targets nothing: peft adapts nothing by it ("),
            (("--layer=4",), "the model has 3 layers, and layer 4 was named"),
            (("--layer=2", "--channels", "24"), "the MLP of layer 2 has 24 channels, and channel 24 was asked for"),
            ((), "no massive weights here: "),
        ],
    )
    def test_what_the_model_does_not_have(
        self,
        arguments: tuple[str, ...],
        sentence: str,
        folder: Path,
        data: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        given = (f"--out={tmp_path / 'run'}", f"--model={folder}", f"--data={data}", "--device=cpu", "--length=32")
        layer = () if not arguments or "layer" in arguments[0] else ("--layer=2",)
        status, _, said = told(capsys, *given, *layer, *arguments)
        assert 2 == status
        assert said.splitlines()[-1].startswith(f"maprobe.training.finetune: {sentence}")

    def test_a_model_that_answers_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, _, said = told(capsys, f"--out={tmp_path / 'run'}", f"--model={save_vit(tmp_path / 'vit')}")
        assert (2, True) == (status, "is no causal language model with a tokenizer" in said)

    def test_peft_missing(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "peft", None)
        status, _, said = told(capsys, f"--out={tmp_path / 'run'}", f"--model={folder}", "--layer=2")
        assert 2 == status
        assert said.startswith("maprobe.training.finetune: adapters need the package peft, which cannot be imported (")
        assert said.endswith("install it with `pip install 'maprobe[train]'`\n")

    def test_help_names_every_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["--help"])
        shown = capsys.readouterr().out
        options = [option for action in finetune._parser()._actions for option in action.option_strings]
        assert len(options) > 20
        assert [] == [option for option in options if option not in shown]


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of LoRA and DoRA in twelve steps each."""
    out = tmp_path_factory.mktemp("runs")
    data = write(out / "data.jsonl", *some(40))
    arguments = (f"--model={folder}", f"--data={data}", f"--out={out / 'run'}", "--device=cpu", "--layer=2")
    assert 0 == main([*arguments, "--adapter", "lora", "dora", "--steps=12", "--lr=0.02", "--k=3", "--p0=0.9"])
    return out / "run"


class TestRun:
    def report(self, run: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((run / "finetune.json").read_text())
        return found

    def test_there_is_a_row_for_the_model_and_for_each_adapter_without_and_with(self, run: Path) -> None:
        arms = self.report(run)["arms"]
        assert ["as loaded", "LoRA", "LoRA + MacDrop", "DoRA", "DoRA + MacDrop"] == [arm["name"] for arm in arms]
        table = (run / "finetune.md").read_text().splitlines()
        assert "| model | held-out loss | perplexity | perplexity, top 3 zeroed | ratio |" == table[0]
        assert 7 == len(table)
        assert table[2].startswith(f"| as loaded | {arms[0]['held_out_loss']:.4f} | {arms[0]['perplexity']:.3f} | ")

    def test_something_was_learned_and_macdrop_learned_something_else(self, run: Path) -> None:
        losses = [arm["held_out_loss"] for arm in self.report(run)["arms"]]
        assert max(losses[1:]) < losses[0]
        assert 5 == len(set(losses))

    @torch.no_grad()
    def test_the_numbers_of_the_model_are_those_of_a_few_lines_of_torch(self, run: Path, folder: Path) -> None:
        model, words = LlamaForCausalLM.from_pretrained(folder).eval(), tokenizer()
        held_out = [record for number, record in enumerate(some(40), 1) if number % 10 == 0]
        total = count = 0.0
        for record in held_out:
            prompt = words(f"Instruction: {record['instruction']}\nResponse:")["input_ids"]
            response = [*words(record["response"])["input_ids"], 2]
            logits = model(torch.tensor([[*prompt, *response]])).logits[0]
            total += float(cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(response), reduction="sum"))
            count += len(response)
        arm = self.report(run)["arms"][0]
        assert total / count == pytest.approx(arm["held_out_loss"], rel=1e-5)

        text = next(corpus for corpus in CORPORA if corpus.name == "python-docs").load()
        ids = torch.tensor(words(text, verbose=False)["input_ids"][5 * 64 : 9 * 64]).view(4, 64)

        def perplexity() -> float:
            logits = model(ids).logits[:, :-1].flatten(0, 1)
            return math.exp(float(cross_entropy(logits, ids[:, 1:].flatten())))

        assert perplexity() == pytest.approx(arm["perplexity"], rel=1e-5)
        channels = self.report(run)["channels"]
        assert 2 == channels["layer"]
        for name in ("up_proj", "gate_proj"):
            model.get_parameter(f"model.layers.1.mlp.{name}.weight")[channels["channels"]] = 0
        assert arm["zeroed_perplexity"] != arm["perplexity"]
        assert perplexity() == pytest.approx(arm["zeroed_perplexity"], rel=1e-5)

    def test_the_adapters_are_there_to_be_loaded(self, run: Path, folder: Path) -> None:
        for name in ("lora", "lora-macdrop", "dora", "dora-macdrop"):
            model = arms.merged(LlamaForCausalLM.from_pretrained(folder), run / name)
            assert not model.get_parameter("model.layers.1.mlp.up_proj.weight").equal(
                LlamaForCausalLM.from_pretrained(folder).get_parameter("model.layers.1.mlp.up_proj.weight")
            )

    def test_it_is_noted_what_was_done(self, run: Path) -> None:
        report = self.report(run)
        assert {"kind": "step", "p0": 0.9, "alpha": None} == report["macdrop"]["curriculum"]
        assert (3, "shared", 1337) == tuple(report["macdrop"][name] for name in ("k", "masks", "seed"))
        assert {"rank": 16, "alpha": 16.0, "targets": ["all-linear"]} == report["adapter"]
        assert (36, 4) == (report["train"], report["held_out"])
        assert {"maprobe", "peft", "torch", "transformers", "python"} == set(report["versions"])

    def test_with_p0_of_0_both_arms_are_equal_and_the_command_prints_its_table(
        self, folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "run"
        given = (f"--out={out}", f"--model={folder}", f"--data={data}", "--device=cpu", "--layer=2", "--steps=2")
        status, shown, _ = told(capsys, *given, "--p0=0", "--zeroed=1")
        assert 0 == status
        assert (out / "finetune.md").read_text() == shown
        _, plain, dropped = self.report(out)["arms"]
        names = ("held_out_loss", "perplexity", "zeroed_perplexity")
        assert [plain[name] for name in names] == [dropped[name] for name in names]

    def test_interrupted_it_says_where_the_rest_is(
        self,
        folder: Path,
        data: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def stop(*arguments: object) -> float:
            raise KeyboardInterrupt

        monkeypatch.setattr(finetune, "train", stop)
        given = (f"--out={tmp_path / 'run'}", f"--model={folder}", f"--data={data}", "--device=cpu", "--layer=2")
        status, _, said = told(capsys, *given)
        assert (130, True) == (status, said.endswith(f"interrupted; what was finished is in {tmp_path / 'run'}\n"))
        assert ["as loaded"] == [arm["name"] for arm in self.report(tmp_path / "run")["arms"]]


def test_the_data_file_lies_in_the_package() -> None:
    import maprobe.training

    assert OWN.is_relative_to(Path(maprobe.training.__file__).parent)


def test_the_config_of_the_tiny_model_limits_the_text() -> None:
    assert 64 == llama_config().max_position_embeddings
