"""``massive.image_tokens``: which tokens of an image carry massive activations: class, register or patch tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.measurements.survey import known, nearer, nothing_massive
from maprobe.readings import Place, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, QuantitySpec, Tap
from maprobe.sites import TokenSet

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGE_TOKENS"]

_KINDS = {"class": TokenSet("class"), "register": TokenSet("registers"), "patch": TokenSet("patches")}


@dataclass
class _ImageTokensFold:
    context: FoldContext
    kinds: dict[tuple[int, int], str] = field(default_factory=dict)
    texts: dict[tuple[int, int], str] = field(default_factory=dict)
    dims: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    nearest: tuple[int, float, float] = (0, 0.0, -1.0)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("block.out", layer) for layer in self.context.layers)

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        for row, sequence in enumerate(batch.sequences):
            found = known(value[row], tap, sequence, self.context.memo)
            if not found.hits:
                self.nearest = nearer(self.nearest, tap.layer, found)
            for entry in found.hits:
                token = (sequence, entry.position)
                self.dims.setdefault(token, set()).add(entry.dim)
                if token not in self.kinds:
                    masks = ((kind, batch.mask(tokens)) for kind, tokens in _KINDS.items())
                    self.kinds[token] = next(kind for kind, mask in masks if bool(mask[row, entry.position]))
                    self.texts[token] = batch.text(row, entry.position)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        if not self.kinds:
            layers = self.context.layers
            return Reading(kind="massive.image_tokens", absent=nothing_massive(layers[0], layers[-1], self.nearest))
        counts = Counter(self.kinds.values())
        images = {sequence for sequence, _ in self.kinds}
        patches = [token for token, kind in self.kinds.items() if kind == "patch"]
        values = {
            "tokens": float(len(self.kinds)),
            **{kind: counts[kind] / len(self.kinds) for kind in _KINDS},
            "tokens_per_image": len(self.kinds) / len(images),
            "image_share": len(images) / self.context.sequences,
            "dims": float(len(set().union(*self.dims.values()))),
        }
        place = next(iter(self.kinds))
        places = (Place(sequence=place[0], position=place[1], token=self.texts[place]),)
        quantities = [Quantity(name=name, values=(value,), places=places) for name, value in values.items()]
        quantities.append(_wandering(patches))
        return Reading(
            kind="massive.image_tokens",
            quantities={quantity.name: quantity for quantity in quantities},
            records=self._records(),
        )

    def _records(self) -> tuple[dict[str, Scalar], ...]:
        """Return one row for each token of a layout that carries one in some image, the commonest first."""
        images: Counter[tuple[str, str]] = Counter((self.kinds[token], self.texts[token]) for token in self.kinds)
        dims: dict[tuple[str, str], set[int]] = {}
        for token, found in self.dims.items():
            dims.setdefault((self.kinds[token], self.texts[token]), set()).update(found)
        order = sorted(images, key=lambda row: (list(_KINDS).index(row[0]), -images[row], row[1]))
        return tuple(
            {"class": kind, "token": text, "images": images[kind, text], "dims": len(dims[kind, text])}
            for kind, text in order
        )


def _wandering(patches: list[tuple[int, int]]) -> Quantity:
    """Say how many different places the patches of several images stand at, per patch."""
    if len({sequence for sequence, _ in patches}) < 2:  # noqa: PLR2004 - one image cannot differ from another
        reason = "fewer than 2 images have a massive activation at a patch, so their places cannot be compared"
        return Quantity(name="wandering", absent=reason)
    return Quantity(name="wandering", values=(len({position for _, position in patches}) / len(patches),))


IMAGE_TOKENS = MeasurementRecipe(
    name="massive.image_tokens",
    summary="Which tokens of an image carry massive activations: class, register or patch tokens.",
    sites=("block.out",),
    quantities=(
        QuantitySpec(name="tokens", unit="tokens", meaning="tokens with a massive activation in some layer"),
        QuantitySpec(name="class", meaning="share of these tokens that are class tokens"),
        QuantitySpec(name="register", meaning="share that are registers"),
        QuantitySpec(name="patch", meaning="share that stand for a patch"),
        QuantitySpec(
            name="tokens_per_image", unit="tokens", meaning="such tokens in an image that has one, in the mean"
        ),
        QuantitySpec(name="image_share", meaning="share of the images that have one"),
        QuantitySpec(name="dims", meaning="number of distinct dims over all these tokens"),
        QuantitySpec(
            name="wandering",
            meaning="different positions of such patches over their number: 1 where no two images share one",
        ),
    ),
    takes_tokens=False,
    modality="image",
    start=_ImageTokensFold,
)
