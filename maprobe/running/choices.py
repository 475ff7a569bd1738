"""Multiple-choice questions: read from JSON lines in the forms of published data sets, and made into token sequences.

Each option is predicted by a sequence of its own: its context and, after it, the option. See docs/inputs.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maprobe.cases import InputsRequest
from maprobe.errors import InputError, did_you_mean
from maprobe.recipes import Choice
from maprobe.running.texts import Passage, check_characters, check_numbers, json_lines
from maprobe.running.tokens import Frame, Ids, Vocabulary

__all__ = ["FORMS", "Question", "read_questions", "sequences_of"]

_FEWEST = 2
_BLANK = "_"

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question as it will be put to a model.

    Attributes:
        line: the line of the file that it stands on, from 1.
        place: the same in words that a message can start with.
        contexts: what stands before each option.
        options: the texts whose likelihood is asked for, each with the white space that parts it from its context.
        right: number of the right option, from 0.
    """

    line: int
    place: str
    contexts: tuple[str, ...]
    options: tuple[str, ...]
    right: int


def read_questions(request: InputsRequest) -> list[Question]:
    """Read the questions that a request chooses.

    Raises:
        InputError: the file cannot be read, a line of it is no question of the task, or there are too few of them.
    """
    check_numbers(request)
    form, questions = FORMS[request.task], []
    for line, place, record in json_lines(request):
        if not isinstance(record, dict):
            raise InputError(f"{place} is not a JSON object; allowed: one object a line, with the fields of a question")
        contexts, options, right = form(record, place)
        asked = Question(line=line, place=place, contexts=contexts, options=options, right=right)
        _check(asked)
        questions.append(asked)
    name, skip = request.value[0], request.skip
    if not questions:
        raise InputError(f"{name} holds no question; allowed: at least one line")
    wanted = request.sequences if isinstance(request.sequences, int) else max(len(questions) - skip, 1)
    if skip + wanted > len(questions):
        skipping = f" after {skip} skipped ones" if skip else ""
        there = f"{len(questions)} question{'' if len(questions) == 1 else 's'}"
        raise InputError(f"{name} has {there}, but the probe asks for {wanted}{skipping}; lower `sequences` or `skip`")
    return questions[skip : skip + wanted]


def sequences_of(
    questions: Sequence[Question], vocabulary: Vocabulary, around: Frame
) -> tuple[tuple[Ids, ...], tuple[Choice, ...]]:
    """Return the sequences by which the options are predicted, and the options, both in order.

    Context and option are tokenised as one text. The option's tokens are those after the tokens that this has in
    common with the context tokenised by itself; where options share their context, after those common to all of them,
    so that every option of a question is predicted from the same tokens. A sequence ends before an option's last
    token, which predicts nothing that is asked for.

    Raises:
        InputError: a text cannot be tokenised, an option adds no token, or nothing stands before one.
    """
    sequences: list[Ids] = []
    choices: list[Choice] = []
    for number, question in enumerate(questions):
        rows = [_encoded(context + option, question, vocabulary, around) for context, option in _pairs(question)]
        starts: dict[str, int] = {}
        for context, row in zip(question.contexts, rows, strict=True):
            common = _common(_encoded(context, question, vocabulary, around), row)
            starts[context] = min(common, starts.get(context, common))
        own: dict[Ids, int] = {}
        for option, (row, context) in enumerate(zip(rows, question.contexts, strict=True)):
            start = starts[context]
            _check_tokens(row, start, option, question, vocabulary, around)
            sequence = (*around.prefix, *row[:-1])
            if sequence not in own:
                own[sequence] = len(sequences)
                sequences.append(sequence)
            choices.append(
                Choice(
                    question=number,
                    option=option,
                    right=option == question.right,
                    sequence=own[sequence],
                    start=len(around.prefix) + start,
                    ids=tuple(row[start:]),
                    characters=len(question.options[option].strip()),
                    line=question.line,
                )
            )
    return tuple(sequences), tuple(choices)


def _check_tokens(
    row: Sequence[int], start: int, option: int, question: Question, vocabulary: Vocabulary, around: Frame
) -> None:
    if len(row) <= start:
        raise InputError(
            f"{question.place}: option {option + 1} ({question.options[option].strip()!r}) adds no token to its "
            f"context in the tokenizer of {vocabulary.label}; write another text"
        )
    if not around.prefix and not start:
        raise InputError(
            f"{question.place}: no token stands before option {option + 1}, so there is nothing to predict it from; "
            f"lengthen the question, or write `bos: require`"
        )


def _pairs(question: Question) -> Iterator[tuple[str, str]]:
    return zip(question.contexts, question.options, strict=True)


def _encoded(text: str, question: Question, vocabulary: Vocabulary, around: Frame) -> list[int]:
    ids = vocabulary.encode(text, question.place)
    return ids[1:] if ids and ids[0] == around.bos else ids


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common at the head."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


def _check(question: Question) -> None:
    for context, option in _pairs(question):
        check_characters(Passage(context + option, question.place))
    blank = next((number for number, option in enumerate(question.options, 1) if not option.strip()), None)
    if blank:
        raise InputError(f"{question.place}: option {blank} is empty; write a text")
    if any(not context.strip() for context in question.contexts):
        raise InputError(f"{question.place}: the question is empty; write a text")


