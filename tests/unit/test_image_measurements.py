"""Every number about images against a few lines of plain torch, on models with and without a planted register."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hidden_states import PlainBatch, context
from tiny_vision import (
    FAMILIES,
    LAYER,
    MASSIVE,
    REGISTER,
    REGISTERS,
    blocks_of,
    dinov2_classifier,
    dinov2_registers,
    picture,
    planted_register,
    save_pictures,
    save_vision,
    vit,
    vit_classifier,
)
from torch import nn

from maprobe.checking import check
from maprobe.errors import MeasurementError
from maprobe.measurements.image_tokens import IMAGE_TOKENS
from maprobe.measurements.token_norms import TOKEN_NORMS
from maprobe.reporting.report import PropertyReport
from maprobe.running.image_inputs import ImageBatch
from maprobe.running.images import ImageReader, found_images
from maprobe.running.vision import Layout
from maprobe.sites import LayerRange
from maprobe.verdicts import Status, Verdict

PROBES = """
version: 1
suite: images
defaults:
  inputs: {images: pictures}
probes:
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    save_pictures(folder / "pictures", 3)
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(("a", "b", "c")):
        save_pictures(folder / "pictures" / name, number + 1)
    return folder


def answers(model: nn.Module, home: Path, *probes: str, batch: int = 1) -> list[Verdict]:
    lines = [f"  - {{id: p{number}, claim: It is so., {probe}}}" for number, probe in enumerate(probes)]
    path = home / "a.probe.yaml"
    path.write_text(PROBES + "\n".join(lines) + "\n")
    report: PropertyReport = check(model, None, path, batch=batch)
    return list(report.verdicts)


def value(verdict: Verdict, name: str) -> float:
    assert verdict.reading is not None, verdict.reason
    return verdict.reading[name].value


def pixels(model: nn.Module, home: Path) -> torch.Tensor:
    from maprobe.cases import InputsRequest

    reader = ImageReader(model.config, folder=None, label="tiny")
    sources = found_images(InputsRequest(source="images", value=(str(home / "pictures"),)))
    return torch.stack([reader.pixels(source) for source in sources])


def streams(model: nn.Module, given: torch.Tensor) -> list[torch.Tensor]:
    """The output of every block, by plain hooks; an autoencoder is shown its patches unmasked and in order."""
    found: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, a, out: found.append(_first(out))) for block in blocks_of(model)]
    options: dict[str, Any] = {}
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0
        options["noise"] = torch.arange(16.0).expand(len(given), -1)
    with torch.inference_mode():
        model(given, **options)
    for handle in handles:
        handle.remove()
    return found


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


class TestMagnitude:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_largest_entry_of_each_layer_is_that_of_plain_torch(self, name: str, home: Path) -> None:
        model = FAMILIES[name]()
        (found, patches) = answers(
            model, home, "measure: {kind: magnitude}", "measure: {kind: magnitude, tokens: patches}", batch=2
        )
        assert found.reading is not None
        assert patches.reading is not None
        skipped = 1 + (REGISTERS if name == "registers" else 0)
        for index, stream in enumerate(streams(model, pixels(model, home))):
            ratios = [float(h.abs().max() / h.abs().flatten().median()) for h in stream]
            assert pytest.approx(max(ratios), rel=1e-4) == found.reading["ratio"].values[index]
            ratios = [float(h[skipped:].abs().max() / h.abs().flatten().median()) for h in stream]
            assert pytest.approx(max(ratios), rel=1e-4) == patches.reading["ratio"].values[index]

    def test_attention_to_the_class_token_is_that_of_eager_maps(self, home: Path) -> None:
        model = vit()
        (found,) = answers(model, home, "measure: {kind: attention.concentration, tokens: class, burn_in: 0}")
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            maps = model(pixels(model, home), output_attentions=True).attentions
        expected = [float(layer[..., 0].mean()) for layer in maps]
        assert found.reading is not None
        assert pytest.approx(expected, rel=1e-4) == found.reading["layer_share"].values


