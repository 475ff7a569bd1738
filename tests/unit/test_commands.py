"""The console script: each command, what it prints, and with which status it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_reports import ONE
from tiny_checkpoints import save_bert, save_llama

import maprobe
from maprobe.builtin import builtin_registry
from maprobe.commands import main
from maprobe.reading.names import known_checkpoints
from maprobe.reading.schema import build_schema

GOOD = """\
version: 1
suite: s
probes:
  - {id: a, claim: C., measure: {kind: perplexity}}
  - {id: b, claim: C., measure: {kind: finite}}
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; returns its status, what it printed, and what it printed on standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(ONE.to_dict()), encoding="utf-8")
    return path


class TestParser:
    def test_the_version_is_the_package_s(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert (0, f"maprobe {maprobe.__version__}\n") == (ended.value.code, capsys.readouterr().out)

    @pytest.mark.parametrize(
        "arguments", [[], ["chek"], ["check"], ["list", "nothing"], ["doctor"], ["card", "r.json"], ["plots", "r.json"]]
    )
    def test_a_command_line_that_says_too_little_ends_with_2(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        assert (2, "", True) == (ended.value.code, captured.out, captured.err.startswith("usage: maprobe"))


class TestSchema:
    def test_it_is_the_schema_of_what_is_registered_as_json(self, run: Any) -> None:
        status, printed, _ = run("schema")
        assert (0, build_schema(builtin_registry())) == (status, json.loads(printed))
        assert "http://json-schema.org/draft-07/schema#" == json.loads(printed)["$schema"]


class TestCheck:
    def test_good_files_are_counted(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "a.probe.yaml").write_text(GOOD, encoding="utf-8")
        (tmp_path / "b.probe.yml").write_text(GOOD, encoding="utf-8")
        expected = f"{tmp_path}/a.probe.yaml: 2 probes\n{tmp_path}/b.probe.yml: 2 probes\n"
        assert (0, expected, "") == run("check", tmp_path)

    def test_faults_go_to_standard_error_and_the_good_files_are_read_all_the_same(
        self, run: Any, tmp_path: Path
    ) -> None:
        bad = tmp_path / "a.probe.yaml"
        bad.write_text(GOOD.replace("perplexity", "perplexty").replace("id: b", "id: a"), encoding="utf-8")
        (tmp_path / "b.probe.yaml").write_text(GOOD, encoding="utf-8")
        status, printed, errors = run("check", tmp_path)
        assert (1, f"{tmp_path}/b.probe.yaml: 2 probes\n") == (status, printed)
        assert [f"{bad}:4:40", f"{bad}:5:10"] == [line.split(": ")[0] for line in errors.splitlines()]
        assert "(did you mean 'perplexity'?)" in errors

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("none.probe.yaml", "does not exist; name a probe file, or a folder of them"),
            ("", "holds no probe file; they"),
        ],
    )
    def test_where_there_is_nothing_to_check_it_cannot_run(
        self, run: Any, tmp_path: Path, name: str, sentence: str
    ) -> None:
        status, printed, errors = run("check", tmp_path / name)
        assert (2, "", 1) == (status, printed, len(errors.splitlines()))
        assert errors.startswith("maprobe check: ")
        assert sentence in errors

    def test_a_folder_that_is_named_like_a_probe_file_is_one_fault(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "a.probe.yaml").mkdir()
        status, _, errors = run("check", tmp_path)
        assert (1, 1) == (status, len(errors.splitlines()))

    def test_a_binary_file_is_one_fault(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "a.probe.yaml").write_bytes(bytes(range(256)))
        status, _, errors = run("check", tmp_path / "a.probe.yaml")
        assert (1, 1) == (status, len(errors.splitlines()))


class TestList:
    @pytest.mark.parametrize(
        ("what", "names"),
        [
            ("measurements", set(builtin_registry().measurements)),
            ("interventions", set(builtin_registry().interventions)),
            ("operators", set(builtin_registry().operators)),
            ("corpora", set(builtin_registry().corpora)),
            ("checkpoints", set(known_checkpoints())),
        ],
    )
    def test_each_name_stands_beside_what_it_means(self, run: Any, what: str, names: set[str]) -> None:
        status, printed, errors = run("list", what)
        rows = [line.split(None, 1) for line in printed.splitlines()]
        assert (0, names, "") == (status, {name for name, _ in rows}, errors)
        assert all(meaning.strip() for _, meaning in rows)


