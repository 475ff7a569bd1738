"""Reports made by hand, with figures as two real checkpoints show them: one with massive activations, one without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from maprobe.facts import Provenance
from maprobe.readings import Axis, Circumstances, Place, Quantity, Reading
from maprobe.reporting.report import PropertyReport
from maprobe.verdicts import Finding, Status, Verdict

SMOLLM2 = "smollm2-135m"
MINILM = "all-MiniLM-L6-v2"
CLAIM = "From layer 2 on, some layer has an entry above 100 and above 1000x the median at the first token."
NOTHING = "nothing massive here: no entry of layers 1..6 has |x| > 100 and at least 1000x the median"

INPUTS = Circumstances(
    inputs="4 x 512 tokens of python-docs",
    digest="9f" * 32,
    sequences=4,
    tokens=2048,
    length=512,
    bos="auto: none added",
    dtype="float32",
    device="cpu",
    attention="sdpa",
)
_EMERGED = range(12, 29)  # the layers of SmolLM2 that meet the strict criterion


def magnitude(rows: Mapping[int, tuple[float, float, int]], *, dim: int, token: str) -> Reading:
    """A magnitude Reading from layer -> (top, median, hits), every peak at token 0."""
    axes = (Axis("layer", tuple(rows)),)
    place = Place(sequence=0, position=0, token=token, dim=dim)

    def quantity(name: str, values: list[float], places: tuple[Place, ...] = ()) -> Quantity:
        return Quantity(name=name, values=tuple(values), axes=axes, places=places)

    places = (place,) * len(rows)
    quantities = (
        quantity("top", [top for top, _, _ in rows.values()], places),
        quantity("median", [median for _, median, _ in rows.values()]),
        quantity("ratio", [top / median for top, median, _ in rows.values()], places),
        quantity("hits", [hits for _, _, hits in rows.values()]),
        quantity("sequences_hit", [min(hits, 4) for _, _, hits in rows.values()]),
    )
    records = [
        {
            "layer": layer,
            "rank": 1,
            "value": -top,
            "sequence": 0,
            "position": 0,
            "token": token,
            "dim": dim,
            "ratio": top / median,
            "massive": hits > 0,
        }
        for layer, (top, median, hits) in rows.items()
    ]
    return Reading(
        kind="magnitude",
        quantities={quantity.name: quantity for quantity in quantities},
        records=tuple(records),
        circumstances=INPUTS,
    )


def smollm2_layers() -> dict[int, tuple[float, float, int]]:
    """Layers 1 to 29: 12 to 28 massive, 3 and 29 near misses, the others far from it."""
    rows = dict.fromkeys(range(1, 12), (115.2, 1.667, 0))
    rows |= dict.fromkeys(_EMERGED, (23048.5, 3.301, 4))
    rows |= {2: (206.1, 0.788, 0), 3: (862.1, 0.933, 0), 12: (23147.1, 1.653, 6), 28: (22764.0, 10.027, 4)}
    return dict(sorted((rows | {29: (9046.6, 10.939, 0)}).items()))


SMOLLM2_READING = magnitude(smollm2_layers(), dim=507, token="Summer")
MINILM_READING = magnitude(dict.fromkeys(range(1, 7), (10.5, 0.24, 0)), dim=308, token="[CLS]")


def exists(checkpoint: str, reading: Reading, layer: int, *, last: int) -> Verdict:
    """The verdict on whether some layer is massive, decided by the layer given."""
    top, ratio = reading["top"].at(layer=layer), reading["ratio"].at(layer=layer)
    where = str(reading["top"].places[reading["top"].axes[0].labels.index(layer)])

    def finding(quantity: str, observed: float, bound: float, mark: str) -> Finding:
        return Finding(
            quantity=quantity,
            expected=f"{quantity} > {bound:g} in some layer of 2..{last}",
            observed=observed,
            holds=observed > bound,
            margin=(observed - bound) / bound,
            labels={"layer": layer},
            where=where,
            mark=mark,
        )

    findings = (finding("top", top, 100, "massive.probe.yaml:11:12"), finding("ratio", ratio, 1000, MARK))
    return Verdict(
        case=f"massive.probe.yaml::exists[{checkpoint}]",
        probe="exists",
        suite="massive-activations",
        checkpoint=checkpoint,
        status=Status.PASSED if all(finding.holds for finding in findings) else Status.FAILED,
        claim=CLAIM,
        cite="arXiv:2402.17762",
        mark="massive.probe.yaml:6:5",
        measured=f"layer {layer}  top {top:.4g}  ratio {ratio:.4g}  {where}",
        findings=findings,
        reading=reading,
        repeat=f"pytest --model {checkpoint} 'massive.probe.yaml::exists[{checkpoint}]'",
    )


MARK = "massive.probe.yaml:12:14"
SMOLLM2_EXISTS = exists(SMOLLM2, SMOLLM2_READING, 12, last=29)
MINILM_EXISTS = exists(MINILM, MINILM_READING, 3, last=5)


def unanswered(checkpoint: str, status: Status, reason: str) -> Verdict:
    """A verdict without numbers on the probe that zeroes massive activations."""
    return Verdict(
        case=f"massive.probe.yaml::zeroing[{checkpoint}]",
        probe="zeroing",
        suite="massive-activations",
        checkpoint=checkpoint,
        status=status,
        claim="Setting the massive activations to zero destroys perplexity.",
        reason=reason,
    )


def perplexity() -> Verdict:
    """The verdict on SmolLM2's perplexity with its massive activations set to zero: it fails for its control."""
    values = {"untouched": 13.906, "edited": 24433822.0, "ratio": 24433822.0 / 13.906, "control.ratio": 1.2}
    reading = Reading(
        kind="perplexity",
        quantities={name: Quantity(name=name, values=(value,)) for name, value in values.items()},
        circumstances=replace(INPUTS, edit="massive at first-layer set to zero"),
        notes=("comparison of perplexity",),
    )
    findings = (
        Finding(quantity="ratio", expected="ratio > 10", observed=values["ratio"], holds=True, margin=175706.0),
        Finding(
            quantity="control.ratio",
            expected="control.ratio < 1.05",
            observed=1.2,
            holds=False,
            margin=-1 / 7,
            mark="massive.probe.yaml:24:22",
        ),
    )
    return Verdict(
        case=f"massive.probe.yaml::zeroing[{SMOLLM2}]",
        probe="zeroing",
        suite="massive-activations",
        checkpoint=SMOLLM2,
        status=Status.FAILED,
        severity="warn",
        measured="ratio 1.757e+06  control.ratio 1.2",
        findings=findings,
        reading=reading,
    )


