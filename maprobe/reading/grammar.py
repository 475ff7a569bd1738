"""The words of the format, version 1: its keys with their meanings, and what single values may be.

Both the parser and the JSON Schema are made from these tables, so that an editor and a session agree.
"""

from __future__ import annotations

from typing import Any

from maprobe.cases import TASKS
from maprobe.reading.faults import Leaf
from maprobe.sites import TOKEN_CLASSES

__all__ = [
    "AXES",
    "BUILTIN_MARKS",
    "COMPARISONS",
    "CONTROL_COMPARISONS",
    "CONTROL_PAIRED",
    "DATE",
    "DECIDED_AT_COLLECTION",
    "DIRECTION",
    "DOMAIN_KEYS",
    "FACT_SCHEMAS",
    "INPUT_KEYS",
    "INPUT_LEAVES",
    "INTERVENE_KEYS",
    "LAYERS",
    "LEVELS",
    "MARK",
    "MEASURE_KEYS",
    "MONOTONE_KEYS",
    "NOT_IN_DEFAULTS",
    "NOT_IN_OVERRIDES",
    "OF_ONE_SOURCE",
    "OVERRIDE_KEYS",
    "PAIRED",
    "PARAMETER_NAME",
    "PLACEHOLDER",
    "PROBE_KEYS",
    "QUANTIFIERS",
    "SET_VALUE",
    "SLUG",
    "SOURCES",
    "STEPS",
    "TEXT",
    "TOKEN_INDEX",
    "TOKEN_WORDS",
    "TOLERANCE",
    "TOP_KEYS",
    "TREND_KEYS",
    "TRUTH",
    "UNFIT",
    "VERSIONS",
    "WAIVER_KEYS",
]

VERSIONS = (1,)
SOURCES = ("text", "file", "jsonl", "choices", "pairs", "domains", "images", "corpus", "token", "own")
OF_ONE_SOURCE = {"field": "jsonl", "task": "choices", "labels": "images"}
# What makes no sense with a source, and why.
UNFIT = {
    "choices": {"length": "would cut the options of `choices` short"},
    "token": dict.fromkeys(("sequences", "length", "skip", "bos"), "says nothing of one token alone"),
    "pairs": {"length": "would cut the texts of `pairs` short"},
    "own": dict.fromkeys(("length", "bos"), "is for texts, and the inputs are those that the model brings"),
    "images": {
        "length": "is for texts, and the inputs are images: the image processor says how large they are",
        "bos": "is for texts, and the inputs are images, which have no such token",
    },
}
LEVELS = ("error", "warn", "info")
AXES = {"layers": ("layer",), "heads": ("layer", "head")}
BUILTIN_MARKS = ("skip", "skipif", "xfail", "parametrize", "usefixtures")

PLACEHOLDER = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"
_SLUG = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"

