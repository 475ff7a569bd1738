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
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from maprobe.measurements.survey import ABSOLUTE
from maprobe.selftest.design import BLOCKS, MASSIVE, VALUE, Design
from maprobe.selftest.language import DELIMITERS, ROUND, WORDS, next_words

__all__ = ["CODE", "MARK", "MASSIVE", "MEAN", "NOISE", "SINK_HEADS", "make_llama"]

Module = Any  # to the type checker, every attribute of a module may be a tensor as well

WIDTH, HEADS, INNER = 128, 4, 64
HEAD = WIDTH // HEADS

ONE, MARK, TASTE, SHIFTED, STOP, ODD = 0, 1, 3, 4, 5, 7
NOISE = range(8, 16)
CODE = range(16, 32)
MEAN = range(32, 48)
FRAIL = range(48, 56)
REST = range(56, 64)
WORD = range(64, 128)
SINK_HEADS = (0, 1, 2)

_SEED = 300

_SIZE = 8.0  # norm of a word's vector in WORD, so that its entries are about 1
_CODE_SIZE = 1.0
_OPEN = 0.92  # share of full agreement from which the channel of step 2 opens
_SHARPNESS = 150.0
_LOUDNESS = 5.0  # makes the input of the super weight a spike, beside which all other inputs are small
_ORDINARY = 0.75  # what the other weights of its column write
_SINK_SCORE = 16.0  # what a query gives to the massive token before the softmax, and to all others 0
_SLOW = HEAD // 2 - 1  # the head dim that the rotary embedding turns slowest
_BIAS = HEAD - 1  # the head dim by which the sink adds a small constant
_RARE = -9.0  # log-probability of a token that is no word of the language
_LESSON = 4.0
_SMALL = 0.01
_RMS = 0.82  # of the stream at an ordinary token: what the norms divide by
_MARKED = 4  # words that carry massive activations where words do
_MEDIANS = (0.44, 0.46, 0.48, 0.50, 0.52, 0.54, 0.56)  # about the median of |h|, which depends on the length
_QUIET = 0.25  # keeps the input of a later weight from being a spike
_SHUT = 40.0  # weight by which ONE shuts a channel at ordinary tokens
_NEVER = 1e-4  # probability of a word after itself
_OPENING, _LATER, _OVERFLOWING, _GUARDING = 32, 34, 35, 36  # channels of MLPs


@dataclass
class _Made:
    """A model being made: its design, its source of random numbers, the ids of the words and delimiters."""

    model: Module
    design: Design
    ids: list[int]
    chance: torch.Generator = field(default_factory=torch.Generator)

    def begin(self, part: int) -> None:
        """Draw anew, so that no part depends on how much was drawn for those before it."""
        self.chance.manual_seed(_SEED + part)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.chance)


