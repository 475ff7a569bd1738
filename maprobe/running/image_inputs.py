"""From the images that a probe asks for to pixels, and to the batches that a model of images is called on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from maprobe.errors import InputError, MeasurementError
from maprobe.running.images import ImageReader, ImageSource, found_images, pictures_of
from maprobe.running.masks import at_positions
from maprobe.running.texts import check_numbers
from maprobe.running.vision import Layout

if TYPE_CHECKING:
    from maprobe.cases import InputsRequest
    from maprobe.facts import CheckpointFacts
    from maprobe.recipes import Choice, Corpus, GradedPair
    from maprobe.sites import TokenSet

__all__ = ["ImageBatch", "ImageInputs", "prepare_images"]

_KINDS = ("class", "registers", "patches")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInputs:
    """Images, ready to be run, and what is recorded of them. They are decoded anew for each pass.

    Attributes:
        sources: the images, one a sequence.
        shapes: of the pixels of each, (channels, height, width).
        layouts: how the tokens of each follow one another.
        description: the inputs in words, for example ``"8 images of photographs"``.
        digest: sha256 of the pixels; see docs/inputs.md.
        reader: makes them into pixels.
        labels: the right class of each, as a number of the checkpoint's classes; empty where no class is named.
    """

    sources: tuple[ImageSource, ...] = field(repr=False)
    shapes: tuple[tuple[int, ...], ...] = field(repr=False)
    layouts: tuple[Layout, ...] = field(repr=False)
    description: str
    digest: str
    reader: ImageReader = field(repr=False, compare=False)
    labels: tuple[int, ...] = field(default=(), repr=False)
    bos: str = ""
    choices: tuple[Choice, ...] = ()
    groups: tuple[str, ...] = ()
    pairs: tuple[GradedPair, ...] = ()

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(source.name for source in self.sources)

    @property
    def alike(self) -> tuple[tuple[int, ...], ...]:
        """For each image, what those that may share a batch have in common."""
        return self.shapes

    @property
    def tokens(self) -> int:
        """Number of tokens of all images."""
        return sum(layout.tokens for layout in self.layouts)

    @property
    def length(self) -> int:
        """Number of tokens of the image that has the most."""
        return max(layout.tokens for layout in self.layouts)

    def batch(self, numbers: tuple[int, ...], device: torch.device) -> ImageBatch:
        """Return the batch of the images of these numbers, which are of one shape.

        Raises:
            InputError: an image cannot be read, or is not of the shape that it had when it was planned.
        """
        pixels = [self.reader.pixels(self.sources[number]) for number in numbers]
        for number, value in zip(numbers, pixels, strict=True):
            if tuple(value.shape) != self.shapes[number]:
                raise InputError(f"{self.sources[number].place} has changed since the passes were planned; run again")
        return ImageBatch(sequences=numbers, given=torch.stack(pixels).to(device), layout=self.layouts[numbers[0]])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageBatch:
    """The images that one forward call carries; the ``Batch`` that folds are shown.

    Attributes:
        sequences: their numbers within the inputs, from 0.
        given: their pixels, shape (images, channels, height, width), on the device of the model.
        layout: how the tokens of each follow one another.
    """

    sequences: tuple[int, ...]
    given: torch.Tensor
    layout: Layout
    _masks: dict[TokenSet, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of images, and of tokens in each."""
        return len(self.sequences), self.layout.tokens

    @property
    def ids(self) -> torch.Tensor:
        """Images have no token ids.

        Raises:
            MeasurementError: always.
        """
        raise MeasurementError("this measurement reads token ids, and images have none; give it inputs of text")

    def mask(self, tokens: TokenSet) -> torch.Tensor:
        """Return which tokens belong to the set: bool, shape (images, tokens), not to be changed.

        Raises:
            MeasurementError: a position lies outside the sequences.
        """
        if tokens not in self._masks:
            positions = self._positions(tokens)
            self._masks[tokens] = at_positions(positions, self.shape, self.given.device, sequence=self.sequences[0])
        return self._masks[tokens]

    def text(self, row: int, position: int) -> str:
        """Return what a token stands for, in words such as ``"patch (5, 12)"``."""
        del row
        return self.layout.text(position)

    def _positions(self, tokens: TokenSet) -> Sequence[int]:
        if tokens.kind in _KINDS:
            return self.layout.positions(tokens.kind)
        if tokens.kind in ("all", "first"):
            return range(self.layout.tokens if tokens.kind == "all" else 1)
        return tokens.positions  # none for the classes of words


