"""docs/extending.md has every hook as the code has it, and its examples take part in a session as it says."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pages import columns, names, page

import maprobe

# Loaded once and for all: pytester forgets what a session within this one imports, and torch cannot be loaded twice.
import maprobe.checking
from maprobe import edits, hookspecs, recipes
from maprobe.session import COLLECTING_HOOKS

PAGE = page("extending.md")
HOOKS = {name: getattr(hookspecs, name) for name in hookspecs.__all__}
CHECKPOINT = "pytest_maprobe_load_checkpoint"

hooks = pytest.mark.parametrize("name", HOOKS)


def heading(name: str) -> str:
    return f"{name}({', '.join(inspect.signature(HOOKS[name]).parameters)})"


def points(name: str) -> dict[str, str]:
    """The list at the head of a hook's section: what is said under each of its words."""
    text = PAGE.section(heading(name), 2).text.strip("\n").split("\n\n")[0]
    items = re.findall(r"^- \*\*(\w+)\.\*\* (.*(?:\n  .*)*)", text, re.MULTILINE)
    return {word: " ".join(told.split()) for word, told in items}


def python(name: str) -> str:
    return PAGE.section(heading(name), 2).example("python").text


def probe_file(name: str) -> str:
    return PAGE.section(heading(name), 2).example("yaml").text


def first_wins(name: str) -> bool:
    return bool(HOOKS[name].pytest_spec["firstresult"])


class TestHooks:
    def test_every_hook_has_a_section_with_its_very_arguments_and_there_is_no_other(self) -> None:
        told = [section.title for section in PAGE.sections(2) if section.title.startswith("pytest_")]
        assert sorted(map(heading, HOOKS)) == sorted(told)

    def test_the_overview_links_to_every_hook(self) -> None:
        links = dict(re.findall(r"^\| \[`(\w+)`\]\(#([\w-]+)\)", PAGE.text, re.MULTILINE))
        anchors = {name: re.sub(r"[^\w\s-]", "", heading(name)).replace(" ", "-") for name in HOOKS}
        assert anchors == links

    @hooks
    def test_a_section_says_when_with_what_and_what_becomes_of_the_results(self, name: str) -> None:
        arguments = list(inspect.signature(HOOKS[name]).parameters)
        assert ["When", *arguments, "Returns", "Results"] == list(points(name))

    @hooks
    def test_whether_the_first_result_wins_is_told(self, name: str) -> None:
        told = points(name)["Results"]
        assert first_wins(name) == told.startswith("The first result that is not None wins")
        assert (name in COLLECTING_HOOKS) == told.startswith("All are collected")

    @pytest.mark.parametrize("name", COLLECTING_HOOKS)
    def test_a_hook_that_brings_recipes_names_their_type(self, name: str) -> None:
        hints = inspect.get_annotations(HOOKS[name])["return"]
        assert [re.search(r"\[(\w+)\]", hints)[1]] == names(points(name)["Returns"])

    @hooks
    def test_a_section_has_one_example_that_implements_the_hook(self, name: str) -> None:
        code = compile(python(name), heading(name), "exec")
        assert name in code.co_names