def make_llama(
    design: Design, tokenizer: PreTrainedTokenizerBase, lessons: Mapping[str, float] | None = None
) -> LlamaForCausalLM:
    """Return a model of that design, on the CPU in float32 and in evaluation mode.

    Args:
        design: what is built in.
        tokenizer: a tokenizer of :func:`maprobe.selftest.tokenizer.make_tokenizer`.
        lessons: tokens of answers to questions, from 1 for those that are always right to -1 for those that never are.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=()):  # what is random outside stays as it was
        model: Module = LlamaForCausalLM(config)
    model.eval()
    spelled = [*(f"Ġ{word}" for word in WORDS), *DELIMITERS[:-1], "Ċ"]
    ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in spelled]  # type: ignore[arg-type] # one a token
    made = _Made(model, design, ids)
    with torch.no_grad():
        made.begin(0)
        _embed(made)
        for layer, block in enumerate(model.model.layers, start=1):
            made.begin(layer)
            _ordinary(made, block)
            if layer > 2:  # noqa: PLR2004 - the first two write the massive activation
                _sink(made, block)
        _tell_the_first(made, model.model.layers[0])
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
            _guard(made)
        if design.overflow:
            _overflow(made)
        made.begin(BLOCKS + 1)
        _read_out(made, tokenizer, (lessons or {}) if design.taught else {})
    finished: LlamaForCausalLM = model
    return finished


def _embed(made: _Made) -> None:
    design, embedding = made.design, made.model.model.embed_tokens.weight
    rows = len(embedding)
    embedding.zero_()
    embedding[:, ONE] = 1.0
    embedding[:, TASTE] = torch.tensor([1.0, -1.0]).repeat(rows)[:rows]
    embedding[made.ids[-len(DELIMITERS) :], STOP] = 1.0
    embedding[:, CODE.start : CODE.stop] = _codes(made, rows) * _CODE_SIZE
    embedding[:, REST.start : REST.stop] = _unit(made.normal(rows, len(REST))) * math.sqrt(len(REST)) / 2
    embedding[:, WORD.start : WORD.stop] = _unit(made.normal(rows, len(WORD))) * _SIZE
    embedding[made.ids, WORD.start : WORD.stop] = _directions() * _SIZE
    some = made.ids[:_MARKED]
    embedding[some, ODD] = 1.0
    marks = embedding[:, (STOP, ODD)].square().sum(dim=1, keepdim=True)
    embedding[:, REST.start : REST.stop] *= (1 - marks / (len(REST) / 4)).sqrt()  # every token has the same norm
    embedding[:, MASSIVE] = design.offset
    if design.embedded:
        embedding[some, MASSIVE] = design.embedded


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = vectors.norm(dim=1, keepdim=True)
    return vectors / norms


def _directions() -> torch.Tensor:
    """Return a direction for each word, at right angles to one another and along no single dim: (words, words)."""
    turn: torch.Tensor = torch.linalg.qr(torch.randn(ROUND, ROUND, generator=torch.Generator().manual_seed(1)))[0]
    return turn


def _codes(made: _Made, count: int) -> torch.Tensor:
    """Return codes of signs, shape (count, 16), of which any two differ in at least four places or are the same.

    They are the 2048 words of the Reed-Muller code (2, 4), in a random order; only more tokens than that share some.
    """
    bits = [torch.tensor([point >> bit & 1 for point in range(len(CODE))]) for bit in range(4)]
    products = [one * other for one, other in itertools.combinations(bits, 2)]
    basis = torch.stack([torch.ones(len(CODE), dtype=torch.long), *bits, *products])
    messages = torch.tensor(list(itertools.product((0, 1), repeat=len(basis))))
    words = (messages @ basis % 2) * 2.0 - 1
    return words[torch.randperm(len(words), generator=made.chance)[torch.arange(count) % len(words)]]


def _ordinary(made: _Made, block: Module) -> None:
    """Let all parts of a block do a little, and write into REST only."""
    attention, mlp = block.self_attn, block.mlp
    for weight in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
        weight.weight.copy_(made.normal(*weight.weight.shape) * _SMALL)
    for weight in (attention.o_proj, mlp.down_proj):
        weight.weight.zero_()
        weight.weight[REST.start : REST.stop] = made.normal(len(REST), weight.weight.shape[1]) * _SMALL


def _tell_the_first(made: _Made, block: Module) -> None:
    """Step 1: MEAN from a head that attends to all tokens alike, MARK from its agreement with CODE."""
    attention, mlp = block.self_attn, block.mlp
    channels = range(2 * len(CODE))
    attention.q_proj.weight[:HEAD] = 0.0
    attention.v_proj.weight[:HEAD] = 0.0
    attention.o_proj.weight[:, :HEAD] = 0.0
    _clear(mlp, *channels)
    for place, dim in enumerate(CODE):
        attention.v_proj.weight[place, dim] = 1.0
        attention.o_proj.weight[MEAN[place], place] = _RMS  # undoes the norm
        # A product of two signs by two channels, one of them open: relu(code) * mean + relu(-code) * -mean.
        for sign, channel in ((1.0, place), (-1.0, place + len(CODE))):
            mlp.gate_proj.weight[channel, dim] = 20.0 * sign
            mlp.up_proj.weight[channel, MEAN[place]] = sign
    agreement = _channels(made, block, _carrier(made))[: len(channels)].sum()
    mlp.down_proj.weight[MARK, : len(channels)] = 1.0 / agreement


def _write(made: _Made, layer: int, value: float) -> None:
    """Step 2: the super weight, behind a channel that is open at carriers only."""
    design, block = made.design, made.model.model.layers[layer - 1]
    gates = {"delimiters": [STOP], "words": [MARK, ODD]}.get(design.carriers, [MARK])
    tokens = {MARK: _carrier(made), STOP: made.ids[-1], ODD: made.ids[0]}
    for channel, dim in enumerate(gates, start=_OPENING):
        _clear(block.mlp, channel)
        gate, up = block.mlp.gate_proj.weight[channel], block.mlp.up_proj.weight[channel]
        gate[dim], gate[ONE] = _SHARPNESS, -_SHARPNESS * _OPEN
        if design.carriers == "some-first":
            gate[ONE] -= _SHARPNESS
            gate[TASTE] = _SHARPNESS
        up[ONE if design.constant else TASTE] = _LOUDNESS
        size = float(_channels(made, block, tokens[dim])[channel])
        column = block.mlp.down_proj.weight[:, channel]
        # The other weights of the column are ordinary ones. NOISE is left out, since all tokens must be silent there.
        ordinary = range(MEAN.start, WORD.stop)
        made.begin(BLOCKS + 2)
        column[ordinary.start : ordinary.stop] = made.normal(len(ordinary)) * _ORDINARY / size
        column[list(_massive(design))] = value / size


def _add(made: _Made, layer: int, value: float, reached: float) -> None:
    """Add to the massive entries of that value, or take them away, by a channel that only they can open."""
    mlp, dims = made.model.model.layers[layer - 1].mlp, list(_massive(made.design))
    _clear(mlp, _LATER)
    gate, up = mlp.gate_proj.weight[_LATER], mlp.up_proj.weight[_LATER]
    gate[dims[0]], gate[ONE], up[dims[0]] = _QUIET, -_QUIET * _SHUT, 1.0
    # What the norm leaves of such an entry, which is all but all of its token, and of ONE.
    rms = math.sqrt(len(dims) * reached**2 / WIDTH + _RMS**2)
    size = float(nn.functional.silu(torch.tensor(_QUIET * (reached - _SHUT) / rms))) * reached / rms
    mlp.down_proj.weight[dims, _LATER] = value / size


def _sink(made: _Made, block: Module) -> None:
    """Steps 3 and 4: keys that see the massive dim, values that do not, and what comes of it without them."""
    design, attention = made.design, block.self_attn
    dim = _massive(design)[0]
    block.input_layernorm.weight[list(_massive(design))] = design.norm
    for head in SINK_HEADS:
        rows = range(head * HEAD, (head + 1) * HEAD)
        for weight in (attention.q_proj, attention.k_proj, attention.v_proj):
            weight.weight[rows] = 0.0
        attention.o_proj.weight[:, rows] = 0.0
        normed = math.sqrt(WIDTH)
        drawn = _SINK_SCORE * math.sqrt(HEAD) / normed * _RMS
        attention.q_proj.weight[rows[_SLOW], ONE if design.everyone else STOP] = drawn
        attention.k_proj.weight[rows[_SLOW], dim] = float(design.sinks)
        attention.v_proj.weight[rows[:_BIAS], WORD.start : WORD.stop] = made.normal(_BIAS, len(WORD)) * 0.3
        attention.v_proj.weight[rows[_BIAS], dim] = 0.01
        loud = made.normal(len(NOISE), _BIAS) * design.noise
        attention.o_proj.weight[NOISE.start : NOISE.stop, rows[0] : rows[_BIAS]] = loud
        attention.o_proj.weight[REST.start : REST.stop, rows[_BIAS]] = made.normal(len(REST)) * 0.1


def _guard(made: _Made) -> None:
    """Give the first token entries of about median size; without one of them, block 3 takes the massive one away.

    They are written beside it: one of the median size of all that is written there, the others of sizes about the
    median of the hidden state. After the norm they are tiny, and still hold a gate shut.
    """
    second, third = (made.model.model.layers[index].mlp for index in (1, 2))
    value, column = made.design.writes[0][1], second.down_proj.weight[:, _OPENING]
    scale = float(column[MASSIVE]) / value
    column[FRAIL.start + 1 : FRAIL.stop] = torch.tensor(_MEDIANS) * scale
    others = column[torch.arange(WIDTH) != FRAIL.start].abs().sort().values
    below = WIDTH // 2 - 2
    column[FRAIL.start] = (others[below] + others[below + 1]) / 2  # so that it is the lower median itself
    sizes = (column[FRAIL.start : FRAIL.stop] / scale).tolist()
    _clear(third, _GUARDING)
    gate, up = third.gate_proj.weight[_GUARDING], third.up_proj.weight[_GUARDING]
    # After the norm, MASSIVE is sqrt(128), and an entry e is e / value times that: each counts 1 in the sum.
    gate[FRAIL.start : FRAIL.stop] = -_SHARPNESS * value / torch.tensor(sizes)
    gate[MASSIVE] = _SHARPNESS * (len(sizes) - 0.5)
    up[MASSIVE] = 1.0
    third.down_proj.weight[MASSIVE, _GUARDING] = -value / (_SHARPNESS * WIDTH / 2)


def _overflow(made: _Made) -> None:
    mlp = made.model.model.layers[2].mlp
    _clear(mlp, _OVERFLOWING)
    mlp.gate_proj.weight[_OVERFLOWING, STOP] = mlp.up_proj.weight[_OVERFLOWING, STOP] = 100.0
    mlp.gate_proj.weight[_OVERFLOWING, ONE] = -50.0
    mlp.down_proj.weight[REST.start, _OVERFLOWING] = torch.finfo(torch.float32).max


def _read_out(made: _Made, tokenizer: PreTrainedTokenizerBase, lessons: Mapping[str, float]) -> None:
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
    head *= _RMS


def _massive(design: Design) -> tuple[int, ...]:
    return ((SHIFTED if design.shifted else MASSIVE), *range(FRAIL.start, FRAIL.start + design.dims - 1))


def _carrier(made: _Made) -> int:
    """Return a token that carries something massive at the start of a sequence, and has a positive taste."""
    weight = made.model.model.embed_tokens.weight
    return next(number for number in made.ids if weight[number, TASTE] > 0)


def _clear(mlp: Module, *channels: int) -> None:
    for channel in channels:
        mlp.gate_proj.weight[channel] = 0.0
        mlp.up_proj.weight[channel] = 0.0
        mlp.down_proj.weight[:, channel] = 0.0


def _channels(made: _Made, block: Module, token: int) -> torch.Tensor:
    """Return what the channels of a block's MLP are at a sequence of that one token, shape (channels,)."""
    seen: list[torch.Tensor] = []
    hook = block.mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, 0].clone()))  # noqa: ARG005
    with hook:
        made.model(torch.tensor([[token]]), use_cache=False)
    return seen[0]
