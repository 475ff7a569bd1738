from __future__ import annotations

from dataclasses import replace

import pytest
from hidden_states import facts
from probes_by_hand import MAGNITUDE, PERPLEXITY, REGISTRY, ZERO, case, clause, expect, probe

from maprobe.cases import Case, Condition, InputsRequest, InterveneRequest, MeasureRequest, Override
from maprobe.costs import require_memory
from maprobe.errors import InputError, PlanError
from maprobe.facts import CheckpointFacts
from maprobe.planning import InputSize, Plan, describe, make_plan
from maprobe.reporting.plans import plan_table
from maprobe.settling import settle
from maprobe.sites import LayerRange, TokenSet

MEAN = replace(ZERO, set="mean")


def size(checkpoint: str, inputs: InputsRequest) -> InputSize:
    count = int(inputs.sequences or 1)
    return InputSize(description="text", sequences=count, tokens=8 * count, length=8, batches=count)


def plan(*cases: Case, fact: CheckpointFacts | None = None) -> Plan:
    known = fact or facts()
    settled = [settle(entry, known, REGISTRY) for entry in cases]
    return make_plan(settled, REGISTRY, {entry.checkpoint: known for entry in cases}, size)


def test_measurements_on_the_same_inputs_share_one_pass() -> None:
    found = plan(case(), case(id="b", measure=PERPLEXITY), case(id="c"))
    assert (1, 2, 16) == (found.passes, found.forwards, found.tokens)
    assert (MAGNITUDE, PERPLEXITY) == found.runs[0].measures


def test_the_same_request_written_elsewhere_is_the_same_request() -> None:
    other = replace(InputsRequest(sequences=2, length=8), mark=probe().mark)
    assert 1 == plan(case(), case(id="b", inputs=other)).passes


def test_other_inputs_and_other_checkpoints_are_other_passes() -> None:
    found = plan(case(), case(id="b", inputs=InputsRequest(sequences=3)), case("other"))
    assert ["tiny", "tiny", "other"] == [run.key.checkpoint for run in found.runs]


def test_each_distinct_edit_is_one_pass_after_the_untouched_one() -> None:
    cases = [
        case(measure=PERPLEXITY, intervene=ZERO),
        case(id="b", measure=PERPLEXITY, intervene=ZERO),
        case(id="c", measure=PERPLEXITY, intervene=replace(MEAN, control="none")),
    ]
    found = plan(*cases)
    edits = ["", "massive at first-layer = zero", "control of (massive at first-layer = zero)"]
    assert [*edits, "massive at first-layer = mean"] == [str(run.key.edit or "") for run in found.runs]


def test_the_word_control_none_does_not_make_another_pass_of_the_same_edit() -> None:
    cases = [
        case(measure=PERPLEXITY, intervene=ZERO),
        case(id="b", measure=PERPLEXITY, intervene=replace(ZERO, control="none")),
    ]
    assert 3 == plan(*cases).passes


def test_an_intervention_has_its_entries_located_in_the_untouched_pass() -> None:
    found = plan(case(measure=PERPLEXITY, intervene=ZERO))
    located = MeasureRequest(kind="massive", site="block.out", options=(("at", "first-layer"),))
    assert located in found.runs[0].measures


def test_an_intervention_in_a_layer_of_choice_has_the_entries_of_that_layer_located() -> None:
    found = plan(case(measure=PERPLEXITY, intervene=replace(ZERO, at=7)))
    assert MeasureRequest(kind="massive", site="block.out", options=(("at", 7),)) in found.runs[0].measures
    assert ["", "massive at layer 7 = zero", "control of (massive at layer 7 = zero)"] == [
        str(run.key.edit or "") for run in found.runs
    ]


def test_an_intervention_that_has_to_find_nothing_adds_no_measurement() -> None:
    window = InterveneRequest(
        target="attention-window", at="every-layer", set="", control="sinks", options=(("sinks", 0), ("size", 8))
    )
    found = plan(case(measure=PERPLEXITY, intervene=window))
    assert [(PERPLEXITY,)] * 3 == [run.measures for run in found.runs]
    assert "attention-window sinks=0 size=8 at every-layer" == str(found.runs[1].key.edit)


def test_attention_brings_the_companion_it_leans_on() -> None:
    attention = MeasureRequest(kind="attention.concentration", site="block.attn.probs", options=(("burn_in", 8),))
    assert ["attention.concentration", "massive"] == [m.kind for m in plan(case(measure=attention)).runs[0].measures]


def test_a_probe_that_does_not_apply_costs_nothing() -> None:
    when = (Condition(fact="model_type", operator="eq", bound="gpt2"),)
    found = plan(case(when=when))
    assert 0 == found.passes
    assert "needs model_type = gpt2; here it is llama" == found.cases[0].inapplicable


@pytest.mark.parametrize(
    ("operator", "bound", "applies"),
    [("in", ("gpt2", "llama"), True), ("in", ("gpt2",), False), ("eq", "llama", True)],
)
def test_conditions_compare_with_the_facts(operator: str, bound: object, applies: bool) -> None:
    when = (Condition(fact="model_type", operator=operator, bound=bound),)
    assert applies is not bool(settle(case(when=when), facts(), REGISTRY).inapplicable)


def test_a_condition_on_a_list_holds_if_one_of_its_values_satisfies_it() -> None:
    when = (Condition(fact="architectures", operator="eq", bound="B"),)
    assert not settle(case(when=when), facts(architectures=["A", "B"]), REGISTRY).inapplicable