# The forms that lines may have. Each returns the contexts, the options and the number of the right one.

_Form = tuple[tuple[str, ...], tuple[str, ...], int]


def _plain(record: Record, place: str) -> _Form:
    if "question" in record and "context" in record:
        raise InputError(f"{place} has both 'question' and 'context', which stand for the same; leave one of them out")
    question = _text(record, "context" if "context" in record else "question", place)
    options = _texts(_field(record, "choices", place), "choices", place)
    return _after(question, options, _index(_field(record, "label", place), "label", len(options), place))


def _boolq(record: Record, place: str) -> _Form:
    asked = _text(record, "question", place).rstrip()
    context = f"{_text(record, 'passage', place)}\nQuestion: {asked.rstrip('?')}?\nAnswer:"
    name = "label" if "label" in record and "answer" not in record else "answer"
    truth = _field(record, name, place)
    if truth not in (False, True):
        raise InputError(f"{name!r} in {place} is {truth!r}; allowed: true, false")
    return _after(context, ("no", "yes"), int(truth))


def _piqa(record: Record, place: str) -> _Form:
    options = tuple(_text(record, name, place) for name in ("sol1", "sol2"))
    context = f"Question: {_text(record, 'goal', place)}\nAnswer:"
    return _after(context, options, _index(_field(record, "label", place), "label", len(options), place))


def _winogrande(record: Record, place: str) -> _Form:
    """Partial scoring: the blank is filled with each option, and the text after it is what is scored."""
    sentence = _text(record, "sentence", place)
    if sentence.count(_BLANK) != 1:
        raise InputError(f"'sentence' in {place} has {sentence.count(_BLANK)} blanks; allowed: exactly one {_BLANK!r}")
    before, after = sentence.split(_BLANK)
    if not after.strip():
        raise InputError(f"'sentence' in {place} has no text after the blank, and that is what is scored; write one")
    contexts = tuple(before + _text(record, name, place).strip() for name in ("option1", "option2"))
    return contexts, (after.rstrip(), after.rstrip()), _named(record, "answer", ("1", "2"), place)


def _arc(record: Record, place: str) -> _Form:
    """Read a row as the data set's files have it (the question within `question`), or as the hub has it."""
    holder = _field(record, "question", place)
    if isinstance(holder, dict):
        question, choices = _text(holder, "stem", place), holder.get("choices")
    else:
        question, choices = _text(record, "question", place), record.get("choices")
    if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        choices = {name: [choice.get(name) for choice in choices] for name in ("text", "label")}
    if not isinstance(choices, dict):
        raise InputError(f"{place} has no 'choices' with 'text' and 'label'; write them as the data set does")
    options = _texts(_field(choices, "text", place), "choices.text", place)
    labels = tuple(str(label) for label in _texts(_field(choices, "label", place), "choices.label", place))
    if len(labels) != len(options):
        raise InputError(f"{place} has {len(options)} texts and {len(labels)} labels under 'choices'; allowed: as many")
    return _after(f"Question: {question}\nAnswer:", options, _named(record, "answerKey", labels, place))


FORMS: Mapping[str, Callable[[Record, str], _Form]] = {
    "plain": _plain,
    "boolq": _boolq,
    "piqa": _piqa,
    "winogrande": _winogrande,
    "arc": _arc,
}


def _after(context: str, options: Sequence[str], right: int) -> _Form:
    """Put one space between context and option; white space that ends the context is taken for it instead.

    It goes to the option, since most tokenizers join a space to the word after it.
    """
    bare = context.rstrip()
    space = context[len(bare) :] or " "
    return (bare,) * len(options), tuple(space + option.strip() if option.strip() else "" for option in options), right


def _field(record: Record, name: str, place: str) -> object:
    if name not in record:
        names = ", ".join(map(str, record)) or "none"
        raise InputError(
            f"{place} has no field {name!r}{did_you_mean(name, record)}; it has: {names}; add it, or name with `task` "
            f"how the lines are written"
        )
    return record[name]


def _text(record: Record, name: str, place: str) -> str:
    value = _field(record, name, place)
    if not isinstance(value, str):
        raise InputError(f"field {name!r} in {place} is {type(value).__name__}, not a text; write a text")
    return value


def _texts(value: object, name: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"field {name!r} in {place} is not a list of texts; write one text for each option")
    if len(value) < _FEWEST:
        raise InputError(f"field {name!r} in {place} has length {len(value)}; allowed: {_FEWEST} options or more")
    return tuple(value)


def _index(value: object, name: str, count: int, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise InputError(f"{name!r} in {place} is {value!r}; allowed: 0..{count - 1}, the number of the right option")
    return value


def _named(record: Record, name: str, labels: Sequence[str], place: str) -> int:
    value = _field(record, name, place)
    if str(value) not in labels:
        raise InputError(f"{name!r} in {place} is {value!r}; allowed: {', '.join(labels)}")
    return labels.index(str(value))