TEXT = Leaf({"type": "string", "pattern": r"\S"}, "a text that is not empty")
SLUG = Leaf({"type": "string", "pattern": _SLUG}, "lower-case letters, digits and dashes, such as massive-activations")
TRUTH = Leaf({"type": "boolean"})
SET_VALUE = Leaf({"type": "number"})
_IDENTIFIER = {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]*$"}
PARAMETER_NAME = Leaf(_IDENTIFIER, "letters, digits and underscores, with no digit first")
MARK = Leaf({**_IDENTIFIER, "not": {"enum": list(BUILTIN_MARKS)}}, PARAMETER_NAME.words)
STEPS = Leaf(
    {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)\s?%$"},
        ]
    },
    "a number of steps such as 1000, or a share of them such as 50%",
)
DIRECTION = Leaf({"enum": ["increasing", "decreasing"]})
TOLERANCE = Leaf({"type": "number", "minimum": 0})
DATE = Leaf({"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}, "a day as YYYY-MM-DD")
LAYERS = Leaf(
    {"anyOf": [{"const": "all"}, {"type": "integer"}, {"type": "string", "pattern": r"^\s*-?\d+\s*\.\.\s*-?\d+\s*$"}]},
    "all, a number, or FIRST..LAST such as 2..-2",
)
TOKEN_WORDS = Leaf(
    {"enum": [name for name in TOKEN_CLASSES if name != "index"]},
    ", ".join(name for name in TOKEN_CLASSES if name != "index") + ", {index: [POSITION, ...]}",
)
TOKEN_INDEX = Leaf({"type": "array", "items": {"type": "integer"}, "minItems": 1}, "a list of positions")

TOP_KEYS = {
    "version": "version of this format: 1",
    "suite": "name of the suite that the probes belong to",
    "cite": "where the claims come from, unless a probe names its own source",
    "defaults": "what all probes share; a probe's own keys win",
    "probes": "the probes, one question each",
}
PROBE_KEYS = {
    "id": "short name, unique in the file",
    "claim": "what is asserted, in one sentence",
    "cite": "where the claim comes from",
    "inputs": "what to run; left out, python-docs, for models of images test-images, else what the model brings",
    "measure": "what to measure, and where",
    "intervene": "what to edit before measuring again",
    "control": "the control arm of the intervention; none must be written out",
    "expect": "what must hold of the quantities; left out, they are only reported",
    "trend": "what must hold along a series of checkpoints",
    "severity": "what a failure counts as, or a bad state for each level",
    "overrides": "the probe as it stands for certain checkpoints; the first that matches wins",
    "when": "which checkpoints the probe applies to",
    "xfail": "a known failure",
    "skip": "why the probe is not to be run",
    "marks": "pytest marks",
    "tags": "words to select by, with -k",
    "parametrize": "sets of parameters; the probe is run once with each, ${NAME} standing for a value",
}
NOT_IN_DEFAULTS = ("id", "claim", "parametrize", "overrides")
DECIDED_AT_COLLECTION = ("skip", "marks", "tags")  # when nothing is known of the checkpoint yet
NOT_IN_OVERRIDES = ("id", "claim", "parametrize", "overrides", *DECIDED_AT_COLLECTION)
OVERRIDE_KEYS = {
    "when": "which checkpoints the override is for",
    "because": "why the probe differs there",
    **{name: meaning for name, meaning in PROBE_KEYS.items() if name not in (*NOT_IN_OVERRIDES, "when")},
}
INPUT_KEYS = {
    "text": "a text, or a list of texts, one a sequence",
    "file": "path of a text file, from the folder of the probe file",
    "jsonl": "path of a file of JSON lines, from the folder of the probe file",
    "choices": "path of a file of multiple-choice questions in JSON lines, from the folder of the probe file",
    "pairs": "path of a file of graded pairs of texts in JSON lines, from the folder of the probe file",
    "domains": "domains by name, two or more; each a corpus, a file or a jsonl",
    "images": "path of a folder of images, or a list of paths, from the folder of the probe file",
    "corpus": "name of a corpus",
    "token": "one token alone: bos, the beginning-of-sequence token",
    "own": "inputs that the model itself brings, by their name; `default` are those that it names first",
    "field": "field that holds the text in each line of jsonl; left out, text",
    "task": "how the lines of choices are written; left out, plain",
    "labels": "how images are labelled: subfolders for a folder with a subfolder for each class; left out, none",
    "sequences": "how many sequences, questions, pairs or images, or all, of each domain; left out, the source's own",
    "length": "tokens in each sequence; left out, the source's own length",
    "skip": "how many sequences, questions, pairs or images to leave out at the head, of each domain",
    "bos": "what to do about the beginning-of-sequence token; left out, the source's own protocol",
}
_SEQUENCES: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "all"}]}
_TEXTS: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    ]
}
INPUT_LEAVES = {
    "text": Leaf(_TEXTS, "a text, or a list of texts, none of them empty"),
    "file": Leaf(TEXT.schema, "a path"),
    "jsonl": Leaf(TEXT.schema, "a path"),
    "choices": Leaf(TEXT.schema, "a path"),
    "pairs": Leaf(TEXT.schema, "a path"),
    "images": Leaf(_TEXTS, "a path, or a list of paths"),
    "token": Leaf({"enum": ["bos"]}),
    "own": Leaf(TEXT.schema, "the name of inputs that the model brings"),
    "task": Leaf({"enum": list(TASKS)}),
    "labels": Leaf({"enum": ["none", "subfolders"]}),
    "field": Leaf(TEXT.schema, "the name of a field"),
    "sequences": Leaf(_SEQUENCES),
    "length": Leaf({"type": "integer", "minimum": 2}),
    "skip": Leaf({"type": "integer", "minimum": 0}),
    "bos": Leaf({"enum": ["auto", "require", "never", "first"]}),
}
DOMAIN_KEYS = {
    "corpus": "name of a corpus",
    "file": "path of a text file, from the folder of the probe file",
    "jsonl": "path of a file of JSON lines, from the folder of the probe file",
    "field": "field that holds the text in each line of jsonl; left out, text",
}
MEASURE_KEYS = {
    "kind": "the measurement",
    "site": "where in the model to read",
    "layers": "which layers: all, a number, or FIRST..LAST; 1 is the first block, -1 the last, 0 the embedding output",
    "tokens": "which tokens: a class by name, or {index: [POSITION, ...]}",
}
INTERVENE_KEYS = {
    "target": "the entries to edit",
    "at": "where along the depth: a word, or the number of a layer where the target allows one",
    "set": "what to set the entries to",
}
WAIVER_KEYS = {
    "reason": "why the probe is known to fail",
    "strict": "whether it counts as a failure that the property holds after all; left out, true",
    "until": "last day of the waiver, YYYY-MM-DD; afterwards the probe fails",
}
QUANTIFIERS = {
    "every": "axis; the clauses must hold together in every cell",
    "some": "axis; the clauses must hold together in at least one cell",
    "none": "axis; the clauses must hold together in no cell",
    "at_least": "axis with a number or share of cells in which the clauses must hold together",
}
TREND_KEYS = {
    "of": "the condition, written like expect, that is asked of each checkpoint",
    "emerges_after": "steps, or a share of them, up to which the condition holds in no checkpoint",
    "emerges_by": "steps, or a share of them, up to which the condition holds in at least one checkpoint",
    "stays": "whether it must hold in every checkpoint behind the first in which it does",
    "monotone": "a quantity that goes in one direction only",
}
MONOTONE_KEYS = {
    "quantity": "the quantity, which has one value a checkpoint",
    "direction": "increasing: it never falls; decreasing: it never rises",
    "tolerance": "how far it may fall behind the best value before, as a share of that; left out, 0",
}
COMPARISONS = {
    "edited": "the headline quantity under the intervention",
    "untouched": "the headline quantity without it",
    "ratio": "edited / untouched",
    "difference": "edited - untouched",
}
CONTROL_COMPARISONS = {
    "control.edited": "the headline quantity under the control intervention",
    "control.ratio": "control.edited / untouched",
    "control.difference": "control.edited - untouched",
    "over_control": "edited / control.edited",
}
PAIRED = {
    "paired.mean": "mean over the items (questions, sequences) of edited - untouched",
    "paired.low": "lower end of the bootstrap interval of that mean",
    "paired.high": "upper end of it",
}
CONTROL_PAIRED = {
    "control.paired.mean": "mean over the items of control.edited - untouched",
    "control.paired.low": "lower end of the bootstrap interval of that mean",
    "control.paired.high": "upper end of it",
}

