"""What measuring costs beside a plain forward pass with loss: ratios of paired runs, on the default checkpoint.

    python benchmarks/overhead.py [--runs 5] [--json FILE]

Every run makes all variants in turn, so that whatever else the machine does falls on all of them. Told is the median
over the runs of the time of each variant over that of the plain pass of the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from torch.nn.functional import cross_entropy

from maprobe.builtin import builtin_registry
from maprobe.cases import InputsRequest, MeasureRequest
from maprobe.planning import Run, RunKey, companion_request
from maprobe.progress import Silent
from maprobe.reading.names import known_checkpoints
from maprobe.references import LoadOptions, parse_reference
from maprobe.running import checkpoints
from maprobe.running.inputs import prepare
from maprobe.running.runner import execute
from maprobe.running.subjects import examine

REGISTRY = builtin_registry()


def request(kind: str) -> MeasureRequest:
    return companion_request(kind, REGISTRY)


VARIANTS: dict[str, tuple[str, ...]] = {
    "perplexity": ("perplexity",),
    "perplexity, magnitude of every layer": ("perplexity", "magnitude", "massive"),
    "perplexity, magnitude, attention of every layer": (
        "perplexity",
        "magnitude",
        "massive",
        "attention.concentration",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    loaded = checkpoints.load(
        checkpoints.inspect(parse_reference("smollm2-135m", known_checkpoints()), LoadOptions(), Silent()),
        LoadOptions(),
        Silent(),
    )
    subject = examine(loaded, REGISTRY.architectures)
    asked = InputsRequest(sequences=4, length=512, skip=5)
    inputs = prepare(asked, loaded.tokenizer, loaded.facts, REGISTRY.corpora)

    def plain() -> None:
        with torch.inference_mode():
            for sequence in inputs.sequences:
                ids = torch.tensor([sequence])
                logits = loaded.model(ids, use_cache=False).logits
                cross_entropy(logits[0, :-1].float(), ids[0, 1:])

    def measured(kinds: tuple[str, ...]) -> Callable[[], None]:
        key = RunKey(checkpoint="smollm2-135m", inputs=asked)
        run = Run(key=key, measures=tuple(map(request, kinds)))
        return lambda: void(execute(run, subject, inputs, REGISTRY, progress=Silent()))

    jobs = {"plain forward with loss": plain, **{name: measured(kinds) for name, kinds in VARIANTS.items()}}
    for job in jobs.values():
        job()  # once unseen: caches, allocator
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(parsed.runs):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - started)
    base = seconds["plain forward with loss"]
    rows = [
        {
            "variant": name,
            "seconds": round(statistics.median(taken), 3),
            "ratio": round(statistics.median(one / other for one, other in zip(taken, base, strict=True)), 3),
        }
        for name, taken in seconds.items()
    ]
    print(tabulate(rows, headers="keys"))
    if parsed.json:
        machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        parsed.json.write_text(json.dumps({**machine, "torch": torch.__version__, "runs": parsed.runs, "rows": rows}))


def void(result: object) -> None:
    del result


if __name__ == "__main__":
    main()
