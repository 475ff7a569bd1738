"""Reading the config and the tokenizer of a checkpoint, without its weights and without running its code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoConfig, AutoTokenizer

from maprobe.errors import CheckpointError, did_you_mean
from maprobe.running.placement import require_accelerate
from maprobe.running.quiet import hushed
from maprobe.running.weights import check_gguf
from maprobe.running.wording import one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from maprobe.progress import Progress
    from maprobe.running.locations import Location

__all__ = ["read_config", "read_tokenizer"]

_CONFIG = "config.json"
_ADAPTER = "adapter_config.json"
# A tokenizer needs one of these; transformers would make up an empty one without any.
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json", "tokenizer_config.json")
_GGUF_TOKENIZER = b"tokenizer.ggml.model"
_GGUF_HEAD = 1 << 24  # bytes at the start of a GGUF file in which its tokenizer is announced
_CODE_HINT = "; it wants code from the checkpoint: pass --maprobe-trust-remote-code if you have read it and trust it"


def read_config(location: Location, *, trust_remote_code: bool, progress: Progress) -> PretrainedConfig:
    """Return a checkpoint's config.

    Raises:
        CheckpointError: there is none, it is malformed, or transformers does not know its model type.
    """
    if location.gguf:
        require_accelerate(f"{location}: a GGUF file")
        check_gguf(location.folder / location.gguf)
        where = str(location)
    else:
        where = str(location if location.repository else location.folder / _CONFIG)
        _check_config(location, where, trust_remote_code=trust_remote_code)
    try:
        with hushed(progress):
            config: PretrainedConfig = AutoConfig.from_pretrained(
                location.folder, **_arguments(location, trust_remote_code=trust_remote_code)
            )
    except Exception as error:
        raise CheckpointError(_unreadable(where, error, gguf=bool(location.gguf))) from error
    if not location.gguf:
        # A config could name an attention kernel of the hub here, which would be fetched and run.
        config._attn_implementation = None
    return config


def read_tokenizer(
    location: Location, *, trust_remote_code: bool, progress: Progress
) -> PreTrainedTokenizerBase | None:
    """Return a checkpoint's tokenizer, or None where it has none.

    Raises:
        CheckpointError: it has one that cannot be read.
    """
    if not _has_tokenizer(location):
        return None
    try:
        with hushed(progress):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                location.folder, **_arguments(location, trust_remote_code=trust_remote_code)
            )
            tokenizer("a")
    except Exception as error:
        hint = "" if trust_remote_code or "trust_remote_code" not in str(error) else _CODE_HINT
        raise CheckpointError(f"{location}: its tokenizer cannot be read ({one_line(error)}){hint}") from error
    return tokenizer


def _arguments(location: Location, *, trust_remote_code: bool) -> dict[str, Any]:
    # Code of a checkpoint may lie in another repository; nothing else is left to fetch.
    arguments: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": not trust_remote_code}
    return {**arguments, "gguf_file": location.gguf} if location.gguf else arguments


def _has_tokenizer(location: Location) -> bool:
    if not location.gguf:
        return any(any(location.folder.glob(pattern)) for pattern in _VOCABULARIES)
    with (location.folder / location.gguf).open("rb") as file:
        return _GGUF_TOKENIZER in file.read(_GGUF_HEAD)


def _check_config(location: Location, where: str, *, trust_remote_code: bool) -> None:
    path = location.folder / _CONFIG
    if not path.is_file():
        raise CheckpointError(_no_config(location))
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{where} is not JSON: {one_line(error)}") from None
    if not isinstance(stated, dict):
        raise CheckpointError(f"{where} holds a {type(stated).__name__}; a JSON object with a `model_type` is expected")
    if (location.folder / _ADAPTER).is_file():
        raise CheckpointError(
            f"{location} has an {_ADAPTER}, so its weights are to be put on top of another checkpoint's; merge the two "
            f"(merge_and_unload of the package peft) and save the result, or remove that file if they are merged"
        )
    _check_model_type(stated, where, trust_remote_code=trust_remote_code)


def _check_model_type(stated: dict[str, Any], where: str, *, trust_remote_code: bool) -> None:
    known = transformers.CONFIG_MAPPING
    name = stated.get("model_type")
    if isinstance(name, str) and name not in known:
        # Maybe a variant of our own: to import them makes their types known, to AutoConfig and AutoModel alike.
        import maprobe.training  # noqa: F401
    if (isinstance(name, str) and name in known) or (name is None and "architecture" in stated):  # the latter: timm
        return
    if stated.get("auto_map"):
        if trust_remote_code:
            return
        raise CheckpointError(
            f"{where}: model_type {name!r} is not part of transformers {transformers.__version__}, and the checkpoint "
            f"brings code of its own; pass --maprobe-trust-remote-code if you have read that code and trust it"
        )
    if not isinstance(name, str):
        raise CheckpointError(f"{where} has no `model_type`; allowed: one that transformers knows, such as llama")
    raise CheckpointError(
        f"{where}: model_type {name!r} is unknown to transformers {transformers.__version__}"
        f"{did_you_mean(name, known)}; a newer release may know it: run `pip install -U transformers`"
    )


def _no_config(location: Location) -> str:
    text = f"{location} has no {_CONFIG}, so it is not a checkpoint in transformers' layout"
    if (location.folder / _ADAPTER).is_file():
        return f"{text} but an adapter; merge it into its base model, save the result and name that"
    if location.repository:
        return f"{text}; name another repository, or download a .gguf file from it and name the file"
    entries = sorted(location.folder.iterdir())
    meant = [entry for entry in entries if entry.suffix == ".gguf"]
    meant += [entry for entry in entries if (entry / _CONFIG).is_file()]
    return f"{text}; did you mean {meant[0]}?" if meant else f"{text}; name the folder that holds one"


def _unreadable(where: str, error: Exception, *, gguf: bool) -> str:
    if gguf and "architecture" in str(error):
        return (
            f"{where}: transformers {transformers.__version__} cannot read this GGUF file ({one_line(error)}); use the "
            f"checkpoint's safetensors files, or a newer release of transformers"
        )
    if gguf:
        return f"{where} is damaged or cut off ({one_line(error)}); fetch it again"
    return f"{where} cannot be used: {one_line(error)}"
