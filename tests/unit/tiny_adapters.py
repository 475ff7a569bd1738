"""Tiny models with an adapter, and trainings of a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from maprobe.progress import Silent
from maprobe.running.quiet import hushed

ROWS = [
    {"input_ids": ids, "labels": ids}
    for ids in torch.randint(3, 100, (16, 8), generator=torch.Generator().manual_seed(0))
]


def adapted(
    family: str = "llama",
    *,
    dora: bool = False,
    dtype: torch.dtype = torch.float32,
    base: nn.Module | None = None,
    targets: str | list[str] = "all-linear",
    **more: Any,
) -> Any:
    """A tiny model with LoRA or DoRA, on all its matrices unless told otherwise; always the same one."""
    with hushed(Silent()):  # peft asks transformers for what is deprecated
        import peft

        base = tiny(family, dtype=dtype) if base is None else base
        torch.manual_seed(3)
        config = peft.LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=targets,
            use_dora=dora,
            task_type="CAUSAL_LM",
            fan_in_fan_out=family == "gpt2",
            **more,
        )
        return peft.get_peft_model(base, config)


def trainer(
    model: Any, folder: Path, callbacks: Sequence[TrainerCallback] = (), *, rows: Any = ROWS, **more: Any
) -> Trainer:
    """A trainer of six steps of two times two examples, unless told otherwise."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        **more,
    }
    made = Trainer(
        model=model,
        args=TrainingArguments(str(folder), **settings),
        train_dataset=rows,
        eval_dataset=ROWS[:4],
        callbacks=[*callbacks],
    )
    made.remove_callback(PrinterCallback)
    return made


def learned(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's weights."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if "lora_" in name}


def frozen(model: nn.Module) -> dict[str, torch.Tensor]:
    """All other weights, under the names that they have without an adapter."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value.detach().clone()
        for name, value in model.named_parameters()
        if "lora_" not in name
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal, bit by bit."""
    return one.keys() == other.keys() and all(bits(one[name]).equal(bits(other[name])) for name in one)


def bits(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)
