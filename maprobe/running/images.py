"""Images: found in folders, decoded, and made into pixels by a checkpoint's own image processor.

Nothing needs torchvision: transformers' processors that work with Pillow and numpy are used throughout, also where
torchvision is installed, so that the same image gives the same pixels on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from maprobe.errors import InputError, did_you_mean
from maprobe.running.texts import load_corpus
from maprobe.running.vision import layout_of, sides
from maprobe.running.wording import one_line

if TYPE_CHECKING:
    from maprobe.cases import InputsRequest
    from maprobe.recipes import Corpus
    from maprobe.running.vision import Layout

__all__ = ["ImageReader", "ImageSource", "found_images", "pictures_of"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_WITH_PILLOW = "BitImageProcessorPil"
_PROCESSOR = "preprocessor_config.json"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """One image, not decoded yet.

    Attributes:
        name: what it is called.
        place: the same in words that a message can start with.
        open: returns a Pillow image.
        folder: the subfolder it lies in, which is its class where subfolders are classes; else empty.
    """

    name: str
    place: str
    open: Callable[[], Any]
    folder: str = ""


class ImageReader:
    """Makes images into what a checkpoint is called on.

    Args:
        config: the checkpoint's config.
        folder: the folder of its files, with a preprocessor_config.json or without; None for a model in memory.
        label: the checkpoint's label, for messages.
        processor: an image processor that the caller has; None to take the folder's own.
    """

    def __init__(self, config: Any, *, folder: Path | None, label: str, processor: Any = None) -> None:  # noqa: ANN401
        self.label = label
        self.config = config
        self._folder = folder
        self._given = processor

    @cached_property
    def _processor(self) -> tuple[Any, str]:
        """Return the image processor, and what it is in words."""
        pillow()
        if self._given is not None:
            return self._given, f"{type(self._given).__name__} as given"
        if self._folder is not None and (self._folder / _PROCESSOR).is_file():
            return self._stored(self._folder / _PROCESSOR)
        return self._usual()

    def _stored(self, path: Path) -> tuple[Any, str]:
        from transformers import AutoImageProcessor

        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(stated, dict):
                raise TypeError("a JSON object is expected")
            maker: Any = AutoImageProcessor
            processor: Any = maker.from_pretrained(
                path.parent, local_files_only=True, trust_remote_code=False, config=self.config, **_pillow_backend()
            )
        except Exception as error:
            raise InputError(
                f"{path} cannot be used ({one_line(error)}); correct it, or take it away, to have images resized and "
                f"cropped to the size in config.json"
            ) from error
        return processor, "its own image processor"

    def _usual(self) -> tuple[Any, str]:
        """Return the processing of images that is usual for plain vision transformers, at the size of the config."""
        import transformers

        height, width = sides(getattr(self.config, "image_size", None)) or (_SIDE, _SIDE)
        maker: Any = getattr(transformers, _WITH_PILLOW, None) or transformers.BitImageProcessor
        processor = maker(
            size={"shortest_edge": min(height, width)},
            crop_size={"height": height, "width": width},
            resample=3,  # bicubic
            image_mean=list(_MEAN),
            image_std=list(_DEVIATION),
        )
        shape = f"{width} x {height}"
        return processor, f"no {_PROCESSOR}, so resized and cropped to {shape} and normed as ImageNet is"

    @property
    def described(self) -> str:
        """How images are made into pixels, in words."""
        return self._processor[1]

    def pixels(self, source: ImageSource) -> torch.Tensor:
        """Return one image as the processor makes it, shape (channels, height, width), float32.

        Raises:
            InputError: the image cannot be read or processed.
        """
        image = decoded(source)
        try:
            found = self._processor[0](images=image, return_tensors="pt")["pixel_values"]
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{source.place} cannot be processed ({type(error).__name__}: {one_line(error)}); try another image, "
                f"to see whether it or the image processor of {self.label} is at fault"
            ) from error
        pixels = torch.as_tensor(found)
        if pixels.dim() != 4 or len(pixels) != 1:  # noqa: PLR2004 - one image of channels, height and width
            raise InputError(
                f"the image processor of {self.label} makes {tuple(pixels.shape)} of {source.place}; maprobe measures "
                f"models that see an image as one, shape (1, channels, height, width)"
            )
        return pixels[0].float()

    def layout(self, shape: Sequence[int]) -> Layout:
        """Return how the tokens of an image of such pixels, shape (channels, height, width), follow one another.

        Raises:
            InputError: it cannot be told.
        """
        return layout_of(self.config, shape[-2], shape[-1])


def _pillow_backend() -> dict[str, Any]:
    """Return the argument that asks for processors of Pillow and numpy; its name differs between releases."""
    import transformers

    return {"backend": "pil"} if hasattr(transformers, _WITH_PILLOW) else {"use_fast": False}


def pillow() -> Any:  # noqa: ANN401 - a module
    """Return Pillow's module of images.

    Raises:
        InputError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "images are read with the package Pillow, which is not installed; install it with "
            "`pip install 'maprobe[vision]'`"
        ) from None
    return Image