class TestImageTokens:
    MEASURE = "measure: {kind: massive.image_tokens}"

    def test_the_planted_register_is_found(self, home: Path) -> None:
        (found,) = answers(planted_register(), home, f"{self.MEASURE}, expect: {{register: {{eq: 1}}}}")
        assert Status.PASSED is found.status
        assert (3, 1, 1) == tuple(value(found, name) for name in ("tokens", "dims", "image_share"))
        assert (
            {"class": "register", "token": f"register {REGISTER}", "images": 3, "dims": 1},
        ) == found.reading.records
        assert found.reading["wandering"].absent is not None

    def test_its_twin_has_none(self, home: Path) -> None:
        (found,) = answers(planted_register(value=0.0), home, f"{self.MEASURE}, expect: {{register: {{eq: 1}}}}")
        assert (Status.ABSENT, True) == (found.status, "nothing massive here: in layers 1..4" in found.reason), (
            found.reason
        )

    def test_patches_at_different_places_wander(self) -> None:
        # Images of one class token and six patches: two have the entry at one place, the third at another.
        fold = IMAGE_TOKENS.start(context(IMAGE_TOKENS, layers=LayerRange(2, 2), sequences=4))
        layout = Layout(classes=1, registers=0, rows=2, columns=3)
        for image, position in enumerate((4, 6, 6, None)):
            hidden = torch.ones(1, layout.tokens, 8)
            if position is not None:
                hidden[0, position, image % 2] = -5000.0
            fold.observe(fold.taps[0], hidden, ImageBatch(sequences=(image,), given=torch.zeros(1), layout=layout))
        found = fold.finish({})
        assert (3, 1, 2) == tuple(found[name].value for name in ("tokens", "patch", "dims"))
        assert (3 / 4, 1) == (found["image_share"].value, found["tokens_per_image"].value)
        assert pytest.approx(2 / 3) == found["wandering"].value
        rows = [(row["token"], row["images"], row["dims"]) for row in found.records]
        assert [("patch (1, 2)", 2, 2), ("patch (1, 0)", 1, 1)] == rows


class TestTokenNorms:
    def test_norms_are_those_of_plain_torch(self, home: Path) -> None:
        model = planted_register(value=400.0)
        (found, patches) = answers(
            model,
            home,
            "measure: {kind: token.norms}, expect: {some: layers, share: {gt: 0}}",
            "measure: {kind: token.norms, tokens: patches, threshold: 5}",
        )
        assert Status.PASSED is found.status
        for index, stream in enumerate(streams(model, pixels(model, home))):
            norms = stream.norm(dim=-1)
            assert pytest.approx(float(norms.max()), rel=1e-5) == found.reading["largest"].values[index]
            assert pytest.approx(float((norms > 150).float().mean())) == found.reading["share"].values[index]
            own = norms[norms.max(dim=1).values.argmax()]
            assert pytest.approx(float(own.median()), rel=1e-5) == found.reading["median"].values[index]
            patch_norms = norms[:, 1 + REGISTERS :]
            assert pytest.approx(float((patch_norms > 5).float().mean())) == patches.reading["share"].values[index]
        assert (LAYER, 3) == (value(found, "first_layer"), value(found, "layers_high"))
        assert f"register {REGISTER}" == found.reading["largest"].places[LAYER].token

    def test_where_no_token_is_long_the_first_layer_is_absent(self, home: Path) -> None:
        (found,) = answers(
            planted_register(value=0.0), home, "measure: {kind: token.norms}, expect: {first_layer: {gt: 0}}"
        )
        assert Status.ABSENT is found.status
        assert "no token is longer than 150 in layers 1..4; the longest is" in found.reason
        assert 0 == value(found, "layers_high")

    def test_a_norm_that_is_no_number_decides_nothing(self) -> None:
        fold = TOKEN_NORMS.start(context(TOKEN_NORMS, layers=LayerRange(1, 1)))
        hidden = torch.ones(1, 3, 4)
        hidden[0, 1, 2] = math.nan
        fold.observe(fold.taps[0], hidden, PlainBatch(torch.arange(3)[None], (0,)))
        assert math.isnan(fold.finish({})["layers_high"].value)