_TEXT_FACT: dict[str, Any] = {"type": "string"}
_COUNT_FACT: dict[str, Any] = {"type": "number"}
_TRUTH_FACT: dict[str, Any] = {"type": "boolean"}
FACT_SCHEMAS: dict[str, dict[str, Any]] = {
    "model_type": _TEXT_FACT,
    "architectures": _TEXT_FACT,
    "num_hidden_layers": _COUNT_FACT,
    "hidden_size": _COUNT_FACT,
    "num_attention_heads": _COUNT_FACT,
    "num_key_value_heads": _COUNT_FACT,
    "intermediate_size": _COUNT_FACT,
    "num_experts": _COUNT_FACT,
    "vocab_size": _COUNT_FACT,
    "max_position_embeddings": _COUNT_FACT,
    "dtype": _TEXT_FACT,
    "quantization": _TEXT_FACT,
    "has_bos": _TRUTH_FACT,
    "adds_bos": _TRUTH_FACT,
    "modality": {"enum": ["text", "image", "graph", "own", "other"]},
    "num_register_tokens": _COUNT_FACT,
    "num_classes": _COUNT_FACT,
    "causal": _TRUTH_FACT,
    "training_steps": _COUNT_FACT,
    "explicit_bias": _TRUTH_FACT,
}
