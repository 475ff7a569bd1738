"""Checkpoints that cannot be used, each told in one sentence that names the file and the fault."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import drop_weight, loaded, look, reconfigure, save_gguf, save_llama
from transformers import LlamaForCausalLM, LlamaModel

from maprobe.errors import CheckpointError, OptionError
from maprobe.running import pretrained


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_an_unsupported_architecture_in_a_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read this GGUF file \(.*architecture nonsense.*\); use the"):
        look(save_gguf(tmp_path / "tiny.gguf", architecture="nonsense"))


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.99])
def test_a_gguf_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path, share: float) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"tiny\.gguf .*(damaged or cut off|cannot be loaded)"):
        loaded(path)


def test_a_gguf_file_without_accelerate_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"tiny.gguf: a GGUF file needs the package accelerate; run `pip install"):
        look(path)


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ('{"model_type": "llama",', r"config\.json is not JSON: .*line 1"),
        ("[1]", r"config\.json holds a list; a JSON object with a `model_type` is expected"),
        ("{}", r"config\.json has no `model_type`; allowed"),
        ('{"model_type": "lama"}', r"'lama' is unknown to transformers .* \(did you mean 'llama'\?\).*pip install -U"),
        ('{"model_type": "llama", "hidden_size": 16, "num_attention_heads": 0}', "config.json cannot be used|loaded"),
    ],
)
def test_a_faulty_config_is_told_with_its_file(tmp_path: Path, text: str, wording: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=wording) as caught:
        look(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_config_says_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json, .*; name the folder that holds one"):
        look(tmp_path)
    save_llama(tmp_path / "step-100")
    with pytest.raises(CheckpointError, match=r"did you mean .*step-100\?"):
        look(tmp_path)


def test_an_adapter_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/other"}')
    with pytest.raises(CheckpointError, match="but an adapter; merge it into its base model"):
        look(tmp_path)
    with pytest.raises(CheckpointError, match="put on top of another checkpoint's; merge the two"):
        look(save_llama(tmp_path))


def test_a_broken_tokenizer_is_told(tmp_path: Path) -> None:
    folder = save_llama(tmp_path, with_tokenizer=True)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r": its tokenizer cannot be read \(.+\)"):
        look(folder)


def test_weights_of_other_shapes_than_the_config_says_are_refused(tmp_path: Path) -> None:
    folder = reconfigure(save_llama(tmp_path), intermediate_size=32)
    with pytest.raises(CheckpointError, match=r"9 weights do not have the shape .* LlamaForCausalLM, such as model\."):
        loaded(folder)


def test_weights_that_would_be_random_numbers_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    drop_weight(folder, "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of the weights .*random numbers: model\.layers\.1\.mlp\.up_proj"
    ):
        loaded(folder)
    with pytest.raises(CheckpointError, match=r"lacks 10 of the weights .* and 7 more"):
        loaded(reconfigure(folder, num_hidden_layers=4))


def test_blocks_that_the_config_does_not_count_are_not_dropped_in_silence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"more blocks than its config counts.*model\.layers\.2\.input"):
        loaded(reconfigure(save_llama(tmp_path), num_hidden_layers=2))


def test_a_head_that_is_tied_may_be_missing_and_one_that_is_not_may_not(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    drop_weight(folder, "lm_head.weight")
    with pytest.raises(CheckpointError, match=r"random numbers: lm_head\.weight"):
        loaded(folder)
    model = loaded(reconfigure(folder, tie_word_embeddings=True)).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_that_refuses_an_attention_implementation_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "_supports_sdpa", False)
    monkeypatch.setattr(LlamaModel, "_supports_sdpa", False)
    with pytest.raises(
        CheckpointError, match=r"refuses --maprobe-attn sdpa \(.+\); allowed: eager, or leave the option"
    ):
        loaded(save_llama(tmp_path), attention="sdpa")


def test_weights_that_do_not_fit_into_memory_are_not_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "free_memory", lambda device: 6896 * 3)
    folder = save_llama(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"does not fit into the memory of cpu in float32 \(.* choose a smaller dt"
    ):
        loaded(folder)
    assert loaded(folder, dtype="bfloat16").provenance.dtype == "bfloat16"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.cuda.OutOfMemoryError("x")],
)
def test_memory_that_runs_out_while_loading_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match="does not fit into the memory of cpu in float32; choose a smaller dtype"):
        loaded(save_llama(tmp_path))
