"""Models from Python code: what a factory may return, what of it is measured and edited, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import maprobe
from maprobe.edits import Edit, UntrainedEdit
from maprobe.errors import CheckpointError, DiscoveryError, InterventionError, MaprobeError
from maprobe.progress import Silent
from maprobe.python_models import ModelInput, PythonModel
from maprobe.references import LoadOptions, parse_reference
from maprobe.running.digests import parameters_digest
from maprobe.running.inputs import batches
from maprobe.running.opening import open_source
from maprobe.running.own_inputs import OwnInputs
from maprobe.running.own_models import facts_of_own, held_own
from maprobe.running.recorder import Recorder
from maprobe.running.subjects import Subject, examine

WIDTH, LAYERS = 8, 3
HEAD = "version: 1\nsuite: s\nprobes:\n"


class Layer(nn.Module):
    """A layer that gives out nodes and edges, as a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return nodes x width and edges x width."""
        scores = self.scores(edges)
        return nodes + torch.tanh(self.mix(nodes)) + scores.mean(0), edges + scores


class Net(nn.Module):
    """Predicts two numbers from rows and edges."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.edge_embed = nn.Linear(2, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.out = nn.Linear(WIDTH, 2)
        self.idle = nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return 1 x 2."""
        nodes, scores = self.embed(rows), self.edge_embed(edges)
        self.idle(nodes)
        for layer in self.layers:
            nodes, scores = layer(nodes, scores)
        predicted: torch.Tensor = self.out(nodes.mean(0, keepdim=True))
        return predicted


def net(seed: int = 0) -> Net:
    """A net of fixed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net().eval()


def given(count: int = 5) -> list[ModelInput]:
    """Inputs of unequal size."""
    generator = torch.Generator().manual_seed(1)
    return [
        ModelInput(
            given=(torch.randn(3 + at, 4, generator=generator), torch.randn(2 + at, 2, generator=generator)),
            rows={"token": [f"node {row}" for row in range(3 + at)], "edge": ["single"] * (2 + at)},
        )
        for at in range(count)
    ]


SITES = {"embed.out": "embed", "edge.embed": "edge_embed", "edge.attn": "layers.*.scores", "own.mix": "layers.*.mix"}


def brought(**other: Any) -> PythonModel:
    """The net with its inputs, sites, loss and untrained twin."""
    fields: dict[str, Any] = {
        "module": net(),
        "inputs": given(),
        "sites": SITES,
        "loss": lambda output, value: output.square().mean(),
        "untrained": lambda: net(9),
    }
    return PythonModel(**{**fields, **other})


def subject(model: PythonModel) -> Subject:
    """The model, its parts found and proven."""
    return examine(held_own(model, facts_of_own(model, label="net", reference="net")), {})


def checked(model: PythonModel, tmp_path: Path, probes: str) -> list[maprobe.Verdict]:
    """Verdicts of a probe file on a model in memory."""
    (tmp_path / "p.probe.yaml").write_text(HEAD + probes, encoding="utf-8")
    return list(maprobe.check(model, None, tmp_path).verdicts)


