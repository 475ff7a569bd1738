"""``parameters.density``: how many weights of each layer the output hangs on (arXiv:2405.17799, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maprobe.readings import Axis, Quantity, Reading, Scalar
from maprobe.recipes import Batch, FoldContext, MeasurementRecipe, Parameter, QuantitySpec, Tap
from maprobe.sites import ATTRIBUTION

if TYPE_CHECKING:
    import torch

__all__ = ["DENSITY"]

# The bound in the text of the paper, and the two in its code: for models of 32 layers, and for all others.
_GAMMAS = (2e-5, 2e-6, 5e-6)
_ALL = "all"


@dataclass
class _DensityFold:
    context: FoldContext
    # By layer: how many weights exceed each bound, shape (domains, bounds); the first domain is all sequences.
    counts: dict[int, torch.Tensor] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)
    shares: torch.Tensor | None = None

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap(ATTRIBUTION, layer) for layer in self.context.layers)

    @property
    def gammas(self) -> tuple[float, ...]:
        return tuple(float(gamma) for gamma in self.context.request.option("gammas"))  # type: ignore[union-attr]

    @property
    def domains(self) -> tuple[str, ...]:
        return (_ALL, *dict.fromkeys(self.context.groups))

    def observe(self, tap: Tap, value: torch.Tensor, batch: Batch, *, offset: int = 0) -> None:
        del offset
        if self.shares is None:
            self.shares = self._shares(batch, value)
        means = self.shares.to(value) @ value
        import torch

        found = torch.stack([(means > gamma).sum(dim=1) for gamma in self.gammas], dim=1).cpu()
        self.counts[tap.layer] = self.counts.get(tap.layer, 0) + found
        self.weights[tap.layer] = self.weights.get(tap.layer, 0) + value.shape[1]

    def _shares(self, batch: Batch, value: torch.Tensor) -> torch.Tensor:
        """Return what each sequence counts in the mean of each domain, shape (domains, sequences)."""
        groups = [self.context.groups[number] if self.context.groups else "" for number in batch.sequences]
        rows = [[float(domain in (_ALL, group)) for group in groups] for domain in self.domains]
        shares = value.new_tensor(rows)
        return shares / shares.sum(dim=1, keepdim=True)

    def finish(self, companions: Mapping[str, Reading]) -> Reading:
        del companions
        layers = tuple(sorted(self.counts))
        axis = Axis("layer", layers)
        counts = [int(self.counts[layer][0, 0]) for layer in layers]
        shares = [count / self.weights[layer] for count, layer in zip(counts, layers, strict=True)]
        peak = max(range(len(layers)), key=lambda index: shares[index])
        quantities = [
            Quantity(name="density", values=tuple(shares), axes=(axis,)),
            Quantity(name="count", values=tuple(map(float, counts)), axes=(axis,)),
            Quantity(name="peak_layer", values=(float(layers[peak]),)),
            Quantity(name="peak_depth", values=(layers[peak] / self.context.depth,)),
        ]
        for name, share in (("first_share", shares[0]), ("last_share", shares[-1])):
            if shares[peak]:
                quantities.append(Quantity(name=name, values=(share / shares[peak],)))
            else:
                none = f"no weight has a mean attribution above {self.gammas[0]:g}; write a lower bound in `gammas`"
                quantities.append(Quantity(name=name, absent=none))
        return Reading(
            kind="parameters.density",
            quantities={quantity.name: quantity for quantity in quantities},
            records=self._records(layers),
            notes=(f"density, count and what follows from them are for gamma = {self.gammas[0]:g}",),
        )

    def _records(self, layers: tuple[int, ...]) -> tuple[dict[str, Scalar], ...]:
        domains = self.domains if len(self.domains) > 2 else self.domains[:1]  # noqa: PLR2004 - all, and one more
        return tuple(
            {
                "domain": domain,
                "gamma": gamma,
                "layer": layer,
                "count": int(self.counts[layer][row, column]),
                "density": int(self.counts[layer][row, column]) / self.weights[layer],
            }
            for row, domain in enumerate(domains)
            for column, gamma in enumerate(self.gammas)
            for layer in layers
        )


DENSITY = MeasurementRecipe(
    name="parameters.density",
    summary="How many weights of each layer the largest next-token logit hangs on, to first order.",
    sites=(ATTRIBUTION,),
    quantities=(
        QuantitySpec(
            name="density", axes=("layer",), meaning="share of the weights whose mean attribution exceeds gamma"
        ),
        QuantitySpec(name="count", axes=("layer",), unit="weights", meaning="how many these are"),
        QuantitySpec(name="peak_layer", unit="layer", meaning="the layer of the greatest density"),
        QuantitySpec(name="peak_depth", meaning="that layer over the number of blocks"),
        QuantitySpec(name="first_share", meaning="density of the first layer measured over the greatest"),
        QuantitySpec(name="last_share", meaning="density of the last layer measured over the greatest"),
    ),
    parameters=(
        Parameter(
            name="gammas",
            schema={"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 1, "maxItems": 8},
            default=_GAMMAS,
            meaning="the bounds; the quantities are for the first, the records for all",
        ),
    ),
    takes_tokens=False,
    causal=True,
    modality="text",
    start=_DensityFold,
)
