"""Named corpora: which text each holds, by which protocol it is cut, and what is said where it cannot be had."""

from __future__ import annotations

import argparse
import ast
import inspect
import logging
import subprocess
import sys
import types
import warnings
from pydoc_data.topics import topics

import pytest

from maprobe import corpora
from maprobe.corpora import CORPORA
from maprobe.errors import InputError
from maprobe.recipes import Corpus
from maprobe.registry import Registry

BY_NAME = {corpus.name: corpus for corpus in CORPORA}
HUB = ["wikitext2-sun", "c4-sun", "pg19-sun"]


@pytest.fixture(autouse=True)
def _fresh():
    corpora._joined.cache_clear()
    yield
    corpora._joined.cache_clear()


@pytest.fixture
def hub(monkeypatch):
    """Stand in for ``datasets``; notes each call and answers with numbered texts."""
    calls = []
    hub = types.ModuleType("datasets")
    hub.calls = calls
    hub.rows = lambda: ({"text": f"t{number}"} for number in range(6000))

    def load_dataset(path, name=None, **options):
        calls.append((path, name, options))
        return hub.rows()

    hub.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", hub)
    return hub


def test_all_corpora_can_be_registered_and_say_what_they_are() -> None:
    registry = Registry()
    registry.add(CORPORA, plugin="maprobe")
    assert set(registry.corpora) == {"python-docs", "python-source", "test-images", *HUB}
    assert all(corpus.summary and corpus.protocol for corpus in CORPORA)


def test_python_docs_is_the_topics_in_their_own_order() -> None:
    text = BY_NAME["python-docs"].load()
    assert text == "\n".join(topics.values())
    assert len(text) > 300_000
    assert BY_NAME["python-docs"].load() is text


def test_python_source_is_code_of_the_standard_library_and_none_of_it_is_run() -> None:
    text = BY_NAME["python-source"].load()
    assert {"TextWrapper", "ArgumentParser", "Fraction"} <= {getattr(node, "name", "") for node in ast.parse(text).body}
    assert inspect.getsource(argparse) == text[: len(inspect.getsource(argparse))]
    assert len(text) > 400_000
    command = "import sys; from maprobe.corpora import CORPORA; "
    command += "next(c for c in CORPORA if c.name == 'python-source').load(); print('cmd' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", command], check=True, text=True, capture_output=True)
    assert "False" == ran.stdout.strip()


def test_python_source_says_which_module_has_no_source(monkeypatch) -> None:
    corpora._python_source.cache_clear()
    monkeypatch.setattr(corpora, "_MODULES", "textwrap, sys")
    with pytest.raises(InputError, match="corpus python-source cannot be read: .* the source of the module sys of"):
        BY_NAME["python-source"].load()


def test_a_python_without_its_topics_is_told(monkeypatch) -> None:
    corpora._python_docs.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match="this Python comes without the module"):
        BY_NAME["python-docs"].load()


def test_importing_the_corpora_imports_neither_torch_nor_datasets() -> None:
    code = "import sys, maprobe.corpora; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "sequences", "length", "bos"),
    [
        ("python-docs", 4, 512, "auto"),
        ("wikitext2-sun", "all", 4096, "never"),
        ("c4-sun", 100, 4096, "first"),
        ("pg19-sun", 100, 4096, "first"),
    ],
)
def test_the_defaults_are_those_of_the_protocol(name, sequences, length, bos) -> None:
    corpus: Corpus = BY_NAME[name]
    assert (corpus.sequences, corpus.length, corpus.bos) == (sequences, length, bos)


@pytest.mark.parametrize(
    ("name", "dataset", "config", "split", "streaming", "join", "count"),
    [
        ("wikitext2-sun", "Salesforce/wikitext", "wikitext-2-raw-v1", "test", False, "\n\n", 6000),
        ("c4-sun", "NeelNanda/c4-10k", None, "train", False, " ", 5000),
        ("pg19-sun", "emozilla/pg19", None, "validation", True, " ", 5),
    ],
)
def test_a_hub_corpus_takes_exactly_the_texts_of_its_protocol(
    hub, name, dataset, config, split, streaming, join, count
) -> None:
    assert BY_NAME[name].load() == join.join(f"t{number}" for number in range(count))
    # Nothing else is passed: in particular not the permission to run code from the hub.
    assert hub.calls == [(dataset, config, {"split": split, "streaming": streaming})]


@pytest.mark.parametrize("name", HUB)
def test_a_text_is_fetched_once_in_a_process(hub, name) -> None:
    assert BY_NAME[name].load() is BY_NAME[name].load()
    assert len(hub.calls) == 1


@pytest.mark.parametrize("name", HUB)
def test_a_missing_package_is_told_with_the_next_step(monkeypatch, name) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=rf"corpus {name} needs the package `datasets`.*pip install 'maprobe\[data\]'"):
        BY_NAME[name].load()


@pytest.mark.parametrize("error", [ConnectionError("no route\nat all"), FileNotFoundError("no such dataset")])
@pytest.mark.parametrize("name", HUB)
def test_a_hub_that_does_not_answer_is_told_with_the_next_step(hub, name, error) -> None:
    def fails(*_args, **_options):
        raise error

    hub.load_dataset = fails
    with pytest.raises(InputError, match=f"corpus {name} cannot be read: .* or name a local text") as caught:
        BY_NAME[name].load()
    assert f"{type(error).__name__}: {str(error).splitlines()[0]}; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stream_that_breaks_off_is_told_with_the_next_step(hub) -> None:
    def rows():
        yield {"text": "t0"}
        raise TimeoutError

    hub.rows = rows
    with pytest.raises(InputError, match="failed with TimeoutError: no message"):
        BY_NAME["pg19-sun"].load()


def test_a_failure_is_not_remembered(hub) -> None:
    answers = hub.rows
    hub.rows = lambda: iter(())
    with pytest.raises(InputError, match="holds 0 texts, and its protocol takes 5"):
        BY_NAME["pg19-sun"].load()
    hub.rows = answers
    assert BY_NAME["pg19-sun"].load() == "t0 t1 t2 t3 t4"


@pytest.mark.parametrize("row", [{"content": "t"}, {"text": 1}])
def test_a_dataset_without_texts_is_told(hub, row) -> None:
    hub.rows = lambda: [row] * 6000
    with pytest.raises(InputError, match="has no field `text` of texts"):
        BY_NAME["c4-sun"].load()


def test_warnings_and_log_lines_of_the_hub_are_dropped(hub, caplog) -> None:
    client = logging.getLogger("huggingface_hub")
    answers = hub.rows

    def rows():
        warnings.warn("you are not logged in", UserWarning, stacklevel=1)
        client.warning("retrying")
        return answers()

    hub.rows = rows
    assert BY_NAME["wikitext2-sun"].load().startswith("t0\n\nt1")
    assert not caplog.records
    client.warning("heard again")
    assert caplog.messages == ["heard again"]