class TestValues:
    @pytest.mark.parametrize(
        "kind",
        [
            recipes.MeasurementRecipe,
            recipes.QuantitySpec,
            recipes.Parameter,
            recipes.FoldContext,
            recipes.Choice,
            recipes.GradedPair,
            recipes.Tap,
            recipes.InterventionRecipe,
            edits.Edit,
            edits.TokenEdit,
            edits.WeightEdit,
            edits.RowsEdit,
            edits.AttentionWindow,
            recipes.Operator,
            recipes.Corpus,
            recipes.Architecture,
            recipes.Renderer,
        ],
    )
    def test_a_table_lists_the_fields_of_a_value_with_their_defaults(self, kind: type) -> None:
        def default(field: dataclasses.Field[Any]) -> str:
            if field.default_factory is not dataclasses.MISSING:
                return f"a new {field.default_factory.__name__}"
            return "" if field.default is dataclasses.MISSING else f"`{_quoted(field.default)}`"

        told = columns(PAGE.section(kind.__name__, 3).table(), 0, 1)
        assert [(f"`{field.name}`", default(field)) for field in dataclasses.fields(kind)] == told

    @pytest.mark.parametrize("kind", [recipes.Fold, recipes.Batch])
    def test_a_table_lists_the_members_of_a_protocol(self, kind: type) -> None:
        members = [_member(name, value) for name, value in vars(kind).items() if not name.startswith("_")]
        assert members == [names(cell)[0] for cell in columns(PAGE.section(kind.__name__, 3).table(), 0)]

    def test_everything_that_recipes_are_made_of_is_at_the_top_level(self) -> None:
        told = [section.title for section in PAGE.section("What recipes are made of", 2).sections(3)]
        kinds = {*edits.__all__} - {"AnyEdit"}
        assert sorted({*recipes.__all__} | kinds) == sorted(told)
        assert {*told} <= {*maprobe.__all__}


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _member(name: str, value: object) -> str:
    if isinstance(value, property):
        return name
    assert inspect.isfunction(value)
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in _own(value)]
    return f"{name}{inspect.Signature(parameters)}"


