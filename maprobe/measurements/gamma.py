"""The gamma distribution that is likeliest to have made a sample, and how far it is from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maprobe.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["Fit", "demand_scipy", "fitted"]

# How far below the lowest value the distribution may begin, in standard deviations. Nearer to it the likelihood may
# grow without end, and farther off the distribution is a normal one.
_NEAREST, _FARTHEST = 1e-6, 1e3
_STEPS = 6  # of the search for each power of ten
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A gamma distribution, and how well it goes with values.

    Attributes:
        shape: its shape.
        loc: the value from which on it has a density.
        scale: its scale.
        log_likelihood: mean of the log density at the values, in nats.
        ks: largest distance of the values' distribution function from its own (Kolmogorov-Smirnov, one sample).
    """

    shape: float
    loc: float
    scale: float
    log_likelihood: float
    ks: float


def demand_scipy(kind: str) -> None:
    """Make sure that distributions can be fitted.

    Raises:
        MeasurementError: scipy is not installed.
    """
    try:
        import scipy.special  # noqa: F401
    except ImportError as error:
        raise MeasurementError(
            f"{kind} fits distributions with the package scipy, which cannot be imported ({error}); "
            f"pip install 'maprobe[graphs]'"
        ) from None


def fitted(values: Array, most: int) -> Fit | None:
    """Return the likeliest gamma distribution of values in ascending order, or None where they allow of none.

    For each ``loc`` the likeliest shape and scale follow from two means, so that the search has one dimension. A search
    in three at once, as scipy's ``gamma.fit`` has it, often stops on its way where values are skewed to the left.

    Args:
        values: the values, finite and not all the same.
        most: how many of them the search looks at. They are taken at evenly spaced ranks, both ends among them, so
            that their distribution function is that of all values within 1 / most. How well it goes with the values
            is asked of all of them.
    """
    import numpy as np

    count = len(values)
    ranks = np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)
    sample = values[ranks]
    deviation = float(sample.std())
    if not deviation > 0:
        return None
    with np.errstate(all="ignore"):
        away = _highest(lambda power: _given(sample, deviation * 10.0**power)[1])
        shape, _ = _given(sample, deviation * 10.0**away)
        loc = float(values[0]) - deviation * 10.0**away
        scale = (float(sample.mean()) - loc) / shape
        likelihood = _likelihood(values, shape, loc, scale)
        ks = _distance(values, shape, loc, scale)
    if not all(map(math.isfinite, (shape, loc, scale, likelihood, ks))):
        return None
    return Fit(shape=shape, loc=loc, scale=scale, log_likelihood=likelihood, ks=ks)


def _given(sample: Array, away: float) -> tuple[float, float]:
    """Return the likeliest shape, and the mean log density, of a distribution that begins so far below the lowest."""
    import numpy as np

    mean = float(sample.mean())
    beyond = mean - float(sample[0]) + away
    # The logarithm of the mean less the mean of the logarithms, of what lies beyond loc.
    gap = -float(np.log1p((sample - mean) / beyond).mean())
    shape = _shape(gap)
    logarithm = math.log(beyond)
    scale = math.log(beyond / shape)
    return shape, (shape - 1) * (logarithm - gap) - shape - math.lgamma(shape) - shape * scale


def _shape(gap: float) -> float:
    """Return the shape a with ln(a) - digamma(a) = gap, by Newton's method on 1 / a."""
    from scipy.special import digamma, polygamma

    shape = (3 - gap + math.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(6):
        slope = shape * shape * (1 / shape - float(polygamma(1, shape)))
        shape = 1 / (1 / shape + (gap - math.log(shape) + float(digamma(shape))) / -slope)
    return shape


def _highest(height: Callable[[float], float]) -> float:
    """Return where, between the two ends in powers of ten, a function is highest: on a grid, then by golden section."""
    first, last = math.log10(_NEAREST), math.log10(_FARTHEST)
    steps = round((last - first) * _STEPS)
    grid = [first + (last - first) * step / steps for step in range(steps + 1)]
    best = max(range(len(grid)), key=lambda step: height(grid[step]))
    low, high = grid[max(0, best - 1)], grid[min(steps, best + 1)]
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = height(left), height(right)
    for _ in range(30):
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = height(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = height(right)
    return (low + high) / 2


def _likelihood(values: Array, shape: float, loc: float, scale: float) -> float:
    """Return the mean log density at all values."""
    import numpy as np

    steps = (values - loc) / scale
    density = (shape - 1) * float(np.log(steps).mean()) - float(steps.mean())
    return density - math.lgamma(shape) - math.log(scale)


def _distance(values: Array, shape: float, loc: float, scale: float) -> float:
    """Return the largest distance between the distribution functions of values in ascending order and of a gamma."""
    import numpy as np
    from scipy.special import gammainc

    below = gammainc(shape, (values - loc) / scale)
    steps = np.arange(len(values) + 1) / len(values)
    return float(max((steps[1:] - below).max(), (below - steps[:-1]).max()))
