"""Images: found, decoded and processed as the checkpoint wants them, and every fault told in one sentence."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hidden_states import facts
from PIL import Image
from tiny_checkpoints import look
from tiny_vision import SIDE, dinov2_registers, picture, save_pictures, save_vision, vit, vit_classifier

from maprobe.cases import InputsRequest
from maprobe.corpora import CORPORA
from maprobe.drawings import TEST_IMAGES
from maprobe.errors import InputError, MeasurementError
from maprobe.recipes import Corpus, Picture
from maprobe.running.image_inputs import ImageInputs
from maprobe.running.images import ImageReader
from maprobe.running.inputs import batches, count_batches, prepare
from maprobe.sites import TokenSet

CPU = torch.device("cpu")
FACTS = facts(modality="image", model_type="vit", vocab_size=0, num_classes=3)
BY_NAME = {corpus.name: corpus for corpus in CORPORA}


def reader(folder: Path | None = None, model: Any = None) -> ImageReader:
    return ImageReader((model or vit()).config, folder=folder, label="tiny")


def prepared(
    value: str | tuple[str, ...],
    *,
    by: ImageReader | None = None,
    corpora: dict[str, Corpus] | None = None,
    **more: Any,
) -> ImageInputs:
    names = (value,) if isinstance(value, str) else value
    request = InputsRequest(**{"source": "images", "value": names, **more})
    found = prepare(request, None, FACTS, corpora or BY_NAME, by or reader())
    assert isinstance(found, ImageInputs)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pictures(tmp_path / "pictures", 3)


class TestFinding:
    def test_a_folder_gives_its_images_in_the_order_of_their_names(self, folder: Path) -> None:
        (folder / "notes.txt").write_text("no image")
        picture(9).save(folder / "10.JPEG")
        assert ("0.png", "1.png", "10.JPEG", "2.png") == prepared(str(folder)).sequences

    def test_files_are_taken_in_the_order_written(self, folder: Path) -> None:
        names = tuple(str(folder / f"{number}.png") for number in (2, 0))
        assert ("2.png", "0.png") == prepared(names).sequences

    def test_paths_start_from_the_folder_of_the_probe_file(self, folder: Path) -> None:
        assert ("1.png",) == prepared("pictures/1.png", folder=str(folder.parent)).sequences

    def test_sequences_and_skip_count_images(self, folder: Path) -> None:
        found = prepared(str(folder), sequences=1, skip=1)
        assert (("1.png",), f"1 image of 17 tokens of {folder}") == (found.sequences, found.description.split(" (")[0])
        assert "skipping 1)" in found.description

    def test_all_that_are_left_are_taken_where_no_number_is_written(self, folder: Path) -> None:
        assert ("1.png", "2.png") == prepared(str(folder), skip=1, sequences="all").sequences

    def test_an_empty_folder_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no image; allowed: \.bmp, .*; name another folder"):
            prepared(str(tmp_path))

    def test_a_folder_of_classes_is_told(self, folder: Path) -> None:
        with pytest.raises(InputError, match="write `labels: subfolders` to take those of its subfolders"):
            prepared(str(folder.parent))

    def test_a_path_that_does_not_exist_is_told_with_its_neighbour(self, folder: Path) -> None:
        with pytest.raises(
            InputError, match=r"pictures/O.png does not exist \(did you mean '0.png'\?\)|does not exist"
        ):
            prepared(str(folder / "O.png"))

    def test_a_folder_among_files_is_told(self, folder: Path) -> None:
        with pytest.raises(InputError, match="is a folder, and a file is expected; name it alone, without others"):
            prepared((str(folder), str(folder / "0.png")))

    def test_too_few_images_are_told(self, folder: Path) -> None:
        with pytest.raises(InputError, match="has 3 images, but the probe asks for 3 after 1 skipped ones"):
            prepared(str(folder), sequences=3, skip=1)

    def test_a_file_that_is_no_image_is_told(self, folder: Path) -> None:
        (folder / "1.png").write_bytes(b"not a picture")
        with pytest.raises(InputError, match="1.png cannot be read as an image .*; leave it out, or save it anew"):
            prepared(str(folder))

    def test_a_model_of_texts_takes_none(self, folder: Path) -> None:
        with pytest.raises(InputError, match="tiny takes no images"):
            prepare(InputsRequest(source="images", value=(str(folder),)), None, facts(), BY_NAME, None)

    def test_without_pillow_it_is_said_how_to_get_it(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(InputError, match=r"package Pillow, which is not installed; .*'maprobe\[vision\]'"):
            prepared(str(folder))


class TestProcessing:
    def test_the_checkpoints_own_processor_is_used(self, folder: Path, tmp_path: Path) -> None:
        inspected = look(save_vision(vit(), tmp_path / "model"))
        assert inspected.reader is not None
        found = prepared(str(folder / "0.png"), by=inspected.reader)
        assert "its own image processor" in found.description
        (batch,) = batches(found, size=1, device=CPU)
        resized = picture(0).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        expected = (np.asarray(resized).transpose(2, 0, 1) / 255 - 0.5) / 0.5
        assert np.allclose(expected, batch.given[0].numpy(), atol=1e-5)

    def test_without_one_images_are_resized_cropped_and_normed_as_said(self, folder: Path) -> None:
        found = prepared(str(folder / "0.png"))
        assert "no preprocessor_config.json, so resized and cropped to 32 x 32" in found.description
        (batch,) = batches(found, size=1, device=CPU)
        resized = np.asarray(picture(0).resize((38, 32), Image.Resampling.BICUBIC), dtype=np.float64)[:, 3:35]
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        assert np.allclose(((resized / 255 - mean) / deviation).transpose(2, 0, 1), batch.given[0].numpy(), atol=1e-5)

    def test_a_processor_in_memory_is_used(self, folder: Path) -> None:
        from transformers import ViTImageProcessorPil

        given = ImageReader(
            vit().config, folder=None, label="tiny", processor=ViTImageProcessorPil(size={"height": 24, "width": 40})
        )
        found = prepared(str(folder / "0.png"), by=given)
        assert ((3, 24, 40), 1 + 3 * 5) == (found.shapes[0], found.tokens)
        assert "ViTImageProcessorPil as given" in found.description

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_a_processor_that_cannot_be_used_is_told(self, text: str, folder: Path, tmp_path: Path) -> None:
        where = save_vision(vit(), tmp_path / "model")
        (where / "preprocessor_config.json").write_text(text)
        with pytest.raises(InputError, match="preprocessor_config.json cannot be used"):
            prepared(str(folder), by=reader(where))

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
    def test_an_image_of_any_mode_becomes_rgb(self, mode: str, tmp_path: Path) -> None:
        picture(0).convert(mode).save(tmp_path / "odd.png")
        assert (3, SIDE, SIDE) == prepared(str(tmp_path)).shapes[0]

    def test_an_image_is_turned_as_its_note_says(self, tmp_path: Path) -> None:
        note = Image.Exif()
        note[0x0112] = 6  # the camera was held upright: turn by 90 degrees
        picture(0).save(tmp_path / "turned.png", exif=note)
        picture(0).transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
        digests = {prepared(str(tmp_path / name)).digest for name in ("turned.png", "upright.png")}
        assert 1 == len(digests)

    def test_the_digest_is_taken_over_shapes_and_pixels(self, folder: Path) -> None:
        found = prepared(str(folder))
        digest = hashlib.sha256()
        for batch in batches(found, size=1, device=CPU):
            digest.update(b"3 32 32\n" + batch.given[0].numpy().astype("<f4").tobytes())
        assert digest.hexdigest() == found.digest
        assert prepared(str(folder), skip=1).digest != found.digest


class TestBatches:
    def test_images_of_one_size_share_a_batch(self, folder: Path) -> None:
        found = prepared(str(folder))
        assert [(0, 1), (2,)] == [batch.sequences for batch in batches(found, size=2, device=CPU)]
        assert (2, 3 * 17, 17) == (count_batches(found, 2), found.tokens, found.length)

    def test_an_image_that_changed_since_the_plan_is_told(self, folder: Path) -> None:
        from transformers import ViTImageProcessorPil

        loose = ViTImageProcessorPil(do_resize=False)
        found = prepared(str(folder), by=ImageReader(vit().config, folder=None, label="tiny", processor=loose))
        picture(0, height=64).save(folder / "0.png")
        with pytest.raises(InputError, match="0.png has changed since the passes were planned"):
            next(iter(batches(found, size=1, device=CPU)))

    def test_the_token_sets_of_an_image(self, folder: Path) -> None:
        (batch,) = batches(prepared(str(folder / "0.png"), by=reader(model=dinov2_registers())), size=1, device=CPU)

        def positions(tokens: TokenSet) -> list[int]:
            return batch.mask(tokens)[0].nonzero().flatten().tolist()

        assert ([0], [0]) == (positions(TokenSet("class")), positions(TokenSet("first")))
        assert ([1, 2, 3], list(range(4, 20))) == (positions(TokenSet("registers")), positions(TokenSet("patches")))
        assert (list(range(20)), [2, 19]) == (positions(TokenSet()), positions(TokenSet("index", (-1, 2))))
        assert ([], []) == (positions(TokenSet("bos")), positions(TokenSet("delimiter")))
        assert ("register 2", "patch (3, 3)") == (batch.text(0, 2), batch.text(0, 19))
        with pytest.raises(MeasurementError, match="token position 20 is out of range"):
            batch.mask(TokenSet("index", (20,)))

    def test_images_have_no_token_ids(self, folder: Path) -> None:
        (batch,) = batches(prepared(str(folder / "0.png")), size=1, device=CPU)
        with pytest.raises(MeasurementError, match="reads token ids, and images have none"):
            _ = batch.ids


class TestClasses:
    @pytest.fixture
    def classes(self, tmp_path: Path) -> Path:
        for name, count in (("cat", 2), ("ant", 1), ("dog", 1)):
            save_pictures(tmp_path / "classes" / name, count)
        return tmp_path / "classes"

    @staticmethod
    def by(*names: str) -> ImageReader:
        model = vit_classifier(len(names))
        model.config.id2label = dict(enumerate(names))
        return reader(model=model)

    def test_a_subfolder_is_the_class_that_it_is_named_as(self, classes: Path) -> None:
        found = prepared(str(classes), by=self.by("dog", "emu", "cat", "ant"), labels="subfolders")
        assert ("ant/0.png", "cat/0.png", "cat/1.png", "dog/0.png") == found.sequences
        assert (3, 2, 2, 0) == found.labels

    def test_subfolders_of_other_names_are_taken_in_order(self, classes: Path) -> None:
        assert (0, 1, 1, 2) == prepared(str(classes), by=self.by("a", "b", "c"), labels="subfolders").labels

    def test_a_skipped_class_keeps_its_number(self, classes: Path) -> None:
        found = prepared(str(classes), by=self.by("a", "b", "c"), labels="subfolders", skip=1, sequences=1)
        assert (1,) == found.labels

    def test_subfolders_that_are_no_classes_are_told(self, classes: Path) -> None:
        with pytest.raises(
            InputError, match="subfolder 'ant' is none of the classes of tiny, and there are 3 subfolders"
        ):
            prepared(str(classes), by=self.by("a", "b"), labels="subfolders")

    def test_a_folder_without_subfolders_is_told(self, folder: Path) -> None:
        with pytest.raises(InputError, match="has no subfolder with an image in it"):
            prepared(str(folder), by=self.by("a"), labels="subfolders")

    def test_a_file_in_place_of_a_folder_is_told(self, folder: Path) -> None:
        with pytest.raises(InputError, match="is a file, and a folder is expected"):
            prepared(str(folder / "0.png"), by=self.by("a"), labels="subfolders")

    def test_without_labels_nothing_is_known_of_classes(self, folder: Path) -> None:
        assert () == prepared(str(folder)).labels


class TestCorpora:
    def test_the_drawn_pictures_are_the_same_each_time(self) -> None:
        from maprobe.drawings import _picture

        pictures = TEST_IMAGES.load()
        assert 8 == len(pictures)
        assert all(np.array_equal(entry.pixels, _picture(number)) for number, entry in enumerate(pictures))
        assert len({entry.pixels.tobytes() for entry in pictures}) == len(pictures)

    def test_they_fall_off_with_frequency_as_photographs_do(self) -> None:
        # The power of photographs falls about as 1/f^2 (Field 1987): the slope of log amplitude lies around -1.
        slopes = []
        for entry in TEST_IMAGES.load():
            grey = entry.pixels.mean(axis=2)
            power = np.abs(np.fft.fft2(grey - grey.mean()))
            frequency = np.hypot(np.fft.fftfreq(320)[:, None], np.fft.fftfreq(320)[None, :])
            inside = (frequency > 0.01) & (frequency < 0.4)
            slopes.append(np.polyfit(np.log(frequency[inside]), np.log(power[inside] + 1), 1)[0])
        assert -1.6 < np.mean(slopes) < -0.8

    def test_the_corpus_is_run_whole_unless_a_number_is_written(self) -> None:
        assert 8 == len(prepared("test-images", source="corpus").sequences)
        assert ("picture 3",) == prepared("test-images", source="corpus", sequences=1, skip=2).sequences

    @pytest.mark.parametrize(("load", "told"), [(list, "returned list"), (lambda: "text", "returned str")])
    def test_a_corpus_without_pictures_is_told(self, load: Any, told: str) -> None:
        corpus = Corpus(name="mine", summary="", protocol="", load=load, modality="image")
        with pytest.raises(InputError, match=f"corpus mine cannot be read: its load function {told}"):
            prepared("mine", source="corpus", corpora={"mine": corpus})

    def test_a_corpus_of_a_plugin_is_run(self) -> None:
        pixels = np.zeros((40, 40, 3), dtype=np.uint8)
        corpus = Corpus(
            name="mine",
            summary="",
            protocol="",
            load=lambda: [Picture(name="black", pixels=pixels)],
            modality="image",
            sequences="all",
        )
        assert ("black",) == prepared("mine", source="corpus", corpora={"mine": corpus}).sequences