def quantity(verdict: maprobe.Verdict, name: str) -> maprobe.Quantity:
    """A quantity of what a verdict is about."""
    assert verdict.reading is not None, verdict.reason
    return verdict.reading[name]


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module that can be imported, and return its name."""
    names: list[str] = []

    def write(text: str) -> str:
        name = f"factories_{len(names)}_{abs(hash(str(tmp_path)))}"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        names.append(name)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for name in names:
        sys.modules.pop(name, None)


def opened(text: str, **options: Any) -> Any:
    """The source that a reference leads to."""
    settings = LoadOptions(**{"allow_python": True, "device": "cpu", **options})
    return open_source(parse_reference(text, {}), settings, Silent())


def test_every_site_that_is_named_is_read_as_a_hook_on_that_module_reads_it(tmp_path: Path) -> None:
    model = brought()
    seen: list[torch.Tensor] = []
    handle = model.module.layers[1].scores.register_forward_hook(lambda m, a, output: seen.append(output))
    with torch.no_grad():
        for item in model.inputs:  # type: ignore[union-attr]
            model.module(*item.given)
    handle.remove()
    (verdict,) = checked(
        model, tmp_path, "  - {id: a, claim: c, measure: {kind: magnitude, site: edge.attn, layers: 2, top: 1}}\n"
    )
    medians = [value.abs().flatten().median() for value in seen]
    ratios = [float(value.abs().max() / median) for value, median in zip(seen, medians, strict=True)]
    assert max(ratios) == pytest.approx(quantity(verdict, "ratio").values[0], rel=1e-5)
    place = quantity(verdict, "ratio").places[0]
    sequence = ratios.index(max(ratios))
    edge, dim = divmod(int(seen[sequence].abs().argmax()), WIDTH)
    assert (sequence, edge, dim, "edge", "single") == (
        place.sequence,
        place.position,
        place.dim,
        place.unit,
        place.token,
    )


def test_the_residual_stream_is_the_first_tensor_that_a_block_gives_out(tmp_path: Path) -> None:
    model = brought()
    rows, edges = model.inputs[0].given  # type: ignore[index]
    with torch.no_grad():
        nodes, scores = model.module.embed(rows), model.module.edge_embed(edges)
        for layer in model.module.layers:
            nodes, scores = layer(nodes, scores)
    probe = "  - {id: a, claim: c, inputs: {own: default, sequences: 1}, measure: {kind: magnitude, layers: -1}}\n"
    (verdict,) = checked(model, tmp_path, probe)
    assert float(nodes.abs().max()) == pytest.approx(quantity(verdict, "top").values[0], rel=1e-6)


def test_a_site_of_ones_own_has_as_many_layers_as_modules_are_named(tmp_path: Path) -> None:
    model = brought(sites={**SITES, "own.first": ["layers.0.mix", "layers.1.mix"]})
    probes = (
        "  - {id: a, claim: c, measure: {kind: finite, site: own.first}}\n"
        "  - {id: b, claim: c, measure: {kind: finite, site: own.first, layers: 3}}\n"
        "  - {id: c, claim: c, measure: {kind: finite, site: own.none}}\n"
    )
    (tmp_path / "p.probe.yaml").write_text(HEAD + probes, encoding="utf-8")
    found = list(maprobe.check(model, None, tmp_path).verdicts)
    assert (1, 2) == quantity(found[0], "nonfinite").axes[0].labels
    assert "layer 3 is out of range for own.first" in found[1].reason
    assert "this model has 2 modules that its code names for it" in found[1].reason
    assert "no site own.none" in found[2].reason
    assert "own.mix" in found[2].reason


def test_what_is_not_finite_is_found_with_its_row(tmp_path: Path) -> None:
    items = given()
    rows, edges = items[2].given
    items[2] = ModelInput(given=(rows, edges.sign() * 3e38))
    model = brought(inputs=items)
    (verdict,) = checked(
        model,
        tmp_path,
        "  - {id: a, claim: c, measure: {kind: finite, site: edge.attn}, "
        "expect: {every: layers, nonfinite: {eq: 0}}}\n",
    )
    assert all(0 < count <= len(edges) * WIDTH for count in quantity(verdict, "nonfinite").values[1:])
    assert maprobe.Status.FAILED == verdict.status


def test_the_loss_is_the_mean_of_what_the_code_computes_on_each_input(tmp_path: Path) -> None:
    model = brought()
    with torch.no_grad():
        losses = [float(model.module(*item.given).square().mean()) for item in model.inputs]  # type: ignore[union-attr]
    (verdict,) = checked(model, tmp_path, "  - {id: a, claim: c, measure: {kind: loss}}\n")
    assert sum(losses) / len(losses) == pytest.approx(quantity(verdict, "loss").value, rel=1e-6)
    assert max(losses) == pytest.approx(quantity(verdict, "highest").value, rel=1e-6)


def test_untrained_weights_are_measured_and_the_trained_ones_put_back_bit_for_bit(tmp_path: Path) -> None:
    model, twin = brought(), brought(module=net(9))
    before = parameters_digest(model.module)
    own = "  - {id: a, claim: c, measure: {kind: loss}, intervene: {target: untrained}, expect: {ratio: {gt: 0}}}\n"
    (verdict,) = checked(model, tmp_path, own)
    (alone,) = checked(twin, tmp_path, "  - {id: a, claim: c, measure: {kind: loss}}\n")
    assert quantity(alone, "loss").value == quantity(verdict, "edited").value
    assert quantity(verdict, "untouched").value != quantity(verdict, "edited").value
    assert before == parameters_digest(model.module)


@pytest.mark.parametrize(
    ("untrained", "reason"),
    [
        (None, "its own code has to bring it"),
        (lambda: nn.Linear(2, 2), "has other weights than the trained one"),
        (net, "the intervention changed nothing"),
    ],
)
def test_an_untrained_twin_that_is_none_is_refused(tmp_path: Path, untrained: Any, reason: str) -> None:
    own = "  - {id: a, claim: c, measure: {kind: loss}, intervene: {target: untrained}, expect: {ratio: {gt: 0}}}\n"
    (verdict,) = checked(brought(untrained=untrained), tmp_path, own)
    assert maprobe.Status.UNMEASURED == verdict.status
    assert reason in verdict.reason


def test_an_entry_of_any_named_site_can_be_edited() -> None:
    model = brought()
    found = subject(model)
    value = model.inputs[1]  # type: ignore[index]
    inputs = OwnInputs(items=(value,), description="", digest="")
    edits = [Edit(layer=2, sequence=0, position=1, dim=3, value=50.0, site="edge.attn")]
    seen: list[torch.Tensor] = []
    handle = model.module.layers[1].register_forward_hook(lambda m, a, output: seen.append(output[1]))
    rows, edges = value.given
    with torch.no_grad():
        nodes, scores = model.module.embed(rows), model.module.edge_embed(edges)
        nodes, scores = model.module.layers[0](nodes, scores)
        wanted = model.module.layers[1].scores(scores)
        wanted[1, 3] = 50.0
        with Recorder(found.anatomy, [], edits) as recorder:
            for batch in batches(inputs, size=1, device=found.device):
                recorder.run(batch)
    handle.remove()
    torch.testing.assert_close(scores + wanted, seen[0])


def test_an_edit_of_the_stream_arrives_and_one_of_an_unknown_site_is_refused() -> None:
    found = subject(brought())
    inputs = OwnInputs(items=tuple(given(1)), description="", digest="")
    with Recorder(found.anatomy, [], [Edit(layer=1, sequence=0, position=0, dim=0, value=9.0)]) as recorder:
        for batch in batches(inputs, size=1, device=found.device):
            recorder.run(batch)
    with pytest.raises(InterventionError, match="names no module for it"):
        Recorder(
            found.anatomy, [], [Edit(layer=1, sequence=0, position=0, dim=0, value=9.0, site="block.mid")]
        ).__enter__()
    with pytest.raises(InterventionError, match="has to bring it"):
        Recorder(subject(brought(untrained=None)).anatomy, [], [UntrainedEdit()]).__enter__()


def test_what_nothing_depends_on_is_told_and_not_refused() -> None:
    proofs = {proof.name: proof.holds for proof in subject(brought(sites={**SITES, "own.idle": "idle"})).proofs}
    assert proofs["own.idle can be read, and reading it changes nothing"] is True
    assert proofs["a nudge to own.idle changes the output of the model"] is None
    assert proofs["a nudge to edge.attn changes the output of the model"] is True


@pytest.mark.parametrize(
    ("sites", "reason"),
    [
        ({"edge.atn": "layers.*.scores"}, "did you mean 'edge.attn'"),
        ({"edge.attn": "layers.*.score"}, "has no module there"),
        ({"edge.attn": "layer.0.scores"}, "has no module there"),
        ({"edge.attn": []}, "names no module"),
        ({"embed.out": ["embed", "out"]}, "which has one"),
        ({"edge.attn": ["layers.0.scores"], "block.out": "layers.*"}, "modules of different numbers of layers"),
        ({"block.out": "out"}, "did you mean|maps a residual stream|returns"),
    ],
)
def test_sites_that_cannot_be_are_refused_in_one_sentence(sites: dict[str, Any], reason: str) -> None:
    with pytest.raises(DiscoveryError, match=reason) as told:
        subject(brought(sites=sites))
    assert "\n" not in str(told.value)


def test_a_module_that_is_called_twice_cannot_be_a_site() -> None:
    class Twice(Net):
        def forward(self, rows: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            self.idle(self.embed(rows))
            return super().forward(rows, edges)

    with pytest.raises(DiscoveryError, match="own.idle can be read"):
        subject(brought(module=Twice().eval(), sites={"own.idle": "idle"}))


def test_an_input_of_several_sequences_is_refused(tmp_path: Path) -> None:
    class Batched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                value = layer(value)
            return value

    model = PythonModel(module=Batched(), inputs=[ModelInput(given=torch.randn(2, 3, 4))])
    (verdict,) = checked(model, tmp_path, "  - {id: a, claim: c, measure: {kind: magnitude}}\n")
    assert maprobe.Status.UNMEASURED == verdict.status
    assert "an input is one sequence" in verdict.reason


def test_rows_that_are_named_must_be_as_many_as_there_are(tmp_path: Path) -> None:
    items = [ModelInput(given=item.given, rows={"token": ["one"]}) for item in given()]
    (verdict,) = checked(brought(inputs=items), tmp_path, "  - {id: a, claim: c, measure: {kind: magnitude}}\n")
    assert "has words for 1 rows (token), and a site has 3 of them" in verdict.reason


def test_inputs_are_taken_by_name_and_number(tmp_path: Path) -> None:
    model = brought(inputs={"first": given(2), "second": given(4)})
    probes = "".join(
        f"  - {{id: {name}, claim: c, inputs: {inputs}, measure: {{kind: loss}}}}\n"
        for name, inputs in (
            ("a", "{own: second, sequences: 2, skip: 1}"),
            ("b", "{own: third}"),
            ("c", "{own: first, sequences: 3}"),
            ("d", "{corpus: python-docs}"),
        )
    )
    a, b, c, d = checked(model, tmp_path, probes + "  - {id: e, claim: c, measure: {kind: loss}}\n")[:4]
    assert a.reading is not None
    assert a.reading.circumstances is not None
    assert "2 inputs of second (skipping 1)" == a.reading.circumstances.inputs
    assert "brings no inputs named 'third'" in b.reason
    assert "brings 2 inputs named 'first', but the probe asks for 3" in c.reason
    assert (maprobe.Status.NOT_APPLICABLE, True) == (d.status, "its inputs are texts" in d.reason)


def test_the_digest_of_inputs_changes_with_a_number_in_them() -> None:
    from maprobe.cases import InputsRequest
    from maprobe.running.own_inputs import prepare_own

    facts = facts_of_own(brought(), label="net", reference="net")
    request = InputsRequest(source="own", value=("default",))
    one, again, other = given(), given(), given()
    other[2].given[0][0, 0] += 1e-3
    first, second, third = (prepare_own(request, {"default": items}, facts).digest for items in (one, again, other))
    assert first == second
    assert first != third


def test_a_reference_is_run_only_with_leave(factories: Callable[[str], str]) -> None:
    name = factories("raise SystemExit('was run')\n")
    with pytest.raises(CheckpointError, match="pass --maprobe-allow-python if you trust it"):
        opened(f"python:{name}:make", allow_python=False)
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def mak(): pass\n", "has no function 'make'.*did you mean 'mak'"),
        ("def make(): return 3\n", "make returned int; allowed: a torch module, or maprobe.PythonModel"),
        ("def make(): return 1 / 0\n", r"make failed: ZeroDivisionError: division by zero \(factories"),
        ("import nowhere_at_all\n", "importing .* failed: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("1 +\n", "importing .* failed: SyntaxError"),
        (
            (
                "from torch import nn\nimport maprobe\nmake = lambda: "
                "maprobe.PythonModel(module=nn.Linear(2, 2), inputs=[], facts={'depth': 1})\n"
            ),
            "gives a fact 'depth'",
        ),
        (
            (
                "from torch import nn\nimport maprobe\nmake = lambda: "
                "maprobe.PythonModel(module=nn.Linear(2, 2), inputs=[], facts={'modality': 'text'})\n"
            ),
            "brings inputs, and gives the modality 'text'",
        ),
    ],
)
def test_a_factory_that_fails_is_told_in_one_sentence(factories: Callable[[str], str], body: str, reason: str) -> None:
    with pytest.raises(MaprobeError, match=reason) as told:
        opened(f"python:{factories(body)}:make")
    assert "\n" not in str(told.value)


def test_a_module_that_is_not_there_is_told_with_what_to_do() -> None:
    with pytest.raises(CheckpointError, match="there is no module 'nowhere_at_all'; install it, or put its folder"):
        opened("python:nowhere_at_all.models:make")


def test_a_factory_is_called_with_the_text_behind_its_name(factories: Callable[[str], str]) -> None:
    name = factories(
        "import torch, maprobe\n"
        "def make(width):\n"
        "    body = torch.nn.Sequential(*[torch.nn.Linear(int(width), int(width)) for _ in range(2)])\n"
        "    given = torch.ones(3, int(width))\n"
        "    return maprobe.PythonModel(module=body, inputs=[maprobe.ModelInput(given=given)])\n"
    )
    source = opened(f"python:{name}:make:6")
    assert (2, "own") == (source.facts["num_hidden_layers"], source.facts["modality"])
    loaded = source.load(Silent())
    assert 6 == loaded.model[0].weight.shape[0]
    again = source.load(Silent())
    assert again.model is not loaded.model, "the source does not keep the model in memory"
    with pytest.raises(CheckpointError, match="--maprobe-dtype is for checkpoints of transformers"):
        opened(f"python:{name}:make:6", dtype="bfloat16").load(Silent())


@pytest.mark.parametrize("text", ["python:", "python:models", "python:models:", "python:1:make", "python:a..b:make"])
def test_a_reference_that_names_no_function_is_refused(text: str) -> None:
    with pytest.raises(MaprobeError, match="names no Python function; allowed: python:MODULE:FACTORY"):
        parse_reference(text, {})


def test_massive_activations_of_the_stream_are_edited_as_in_any_other_model(tmp_path: Path) -> None:
    model = brought()
    with torch.no_grad():
        model.module.layers[0].scores.bias[2] = 60_000.0
    probe = (
        "  - {id: a, claim: c, measure: {kind: loss}, intervene: {target: massive, set: zero}, control: median, "
        "expect: {ratio: {lt: 0.9}, control.ratio: {between: [0.9, 1.1]}}}\n"
    )
    (verdict,) = checked(model, tmp_path, probe)
    losses = []
    with torch.no_grad():
        for item in model.inputs:  # type: ignore[union-attr]
            rows, edges = item.given
            nodes, scores = model.module.embed(rows), model.module.edge_embed(edges)
            for number, layer in enumerate(model.module.layers):
                nodes, scores = layer(nodes, scores)
                if number == 0:
                    nodes[:, 2] = 0
            losses.append(float(model.module.out(nodes.mean(0, keepdim=True)).square().mean()))
    assert sum(losses) / len(losses) == pytest.approx(quantity(verdict, "edited").value, rel=1e-4)


class Attending(nn.Module):
    """An attention that gives out its map beside what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return 1 x rows x width, and the map, 1 x 1 x rows x rows."""
        scores = self.query(rows) @ self.key(rows).transpose(1, 2)
        probabilities = scores.softmax(-1)
        return probabilities @ rows, probabilities.unsqueeze(1)


class AttentiveBlock(nn.Module):
    """Adds what attention gives."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attending()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of the same shape."""
        added: torch.Tensor = self.attention(rows)[0]
        return rows + added