class TestFeatures:
    EDIT = "measure: {kind: features}, intervene: {target: massive, set: zero}"

    @staticmethod
    def cosines(model: nn.Module, given: torch.Tensor, position: int, dim: int) -> list[float]:
        def zero(module: nn.Module, args: object, output: Any) -> Any:
            new = _first(output).clone()
            new[:, position, dim] = 0.0
            return (new, *output[1:]) if isinstance(output, tuple) else new

        with torch.inference_mode():
            plain = model(given).last_hidden_state[:, 0].double()
            handle = blocks_of(model)[LAYER - 1].register_forward_hook(zero)
            edited = model(given).last_hidden_state[:, 0].double()
            handle.remove()
        return torch.nn.functional.cosine_similarity(plain, edited).tolist()

    def test_zeroing_the_planted_entry_turns_the_features_as_plain_torch_says(self, home: Path) -> None:
        model = planted_register()
        (found,) = answers(model, home, self.EDIT)
        expected = self.cosines(model, pixels(model, home), REGISTER, MASSIVE)
        assert Status.PASSED is found.status, found.reason
        assert pytest.approx(sum(expected) / 3, abs=1e-6) == value(found, "edited")
        assert pytest.approx(1) == value(found, "untouched")
        assert value(found, "edited") < 0.9999
        assert abs(value(found, "control.edited") - 1) < abs(value(found, "edited") - 1)
        assert value(found, "paired.low") <= value(found, "paired.mean") <= value(found, "paired.high") < 0

    def test_without_massive_activations_there_is_nothing_to_edit(self, home: Path) -> None:
        (found,) = answers(planted_register(value=0.0), home, self.EDIT)
        assert Status.ABSENT is found.status

    def test_the_mean_of_the_patches_is_another_feature(self, home: Path) -> None:
        model = planted_register()
        (found,) = answers(model, home, "measure: {kind: features, pooling: patches}")
        with torch.inference_mode():
            patches = model(pixels(model, home)).last_hidden_state[:, 1 + REGISTERS :].mean(dim=1)
        assert pytest.approx(float(patches.norm(dim=1).mean()), rel=1e-5) == value(found, "norm")

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_class_token_is_taken_after_the_final_norm(self, name: str, home: Path) -> None:
        model = FAMILIES[name]()
        (found,) = answers(model, home, "measure: {kind: features}")
        last = streams(model, pixels(model, home))[-1]
        norm = model.post_layernorm if name == "clip" else model.layernorm
        with torch.inference_mode():
            expected = float(norm(last)[:, 0].norm(dim=1).mean())
            if name == "clip":
                pooled = model(pixels(model, home)).pooler_output
                assert pytest.approx(float(pooled.norm(dim=1).mean()), rel=1e-5) == expected
        assert pytest.approx(expected, rel=1e-5) == value(found, "norm")

    def test_vectors_never_reach_the_report(self, home: Path) -> None:
        (found,) = answers(vit(), home, "measure: {kind: features}")
        assert found.reading.kept
        assert "kept" not in found.reading.to_dict()