class TestDoctor:
    def test_the_parts_of_a_model_are_shown_with_route_and_proof(self, run: Any, tmp_path: Path) -> None:
        folder = save_llama(tmp_path / "tiny", with_tokenizer=True)
        status, printed, errors = run("doctor", "--model", folder, "--device", "cpu")
        assert (0, "") == (status, errors)
        assert f"{folder} ({folder})" in printed
        rows = {line.split("  ")[0]: line for line in printed.splitlines()}
        assert "model.layers.0 .. model.layers.2" in rows["blocks"]
        assert "3 blocks, width 16, sequential" in rows["blocks"]
        assert "self_attn" in rows["attention (layers 1-3)"]
        assert "mlp.down_proj" in rows["down projection (layers 1-3)"]
        assert "model.norm" in rows["final norm"]
        proofs = [line for line in printed.split("Proofs")[1].splitlines()[3:] if line]
        assert (8, True) == (len(proofs), all("  proven  " in line for line in proofs))
        assert any(line.startswith("block.in + attention + MLP = block.out (sequential)") for line in proofs)

    def test_an_encoder_needs_no_head(self, run: Any, tmp_path: Path) -> None:
        status, printed, _ = run("doctor", "--model", save_bert(tmp_path / "tiny"), "--device", "cpu")
        assert (0, True) == (status, "post-norm" in printed)

    def test_a_part_that_does_not_stand_its_proof_ends_with_1(self, run: Any, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = save_llama(tmp_path / "tiny") / "model.safetensors"
        tensors = load_file(weights)
        tensors["lm_head.weight"].zero_()  # so that moving the output of a block changes nothing
        save_file(tensors, weights, metadata={"format": "pt"})
        status, printed, _ = run("doctor", "--model", weights.parent, "--device", "cpu")
        assert (1, True) == (status, "BROKEN" in printed)

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--model", "./none"), "maprobe doctor: ./none: there is no such folder"),
            (("--model", "a b"), "maprobe doctor: --model 'a b' is not a checkpoint reference; allowed: "),
        ],
    )
    def test_a_checkpoint_that_cannot_be_had_ends_with_2(
        self, run: Any, arguments: tuple[str, ...], sentence: str
    ) -> None:
        status, printed, errors = run("doctor", *arguments)
        assert (2, "", 1) == (status, printed, len(errors.splitlines()))
        assert errors.startswith(sentence)


