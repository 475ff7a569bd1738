"""Differences between two passes, item by item: the same questions, the same sequences. Pure, and the same each time.

What two passes have in common (some questions are hard, some texts are easy) cancels within each item, so that the
interval of the mean difference is far narrower than the intervals of the two means would suggest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from maprobe.readings import Reading

__all__ = ["LEVEL", "RESAMPLES", "SEED", "by_item", "differences", "mean_interval"]

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0

_DRAWN = 1 << 20  # indices drawn at a time


def by_item(reading: Reading, name: str) -> dict[int, float]:
    """Return a number of each record that belongs to an item, by item; empty where a Reading has none."""
    return {
        int(record["item"]): float(record[name])  # type: ignore[arg-type]
        for record in reading.records
        if record.get("item") is not None and record.get(name) is not None
    }


def differences(after: Mapping[int, float], before: Mapping[int, float]) -> list[float]:
    """Return after - before for each item, in order; empty where the two do not have the same items."""
    return [after[item] - before[item] for item in sorted(before)] if before.keys() == after.keys() else []


def mean_interval(values: Sequence[float], level: float) -> tuple[float, float, float]:
    """Return the mean, and the percentile bootstrap interval of it at a confidence level.

    Values are drawn with replacement, as many as there are, :data:`RESAMPLES` times, by numpy's default generator
    seeded with :data:`SEED`. The ends are the means of that rank, the outer one where a rank falls between two. Of a
    single value nothing is known but itself, so that both ends are nan; so they are where a value is nan.
    """
    import numpy as np

    mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
    if len(values) == 1 or math.isnan(mean):
        return mean, math.nan, math.nan
    count, sample, generator = len(values), np.asarray(values, dtype=float), np.random.default_rng(SEED)
    means = np.empty(RESAMPLES)
    rows = max(1, _DRAWN // count)
    with np.errstate(invalid="ignore"):  # inf and -inf among the values
        for start in range(0, RESAMPLES, rows):
            drawn = generator.integers(0, count, size=(min(rows, RESAMPLES - start), count))
            means[start : start + rows] = sample[drawn].mean(axis=1)
    means.sort()
    tail = (1 - level) / 2 * (RESAMPLES - 1)
    # Rounded, since (1 - 0.95) / 2 is not exactly 0.025.
    return mean, float(means[math.floor(round(tail, 6))]), float(means[math.ceil(round(RESAMPLES - 1 - tail, 6))])
