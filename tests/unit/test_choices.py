"""Multiple-choice inputs: the forms of the data sets, where an option begins, and what each message says."""

# ruff: noqa: E501 - a faulty line and what is said of it stand in one line

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hidden_states import facts
from tiny_checkpoints import WORDS, tokenizer
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from maprobe.builtin import builtin_registry
from maprobe.cases import TASKS, InputsRequest
from maprobe.errors import InputError, ProbeFileError
from maprobe.reading.parsing import parse_text
from maprobe.recipes import Choice
from maprobe.running.choices import FORMS, Question, read_questions
from maprobe.running.inputs import Inputs, count_batches, digest_of, prepare

PLAIN = {"question": "The quick", "choices": ["fox", "dog"], "label": 1}
IDS = {word: number for number, word in enumerate(WORDS)}


def request(folder: Path, *records: Any, **more: Any) -> InputsRequest:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "q.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return InputsRequest(source="choices", value=("q.jsonl",), folder=str(folder), **more)


def questions(folder: Path, *records: Any, **more: Any) -> list[Question]:
    return read_questions(request(folder, *records, **more))


def made(folder: Path, *records: Any, by: PreTrainedTokenizerBase | None = None, **more: Any) -> Inputs:
    known = facts(vocab_size=more.pop("vocab_size", 100), max_position_embeddings=more.pop("limit", 512))
    return prepare(request(folder, *records, **more), by or tokenizer(), known, {})


def ids(words: str) -> tuple[int, ...]:
    return tuple(IDS[word] for word in words.split())