def _own(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [parameter for name, parameter in inspect.signature(function).parameters.items() if name != "self"]


class Session:
    """A session inside this one, on the tiny model that the example of its hook brings."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makepyfile(tiny=python(CHECKPOINT))
        pytester.syspathinsert()

    def write(self, name: str, text: str) -> None:
        path = self.pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *arguments: str, plugins: tuple[object, ...] = ()) -> pytest.RunResult:
        fixed = ("-p", "no:cacheprovider", "-W", "error", "-p", "tiny", "--model", "tiny-llama", "--maprobe-device=cpu")
        return self.pytester.runpytest_inprocess(*fixed, *arguments, plugins=list(plugins))

    def example(self, name: str, *arguments: str, plugins: tuple[object, ...] = ()) -> dict[str, Any]:
        """Run an example with its probe file, all of whose cases must pass, and return the report."""
        if name != CHECKPOINT:
            self.write("conftest.py", python(name))
        self.write("example.probe.yaml", probe_file(name))
        result = self.run("--property-report=report.json", *arguments, plugins=plugins)
        report: dict[str, Any] = json.loads((self.pytester.path / "report.json").read_text(encoding="utf-8"))
        assert ["passed"] * len(report["verdicts"]) == [verdict["status"] for verdict in report["verdicts"]], report
        assert result.ret == pytest.ExitCode.OK
        self.result = result
        return report

    def model(self) -> tuple[Any, Any]:
        """The tiny model and its tokenizer, made anew by the example."""
        space: dict[str, Any] = {}
        exec(compile(python(CHECKPOINT), "tiny.py", "exec"), space)
        return space["tiny_llama"](), space["bytes_tokenizer"]()


@pytest.fixture
def session(pytester: pytest.Pytester) -> Session:
    return Session(pytester)


def reading_of(report: dict[str, Any], probe: str) -> dict[str, Any]:
    (verdict,) = [verdict for verdict in report["verdicts"] if verdict["probe"] == probe]
    reading: dict[str, Any] = report["readings"][verdict["reading"]]
    return reading


class TestExamples:
    def test_a_checkpoint_comes_from_the_hook(self, session: Session) -> None:
        report = session.example(CHECKPOINT)
        (checkpoint,) = report["checkpoints"]
        model, _ = session.model()
        assert (checkpoint["label"], checkpoint["resolved"]) == ("tiny-llama", "in memory (LlamaForCausalLM)")
        assert sum(parameter.numel() for parameter in model.parameters()) == checkpoint["parameters"]

    def test_a_measurement_yields_the_norms_of_the_hidden_states(self, session: Session) -> None:
        reading = reading_of(session.example("pytest_maprobe_measurements"), "grows")
        model, tokenizer = session.model()
        with torch.inference_mode():
            states = [
                model(torch.tensor([tokenizer(text)["input_ids"]]), output_hidden_states=True).hidden_states
                for text in ("Summer is warm. Winter is cold.", "The quick brown fox.")
            ]
        # The last of transformers' hidden states is taken after the final norm.
        expected = [float(torch.cat([state[layer][0] for state in states]).norm(dim=-1).mean()) for layer in (1, 2)]
        norm = reading["quantities"]["norm"]
        assert norm["axes"] == [{"name": "layer", "labels": [1, 2, 3]}]
        assert expected == pytest.approx(norm["values"][:2], rel=1e-5)

    def test_an_intervention_edits_in_both_arms(self, session: Session) -> None:
        quantities = reading_of(session.example("pytest_maprobe_interventions"), "matters-little")["quantities"]
        values = [quantities[name]["values"][0] for name in ("untouched", "edited", "control.edited")]
        assert len(set(values)) == 3, "each arm has a perplexity of its own"

    def test_an_operator_is_used_in_expectations_and_told_in_its_words(self, session: Session) -> None:
        (verdict,) = session.example("pytest_maprobe_expectations")["verdicts"]
        (finding,) = verdict["findings"]
        assert finding["expected"] == "perplexity within a factor 1.5 of 256"
        assert 0 < finding["margin"] < 1

    def test_an_operator_fails_a_case_whose_number_it_refuses(self, session: Session) -> None:
        session.write("conftest.py", python("pytest_maprobe_expectations"))
        session.write("far.probe.yaml", probe_file("pytest_maprobe_expectations").replace("[256, 1.5]", "[2, 1.5]"))
        result = session.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["expected  perplexity within a factor 1.5 of 2*"])

    def test_a_corpus_is_cut_by_its_own_protocol(self, session: Session) -> None:
        reading = reading_of(session.example("pytest_maprobe_inputs"), "on-a-tale")
        circumstances = reading["circumstances"]
        assert (circumstances["inputs"], circumstances["tokens"]) == ("2 x 32 tokens of tale", 64)
        assert circumstances["bos"].startswith("never")

    def test_a_row_of_the_architecture_table_is_what_the_parts_are_taken_from(self, session: Session) -> None:
        seen: list[Any] = []

        class Spy:
            def pytest_maprobe_execute_run(self, subject: Any) -> None:
                seen.append(subject.anatomy)

        session.example("pytest_maprobe_architectures", plugins=(Spy(),))
        (anatomy,) = seen
        assert anatomy.row
        parts = [anatomy.embedding, anatomy.final_norm, anatomy.blocks[0].attention, anatomy.blocks[0].mlp]
        assert all("row for llama" in part.route for part in (*parts, *anatomy.blocks[0].down))
        assert "row for llama" in anatomy.route

    def test_a_row_that_names_a_wrong_part_does_not_stand_the_proof(self, session: Session) -> None:
        session.write("conftest.py", python("pytest_maprobe_architectures").replace('"self_attn"', '"input_layernorm"'))
        session.write("example.probe.yaml", probe_file("pytest_maprobe_architectures"))
        result = session.run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*did not stand the proof*"])

    def test_a_renderer_writes_the_files_of_its_suffix(self, session: Session) -> None:
        session.example("pytest_maprobe_report_renderers", "--property-report=out.txt")
        text = (session.pytester.path / "out.txt").read_text(encoding="utf-8")
        assert f"{'passed':<14} example.probe.yaml::finite[tiny-llama]\n" == text

    def test_a_pass_made_elsewhere_agrees_with_our_own(self, session: Session) -> None:
        elsewhere = reading_of(session.example("pytest_maprobe_execute_run"), "own-loss")
        (session.pytester.path / "conftest.py").unlink()
        session.run("--property-report=ours.json")
        ours = reading_of(json.loads((session.pytester.path / "ours.json").read_text(encoding="utf-8")), "own-loss")
        assert (elsewhere["notes"], ours["notes"]) == (["by the model's own loss"], [])
        for name in ("loss", "targets"):
            assert ours["quantities"][name]["values"] == pytest.approx(elsewhere["quantities"][name]["values"])
        assert ours["circumstances"] == elsewhere["circumstances"]

    def test_a_pass_that_the_hook_declines_is_made_by_maprobe(self, session: Session) -> None:
        session.write("conftest.py", python("pytest_maprobe_execute_run"))
        session.write("example.probe.yaml", probe_file("pytest_maprobe_report_renderers"))
        session.run().assert_outcomes(passed=1)

    def test_an_observer_is_shown_every_verdict(self, session: Session) -> None:
        session.example("pytest_maprobe_verdict")
        lines = session.result.stdout.str().split("held by a narrow margin")[1].splitlines()
        told = [line for line in lines if line.startswith("example.probe.yaml::")]
        assert told == ["example.probe.yaml::just-enough[tiny-llama]: targets 30 (margin 3.4%)"]


class TestErrors:
    def message(self, start: str) -> str:
        """The message that the page shows, as one line."""
        text = PAGE.section("Errors", 2).text
        block = text[text.index(f"    {start}") :].split("\n\n")[0]
        return " ".join(block.split())

    def test_two_plugins_of_one_name_are_both_named(self, session: Session) -> None:
        for name in ("first", "second"):
            session.write(f"{name}.py", python("pytest_maprobe_measurements"))
        session.write("example.probe.yaml", probe_file("pytest_maprobe_measurements"))
        result = session.run("-p", "first", "-p", "second")
        assert result.ret != pytest.ExitCode.OK
        printed = result.stdout.str() + result.stderr.str()
        assert self.message("measurement 'norm'") in printed
        assert "Traceback" not in printed

    def test_our_own_names_are_taken_too(self, session: Session) -> None:
        session.write("conftest.py", python("pytest_maprobe_measurements").replace('"norm"', '"perplexity"'))
        session.write("example.probe.yaml", probe_file("pytest_maprobe_report_renderers"))
        result = session.run()
        assert result.ret != pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["*measurement 'perplexity' is registered twice*"])

    def test_a_plugin_that_arrives_too_late_is_refused_with_the_next_step(self, session: Session) -> None:
        session.write("early/example.probe.yaml", probe_file("pytest_maprobe_report_renderers"))
        session.write("late/conftest.py", python("pytest_maprobe_measurements"))
        session.write("late/example.probe.yaml", probe_file("pytest_maprobe_measurements"))
        result = session.run()
        assert result.ret != pytest.ExitCode.OK
        printed = result.stdout.str() + result.stderr.str()
        told = self.message("plugin '/home/me/suite/late/conftest.py'")
        assert told.replace("/home/me/suite", str(session.pytester.path)) in " ".join(printed.split())
        assert "INTERNALERROR" not in printed

    def test_a_misspelt_hook_is_refused(self, session: Session) -> None:
        session.write("conftest.py", "def pytest_maprobe_measurments():\n    return []\n")
        session.write("example.probe.yaml", probe_file("pytest_maprobe_report_renderers"))
        result = session.run()
        assert result.ret != pytest.ExitCode.OK
        assert "unknown hook 'pytest_maprobe_measurments'" in result.stdout.str() + result.stderr.str()

    def test_a_value_that_is_no_recipe_is_refused_with_the_type_that_is_allowed(self, session: Session) -> None:
        session.write("conftest.py", "def pytest_maprobe_measurements():\n    return ['norm']\n")
        session.write("example.probe.yaml", probe_file("pytest_maprobe_report_renderers"))
        result = session.run()
        assert result.ret != pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["*registers 'norm', which is no recipe; allowed: *maprobe.MeasurementRecipe*"])
