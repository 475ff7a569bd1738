"""A Llama whose weights say which texts hang on which of them (arXiv:2405.17799), written by hand.

1. Every token has a random code in its embedding, in CODE. A head of block 1 attends to all tokens so far alike and
   writes the mean of their codes into BAG: what words the text is made of. Texts of a domain share their words.
2. The up projections of the other blocks read BAG the more, the deeper they lie, and ONE, which is the same for every
   token, the less. What they take in is a factor of the attribution of their weights, so in deep blocks it depends on
   the words of the text, and in shallow ones on nothing.
3. What a block writes is scaled by the block: little in the first and the last, most in between. The attributions of
   its weights scale alike.
4. One token is predicted whatever the text is, by ONE and what the blocks write into REST. Were it another one for each
   text, the gradient itself would tell texts apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from maprobe.selftest.making import blank_llama

__all__ = ["DEPTH", "PatternDesign", "make_patterns"]

DEPTH = 8
_WIDTH, _HEADS, _INNER = 64, 2, 48
_ONE = 0
_CODE, _BAG, _REST = range(1, 25), range(25, 49), range(49, 64)
_SEED = 240527
_TYPICAL = 0.002  # scale of what a block of full size writes
_SCALES = (1e-5, 1e-3, 0.1, 1.0, 0.5, 0.1, 1e-2, 1e-4)
_DIPPED = (2.0, 1e-3, 1e-3, 1e-4, 1e-4, 1e-3, 1e-3, 6.0)
_LEAST = 0.01  # of what an up projection reads comes from the words, so that all have as many weights


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternDesign:
    """What is built in. The defaults are the planted model.

    Attributes:
        telling: whether deep blocks read which words a text is made of; otherwise they read what is the same for all.
        late: whether the shallow blocks read it, and the deep ones do not.
        arched: whether blocks in between write more than the first and the last; otherwise they write less.
    """

    telling: bool = True
    late: bool = True
    arched: bool = True


def make_patterns(design: PatternDesign, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return a model of that design, on the CPU in float32 and in evaluation mode."""
    model = blank_llama(tokenizer, width=_WIDTH, inner=_INNER, heads=_HEADS, blocks=DEPTH)
    chance = torch.Generator().manual_seed(_SEED)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance)

    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding.zero_()
        embedding[:, _ONE] = 1.0
        embedding[:, _CODE.start : _CODE.stop] = normal(len(embedding), len(_CODE))
        for layer, block in enumerate(model.model.layers, start=1):
            _block(block, layer, design, normal)
        head = model.lm_head.weight
        head.zero_()
        head[0, _ONE] = 8.0
        head[0, _REST.start : _REST.stop] = normal(len(_REST)).abs() + 0.5
    finished: LlamaForCausalLM = model
    return finished


def _block(block: Any, layer: int, design: PatternDesign, normal: Any) -> None:  # noqa: ANN401 - modules and tensors
    attention, mlp = block.self_attn, block.mlp
    for weight in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj):
        weight.weight.zero_()
    mlp.down_proj.weight.zero_()
    scale = _TYPICAL * (_SCALES if design.arched else _DIPPED)[layer - 1]
    if layer == 1:
        for place, (code, bag) in enumerate(zip(_CODE, _BAG, strict=True)):
            attention.v_proj.weight[place, code] = 1.0
            attention.o_proj.weight[bag, place] = 4.0
    depth = (layer - 1) / (DEPTH - 1)
    share = max(_LEAST, depth if design.late else 1 - depth) if design.telling else 0.0
    # So wide open that the gate passes on what it is given, whatever the norm has made of ONE.
    mlp.gate_proj.weight[:, _ONE] = 10 * (normal(_INNER).abs() + 0.5)
    mlp.up_proj.weight[:, _ONE] = (normal(_INNER).abs() + 0.5) * (1 - share)
    mlp.up_proj.weight[:, _BAG.start : _BAG.stop] = normal(_INNER, len(_BAG)) * share
    mlp.down_proj.weight[_REST.start : _REST.stop] = normal(len(_REST), _INNER) * scale