def letters(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters and of the joined ones that are named."""
    words = [*"abcdef ", *("".join(pair) for pair in merges)]
    vocabulary = {word: number for number, word in enumerate(words)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges))))


class TestForms:
    def test_every_task_has_a_form(self) -> None:
        assert list(TASKS) == list(FORMS)

    @pytest.mark.parametrize("name", ["question", "context"])
    def test_a_plain_line_is_read_as_it_is_written(self, tmp_path: Path, name: str) -> None:
        (found,) = questions(tmp_path, {name: "A baby cat is a", "choices": [" kitten", "puppy "], "label": 0})
        assert (("A baby cat is a",) * 2, (" kitten", " puppy"), 0) == (found.contexts, found.options, found.right)

    @pytest.mark.parametrize("end", ["\n", "  ", "\u00a0"])
    def test_white_space_at_the_end_of_a_question_stands_before_the_option(self, tmp_path: Path, end: str) -> None:
        (found,) = questions(tmp_path, {**PLAIN, "question": f"Q:{end}"})
        assert (("Q:", "Q:"), (f"{end}fox", f"{end}dog")) == (found.contexts, found.options)

    @pytest.mark.parametrize(
        ("written", "right"),
        [({"answer": True}, 1), ({"answer": False}, 0), ({"label": 1}, 1), ({"label": 0}, 0)],
    )
    def test_boolq(self, tmp_path: Path, written: dict[str, Any], right: int) -> None:
        record = {"passage": "Snow is white.", "question": "is snow white", "title": "Snow", **written}
        (found,) = questions(tmp_path, record, task="boolq")
        assert "Snow is white.\nQuestion: is snow white?\nAnswer:" == found.contexts[0]
        assert ((" no", " yes"), right) == (found.options, found.right)

    def test_a_question_mark_of_boolq_is_not_doubled(self, tmp_path: Path) -> None:
        (found,) = questions(tmp_path, {"passage": "P.", "question": "is it? ", "answer": True}, task="boolq")
        assert "P.\nQuestion: is it?\nAnswer:" == found.contexts[0]

    def test_piqa(self, tmp_path: Path) -> None:
        record = {"goal": "To open a tin", "sol1": "use a spoon", "sol2": "use a tin opener", "label": 1}
        (found,) = questions(tmp_path, record, task="piqa")
        assert ("Question: To open a tin\nAnswer:",) * 2 == found.contexts
        assert ((" use a spoon", " use a tin opener"), 1) == (found.options, found.right)

    def test_winogrande_scores_the_text_after_the_blank(self, tmp_path: Path) -> None:
        record = {"sentence": "The cup fell off _ 's edge. ", "option1": "the box", "option2": "it", "answer": "2"}
        (found,) = questions(tmp_path, record, task="winogrande")
        assert ("The cup fell off the box", "The cup fell off it") == found.contexts
        assert ((" 's edge.", " 's edge."), 1) == (found.options, found.right)

    @pytest.mark.parametrize(
        "record",
        [
            {"question": "What is ice?", "choices": {"text": ["fire", "water"], "label": ["A", "B"]}},
            {"question": "What is ice?", "choices": [{"text": "fire", "label": "A"}, {"text": "water", "label": "B"}]},
            {"question": {"stem": "What is ice?", "choices": [{"text": t, "label": k} for t, k in (("fire", "A"), ("water", "B"))]}},
        ],
    )  # fmt: skip
    def test_arc_as_on_the_hub_and_as_in_its_files(self, tmp_path: Path, record: dict[str, Any]) -> None:
        (found,) = questions(tmp_path, {"id": "x", **record, "answerKey": "B"}, task="arc")
        assert ("Question: What is ice?\nAnswer:",) * 2 == found.contexts
        assert ((" fire", " water"), 1) == (found.options, found.right)

    def test_arc_with_numbers_for_labels(self, tmp_path: Path) -> None:
        record = {"question": "Q?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"}
        assert 2 == questions(tmp_path, record, task="arc")[0].right

    def test_skip_and_sequences_count_questions(self, tmp_path: Path) -> None:
        found = questions(tmp_path, *({**PLAIN, "question": f"Q{n}"} for n in range(5)), skip=1, sequences=2)
        assert ["Q1", "Q2"] == [question.contexts[0] for question in found]
        assert [2, 3] == [question.line for question in found]

    def test_blank_lines_count_as_lines_and_as_nothing_else(self, tmp_path: Path) -> None:
        assert [1, 4] == [question.line for question in questions(tmp_path, PLAIN, "", "  ", PLAIN)]


class TestSequences:
    def test_an_option_is_predicted_by_its_question_and_all_but_its_last_token(self, tmp_path: Path) -> None:
        inputs = made(tmp_path, {**PLAIN, "choices": ["brown fox", "dog . a"]})
        assert (ids("The quick brown"), ids("The quick dog .")) == inputs.sequences
        common = {"question": 0, "start": 2, "line": 1}
        assert (
            Choice(**common, option=0, right=False, sequence=0, ids=ids("brown fox"), characters=9),
            Choice(**common, option=1, right=True, sequence=1, ids=ids("dog . a"), characters=7),
        ) == inputs.choices

    def test_options_that_differ_in_their_last_token_share_a_sequence_and_questions_never_do(
        self, tmp_path: Path
    ) -> None:
        inputs = made(tmp_path, PLAIN, {**PLAIN, "choices": ["fox", "lazy dog", "a"]})
        assert (ids("The quick"), ids("The quick"), ids("The quick lazy")) == inputs.sequences
        assert [(0, 0), (0, 0), (1, 1), (1, 2), (1, 1)] == [(one.question, one.sequence) for one in inputs.choices]

    def test_the_first_tokens_follow_the_policy(self, tmp_path: Path) -> None:
        for bos, by, head, told in (
            ("auto", tokenizer(), (), "auto: none added"),
            ("auto", tokenizer(prepends_bos=True), (1,), "auto: <s> at the start of each"),
            ("require", tokenizer(), (1,), "require: <s> at the start of each"),
            ("never", tokenizer(prepends_bos=True), (), "never: none added"),
        ):
            inputs = made(tmp_path, PLAIN, by=by, bos=bos)
            assert ((*head, *ids("The quick")), told) == (inputs.sequences[0], inputs.bos)
            assert len(head) + 2 == inputs.choices[0].start

    def test_special_tokens_at_the_end_are_left_out_and_not_told(self, tmp_path: Path) -> None:
        backend = tokenizer().backend_tokenizer
        special = [("<s>", 1), ("</s>", 2)]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
        by = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
        inputs = made(tmp_path, {**PLAIN, "choices": ["fox", "lazy dog"]}, by=by)
        assert ((1, *ids("The quick")), (1, *ids("The quick lazy"))) == inputs.sequences
        assert "auto: <s> at the start of each" == inputs.bos

    def test_a_written_out_bos_is_not_repeated(self, tmp_path: Path) -> None:
        inputs = made(tmp_path, {**PLAIN, "question": "<s> The quick"}, bos="require")
        assert (1, *ids("The quick")) == inputs.sequences[0]
        assert (3, ids("fox")) == (inputs.choices[0].start, inputs.choices[0].ids)

    def test_what_is_recorded(self, tmp_path: Path) -> None:
        inputs = made(tmp_path, PLAIN, {**PLAIN, "choices": ["fox", "lazy dog"]}, skip=1)
        assert "1 question of q.jsonl, 2 options in 2 x 2 to 3 tokens (skipping 1)" == inputs.description
        assert digest_of(inputs.sequences) == inputs.digest
        assert 2 == count_batches(inputs, 8)

    def test_where_the_end_of_the_question_joins_an_option_all_options_begin_before_it(self, tmp_path: Path) -> None:
        by = letters((" ", "c"), ("b", " c"))
        table = by.get_vocab()
        inputs = made(tmp_path, {"question": "a b", "choices": ["c", "d"], "label": 0}, by=by)
        first, second = inputs.choices
        assert (2, 2) == (first.start, second.start)
        assert ([table["b c"]], [table["b"], table[" "], table["d"]]) == ([*first.ids], [*second.ids])

    def test_where_nothing_is_joined_they_begin_after_the_question(self, tmp_path: Path) -> None:
        by = letters((" ", "c"))
        inputs = made(tmp_path, {"question": "a b", "choices": ["c", "d"], "label": 0}, by=by)
        assert [3, 3] == [choice.start for choice in inputs.choices]

    def test_contexts_that_differ_begin_by_themselves(self, tmp_path: Path) -> None:
        record = {"sentence": "The _ jumps .", "option1": "fox", "option2": "lazy dog", "answer": "1"}
        inputs = made(tmp_path, record, task="winogrande")
        assert [(2, ids("jumps .")), (3, ids("jumps ."))] == [(one.start, one.ids) for one in inputs.choices]


ARC = {"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}
WINOGRANDE = {"sentence": "The _ is.", "option1": "a", "option2": "b", "answer": "1"}


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


class TestFaults:
    @pytest.mark.parametrize(
        ("task", "record", "told"),
        [
            ("plain", "{", "is not JSON"),
            ("plain", "[1]", "is not a JSON object; allowed: one object a line, with the fields of a question"),
            ("plain", without(PLAIN, "question"), "has no field 'question'; it has: choices, label; add it, or name with `task`"),
            ("plain", without(PLAIN, "choices"), "has no field 'choices'"),
            ("plain", without(PLAIN, "label"), "has no field 'label'"),
            ("plain", {**PLAIN, "context": "x"}, "has both 'question' and 'context'"),
            ("plain", {**PLAIN, "question": 3}, "field 'question' in .* is int, not a text"),
            ("plain", {**PLAIN, "question": " \n"}, "the question is empty"),
            ("plain", {**PLAIN, "choices": "fox"}, "field 'choices' in .* is not a list of texts"),
            ("plain", {**PLAIN, "choices": ["fox", 3]}, "field 'choices' in .* is not a list of texts"),
            ("plain", {**PLAIN, "choices": ["fox"], "label": 0}, "field 'choices' in .* has length 1; allowed: 2 options or more"),
            ("plain", {**PLAIN, "choices": ["fox", " "]}, "option 2 is empty; write a text"),
            ("plain", {**PLAIN, "label": 2}, "'label' in .* is 2; allowed: 0..1, the number of the right option"),
            ("plain", {**PLAIN, "label": -1}, "'label' in .* is -1"),
            ("plain", {**PLAIN, "label": True}, "'label' in .* is True"),
            ("plain", {**PLAIN, "label": "1"}, "'label' in .* is '1'"),
            ("plain", {**PLAIN, "question": "\ud800"}, "holds half a surrogate pair"),
            ("boolq", {"passage": "P.", "question": "q", "answer": "yes"}, "'answer' in .* is 'yes'; allowed: true, false"),
            ("boolq", {"passage": "P.", "question": "q"}, "has no field 'answer'"),
            ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": 2}, "'label' in .* is 2; allowed: 0..1"),
            ("piqa", {"goal": "g", "sol1": "a", "label": 1}, "has no field 'sol2' .did you mean 'sol1'..; it has"),
            ("winogrande", {**WINOGRANDE, "sentence": "The a."}, "has 0 blanks; allowed: exactly one '_'"),
            ("winogrande", {**WINOGRANDE, "sentence": "The _ _."}, "has 2 blanks"),
            ("winogrande", {**WINOGRANDE, "sentence": "The _ "}, "has no text after the blank"),
            ("winogrande", {**WINOGRANDE, "answer": ""}, "'answer' in .* is ''; allowed: 1, 2"),
            ("arc", {**ARC, "answerKey": "C"}, "'answerKey' in .* is 'C'; allowed: A, B"),
            ("arc", without(ARC, "choices"), "has no 'choices' with 'text' and 'label'"),
            ("arc", {**ARC, "choices": {"text": ["a", "b"]}}, "has no field 'label'"),
            ("arc", {**ARC, "choices": {"text": ["a", "b", "c"], "label": ["A", "B"]}}, "has 3 texts and 2 labels"),
            ("arc", {**ARC, "question": {"stem": "Q?"}}, "has no 'choices' with 'text' and 'label'"),
        ],
    )  # fmt: skip
    def test_a_fault_of_a_line_is_told_with_its_number(self, tmp_path: Path, task: str, record: Any, told: str) -> None:
        good = {"plain": PLAIN, "boolq": {"passage": "P.", "question": "q", "answer": True}, "arc": ARC}
        good |= {"piqa": {"goal": "g", "sol1": "a", "sol2": "b", "label": 1}, "winogrande": WINOGRANDE}
        with pytest.raises(InputError, match=told) as caught:
            questions(tmp_path, good[task], "", record, task=task)
        assert f"line 3 of {tmp_path / 'q.jsonl'}" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_file_without_questions(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"q.jsonl holds no question"):
            questions(tmp_path, "")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            read_questions(InputsRequest(source="choices", value=("none.jsonl",), folder=str(tmp_path)))

    @pytest.mark.parametrize(
        ("more", "told"),
        [
            ({"sequences": 3}, "q.jsonl has 2 questions, but the probe asks for 3; lower"),
            ({"skip": 2}, "q.jsonl has 2 questions, but the probe asks for 1 after 2 skipped ones"),
        ],
    )
    def test_too_few_questions(self, tmp_path: Path, more: dict[str, int], told: str) -> None:
        with pytest.raises(InputError, match=told):
            questions(tmp_path, PLAIN, PLAIN, **more)

    def test_an_option_that_adds_no_token(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"line 1 of .*: option 2 \('f'\) adds no token to its context"):
            made(tmp_path, {"question": "ab", "choices": ["c", "f"], "label": 0}, by=_deaf_to("f "))

    def test_an_option_with_nothing_before_it(self, tmp_path: Path) -> None:
        record = {"question": "a", "choices": ["c", "d"], "label": 0}
        by = letters((" ", "c"), ("a", " c"))
        with pytest.raises(InputError, match=r"no token stands before option 1, .* or write `bos: require`"):
            made(tmp_path, record, by=by)

    def test_a_question_longer_than_the_model_takes(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"a sequence of 2 tokens is longer .*; leave out the longest question"):
            made(tmp_path, PLAIN, limit=1)

    def test_a_token_of_an_option_that_the_model_does_not_have(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="token id 12 has no row"):
            made(tmp_path, PLAIN, vocab_size=IDS["dog"])


def _deaf_to(characters: str) -> PreTrainedTokenizerFast:
    """A tokenizer that drops some characters."""
    backend = letters().backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Replace(one, "") for one in characters])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


class TestReading:
    def inputs(self, text: str, measure: str = "{kind: accuracy}", defaults: str = "{}") -> InputsRequest:
        file = (
            f"version: 1\nsuite: s\ndefaults: {defaults}\nprobes:\n"
            f"  - {{id: a, claim: c, inputs: {text}, measure: {measure}}}\n"
        )
        return parse_text(file, builtin_registry(), name="x", folder="here")[0].inputs

    def test_a_file_and_its_task(self) -> None:
        found = InputsRequest(source="choices", value=("q.jsonl",), task="arc", sequences=4, folder="here")
        assert found == self.inputs("{choices: q.jsonl, task: arc, sequences: 4}")
        assert "plain" == self.inputs("{choices: q.jsonl}").task

    def test_it_takes_the_place_of_another_source_and_of_its_length(self) -> None:
        defaults = "{inputs: {jsonl: a.jsonl, field: b, length: 8, skip: 1}}"
        found = self.inputs("{choices: q.jsonl}", defaults=defaults)
        assert InputsRequest(source="choices", value=("q.jsonl",), skip=1, folder="here") == found

    def test_another_source_takes_its_place_and_that_of_its_task(self) -> None:
        found = self.inputs("{text: One.}", "{kind: perplexity}", "{inputs: {choices: q.jsonl, task: arc}}")
        assert InputsRequest(source="text", value=("One.",)) == found

    @pytest.mark.parametrize(
        ("text", "measure", "told"),
        [
            ("{choices: q.jsonl, length: 8}", "{kind: accuracy}", "`length` would cut the options of `choices` short"),
            ("{choices: q.jsonl, task: mmlu}", "{kind: accuracy}", "allowed: plain, boolq, piqa, winogrande, arc"),
            ("{choices: q.jsonl, field: b}", "{kind: accuracy}", "`field` belongs to `jsonl`, and the source is `choices`"),
            ("{text: a, task: arc}", "{kind: perplexity}", "`task` belongs to `choices`, and the source is `text`"),
            ("{text: a}", "{kind: accuracy}", "'accuracy' needs inputs of `choices`, and the source here is `text`"),
        ],
    )  # fmt: skip
    def test_faults(self, text: str, measure: str, told: str) -> None:
        with pytest.raises(ProbeFileError, match=told) as caught:
            self.inputs(text, measure)
        assert 1 == len(str(caught.value).splitlines())

    def test_accuracy_of_the_default_inputs_is_refused_too(self) -> None:
        text = "version: 1\nsuite: s\nprobes:\n  - {id: a, claim: c, measure: {kind: accuracy}}\n"
        with pytest.raises(ProbeFileError, match="needs inputs of `choices`, and the source here is `corpus`"):
            parse_text(text, builtin_registry(), name="x")