class TestCard:
    def test_a_card_is_written_from_a_report(self, run: Any, report: Path, tmp_path: Path) -> None:
        card = tmp_path / "card.md"
        assert (0, f"wrote {card}\n", "") == run("card", report, card)
        (checkpoint,) = ONE.checkpoints
        text = card.read_text(encoding="utf-8")
        assert text.startswith("---\n")
        assert checkpoint["weights_digest"] in text

    def test_a_card_is_refreshed_and_what_a_person_wrote_is_kept(self, run: Any, report: Path, tmp_path: Path) -> None:
        card = tmp_path / "card.md"
        run("card", report, card)
        written = card.read_text(encoding="utf-8").replace("published: []", "published: [by hand]")
        card.write_text(written, encoding="utf-8")
        assert 0 == run("card", report, card)[0]
        assert written == card.read_text(encoding="utf-8")

    def test_a_checkpoint_that_the_report_does_not_hold_is_refused(
        self, run: Any, report: Path, tmp_path: Path
    ) -> None:
        status, _, errors = run("card", report, tmp_path / "card.md", "--checkpoint", "other")
        label = ONE.checkpoints[0]["label"]
        assert (2, f"maprobe card: {report} has the checkpoints {label}; name one with --checkpoint\n") == (
            status,
            errors,
        )
        assert not (tmp_path / "card.md").exists()

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("no JSON", "is not a JSON report: Expecting value"),
            ("[]", "is not a JSON report: it holds no object"),
            ("{}", "is not a JSON report: the data has no key maprobe_report"),
            ('{"maprobe_report": 9}', "is not a JSON report: the data is of version 9"),
            ('{"maprobe_report": 1, "checkpoints": 3}', "is not a JSON report: the property report is damaged"),
        ],
    )
    def test_a_file_that_is_no_report_is_told_in_one_sentence(
        self, run: Any, tmp_path: Path, text: str, sentence: str
    ) -> None:
        (tmp_path / "r.json").write_text(text, encoding="utf-8")
        status, printed, errors = run("card", tmp_path / "r.json", tmp_path / "card.md")
        assert (2, "", 1) == (status, printed, len(errors.splitlines()))
        assert errors.startswith(f"maprobe card: {tmp_path / 'r.json'} {sentence}")

    def test_a_checkpoint_without_a_label_is_damage(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_text(json.dumps({**ONE.to_dict(), "checkpoints": [{}]}), encoding="utf-8")
        status, _, errors = run("card", tmp_path / "r.json", tmp_path / "card.md")
        assert (2, f"maprobe card: {tmp_path / 'r.json'} is not a JSON report: a checkpoint has no label\n") == (
            status,
            errors,
        )

    def test_a_report_that_is_not_there_is_told(self, run: Any, tmp_path: Path) -> None:
        status, _, errors = run("card", tmp_path / "none.json", tmp_path / "card.md")
        assert (2, True) == (status, "none.json is not a JSON report: " in errors)


class TestPlots:
    def test_the_pictures_of_a_report_are_drawn(self, run: Any, report: Path, tmp_path: Path) -> None:
        path = tmp_path / "pics" / "smollm2-135m" / "exists-layerwise.png"
        assert (0, f"picture: {path} (and .svg)\n", "") == run("plots", report, tmp_path / "pics")
        assert path.with_suffix(".svg").exists()

    def test_where_there_is_nothing_to_draw_it_says_what_there_could_be(self, run: Any, tmp_path: Path) -> None:
        path = tmp_path / "r.json"
        path.write_text(json.dumps({**ONE.to_dict(), "verdicts": [], "readings": []}), encoding="utf-8")
        status, printed, errors = run("plots", path, tmp_path / "pics")
        assert (0, "") == (status, errors)
        assert printed.startswith(f"{path} holds nothing that a picture shows: measure ")

    def test_a_reading_without_a_picture_has_a_sentence(self, run: Any, tmp_path: Path) -> None:
        data = ONE.to_dict()
        data["readings"] = [{**data["readings"][0], "absent": "gone", "quantities": {}, "records": []}]
        data["verdicts"] = [{**data["verdicts"][0], "reading": 0}]
        path = tmp_path / "r.json"
        path.write_text(json.dumps(data), encoding="utf-8")
        assert (0, "", "no picture of exists on smollm2-135m: gone\n") == run("plots", path, tmp_path / "pics")

    @pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"maprobe_report": 1}'])
    def test_what_is_no_report_is_told_in_one_sentence(self, run: Any, tmp_path: Path, text: str | None) -> None:
        path = tmp_path / "r.json"
        if text is not None:
            path.write_text(text, encoding="utf-8")
        status, printed, errors = run("plots", path, tmp_path / "pics")
        assert (2, "", 1) == (status, printed, len(errors.splitlines()))
        assert errors.startswith(f"maprobe plots: {path} is not a JSON report: ")

    def test_a_folder_that_is_a_file_is_refused(self, run: Any, report: Path) -> None:
        status, printed, errors = run("plots", report, report)
        assert (2, "") == (status, printed)
        assert f"maprobe plots: pictures cannot be written to {report}: {report} is no folder" in errors

    def test_a_card_links_the_pictures_of_its_report_from_where_it_lies(
        self, run: Any, report: Path, tmp_path: Path
    ) -> None:
        data = json.loads(report.read_text(encoding="utf-8"))
        link = {"checkpoint": "smollm2-135m", "reading": 0, "title": "t", "path": "pics/smollm2-135m/a.png"}
        report.write_text(json.dumps({**data, "pictures": [link]}), encoding="utf-8")
        (tmp_path / "cards").mkdir()
        card = tmp_path / "cards" / "card.md"
        assert 0 == run("card", report, card)[0]
        assert "![t](../pics/smollm2-135m/a.png)" in card.read_text(encoding="utf-8")
