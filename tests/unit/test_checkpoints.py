"""Checkpoints from a folder or a file to a loaded model, and every way in which that can fail."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import (
    llama_config,
    loaded,
    look,
    reconfigure,
    save_bert,
    save_clip,
    save_gguf,
    save_llama,
    save_llama_base,
    save_masked_bert,
    save_pickled_llama,
    save_sharded_llama,
    save_vit,
    tokenizer,
)
from torch import nn
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM, LlamaModel, dynamic_module_utils

from maprobe.errors import CheckpointError, OptionError
from maprobe.progress import Silent
from maprobe.references import LoadOptions
from maprobe.running.checkpoints import held, load


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    ("save", "name", "causal"),
    [
        (save_llama, "LlamaForCausalLM", True),
        (save_sharded_llama, "LlamaForCausalLM", True),
        (save_llama_base, "LlamaModel", False),
        (save_bert, "BertModel", False),
        (save_masked_bert, "BertModel", False),
        (save_vit, "ViTModel", False),
        (save_clip, "CLIPVisionModel", False),
    ],
)
def test_a_checkpoint_is_loaded_as_what_it_is(
    tmp_path: Path, save: Callable[[Path], Path], name: str, *, causal: bool
) -> None:
    found = loaded(save(tmp_path))
    assert (type(found.model).__name__, found.facts["causal"]) == (name, causal)
    assert not found.model.training
    assert found.provenance.parameters == sum(parameter.numel() for parameter in found.model.parameters())


def test_the_weights_are_those_of_the_file(tmp_path: Path) -> None:
    found = loaded(save_llama(tmp_path))
    stored = load_file(tmp_path / "model.safetensors")
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, stored[name])


def test_the_provenance_says_what_was_loaded_and_how(tmp_path: Path) -> None:
    found = loaded(save_llama(tmp_path / "tiny", with_tokenizer=True), attention="eager", dtype="bfloat16")
    record = found.provenance
    assert (record.label, record.reference, record.resolved) == ("tiny", str(tmp_path / "tiny"), str(tmp_path / "tiny"))
    assert record.weights_digest == hashlib.sha256((tmp_path / "tiny" / "model.safetensors").read_bytes()).hexdigest()
    assert len(record.config_digest) == len(record.tokenizer_digest) == 64
    assert (record.dtype, record.device, record.attention) == ("bfloat16", "cpu", "eager")
    assert set(record.versions) == {"maprobe", "torch", "transformers", "tokenizers", "numpy", "python"}


def test_the_config_digest_does_not_depend_on_how_the_checkpoint_is_loaded(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    plain, other = loaded(folder), loaded(folder, dtype="float16", attention="eager")
    assert plain.provenance.config_digest == other.provenance.config_digest
    assert loaded(reconfigure(folder, rms_norm_eps=0.5)).provenance.config_digest != plain.provenance.config_digest


def test_digests_can_be_recomputed_as_documented(tmp_path: Path) -> None:
    folder = save_sharded_llama(tmp_path)
    tokenizer().save_pretrained(folder)
    inspected = look(folder)
    record = load(inspected, LoadOptions(dtype="bfloat16"), Silent()).provenance
    assert load(inspected, LoadOptions(), Silent()).provenance.config_digest == record.config_digest

    def of_json(value: object) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    config = AutoConfig.from_pretrained(folder).to_dict()
    for key in ("_name_or_path", "transformers_version"):
        config.pop(key, None)
    assert record.config_digest == of_json(config)
    words = AutoTokenizer.from_pretrained(folder)
    state = json.loads(words.backend_tokenizer.to_str())
    del state["truncation"], state["padding"]
    special = {name: str(token) for name, token in words.special_tokens_map.items()}
    assert record.tokenizer_digest == of_json({"special_tokens": special, "state": state})
    listed = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("model-*"))
    )
    assert record.weights_digest == hashlib.sha256(listed.encode()).hexdigest()


def test_inspecting_touches_no_weights(tmp_path: Path) -> None:
    folder = save_llama(tmp_path, with_tokenizer=True)
    (folder / "model.safetensors").unlink()
    found = look(folder)
    assert found.facts["num_hidden_layers"] == 3
    assert found.tokenizer is not None
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(found, LoadOptions(), Silent())


def test_a_checkpoint_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    found = loaded(save_llama(tmp_path))
    assert found.tokenizer is None
    assert found.provenance.tokenizer_digest == ""


@pytest.mark.parametrize(
    ("stated", "asked", "dtype"),
    [
        ("bfloat16", "auto", "bfloat16"),
        ("bfloat16", "float32", "float32"),
        (None, "auto", "float32"),
        ("float32", "float16", "float16"),
    ],
)
def test_the_dtype_is_a_fact_before_loading_and_true_after(
    tmp_path: Path, stated: str | None, asked: str, dtype: str
) -> None:
    found = loaded(reconfigure(save_llama(tmp_path), dtype=stated), dtype=asked)
    assert (found.facts["dtype"], found.provenance.dtype) == (dtype, dtype)


def test_a_device_map_is_recorded_with_the_devices_it_gave(tmp_path: Path) -> None:
    assert loaded(save_llama(tmp_path), device_map="auto").provenance.device.startswith("auto: ")


def test_a_gguf_file_is_unpacked(tmp_path: Path) -> None:
    found = loaded(save_gguf(tmp_path / "tiny.gguf"))
    assert isinstance(found.model, LlamaForCausalLM)
    assert (found.facts["quantization"], found.provenance.dtype) == ("gguf", "float32")
    assert found.tokenizer is not None
    assert found.provenance.weights_digest == hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest()
    assert "gguf" in found.provenance.versions
    assert all(type(parameter) is nn.Parameter for parameter in found.model.parameters())


def test_a_gguf_file_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert look(save_gguf(tmp_path / "tiny.gguf", with_tokenizer=False)).tokenizer is None


def test_pickled_weights_are_loaded_where_the_user_allows_it(tmp_path: Path) -> None:
    folder = save_pickled_llama(tmp_path)
    with pytest.raises(CheckpointError, match="--maprobe-allow-pickle"):
        loaded(folder)
    assert loaded(folder, allow_pickle=True).model.config.hidden_size == 16


def test_code_in_a_pickle_is_not_run_even_where_pickle_is_allowed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    folder = save_pickled_llama(tmp_path / "model")
    torch.save({"lm_head.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="damaged, or holds more than tensors, which is never read"):
        loaded(folder, allow_pickle=True)
    assert not (tmp_path / "trapped").exists()


def save_with_code(folder: Path, ran: Path) -> Path:
    """A model type of its own, whose code leaves a mark when it is run."""
    (folder / "mine.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(ran)!r}).touch()\n"
        "class MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
        "class MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    return reconfigure(
        folder,
        model_type="mine",
        architectures=["MineForCausalLM"],
        auto_map={"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"},
    )


def test_code_of_a_checkpoint_runs_only_where_the_user_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    ran = tmp_path / "ran"
    folder = save_with_code(save_llama(tmp_path / "model"), ran)
    with pytest.raises(CheckpointError, match="brings code of its own; pass --maprobe-trust-remote-code"):
        look(folder)
    assert not ran.exists()
    assert type(loaded(folder, trust_remote_code=True).model).__name__ == "MineForCausalLM"
    assert ran.exists()


def test_code_beside_a_model_type_that_transformers_knows_is_not_run(tmp_path: Path) -> None:
    folder = save_with_code(save_llama(tmp_path / "model"), tmp_path / "ran")
    found = loaded(reconfigure(folder, model_type="llama", architectures=["LlamaForCausalLM"]))
    assert type(found.model) is LlamaForCausalLM
    assert not (tmp_path / "ran").exists()


def test_a_config_cannot_choose_an_attention_kernel_of_the_hub(tmp_path: Path) -> None:
    folder = reconfigure(save_llama(tmp_path), attn_implementation="org/kernel", _attn_implementation="org/kernel")
    assert loaded(folder).provenance.attention == "sdpa"


def test_options_are_checked_before_the_checkpoint_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--maprobe-dtype 'half' is unknown"):
        look(tmp_path / "nowhere", dtype="half")


def test_loading_says_nothing_and_warns_of_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_masked_bert(tmp_path)
    capfd.readouterr()
    loaded(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_model_in_memory_is_a_checkpoint() -> None:
    model = LlamaForCausalLM(llama_config()).to(torch.bfloat16).train()
    found = held(model, tokenizer(), "mine")
    assert (found.model, found.facts.label, found.provenance.label) == (model, "mine", "mine")
    assert (found.facts["causal"], found.facts["dtype"], found.facts["has_bos"]) == (True, "bfloat16", True)
    assert found.provenance.resolved == "in memory (LlamaForCausalLM)"
    assert model.training


def test_a_base_model_in_memory_is_not_causal() -> None:
    model = LlamaModel(llama_config(architectures=["LlamaForCausalLM"]))
    assert held(model, None, "mine").facts["causal"] is False
    assert model.config.architectures == ["LlamaForCausalLM"]


def test_a_module_that_is_not_from_transformers_has_facts_too() -> None:
    found = held(nn.Linear(2, 2), None, "graph")
    assert (found.facts["modality"], found.facts["causal"], found.facts["model_type"]) == ("other", False, "")
    assert (found.provenance.config_digest, found.provenance.parameters) == ("", 6)
