"""A Llama of eight small blocks whose weights are written by hand, so that its massive activations are understood.

How it works, in the order in which a token passes through it:

1. Every token has a code of sixteen signs in its embedding, no two of them alike in more than twelve places. A head of
   block 1 attends to all tokens so far alike and writes the mean of their codes beside it. The MLP of block 1
   multiplies the two (a gated MLP can) and writes the agreement into MARK: it is 1 at the first token, whose mean is
   its own code, and at most 3/4 at the second. So the first token is known without a beginning-of-sequence token.
2. One channel of the MLP of block 2 is open where MARK is near 1. Its one large weight, a super weight
   (arXiv:2411.07191), writes 9000 into MASSIVE. One channel of the last block takes it away again.
3. From block 3 on, three of four heads have keys that read MASSIVE: after the norm it is all that is left of the first
   token, so that every query puts nearly all of its attention there. The values hardly read it: the head does nothing,
   which is what a sink is for (arXiv:2402.17762, section 4; arXiv:2410.10781).
4. Without the massive entry, the same heads attend to ordinary tokens, and write what they find into NOISE, dims that
   are 0 otherwise and on which every logit depends. The prediction is lost.
5. What is predicted needs no attention: the embedding of a word is turned into the log-probabilities of the next one
   (:mod:`maprobe.selftest.language`), and words that are the right answer of a question are likelier than wrong ones.

All other weights are small random numbers that write into REST, which nothing reads that matters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from maprobe.measurements.survey import ABSOLUTE
from maprobe.selftest.design import BLOCKS, MASSIVE, VALUE, Design
from maprobe.selftest.flaws import guard, lean, overflow, stir
from maprobe.selftest.language import DELIMITERS, ROUND, WORDS, next_words
from maprobe.selftest.making import (
    CODE,
    HEAD,
    HEADS,
    INNER,
    LATER,
    LOUD,
    MARK,
    MEAN,
    NOISE,
    ODD,
    ONE,
    OPENING,
    REST,
    RMS,
    SHARPNESS,
    SINK_HEADS,
    STOP,
    TASTE,
    WIDTH,
    WORD,
    Made,
    Module,
    blank_llama,
    carrier,
    channels_of,
    clear,
    massive_dims,
    unit,
)

__all__ = ["CODE", "MARK", "MASSIVE", "MEAN", "NOISE", "SINK_HEADS", "make_llama"]

_SIZE = 8.0  # norm of a word's vector in WORD, so that its entries are about 1
_CODE_SIZE = 1.0
_OPEN = 0.92  # share of full agreement from which the channel of step 2 opens
_LOUDNESS = 5.0  # makes the input of the super weight a spike, beside which all other inputs are small
_ORDINARY = 0.75  # what the other weights of its column write
_SINK_SCORE = 16.0  # what a query gives to the massive token before the softmax, and to all others 0
_SLOW = HEAD // 2 - 1  # the head dim that the rotary embedding turns slowest
_BIAS = HEAD - 1  # the head dim by which the sink adds a small constant
_RARE = -9.0  # log-probability of a token that is no word of the language
_LESSON = 4.0
_SMALL = 0.01
_MARKED = 4  # words that carry massive activations where words do
_QUIET = 0.25  # keeps the input of a later weight from being a spike
_SHUT = 40.0  # weight by which ONE shuts a channel at ordinary tokens
_NEVER = 1e-4  # probability of a word after itself


def make_llama(
    design: Design, tokenizer: PreTrainedTokenizerBase, lessons: Mapping[str, float] | None = None
) -> LlamaForCausalLM:
    """Return a model of that design, on the CPU in float32 and in evaluation mode.

    Args:
        design: what is built in.
        tokenizer: a tokenizer of :func:`maprobe.selftest.tokenizer.make_tokenizer`.
        lessons: tokens of answers to questions, from 1 for those that are always right to -1 for those that never are.
    """
    model = blank_llama(tokenizer, width=WIDTH, inner=INNER, heads=HEADS, blocks=BLOCKS)
    spelled = [*(f"Ġ{word}" for word in WORDS), *DELIMITERS[:-1], "Ċ"]
    ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in spelled]  # type: ignore[arg-type] # one a token
    made = Made(model, design, ids)
    with torch.no_grad():
        made.begin(0)
        _embed(made)
        for layer, block in enumerate(model.model.layers, start=1):
            made.begin(layer)
            _ordinary(made, block)
            if layer > 2:  # noqa: PLR2004 - the first two write the massive activation
                _sink(made, block)
        _tell_the_first(made, model.model.layers[0])
        if design.restless:
            stir(made)
        reached = 0.0
        for index, (layer, value) in enumerate(design.writes):
            if index:
                _add(made, layer, value, reached)
            else:
                _write(made, layer, value)
            reached += value
        if design.cleared:
            # Where nothing is massive this stays shut, as large as in the planted model.
            reached = reached if reached > ABSOLUTE else VALUE
            _add(made, BLOCKS, -reached, reached)
        if design.frail:
            guard(made)
        if design.overflow:
            overflow(made)
        if design.leaning:
            lean(made)
        made.begin(BLOCKS + 1)
        _read_out(made, tokenizer, (lessons or {}) if design.taught else {})
    finished: LlamaForCausalLM = model
    return finished


def _embed(made: Made) -> None:
    design, embedding = made.design, made.model.model.embed_tokens.weight
    rows = len(embedding)
    embedding.zero_()
    embedding[:, ONE] = 1.0
    embedding[:, TASTE] = torch.tensor([1.0, -1.0]).repeat(rows)[:rows]
    embedding[made.ids[-len(DELIMITERS) :], STOP] = 1.0
    embedding[:, CODE.start : CODE.stop] = _codes(made, rows) * _CODE_SIZE
    embedding[:, REST.start : REST.stop] = unit(made.normal(rows, len(REST))) * math.sqrt(len(REST)) / 2
    embedding[:, WORD.start : WORD.stop] = unit(made.normal(rows, len(WORD))) * _SIZE
    embedding[made.ids, WORD.start : WORD.stop] = _directions() * _SIZE
    some = made.ids[:_MARKED]
    embedding[some, ODD] = 1.0
    marks = embedding[:, (STOP, ODD)].square().sum(dim=1, keepdim=True)
    embedding[:, REST.start : REST.stop] *= (1 - marks / (len(REST) / 4)).sqrt()  # every token has the same norm
    embedding[:, MASSIVE] = design.offset
    if design.leaning:
        embedding[:, NOISE.start : NOISE.stop] = LOUD
    if design.embedded:
        embedding[some, MASSIVE] = design.embedded


def _directions() -> torch.Tensor:
    """Return a direction for each word, at right angles to one another and along no single dim: (words, words)."""
    turn: torch.Tensor = torch.linalg.qr(torch.randn(ROUND, ROUND, generator=torch.Generator().manual_seed(1)))[0]
    return turn


def _codes(made: Made, count: int) -> torch.Tensor:
    """Return codes of signs, shape (count, 16), of which any two differ in at least four places or are the same.

    They are the 2048 words of the Reed-Muller code (2, 4), in a random order; only more tokens than that share some.
    """
    bits = [torch.tensor([point >> bit & 1 for point in range(len(CODE))]) for bit in range(4)]
    products = [one * other for one, other in itertools.combinations(bits, 2)]
    basis = torch.stack([torch.ones(len(CODE), dtype=torch.long), *bits, *products])
    messages = torch.tensor(list(itertools.product((0, 1), repeat=len(basis))))
    words = (messages @ basis % 2) * 2.0 - 1
    return words[torch.randperm(len(words), generator=made.chance)[torch.arange(count) % len(words)]]


def _ordinary(made: Made, block: Module) -> None:
    """Let all parts of a block do a little, and write into REST only."""
    attention, mlp = block.self_attn, block.mlp
    for weight in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
        weight.weight.copy_(made.normal(*weight.weight.shape) * _SMALL)
    for weight in (attention.o_proj, mlp.down_proj):
        weight.weight.zero_()
        weight.weight[REST.start : REST.stop] = made.normal(len(REST), weight.weight.shape[1]) * _SMALL


def _tell_the_first(made: Made, block: Module) -> None:
    """Step 1: MEAN from a head that attends to all tokens alike, MARK from its agreement with CODE."""
    attention, mlp = block.self_attn, block.mlp
    channels = range(2 * len(CODE))
    attention.q_proj.weight[:HEAD] = 0.0
    attention.v_proj.weight[:HEAD] = 0.0
    attention.o_proj.weight[:, :HEAD] = 0.0
    clear(mlp, *channels)
    for place, dim in enumerate(CODE):
        attention.v_proj.weight[place, dim] = 1.0
        attention.o_proj.weight[MEAN[place], place] = RMS  # undoes the norm
        # A product of two signs by two channels, one of them open: relu(code) * mean + relu(-code) * -mean.
        for sign, channel in ((1.0, place), (-1.0, place + len(CODE))):
            mlp.gate_proj.weight[channel, dim] = 20.0 * sign
            mlp.up_proj.weight[channel, MEAN[place]] = sign
    agreement = channels_of(made, block, carrier(made))[: len(channels)].sum()
    mlp.down_proj.weight[MARK, : len(channels)] = 1.0 / agreement


def _write(made: Made, layer: int, value: float) -> None:
    """Step 2: the super weight, behind a channel that is open at carriers only."""
    design, block = made.design, made.model.model.layers[layer - 1]
    gates = {"delimiters": [STOP], "words": [MARK, ODD]}.get(design.carriers, [MARK])
    tokens = {MARK: carrier(made), STOP: made.ids[-1], ODD: made.ids[0]}
    for channel, dim in enumerate(gates, start=OPENING + design.moved):
        clear(block.mlp, channel)
        gate, up = block.mlp.gate_proj.weight[channel], block.mlp.up_proj.weight[channel]
        gate[dim], gate[ONE] = SHARPNESS, -SHARPNESS * _OPEN
        if design.carriers == "some-first":
            gate[ONE] -= SHARPNESS
            gate[TASTE] = SHARPNESS
        up[ONE if design.constant else TASTE] = _LOUDNESS
        size = float(channels_of(made, block, tokens[dim])[channel])
        column = block.mlp.down_proj.weight[:, channel]
        # The other weights of the column are ordinary ones. NOISE is left out, since all tokens must be silent there.
        ordinary = range(MEAN.start, WORD.stop)
        made.begin(BLOCKS + 2)
        column[ordinary.start : ordinary.stop] = made.normal(len(ordinary)) * _ORDINARY / size
        column[list(massive_dims(design))] = value / size


def _add(made: Made, layer: int, value: float, reached: float) -> None:
    """Add to the massive entries of that value, or take them away, by a channel that only they can open."""
    mlp, dims = made.model.model.layers[layer - 1].mlp, list(massive_dims(made.design))
    clear(mlp, LATER)
    gate, up = mlp.gate_proj.weight[LATER], mlp.up_proj.weight[LATER]
    gate[dims[0]], gate[ONE], up[dims[0]] = _QUIET, -_QUIET * _SHUT, 1.0
    # What the norm leaves of such an entry, which is all but all of its token, and of ONE.
    rms = math.sqrt(len(dims) * reached**2 / WIDTH + RMS**2)
    size = float(nn.functional.silu(torch.tensor(_QUIET * (reached - _SHUT) / rms))) * reached / rms
    mlp.down_proj.weight[dims, LATER] = value / size


def _sink(made: Made, block: Module) -> None:
    """Steps 3 and 4: keys that see the massive dim, values that do not, and what comes of it without them."""
    design, attention = made.design, block.self_attn
    dim = massive_dims(design)[0]
    block.input_layernorm.weight[list(massive_dims(design))] = design.norm
    for head in SINK_HEADS:
        rows = range(head * HEAD, (head + 1) * HEAD)
        for weight in (attention.q_proj, attention.k_proj, attention.v_proj):
            weight.weight[rows] = 0.0
        attention.o_proj.weight[:, rows] = 0.0
        normed = math.sqrt(WIDTH)
        drawn = _SINK_SCORE * math.sqrt(HEAD) / normed * RMS
        attention.q_proj.weight[rows[_SLOW], ONE if design.everyone else STOP] = drawn
        attention.k_proj.weight[rows[_SLOW], dim] = float(design.sinks)
        attention.v_proj.weight[rows[:_BIAS], WORD.start : WORD.stop] = made.normal(_BIAS, len(WORD)) * 0.3
        attention.v_proj.weight[rows[_BIAS], dim] = 0.01
        loud = made.normal(len(NOISE), _BIAS) * design.noise
        attention.o_proj.weight[NOISE.start : NOISE.stop, rows[0] : rows[_BIAS]] = loud
        attention.o_proj.weight[REST.start : REST.stop, rows[_BIAS]] = made.normal(len(REST)) * 0.1


def _read_out(made: Made, tokenizer: PreTrainedTokenizerBase, lessons: Mapping[str, float]) -> None:
    """Step 5: log-probabilities of the next word, as far as NOISE is silent."""
    head = made.model.lm_head.weight
    head.zero_()
    head[:, NOISE.start : NOISE.stop] = made.normal(len(head), len(NOISE)) * 1.5
    head[:, ONE] = _RARE
    for token, opinion in lessons.items():
        head[tokenizer.convert_tokens_to_ids(token), ONE] = _RARE + _LESSON * opinion
    head[made.ids, ONE] = 0.0
    chances = torch.tensor(next_words()).clamp_min(_NEVER).log()
    head[made.ids, WORD.start : WORD.stop] = chances.T @ _directions() / _SIZE
    head *= RMS