def provenance(label: str) -> dict[str, object]:
    """What is known of a loaded checkpoint."""
    return Provenance(
        label=label,
        reference=f"./{label}",
        resolved=f"/models/{label}",
        weights_digest="a1" * 32,
        config_digest="b2" * 32,
        tokenizer_digest="c3" * 32,
        dtype="float32",
        device="cpu",
        attention="sdpa",
        parameters=134515008,
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
    ).to_dict()


PLAN = {
    "passes": 2,
    "forwards": 8,
    "tokens": 4096,
    "memory": 1 << 20,
    "runs": [
        {
            "checkpoint": SMOLLM2,
            "inputs": "4 x 512 tokens of python-docs",
            "edit": edit,
            "measures": ["magnitude block.out 2..-2", "perplexity"],
            "forwards": 4,
            "tokens": 2048,
        }
        for edit in ("", "massive at first-layer set to zero")
    ],
}


def report(*verdicts: Verdict, **changes: object) -> PropertyReport:
    """A report on the verdicts given."""
    labels = dict.fromkeys(verdict.checkpoint for verdict in verdicts)
    made = PropertyReport(
        verdicts=verdicts,
        checkpoints=tuple(provenance(label) for label in labels),
        plan=PLAN,
        command="pytest --model smollm2-135m probes/",
        started="2026-11-24T16:00:00+00:00",
        seconds=12.34,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


ONE = report(SMOLLM2_EXISTS, perplexity())
TWO = report(SMOLLM2_EXISTS, perplexity(), MINILM_EXISTS, unanswered(MINILM, Status.ABSENT, NOTHING))