class Attentive(nn.Module):
    """Two blocks with an attention module each."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AttentiveBlock() for _ in range(2))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return 1 x rows x width."""
        for block in self.blocks:
            rows = block(rows)
        return rows


def test_attention_is_read_where_modules_give_out_their_maps(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        module = Attentive().eval()
        inputs = [ModelInput(given=torch.randn(1, 5, WIDTH)) for _ in range(2)]
    kind = "attention.concentration, tokens: {index: [1]}, burn_in: 2"
    probe = f"  - {{id: a, claim: c, measure: {{kind: {kind}}}}}\n"
    (verdict,) = checked(PythonModel(module=module, inputs=inputs), tmp_path, probe)
    shares = []
    with torch.no_grad():
        for item in inputs:
            rows, layers = item.given, []
            for block in module.blocks:
                layers.append(float(block.attention(rows)[1][0, 0, 2:, 1].mean()))
                rows = block(rows)
            shares.append(layers)
    means = [sum(layer) / len(layer) for layer in zip(*shares, strict=True)]
    assert means == pytest.approx(quantity(verdict, "layer_share").values, rel=1e-5)


def test_a_site_that_cannot_be_read_leaves_the_others_their_numbers(tmp_path: Path) -> None:
    items = given()
    items[1] = ModelInput(given=items[1].given, rows={"edge": ["one"]})
    probes = (
        "  - {id: a, claim: c, measure: {kind: magnitude, site: edge.attn}}\n"
        "  - {id: b, claim: c, measure: {kind: magnitude}}\n"
    )
    (tmp_path / "p.probe.yaml").write_text(HEAD + probes, encoding="utf-8")
    edges, stream = maprobe.check(brought(inputs=items), None, tmp_path).verdicts
    assert "input 1 has words for 1 rows (edge)" in edges.reason
    assert maprobe.Status.PASSED == stream.status


def test_a_factory_may_make_a_model_of_texts_or_of_images(factories: Callable[[str], str], tmp_path: Path) -> None:
    name = factories(
        "import transformers as t\n"
        "def vit():\n"
        "    return t.ViTModel(t.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,"
        " intermediate_size=32, image_size=16, patch_size=4))\n"
        "def llama():\n"
        "    return t.LlamaForCausalLM(t.LlamaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,"
        " intermediate_size=32, vocab_size=64))\n"
    )
    images, texts = opened(f"python:{name}:vit"), opened(f"python:{name}:llama")
    assert ("image", True, {}) == (images.facts["modality"], images.reader is not None, images.own)
    assert ("text", None, True) == (texts.facts["modality"], texts.reader, texts.facts["causal"])
    assert 2 == examine(images.load(Silent()), {}).anatomy.depth == examine(texts.load(Silent()), {}).anatomy.depth