class TestRegisters:
    FIX = "measure: {kind: features}, intervene: {target: registers, set: mean}"

    def test_means_are_those_of_plain_torch(self, home: Path) -> None:
        model = dinov2_registers()
        (found,) = answers(model, home, "measure: {kind: registers}", batch=3)
        for index, stream in enumerate(streams(model, pixels(model, home))):
            registers = stream[:, 1 : 1 + REGISTERS]
            mean = registers.mean(dim=0)
            spread = (registers - mean).square().sum(dim=(1, 2)).mean() / mean.square().sum()
            assert pytest.approx(float(mean.abs().max()), rel=1e-5) == found.reading["top"].values[index]
            assert pytest.approx(float(mean.norm(dim=1).mean()), rel=1e-5) == found.reading["norm"].values[index]
            assert pytest.approx(float(spread.sqrt()), rel=1e-3, abs=1e-7) == found.reading["variation"].values[index]
        assert REGISTERS == value(found, "registers")

    def test_the_planted_register_is_the_largest(self, home: Path) -> None:
        (found,) = answers(planted_register(), home, "measure: {kind: registers, layers: 2..-1}")
        assert {f"register {REGISTER}"} == {place.token for place in found.reading["top"].places}
        assert {MASSIVE} == {place.dim for place in found.reading["top"].places}

    @staticmethod
    def fixed(model: nn.Module, given: torch.Tensor, positions: list[int], *, zero: bool = False) -> list[float]:
        """The cosine of each class token after overwriting tokens before every block by their means, by plain hooks."""
        inputs: list[torch.Tensor] = []
        blocks = blocks_of(model)
        with torch.inference_mode():
            look = [block.register_forward_pre_hook(lambda m, a: inputs.append(a[0].clone())) for block in blocks]
            plain = model(given).last_hidden_state[:, 0].double()
            for handle in look:
                handle.remove()
            means = [stream[:, positions].mean(dim=0) * (0.0 if zero else 1.0) for stream in inputs]

            def fix(mean: torch.Tensor) -> Any:
                def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                    new = args[0].clone()
                    new[:, positions] = mean
                    return (new, *args[1:])

                return hook

            put = [block.register_forward_pre_hook(fix(mean)) for block, mean in zip(blocks, means, strict=True)]
            edited = model(given).last_hidden_state[:, 0].double()
            for handle in put:
                handle.remove()
        return torch.nn.functional.cosine_similarity(plain, edited).tolist()

    @pytest.mark.parametrize("how", ["mean", "zero"])
    def test_fixing_the_registers_is_what_plain_hooks_do(self, how: str, home: Path) -> None:
        model = planted_register()
        (found,) = answers(model, home, self.FIX.replace("mean", how), batch=2)
        given = pixels(model, home)
        registers = list(range(1, 1 + REGISTERS))
        expected = self.fixed(model, given, registers, zero=how == "zero")
        assert Status.PASSED is found.status, found.reason
        assert pytest.approx(sum(expected) / 3, abs=1e-6) == value(found, "edited")
        first = 1 + REGISTERS
        patches = [first + 2, first + 8, first + 13]
        expected = self.fixed(model, given, patches, zero=how == "zero")
        assert pytest.approx(sum(expected) / 3, abs=1e-6) == value(found, "control.edited")

    def test_the_mean_of_the_planted_register_serves_as_well_and_zeros_do_not(self, home: Path) -> None:
        (mean, zero) = answers(planted_register(), home, self.FIX, self.FIX.replace("mean", "zero"))
        assert value(mean, "edited") > 0.9999
        assert value(zero, "edited") < 0.99

    def test_without_registers_the_question_has_no_object(self, home: Path) -> None:
        (found,) = answers(FAMILIES["dinov2"](), home, self.FIX)
        assert (Status.ABSENT, "this model has no register tokens") == (found.status, found.reason)

    def test_images_of_unequal_size_have_no_control(self, home: Path) -> None:
        from transformers import ViTImageProcessorPil

        folder = home / "unequal"
        folder.mkdir()
        save_pictures(folder / "pictures", 2)
        picture(7, height=64, width=32).save(folder / "pictures" / "7.png")
        path = folder / "a.probe.yaml"
        fix = "  - {id: p, claim: It is so., " + self.FIX
        path.write_text(PROBES + fix + "}\n" + fix.replace("id: p", "id: q") + ", control: none}\n")
        report = check(planted_register(), ViTImageProcessorPil(do_resize=False), path)
        with_control, without = report.verdicts
        assert (Status.UNMEASURED, True) == (
            with_control.status,
            "images here are of different sizes" in with_control.reason,
        )
        assert Status.PASSED is without.status, without.reason