def decoded(source: ImageSource) -> Any:  # noqa: ANN401 - a Pillow image
    """Return an image in RGB, turned the way its EXIF note says.

    Raises:
        InputError: it cannot be read.
    """
    pillow()
    from PIL import ImageOps

    try:
        with source.open() as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{source.place} does not exist any more; put it back, or leave it out") from None
    except Exception as error:  # noqa: BLE001 - a decoder raises whatever it meets in a damaged file
        raise InputError(
            f"{source.place} cannot be read as an image ({type(error).__name__}: {one_line(error)}); leave it out, or "
            f"save it anew as PNG or JPEG"
        ) from None


def found_images(request: InputsRequest) -> list[ImageSource]:
    """Return the images of a folder in the order of their paths, or the files that are named in the order given.

    Raises:
        InputError: a path does not exist or is no image, or a folder holds none.
    """
    base = Path(request.folder)
    if request.labels == "subfolders":
        return _labelled(request, base)
    if len(request.value) == 1 and (base / request.value[0]).is_dir():
        folder = base / request.value[0]
        paths = _images_in(folder)
        if not paths:
            below = any(_images_in(entry) for entry in _folders_in(folder))
            hint = "write `labels: subfolders` to take those of its subfolders" if below else "name another folder"
            raise InputError(f"{folder} holds no image; allowed: {', '.join(SUFFIXES)}; {hint}")
        return [_file(path) for path in paths]
    return [_file(_existing(base / name, request)) for name in request.value]


def _labelled(request: InputsRequest, base: Path) -> list[ImageSource]:
    folder = _existing(base / request.value[0], request, kind="folder")
    if len(request.value) > 1:
        raise InputError("`labels: subfolders` takes one folder, and several paths are named; name the folder above")
    sources = [_file(path, entry.name) for entry in _folders_in(folder) for path in _images_in(entry)]
    if not sources:
        raise InputError(
            f"{folder} has no subfolder with an image in it; allowed: a subfolder of images for each class"
        )
    return sources


def _existing(path: Path, request: InputsRequest, kind: str = "file") -> Path:
    if not path.exists():
        near = did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else [])
        start = request.folder or Path.cwd()
        raise InputError(f"{path} does not exist{near}; paths start from the folder of the probe file, {start}")
    if path.is_dir() != (kind == "folder"):
        hint = (
            "name it alone, without others"
            if path.is_dir()
            else "name the folder that holds a subfolder for each class"
        )
        raise InputError(f"{path} is a {'folder' if path.is_dir() else 'file'}, and a {kind} is expected; {hint}")
    return path


def _folders_in(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)


def _file(path: Path, folder: str = "") -> ImageSource:
    name = f"{folder}/{path.name}" if folder else path.name
    return ImageSource(name=name, place=str(path), open=lambda: pillow().open(path), folder=folder)


def pictures_of(corpus: Corpus) -> list[ImageSource]:
    """Return the pictures of a corpus of images.

    Raises:
        InputError: they cannot be had.
    """
    pictures = load_corpus(corpus)
    if isinstance(pictures, str) or not pictures:
        raise InputError(
            f"corpus {corpus.name} cannot be read: its load function returned {type(pictures).__name__}; allowed: a "
            f"sequence of at least one Picture"
        )

    def opener(pixels: Any) -> Callable[[], Any]:  # noqa: ANN401 - a numpy array
        return lambda: pillow().fromarray(pixels)

    return [
        ImageSource(name=picture.name, place=f"{picture.name} of corpus {corpus.name}", open=opener(picture.pixels))
        for picture in pictures
    ]