def test_a_number_is_not_compared_with_a_text() -> None:
    when = (Condition(fact="model_type", operator="gte", bound=3),)
    assert settle(case(when=when), facts(), REGISTRY).inapplicable


def test_the_first_override_whose_conditions_hold_replaces_the_probe() -> None:
    def override(model_type: str, claim: str) -> Override:
        condition = Condition(fact="model_type", operator="eq", bound=model_type)
        return Override(when=(condition,), because=claim, probe=probe(claim=claim))

    overrides = (override("gpt2", "no"), override("llama", "yes"), override("llama", "late"))
    settled = settle(case(overrides=overrides), facts(), REGISTRY)
    assert ("yes", "yes") == (settled.probe.claim, settled.because)


def test_perplexity_of_an_encoder_is_a_fault_and_costs_no_pass() -> None:
    found = plan(case(measure=PERPLEXITY), fact=facts(causal=False, model_type="bert"))
    assert 0 == found.passes
    assert (
        "perplexity needs a causal language model, and tiny (bert) is none; restrict the probe with "
        "`when: {causal: true}`"
    ) == found.cases[0].fault


def test_an_encoder_is_still_searched_for_massive_activations_before_the_fault_is_told() -> None:
    found = plan(case(measure=PERPLEXITY, intervene=ZERO), fact=facts(causal=False))
    assert [("massive",)] == [tuple(measure.kind for measure in run.measures) for run in found.runs]


def test_a_layer_out_of_range_is_a_fault_that_says_what_is_allowed() -> None:
    fault = settle(case(measure=replace(MAGNITUDE, layers=LayerRange(2, 40))), facts(), REGISTRY).fault
    assert (
        "layer 40 is out of range for block.out: this model has 4 blocks; allowed: 0..4, or -4..-1 counted from "
        "the last block"
    ) == fault


def test_inputs_that_cannot_be_made_are_the_fault_of_the_cases_that_ask_for_them() -> None:
    def refuse(checkpoint: str, inputs: InputsRequest) -> InputSize:
        raise InputError("too short")

    settled = [settle(case(), facts(), REGISTRY)]
    found = make_plan(settled, REGISTRY, {"tiny": facts()}, refuse)
    assert ("too short", 0) == (found.cases[0].fault, found.passes)


def test_a_plan_over_the_memory_limit_is_refused_with_the_next_step() -> None:
    found = plan(case(measure=PERPLEXITY))
    require_memory(found, None)
    require_memory(found, 1.0)
    with pytest.raises(
        PlanError, match=r"needs about .* GiB beyond the weights, and --maprobe-memory allows 1e-06 GiB"
    ):
        require_memory(found, 1e-6)


def test_a_plan_is_plain_data() -> None:
    data = plan(case(expect=expect(clause("dims", "lte", 3)))).to_dict()
    assert (1, 2, 16) == (data["passes"], data["forwards"], data["tokens"])
    assert ["magnitude block.out all top=3"] == data["runs"][0]["measures"]


def test_a_measurement_is_described_by_what_sets_it_apart() -> None:
    measure = replace(MAGNITUDE, layers=LayerRange(2, -2), tokens=TokenSet("first"))
    assert "magnitude block.out 2..-2 at first top=3" == describe(measure)
    assert "perplexity" == describe(PERPLEXITY)


def test_an_edit_that_is_learnt_names_its_steps_once_and_its_control_arm_none() -> None:
    noise = InterveneRequest(
        target="noise", at="embeddings", set="", control="random", options=(("deviation", 0.1), ("steps", 30))
    )
    loss = MeasureRequest(kind="loss", site="loss")
    own = InputsRequest(source="own", value=("test",))
    cases = [case(id=name, measure=loss, intervene=noise, inputs=own) for name in "ab"]
    found = plan(*cases, fact=facts(modality="graph", causal=False))
    assert [0, 30, 0] == [run.learning for run in found.runs]
    assert (30, 30) == (found.learning, found.to_dict()["learning"])
    assert "at most 30 steps of learning over all inputs" in plan_table(found.to_dict())
    assert "learning" not in plan_table(plan(case()).to_dict())


@pytest.mark.parametrize(
    ("modality", "measure", "inputs", "reason"),
    [
        ("graph", MAGNITUDE, InputsRequest(), "its inputs are texts (corpus python-docs), and llama takes graphs"),
        ("text", MAGNITUDE, InputsRequest(source="own", value=("test",)), "and llama takes texts, and brings none"),
        ("own", PERPLEXITY, InputsRequest(source="default", value=()), "perplexity is for language models"),
        (
            "own",
            replace(MAGNITUDE, tokens=TokenSet("first")),
            InputsRequest(source="default", value=()),
            "it is about tokens of class first",
        ),
        ("text", MeasureRequest(kind="loss", site="loss"), InputsRequest(), "loss is for models of inputs of its own"),
    ],
)
def test_inputs_of_a_models_own_go_with_such_models_alone(
    modality: str, measure: MeasureRequest, inputs: InputsRequest, reason: str
) -> None:
    settled = settle(case(measure=measure, inputs=inputs), facts(modality=modality), REGISTRY)
    assert reason in settled.inapplicable


def test_a_probe_that_leaves_its_inputs_out_runs_those_that_a_model_brings() -> None:
    settled = settle(case(inputs=InputsRequest(source="default", value=())), facts(modality="own"), REGISTRY)
    assert ("", InputsRequest(source="own", value=("default",))) == (settled.inapplicable, settled.probe.inputs)