class TestClassification:
    MEASURE = "inputs: {images: pictures, labels: subfolders}, measure: {kind: classification}"

    @pytest.mark.parametrize("make", [vit_classifier, dinov2_classifier])
    def test_accuracy_is_that_of_plain_torch(self, make: Any, classes: Path) -> None:
        model = make()
        (found,) = answers(model, classes, self.MEASURE)
        reader = ImageReader(model.config, folder=None, label="tiny")
        right = []
        for label, name in enumerate(("a", "b", "c")):
            for path in sorted((classes / "pictures" / name).iterdir()):
                from maprobe.cases import InputsRequest

                (source,) = found_images(InputsRequest(source="images", value=(str(path),)))
                with torch.inference_mode():
                    right.append(int(model(reader.pixels(source)[None]).logits.argmax()) == label)
        assert (sum(right) / 6, 6, 1) == tuple(value(found, name) for name in ("accuracy", "images", "top5"))
        assert pytest.approx(1 / 3) == value(found, "chance")

    def test_without_labels_it_is_said_what_to_write(self, home: Path) -> None:
        (found,) = answers(vit_classifier(), home, "measure: {kind: classification}")
        assert (Status.UNMEASURED, True) == (found.status, "write `labels: subfolders` under" in found.reason)

    def test_a_model_without_a_head_says_so(self, classes: Path) -> None:
        model = vit()
        model.config.id2label = {0: "a", 1: "b", 2: "c"}
        (found,) = answers(model, classes, self.MEASURE)
        assert (Status.UNMEASURED, True) == (found.status, "when: {num_classes: {gt: 0}}" in found.reason)

    def test_a_model_without_a_head_is_measured_on_labelled_images_all_the_same(self, classes: Path) -> None:
        probe = "inputs: {images: pictures, labels: subfolders}, measure: {kind: magnitude}"
        (found,) = answers(vit(), classes, probe)
        assert Status.PASSED is found.status, found.reason

    def test_accuracy_is_compared_under_an_edit(self, classes: Path) -> None:
        probe = f"{self.MEASURE}, intervene: {{target: massive, set: zero}}"
        (found,) = answers(vit_classifier(), classes, probe)
        assert Status.ABSENT is found.status, "there is nothing to edit"

    def test_a_stored_classifier_keeps_its_head(self, tmp_path: Path) -> None:
        from tiny_checkpoints import loaded

        found = loaded(save_vision(vit_classifier(5), tmp_path / "model"))
        assert (5, "ViTForImageClassification") == (found.facts["num_classes"], type(found.model).__name__)


class TestModality:
    def test_a_probe_of_texts_does_not_apply_to_a_model_of_images(self, home: Path) -> None:
        (text, tokens, causal) = answers(
            vit(),
            home,
            "inputs: {text: A fox.}, measure: {kind: magnitude}",
            "measure: {kind: massive.tokens}",
            "measure: {kind: perplexity}",
        )
        assert (Status.NOT_APPLICABLE, "its inputs are texts (`text`), and vit takes images") == (
            text.status,
            text.reason,
        )
        assert (Status.NOT_APPLICABLE, "massive.tokens is for models of texts, and vit takes images") == (
            tokens.status,
            tokens.reason,
        )
        assert (Status.UNMEASURED, True) == (causal.status, "needs a causal language model" in causal.reason)

    def test_a_probe_of_images_does_not_apply_to_a_model_of_texts(self, home: Path) -> None:
        from tiny_checkpoints import llama_config, tokenizer
        from transformers import LlamaForCausalLM

        path = home / "b.probe.yaml"
        path.write_text(PROBES + "  - {id: p, claim: It is so., measure: {kind: magnitude}}\n")
        (found,) = check(LlamaForCausalLM(llama_config()), tokenizer(), path).verdicts
        reason = "its inputs are images (`images`), and llama takes texts"
        assert (Status.NOT_APPLICABLE, reason) == (found.status, found.reason)

    def test_without_inputs_a_model_runs_what_goes_with_it(self, tmp_path: Path) -> None:
        path = tmp_path / "a.probe.yaml"
        path.write_text("version: 1\nsuite: s\nprobes:\n  - {id: p, claim: It is so., measure: {kind: magnitude}}\n")
        (found,) = check(vit(), None, path).verdicts
        assert found.reading is not None
        assert found.reading.circumstances is not None
        assert "8 images of 17 tokens of test-images" in found.reading.circumstances.inputs
        assert "BOS" not in str(found.reading.circumstances)


def test_a_token_set_that_the_layout_lacks_is_absent(home: Path) -> None:
    (found,) = answers(vit(), home, "measure: {kind: magnitude, tokens: registers}, expect: {layers_hit: {gt: 0}}")
    assert (Status.ABSENT, "no token of the inputs is of class registers") == (found.status, found.reason)


def test_pooling_by_a_token_that_is_not_there_is_told() -> None:
    from maprobe.measurements.features import FEATURES

    class Bare(PlainBatch):
        def mask(self, tokens: Any) -> torch.Tensor:
            return torch.zeros_like(self.ids, dtype=torch.bool)

    fold = FEATURES.start(context(FEATURES, site="final.norm.out"))
    with pytest.raises(MeasurementError, match="has no token of class class, .*write `pooling: patches`"):
        fold.observe(fold.taps[0], torch.ones(1, 3, 4), Bare(torch.arange(3)[None], (0,)))