def prepare_images(
    request: InputsRequest,
    reader: ImageReader | None,
    facts: CheckpointFacts,
    corpora: Mapping[str, Corpus],
) -> ImageInputs:
    """Find, decode and process the images that a probe asks for.

    Args:
        request: the inputs as asked for.
        reader: the checkpoint's way with images.
        facts: the checkpoint's facts.
        corpora: the registered corpora.

    Raises:
        InputError: they cannot be had, or do not fit the checkpoint.
    """
    if reader is None:
        raise InputError(f"{facts.label} takes no images; restrict the probe with `when: {{modality: image}}`")
    check_numbers(request)
    if request.source == "corpus":
        corpus = corpora[request.value[0]]
        sources, name, usual = pictures_of(corpus), corpus.name, corpus.sequences
    else:
        sources, usual = found_images(request), "all"
        name = request.value[0] if len(request.value) == 1 else f"{len(request.value)} files"
    chosen = _chosen(sources, request, usual if request.sequences is None else request.sequences, name)
    digest = hashlib.sha256()
    shapes = []
    for source in chosen:
        pixels = reader.pixels(source)
        shapes.append(tuple(pixels.shape))
        digest.update(f"{' '.join(map(str, pixels.shape))}\n".encode("ascii"))
        digest.update(pixels.contiguous().numpy().astype("<f4").tobytes())
    layouts = tuple(reader.layout(shape) for shape in shapes)
    count = f"{len(chosen)} image{'' if len(chosen) == 1 else 's'}"
    skipping = f", skipping {request.skip}" if request.skip else ""
    return ImageInputs(
        sources=tuple(chosen),
        shapes=tuple(shapes),
        layouts=layouts,
        description=f"{count} of {_lengths(layouts)} of {name} ({reader.described}{skipping})",
        digest=digest.hexdigest(),
        reader=reader,
        # Without a head there are no classes, and whoever asks for them says so.
        labels=_labels(sources, chosen, reader) if request.labels == "subfolders" and facts["num_classes"] else (),
    )


def _chosen(sources: list[ImageSource], request: InputsRequest, count: object, name: str) -> list[ImageSource]:
    wanted = max(len(sources) - request.skip, 1) if not isinstance(count, int) else count
    if request.skip + wanted > len(sources):
        skipping = f" after {request.skip} skipped ones" if request.skip else ""
        raise InputError(
            f"{name} has {len(sources)} image{'' if len(sources) == 1 else 's'}, but the probe asks for "
            f"{wanted}{skipping}; lower `sequences` or `skip`"
        )
    return sources[request.skip : request.skip + wanted]


def _lengths(layouts: Sequence[Layout]) -> str:
    shortest, longest = min(layout.tokens for layout in layouts), max(layout.tokens for layout in layouts)
    return f"{longest} tokens" if shortest == longest else f"{shortest} to {longest} tokens"


def _labels(sources: Sequence[ImageSource], chosen: Sequence[ImageSource], reader: ImageReader) -> tuple[int, ...]:
    """Return the class of each image chosen, told by the name of its subfolder, or else by the order of all of them."""
    names = {int(number): str(name) for number, name in (getattr(reader.config, "id2label", None) or {}).items()}
    numbers = {name: number for number, name in names.items()}
    folders = sorted({source.folder for source in sources})
    if all(folder in numbers for folder in folders):
        return tuple(numbers[source.folder] for source in chosen)
    if len(folders) == len(names):
        return tuple(folders.index(source.folder) for source in chosen)
    odd = next(folder for folder in folders if folder not in numbers)
    raise InputError(
        f"subfolder {odd!r} is none of the classes of {reader.label}, and there are {len(folders)} subfolders for "
        f"{len(names)} classes; name each subfolder as a class is named in the config's id2label, or have one for each "
        f"class, sorted as the classes are"
    )
