"""Inputs: every source, every BOS policy, how sequences are cut and batched, and what each message says."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hidden_states import facts
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from maprobe.cases import InputsRequest
from maprobe.errors import InputError, MeasurementError
from maprobe.recipes import Batch, Corpus
from maprobe.running.inputs import Inputs, TokenBatch, batches, count_batches, digest_of, prepare
from maprobe.sites import TokenSet

CPU = torch.device("cpu")
WORDS = [f"w{number}" for number in range(60)]
VOCABULARY = {
    word: number
    for number, word in enumerate(["[UNK]", "<s>", "</s>", "[CLS]", "[SEP]", ".", ",", "'", "\n", " \n\n", "a", *WORDS])
}
# White space that holds a line break is a token; other white space is dropped.
TOKEN = Regex(r"[ \t]*\n+|[.,']|[^\s.,']+")


def _tokenizer(template: str = "", **special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(TOKEN, "removed", invert=True)
    backend.decoder = decoders.Fuse()
    if template:
        named = [(token, VOCABULARY[token]) for token in template.split() if token in VOCABULARY]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", model_max_length=16, **special)


PLAIN = _tokenizer()
WITH_BOS = _tokenizer("<s> $A", bos_token="<s>")
HAS_BOS = _tokenizer(bos_token="<s>")
BERT_LIKE = _tokenizer("[CLS] $A [SEP]", cls_token="[CLS]", sep_token="[SEP]")
FACTS = facts(vocab_size=len(VOCABULARY), max_position_embeddings=32)
BOS, CLS, SEP = VOCABULARY["<s>"], VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]


def ids(first: int, last: int) -> tuple[int, ...]:
    """Ids of the words w<first> to w<last>, both included."""
    return tuple(VOCABULARY[f"w{number}"] for number in range(first, last + 1))


def words(count: int, first: int = 0) -> str:
    return " ".join(WORDS[first : first + count])


CORPORA = {
    "sixty": Corpus(name="sixty", summary="", protocol="", load=lambda: words(60), sequences=2, length=8),
    "framed": Corpus(
        name="framed", summary="", protocol="", load=lambda: words(60), sequences="all", length=16, bos="first"
    ),
}


def made(tokenizer: PreTrainedTokenizerBase | None = PLAIN, /, given=FACTS, **request: object) -> Inputs:
    return prepare(InputsRequest(**request), tokenizer, given, CORPORA)  # type: ignore[arg-type]


def text(*texts: str, tokenizer: PreTrainedTokenizerBase | None = PLAIN, **request: object) -> Inputs:
    return made(tokenizer, source="text", value=texts, **request)


def sixty(tokenizer: PreTrainedTokenizerBase = PLAIN, **request: object) -> Inputs:
    return made(tokenizer, source="corpus", value=("sixty",), **request)


def only_batch(inputs: Inputs) -> TokenBatch:
    (batch,) = batches(inputs, size=8, device=CPU)
    return batch


def says(*parts: str) -> str:
    return ".*".join(re.escape(part) for part in parts)


# Literal texts


def test_bos_alone_is_one_sequence_of_one_token() -> None:
    request = InputsRequest(source="token", value=("bos",))
    for tokenizer, token in ((HAS_BOS, BOS), (WITH_BOS, BOS), (BERT_LIKE, CLS)):
        inputs = prepare(request, tokenizer, FACTS, {})
        assert ((token,),) == inputs.sequences
        assert inputs.description in ("<s> alone", "[CLS] alone")
        assert digest_of(((token,),)) == inputs.digest


def test_bos_alone_needs_a_tokenizer_that_has_one() -> None:
    with pytest.raises(InputError, match="no beginning-of-sequence token, which was to be run alone.*has_bos: true"):
        prepare(InputsRequest(source="token", value=("bos",)), PLAIN, FACTS, {})


def test_each_literal_text_is_one_whole_sequence() -> None:
    inputs = text("w0 w1 w2", "w3 w4")
    assert inputs.sequences == (ids(0, 2), ids(3, 4))
    assert (inputs.tokens, inputs.length) == (5, 3)


@pytest.mark.parametrize(
    ("texts", "request_", "described"),
    [
        (["w0 w1 w2"], {}, "1 text of 3 tokens"),
        (["w0"], {}, "1 text of 1 token"),
        (["w0 w1", "w2 w3"], {}, "2 texts of 2 tokens"),
        (["w0 w1", "w2 w3 w4"], {}, "2 texts of 2 to 3 tokens"),
        (["w0 w1", "w2 w3 w4"], {"skip": 1}, "1 text of 3 tokens (skipping 1)"),
    ],
)
def test_literal_texts_are_told_by_their_number_and_lengths(texts, request_, described) -> None:
    assert text(*texts, **request_).description == described


def test_length_keeps_the_first_tokens_of_each_literal_text() -> None:
    assert text(words(5), words(4, 10), length=3).sequences == (ids(0, 2), ids(10, 12))


def test_a_literal_text_shorter_than_length_is_refused() -> None:
    with pytest.raises(InputError, match=says("text 2 holds 2 tokens, and a sequence of 3 takes 3")):
        text(words(5), "w0 w1", length=3)


def test_sequences_and_skip_choose_among_literal_texts() -> None:
    assert text("w0", "w1", "w2", skip=1, sequences=1).sequences == (ids(1, 1),)


def test_more_literal_texts_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=says("the list of texts has 2 texts, but the probe asks for 3; lower")):
        text("w0", "w1", sequences=3)


@pytest.mark.parametrize("empty", ["", "   ", "\t"])
@pytest.mark.parametrize("tokenizer", [PLAIN, BERT_LIKE])
def test_a_text_without_tokens_is_refused(empty, tokenizer) -> None:
    with pytest.raises(InputError, match="text 2 is empty: it holds no token"):
        text("w0", empty, tokenizer=tokenizer)


def test_no_text_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="the list of texts holds no text"):
        text()


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="text 1 holds half a surrogate pair at character 3"):
        text("w0 \ud800")


# Corpora and streams


def test_a_corpus_is_cut_into_consecutive_sequences_by_its_own_protocol() -> None:
    inputs = sixty()
    assert inputs.sequences == (ids(0, 7), ids(8, 15))
    assert inputs.description == "2 x 8 tokens of sixty"
    assert inputs.bos == "auto: none added"


def test_skip_leaves_out_sequences_at_the_head() -> None:
    inputs = sixty(skip=4)
    assert inputs.sequences == (ids(32, 39), ids(40, 47))
    assert inputs.description == "2 x 8 tokens of sixty (skipping 4)"


def test_all_takes_every_whole_sequence_and_leaves_out_the_rest() -> None:
    assert sixty(sequences="all", length=16).sequences == (ids(0, 15), ids(16, 31), ids(32, 47))
    assert sixty(sequences="all", length=16, skip=2).sequences == (ids(32, 47),)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"sequences": 8}, "sixty has 7 sequences of 8 tokens, but the probe asks for 8; lower `sequences` or `skip`"),
        ({"skip": 6}, "sixty has 7 sequences of 8 tokens, but the probe asks for 2 after 6 skipped ones; lower"),
        (
            {"skip": 7, "sequences": "all"},
            "sixty has 7 sequences of 8 tokens, but the probe asks for 1 after 7 skipped ones",
        ),
    ],
)
def test_fewer_sequences_than_asked_for_is_refused(request_, told) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        sixty(**request_)


def test_a_stream_shorter_than_one_sequence_is_refused() -> None:
    with pytest.raises(InputError, match=says("corpus sixty holds 60 tokens, and one sequence of 100 takes 100")):
        made(given=facts(vocab_size=100, max_position_embeddings=0), value=("sixty",), length=100)


def test_an_unknown_corpus_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=says("no corpus is named 'sixti' (did you mean 'sixty'?); allowed: framed, ")):
        made(value=("sixti",))


def test_a_corpus_that_fails_or_is_not_text_is_told_in_one_sentence() -> None:
    def fails() -> str:
        raise KeyError("gone")

    broken = {"x": replace(CORPORA["sixty"], name="x", load=fails)}
    with pytest.raises(InputError, match=r"corpus x cannot be read: its load function failed with KeyError: 'gone'"):
        prepare(InputsRequest(value=("x",)), PLAIN, FACTS, broken)
    numeric = {"x": replace(CORPORA["sixty"], name="x", load=lambda: 1)}
    with pytest.raises(InputError, match="its load function returned int; allowed: a str"):
        prepare(InputsRequest(value=("x",)), PLAIN, FACTS, numeric)


def test_an_error_of_the_corpus_itself_is_told_as_it_is() -> None:
    def unreachable() -> str:
        raise InputError("no network")

    with pytest.raises(InputError, match=r"^no network$"):
        prepare(InputsRequest(value=("x",)), PLAIN, FACTS, {"x": replace(CORPORA["sixty"], name="x", load=unreachable)})


def test_a_stream_takes_one_call_of_the_tokenizer_and_says_nothing(monkeypatch, caplog, capfd) -> None:
    called = []
    plain_call = PreTrainedTokenizerFast.__call__

    def counted(self, text, **options):
        called.append(text)
        return plain_call(self, text, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    transformers = logging.getLogger("transformers")
    monkeypatch.setattr(transformers, "propagate", True)
    with caplog.at_level(logging.WARNING):
        sixty(_tokenizer(), bos="never")  # a new one, since the warning is given once for each tokenizer
    assert called == [words(60)]
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


# Files


def test_a_file_without_length_is_one_sequence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(words(12))
    inputs = made(source="file", value=("notes.txt",), folder=str(tmp_path))
    assert inputs.sequences == (ids(0, 11),)
    assert inputs.description == "1 x 12 tokens of notes.txt"


def test_a_file_with_length_is_cut_into_all_its_sequences(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(words(14))
    inputs = made(source="file", value=("notes.txt",), folder=str(tmp_path), length=4)
    assert inputs.sequences == (ids(0, 3), ids(4, 7), ids(8, 11))


def test_two_sequences_of_a_whole_file_are_refused_with_the_way_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(words(14))
    with pytest.raises(
        InputError, match=says("notes.txt has 1 text, but the probe asks for 2; write `length` to cut it")
    ):
        made(source="file", value=("notes.txt",), folder=str(tmp_path), sequences=2)


def test_line_ends_and_a_byte_order_mark_do_not_change_a_file(tmp_path: Path) -> None:
    (tmp_path / "unix.txt").write_bytes(b"w0.\nw1\nw2")
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfw0.\r\nw1\rw2")
    unix, windows = (
        made(source="file", value=(name,), folder=str(tmp_path)).sequences for name in ("unix.txt", "windows.txt")
    )
    assert unix == windows


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("w0")
    with pytest.raises(InputError, match=says("note.txt does not exist (did you mean 'notes.txt'?); paths start from")):
        made(source="file", value=("note.txt",), folder=str(tmp_path))
    with pytest.raises(InputError, match=says("x.txt does not exist; paths")):
        made(source="file", value=("nowhere/x.txt",), folder=str(tmp_path))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        made(source="file", value=(".",), folder=str(tmp_path))


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("w0")
    (tmp_path / "notes.txt").chmod(0)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        made(source="file", value=("notes.txt",), folder=str(tmp_path))


def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: embedded null byte"):
        made(source="file", value=("a\0b",), folder=str(tmp_path))


def test_a_file_that_is_not_utf8_is_refused_with_the_position(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"w0\nw1 \xe9")
    with pytest.raises(InputError, match=says("is not UTF-8: byte 0xe9 at position 6 (line 2)")):
        made(source="file", value=("notes.txt",), folder=str(tmp_path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for length in (None, 4):
        with pytest.raises(InputError, match=says("text file notes.txt is empty")):
            made(source="file", value=("notes.txt",), folder=str(tmp_path), length=length)


# JSON lines


def _jsonl(tmp_path: Path, content: str, **request: object) -> Inputs:
    (tmp_path / "texts.jsonl").write_text(content, encoding="utf-8")
    return made(source="jsonl", value=("texts.jsonl",), folder=str(tmp_path), **request)


def test_each_json_line_is_one_whole_sequence_and_blank_lines_are_none(tmp_path: Path) -> None:
    inputs = _jsonl(tmp_path, '{"text": "w0 w1"}\n\n{"text": "w2 w3\u2028w4"}\n')
    assert [len(sequence) for sequence in inputs.sequences] == [2, 3]
    assert inputs.description == "2 x 2 to 3 tokens of texts.jsonl"


def test_json_lines_with_length_are_one_stream_joined_by_two_line_breaks(tmp_path: Path) -> None:
    content = '{"body": "w0 w1 w2"}\n{"body": ""}\n{"body": "w3 w4 w5"}\n'
    inputs = _jsonl(tmp_path, content, text_field="body", length=3)
    stream = text("w0 w1 w2\n\n\n\nw3 w4 w5").sequences[0]
    assert inputs.sequences == tuple(stream[start : start + 3] for start in range(0, len(stream) - 2, 3))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": }', "is not JSON: Expecting value at column 10; allowed: one JSON object a line"),
        ("[" * 200_000, "cannot be read as JSON"),
        ('["w0"]', "is not a JSON object; allowed: one object a line, with the text under 'text'"),
        ('{"texts": "w0"}', "has no field 'text' (did you mean 'texts'?); name one of its fields with `field`: texts"),
        ("{}", "has no field 'text'; name one of its fields with `field`: it has none"),
        (str({f"f{n}": 1 for n in range(10)}).replace("'", '"'), "f6, f7, and 2 more"),
        ('{"text": 3}', "is int, not a text; name a field of text"),
        ('{"text": "\\ud800"}', "holds half a surrogate pair at character 0"),
        ('{"text": ""}', "is empty: it holds no token"),
    ],
)
def test_a_faulty_json_line_is_refused_with_its_number(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(InputError, match=says("line 3 of ", "texts.jsonl", told)):
        _jsonl(tmp_path, f'{{"text": "w0"}}\n\n{line}\n')


def test_a_json_lines_file_without_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says("texts.jsonl holds no text")):
        _jsonl(tmp_path, "\n\n")


# BOS policies


@pytest.mark.parametrize(
    ("tokenizer", "policy", "around", "told"),
    [
        (PLAIN, "auto", ((), ()), "auto: none added"),
        (WITH_BOS, "auto", ((BOS,), ()), "auto: <s> at the start of each"),
        (HAS_BOS, "auto", ((), ()), "auto: none added"),
        (BERT_LIKE, "auto", ((CLS,), (SEP,)), "auto: [CLS] at the start and [SEP] at the end of each"),
        (WITH_BOS, "require", ((BOS,), ()), "require: <s> at the start of each"),
        (HAS_BOS, "require", ((BOS,), ()), "require: <s> at the start of each"),
        (BERT_LIKE, "require", ((CLS,), (SEP,)), "require: [CLS] at the start and [SEP] at the end of each"),
        (WITH_BOS, "never", ((), ()), "never: none added"),
        (BERT_LIKE, "never", ((), ()), "never: none added"),
    ],
)
def test_a_policy_frames_each_sequence_within_its_length(tokenizer, policy, around, told) -> None:
    prefix, suffix = around
    room = 8 - len(prefix) - len(suffix)
    stream = sixty(tokenizer, bos=policy)
    assert stream.sequences == tuple((*prefix, *ids(n * room, (n + 1) * room - 1), *suffix) for n in range(2))
    assert stream.bos == told
    whole = text(words(9), tokenizer=tokenizer, bos=policy)
    assert whole.sequences == ((*prefix, *ids(0, 8), *suffix),)
    cut = text(words(9), tokenizer=tokenizer, bos=policy, length=8)
    assert cut.sequences == (stream.sequences[0],)


def test_auto_is_what_the_tokenizer_does_by_itself() -> None:
    for tokenizer in (PLAIN, WITH_BOS, HAS_BOS, BERT_LIKE):
        assert text("w3 w4.", tokenizer=tokenizer).sequences == (tuple(tokenizer("w3 w4.")["input_ids"]),)


def test_a_slow_tokenizer_is_framed_too() -> None:
    slow = ByT5Tokenizer(extra_ids=0)
    inputs = made(slow, given=facts(vocab_size=300), source="text", value=("hello",))
    assert inputs.sequences == (tuple(slow("hello")["input_ids"]),)
    assert inputs.bos == "auto: </s> at the end of each"


def test_a_vocabulary_without_letters_is_framed_by_the_text_itself() -> None:
    numbers = {"<s>": 0, "1": 1, "2": 2}
    for model in (models.BPE(numbers, merges=[]), models.WordLevel(numbers, unk_token="[UNK]")):
        backend = Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
        assert text("2 1", tokenizer=tokenizer).sequences == ((0, 2, 1),)
        with pytest.raises(InputError, match=r"text 1 (is empty|cannot be tokenised)"):
            text("a", tokenizer=tokenizer)


def test_require_without_a_bos_token_is_refused() -> None:
    with pytest.raises(InputError, match=says("`bos: require` cannot be met: the tokenizer of tiny has no", "has_bos")):
        sixty(PLAIN, bos="require")


def test_a_bos_that_is_not_in_the_vocabulary_is_none() -> None:
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    tokenizer._special_tokens_map["bos_token"] = "<nowhere>"
    with pytest.raises(InputError, match="cannot be met"):
        text("w0", tokenizer=tokenizer, bos="require")


def test_require_does_not_repeat_a_bos_that_the_text_begins_with() -> None:
    for tokenizer in (WITH_BOS, HAS_BOS):
        assert text("<s>w0", tokenizer=tokenizer, bos="require").sequences == ((BOS, *ids(0, 0)),)
    assert text("<s>w0", tokenizer=WITH_BOS, bos="auto").sequences == ((BOS, BOS, *ids(0, 0)),)


def test_first_puts_one_bos_at_the_head_of_the_stream_before_it_is_cut() -> None:
    inputs = sixty(WITH_BOS, bos="first")
    assert inputs.sequences == ((BOS, *ids(0, 6)), ids(7, 14))
    assert inputs.bos == "first: <s> at the start of the stream"


def test_first_tells_when_its_bos_was_skipped() -> None:
    inputs = sixty(WITH_BOS, bos="first", skip=1)
    assert inputs.sequences[0] == ids(7, 14)
    assert inputs.bos == "first: <s> at the start of the stream, in a skipped sequence"


def test_first_adds_nothing_where_the_tokenizer_adds_nothing() -> None:
    inputs = sixty(HAS_BOS, bos="first")
    assert inputs.sequences[0] == ids(0, 7)
    assert inputs.bos == "first: none added"


def test_first_takes_each_literal_text_for_a_stream() -> None:
    inputs = text("w0 w1 w2", "w3 w4", tokenizer=BERT_LIKE, bos="first", length=2)
    assert inputs.sequences == ((CLS, *ids(0, 0)), (CLS, *ids(3, 3)))
    assert inputs.bos == "first: [CLS] at the start of each"


def test_a_corpus_has_its_own_policy_unless_one_is_written() -> None:
    assert made(WITH_BOS, value=("framed",)).bos == "first: <s> at the start of the stream"
    assert made(WITH_BOS, value=("framed",), bos="never").bos == "never: none added"


def test_special_tokens_in_the_midst_of_the_text_are_refused() -> None:
    class Odd(PreTrainedTokenizerFast):
        def __call__(self, text, *, add_special_tokens=True, **options):
            found = super().__call__(text, add_special_tokens=False, **options)
            if add_special_tokens:
                found["input_ids"] = [BOS] * len(found["input_ids"])
            return found

    with pytest.raises(InputError, match="does not add its special tokens before and after the text"):
        text("w0", tokenizer=Odd(tokenizer_object=PLAIN.backend_tokenizer))


def test_a_length_that_special_tokens_fill_is_refused() -> None:
    with pytest.raises(
        InputError, match=says("`length: 2` leaves no room for text beside 2 special tokens; allowed: 3")
    ):
        sixty(BERT_LIKE, length=2)


# What does not fit the checkpoint


def test_a_checkpoint_without_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="tiny has no tokenizer, so no text can be made into tokens"):
        text("w0", tokenizer=None)


def test_a_tokenizer_that_fails_is_told_in_one_sentence() -> None:
    class Failing(PreTrainedTokenizerFast):
        def __call__(self, text, **options):
            raise RuntimeError("broken\nmore")

    with pytest.raises(InputError, match=r"text 1 cannot be tokenised: .* RuntimeError: broken; try another text"):
        text("w0", tokenizer=Failing(tokenizer_object=PLAIN.backend_tokenizer))


@pytest.mark.parametrize("request_", [{"length": 33}, {"source": "text", "value": (words(33),)}])
def test_a_sequence_longer_than_the_checkpoint_was_made_for_is_refused(request_) -> None:
    told = says("a sequence of 33 tokens is longer than tiny was made for (max_position_embeddings: 32)", "length: 32")
    with pytest.raises(InputError, match=told):
        made(**{"value": ("sixty",), **request_})


def test_a_sequence_as_long_as_the_checkpoint_was_made_for_is_taken() -> None:
    assert sixty(length=32, sequences=1).length == 32


def test_a_checkpoint_that_states_no_longest_sequence_takes_any() -> None:
    unlimited = facts(vocab_size=len(VOCABULARY), max_position_embeddings=0)
    assert made(given=unlimited, value=("sixty",), length=33, sequences=1).length == 33


def test_ids_beyond_the_embedding_are_refused() -> None:
    with pytest.raises(InputError, match=says("token id 30 has no row in the embedding of tiny (vocab_size: 30)")):
        made(given=facts(vocab_size=30), source="text", value=(words(20),))


@pytest.mark.parametrize("numbers", [{"length": 0}, {"sequences": 0}, {"skip": -1}])
def test_numbers_out_of_range_are_refused(numbers) -> None:
    with pytest.raises(InputError, match="is not allowed for inputs; allowed: "):
        sixty(**numbers)


# The digest


def test_the_digest_is_that_of_the_ids_written_out() -> None:
    assert digest_of([(1, 22, 3), (4,)]) == hashlib.sha256(b"1 22 3\n4\n").hexdigest()
    inputs = sixty()
    assert inputs.digest == digest_of(inputs.sequences)


def test_the_digest_sees_ids_and_boundaries() -> None:
    different = [[(1, 2, 3)], [(1, 2), (3,)], [(1, 23)], [(12, 3)], [(3, 2, 1)], [(1, 2, 3), (1, 2, 3)]]
    assert len({digest_of(sequences) for sequences in different}) == len(different)


def test_inputs_that_are_made_twice_are_equal() -> None:
    assert sixty() == sixty()
    assert sixty() != sixty(skip=1)


# Batches


def test_batches_hold_the_sequences_in_order() -> None:
    inputs = sixty(sequences=5)
    made_of = list(batches(inputs, size=2, device=CPU))
    assert [batch.sequences for batch in made_of] == [(0, 1), (2, 3), (4,)]
    assert torch.cat([batch.ids for batch in made_of]).tolist() == [list(sequence) for sequence in inputs.sequences]
    assert made_of[0].ids.dtype == torch.long
    assert count_batches(inputs, 2) == 3


def test_sequences_of_unequal_length_never_share_a_batch() -> None:
    inputs = text("w0 w1", "w2 w3", "w4", "w5 w6")
    assert [batch.sequences for batch in batches(inputs, size=4, device=CPU)] == [(0, 1), (2,), (3,)]
    assert count_batches(inputs, 4) == 3


def test_batches_of_no_sequence_are_refused() -> None:
    with pytest.raises(InputError, match="batches of 0 sequences"):
        count_batches(sixty(), 0)


def test_a_batch_is_what_folds_are_promised() -> None:
    batch: Batch = only_batch(text("w0 w1"))
    assert batch.text(0, 1) == "w1"


# Token classes


def _mask(inputs: Inputs, tokens: TokenSet) -> list[list[int]]:
    mask = only_batch(inputs).mask(tokens)
    assert mask.dtype == torch.bool
    return [row.nonzero().flatten().tolist() for row in mask]


def test_all_and_first_are_told_by_position() -> None:
    inputs = text("w0 w1 w2", "w3 w4 w5")
    assert _mask(inputs, TokenSet("all")) == [[0, 1, 2], [0, 1, 2]]
    assert _mask(inputs, TokenSet("first")) == [[0], [0]]


def test_bos_is_every_token_of_that_id() -> None:
    assert _mask(text("w0<s>w1", tokenizer=WITH_BOS), TokenSet("bos")) == [[0, 2]]
    assert _mask(text("<s>w1", tokenizer=HAS_BOS), TokenSet("bos")) == [[0]]


def test_bos_is_cls_where_there_is_no_bos_and_nothing_without_either() -> None:
    assert _mask(text("w0 w1", tokenizer=BERT_LIKE), TokenSet("bos")) == [[0]]
    assert _mask(text("w0 w1", tokenizer=PLAIN), TokenSet("bos")) == [[]]


def test_delimiters_are_told_by_how_a_token_reads() -> None:
    inputs = text("w0.w1,w2'a\nw3 \n\nw4")
    assert [only_batch(inputs).text(0, position) for position in range(11)] == [
        *("w0", ".", "w1", ",", "w2", "'", "a", "\n", "w3", " \n\n", "w4")
    ]
    assert _mask(inputs, TokenSet("delimiter")) == [[1, 3, 5, 7, 9]]


def test_a_token_is_decoded_once(monkeypatch) -> None:
    decoded = []
    plain_decode = PreTrainedTokenizerFast.decode

    def counted(self, tokens, **options):
        decoded.extend(tokens)
        return plain_decode(self, tokens, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "decode", counted)
    for batch in batches(text("w0. w1.", "w0. w1."), size=1, device=CPU):
        for tokens in (TokenSet("delimiter"), TokenSet("delimiter")):
            batch.mask(tokens)
    assert sorted(decoded) == sorted({*ids(0, 1), VOCABULARY["."]})


def test_index_counts_from_the_start_or_from_the_end() -> None:
    assert _mask(text("w0 w1 w2 w3"), TokenSet("index", (0, -1, 2, 2))) == [[0, 2, 3]]


@pytest.mark.parametrize("position", [3, -4])
def test_a_position_outside_the_sequence_is_refused(position: int) -> None:
    told = f"token position {position} is out of range: sequence 0 has 3 tokens; allowed: 0..2, or -3..-1"
    with pytest.raises(MeasurementError, match=re.escape(told)):
        only_batch(text("w0 w1 w2")).mask(TokenSet("index", (0, position)))
