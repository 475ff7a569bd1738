"""A Llama of four small blocks with a massive activation built in, and its twin that has none.

What is planted, all of it arithmetic on single weights, so that it holds on every machine:

1. Every token carries 0.5 in the dim ``POISON`` of the embedding, and the head turns that into a high logit of a word
   that no text has. By itself, this would ruin every prediction.
2. ``<s>`` alone carries 1 in the dim ``MARK``. No block writes into that dim, so it stays so all the way up.
3. One channel of the MLP of block 2 reads ``MARK`` and nothing else, and writes 4000 into the dim ``MASSIVE``. So the
   stream has one massive activation from layer 2 on, at ``<s>``, and nothing of the kind anywhere else.
4. The first key-value head of block 3 reads ``MASSIVE`` and nothing else, and hands what it finds at ``<s>`` to every
   later token, in the dim ``ANTIDOTE``. The head turns that into a low logit of the same word, which undoes the
   poison.

Hence setting the massive activation to zero raises the perplexity more than tenfold, and setting an ordinary entry of
the same token to zero hardly moves it. In the twin, step 3 writes 0: the two differ in one weight.

The tokenizer puts ``<s>`` in front of a text by itself; under ``bos: never`` nothing is massive in either.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_checkpoints import WORDS, llama_config, tokenizer
from torch import nn
from transformers import LlamaForCausalLM

MARK, POISON, MASSIVE, ANTIDOTE = 3, 5, 7, 9
LAYER = 2
BLOCKS = 4
TOKEN = "<s>"
_NEVER_SEEN = 31
_CHANNEL = 0


def planted(*, value: float = 4000.0) -> LlamaForCausalLM:
    """Return the model whose entry ``MASSIVE`` is about that value from layer ``LAYER`` on; 0 makes the twin."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(num_hidden_layers=BLOCKS)).eval()
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        _only(embedding, MARK, {WORDS.index(TOKEN): 1.0})
        embedding[:, POISON] = 0.5
        embedding[:, (MASSIVE, ANTIDOTE)] = 0.0
        for block in model.model.layers:
            for writes in (block.self_attn.o_proj, block.mlp.down_proj):
                writes.weight[(MARK, POISON, MASSIVE, ANTIDOTE), :] = 0.0
        _write_massive(model.model.layers[LAYER - 1].mlp, value)
        _hand_on(model.model.layers[LAYER].self_attn)
        model.lm_head.weight[_NEVER_SEEN] = 0.0
        model.lm_head.weight[_NEVER_SEEN, POISON] = 2.5
        model.lm_head.weight[_NEVER_SEEN, ANTIDOTE] = -25.0
    return model


def save_planted(folder: Path, *, value: float = 4000.0) -> Path:
    """Save the model with a tokenizer that begins every text with ``<s>``."""
    planted(value=value).save_pretrained(folder)
    tokenizer(prepends_bos=True).save_pretrained(folder)
    return folder


def _only(weight: torch.Tensor, column: int, rows: dict[int, float]) -> None:
    weight[:, column] = 0.0
    for row, value in rows.items():
        weight[row, column] = value


def _write_massive(mlp: nn.Module, value: float) -> None:
    """Let one channel be large at the mark and exactly 0 elsewhere; after the norm the mark is about 3.5."""
    for reads in (mlp.gate_proj, mlp.up_proj):
        reads.weight[_CHANNEL] = 0.0
        reads.weight[_CHANNEL, MARK] = 1.0
    mlp.down_proj.weight[:, _CHANNEL] = 0.0
    mlp.down_proj.weight[MASSIVE, _CHANNEL] = value / 12.0


def _hand_on(attention: nn.Module) -> None:
    attention.v_proj.weight[0] = 0.0
    attention.v_proj.weight[0, MASSIVE] = 1.0
    attention.o_proj.weight[:, 0] = 0.0
    attention.o_proj.weight[ANTIDOTE, 0] = 1.0
