"""``massive``: edit the massive activations of one layer (arXiv:2402.17762, section 3)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Literal

from maprobe.cases import InterveneRequest, MeasureRequest
from maprobe.edits import Edit
from maprobe.errors import InterventionError
from maprobe.readings import Reading, Scalar
from maprobe.recipes import InterventionRecipe, Parameter

__all__ = ["MASSIVE_ENTRIES"]

Record = Mapping[str, Scalar]


def _edits(found: Reading | None, request: InterveneRequest, arm: Literal["edited", "control"]) -> tuple[Edit, ...]:
    assert found is not None, "massive activations are located first"
    records = _chosen(found, dict(request.options).get("top", "all"), arm)
    values = _values(records, request, arm)
    return tuple(
        Edit(
            layer=_whole(record, "layer"),
            sequence=_whole(record, "sequence"),
            position=_whole(record, "position"),
            dim=_whole(record, "dim"),
            value=value,
        )
        for record, value in zip(records, values, strict=True)
    )


def _chosen(found: Reading, top: object, arm: str) -> list[Record]:
    """Return the entries of an arm, or those of the largest of each sequence.

    Control entries come in the order of their distance from the median, as many at a token as there are massive ones;
    where some of those are left alone, as many of the control entries at that token are.
    """
    records = [record for record in found.records if record["arm"] == arm]
    if not isinstance(top, int):
        return records
    massive: dict[object, list[Record]] = defaultdict(list)
    for record in found.records:
        if record["arm"] == "edited":
            massive[record["sequence"]].append(record)
    kept = [
        record
        for entries in massive.values()
        for record in sorted(entries, key=lambda record: -abs(_real(record, "value")))[:top]
    ]
    if arm == "edited":
        return [record for record in records if any(record is one for one in kept)]
    left = Counter((record["sequence"], record["position"]) for record in kept)
    chosen = []
    for record in records:
        place = (record["sequence"], record["position"])
        if left[place] > 0:
            left[place] -= 1
            chosen.append(record)
    return chosen


def _values(records: list[Record], request: InterveneRequest, arm: str) -> list[float]:
    if request.set == "zero":
        return [0.0] * len(records)
    if request.set == "value":
        if request.value is None:
            raise InterventionError("`set: {value: ...}` names no value")
        return [request.value] * len(records)
    if len({record["sequence"] for record in records}) < 2:  # noqa: PLR2004 - a mean of one is that one
        raise InterventionError(
            "`set: mean` needs massive activations in at least 2 sequences: over one, the mean is the value "
            "itself and nothing would be edited; raise `sequences` under `inputs`"
        )
    groups: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for record in records:
        groups[_group(record, arm)].append(_real(record, "value"))
    means = {key: sum(group) / len(group) for key, group in groups.items()}
    return [means[_group(record, arm)] for record in records]


def _group(record: Record, arm: str) -> tuple[object, ...]:
    """Say over which entries a mean is taken.

    Massive activations keep their value at a fixed dim, apart for the first token and for later ones, so that
    is what is averaged. Control entries share no dim across sequences; theirs is the mean of them all.
    """
    first = record["position"] == 0
    return (first, record["dim"]) if arm == "edited" else (first,)


def _whole(record: Record, name: str) -> int:
    return int(record[name])  # type: ignore[arg-type]


def _real(record: Record, name: str) -> float:
    return float(record[name])  # type: ignore[arg-type]


MASSIVE_ENTRIES = InterventionRecipe(
    name="massive",
    summary="The massive activations of each sequence, where they first appear in it or in a layer of choice.",
    locate=MeasureRequest(kind="massive", site="block.out"),
    at=("first-layer",),
    at_layer=True,
    handed=("at",),
    edits=_edits,
    parameters=(
        Parameter(
            name="top",
            schema={"anyOf": [{"type": "integer", "minimum": 1}, {"const": "all"}]},
            default="all",
            meaning="how many of them to edit in each sequence, the largest first, or all",
        ),
    ),
)
