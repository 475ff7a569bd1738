"""The figures of the default checkpoint, computed with plain torch and transformers and nothing of maprobe's."""

from __future__ import annotations

import math
import pydoc_data.topics
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

LENGTH, SKIPPED, SEQUENCES = 512, 5, 4
PROMPT = "Summer is warm. Winter is cold.\nSpring is green. The quick brown fox jumps over the lazy dog."


@dataclass
class Truth:
    """A model, four sequences of Python's documentation, and what is plainly computed of them."""

    model: Any
    tokenizer: Any
    sequences: list[torch.Tensor]

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> Truth:
        ids = _tokens(tokenizer)
        starts = range(SKIPPED * LENGTH, (SKIPPED + SEQUENCES) * LENGTH, LENGTH)
        return cls(model, tokenizer, [torch.tensor([ids[start : start + LENGTH]]) for start in starts])

    def tokens(self) -> list[int]:
        """All of Python's documentation as one stream of token ids."""
        return _tokens(self.tokenizer)

    def prompt(self) -> torch.Tensor:
        return torch.tensor([self.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])

    def stream(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """Block outputs of one sequence, layer 1 first, shape (tokens, width); the last one before the final norm."""
        kept: list[torch.Tensor] = []
        handles = [
            block.register_forward_hook(lambda module, args, output: kept.append(output[0].clone()))
            for block in self.model.model.layers
        ]
        try:
            with torch.inference_mode():
                self.model(ids, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return kept

    def perplexity(self) -> float:
        with torch.inference_mode():
            losses = [self.model(ids, labels=ids, use_cache=False).loss.double() for ids in self.sequences]
        return math.exp(sum(float(loss) for loss in losses) / len(losses))

    @contextmanager
    def edited(self, layer: int, edit: Callable[[torch.Tensor], None]) -> Any:
        """Let ``edit`` change the output of a block in place, shape (1, tokens, width)."""

        def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            new = output.clone()
            edit(new)
            return new

        handle = self.model.model.layers[layer - 1].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def attention_to_first(self) -> list[float]:
        """Mean attention to token 0 by layer, over heads and the queries from 8 on, from eager attention maps."""
        implementation = self.model.config._attn_implementation
        self.model.config._attn_implementation = "eager"
        try:
            with torch.inference_mode():
                maps = [self.model(ids, use_cache=False, output_attentions=True).attentions for ids in self.sequences]
        finally:
            self.model.config._attn_implementation = implementation
        shares = [[layer[0, :, 8:, 0].double().mean() for layer in sequence] for sequence in maps]
        return [float(torch.stack(layer).mean()) for layer in zip(*shares, strict=True)]


def _tokens(tokenizer: Any) -> list[int]:
    text = "\n".join(pydoc_data.topics.topics.values())
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def massive(hidden: torch.Tensor) -> torch.Tensor:
    """Places of the massive activations of a hidden state (arXiv:2402.17762, section 2), shape (entries, 2)."""
    magnitude = hidden.abs()
    return ((magnitude > 100) & (magnitude >= 1000 * magnitude.flatten().median())).nonzero()
