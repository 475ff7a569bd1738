"""What attributing to every weight costs beside forward and backward passes, in time and memory, on the default model.

    python benchmarks/attributions.py [--runs 3] [--sequences 64] [--length 64] [--json FILE]

The plain way is that of the code of arXiv:2405.17799: one sequence at a time, the largest next-token logit, backward
into the gradients of all matrices of the blocks. Nothing is compared or counted in it.
Every run makes all variants in turn; told is the median over the runs of the time of each over that of the plain way of
the same run. Memory is the peak of the resident set while a variant runs, less what was resident before, each variant
in a process of its own; it is told where Linux does, in units of the size of the model's weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

from maprobe.builtin import builtin_registry
from maprobe.cases import InputsRequest
from maprobe.planning import Run, RunKey, companion_request
from maprobe.progress import Silent
from maprobe.reading.names import known_checkpoints
from maprobe.references import LoadOptions, parse_reference
from maprobe.running import checkpoints
from maprobe.running.attributions import matrices
from maprobe.running.inputs import prepare
from maprobe.running.runner import execute
from maprobe.running.subjects import examine

REGISTRY = builtin_registry()
PLAIN = "plain, one sequence at a time"
VARIANTS = {
    "parameters.density": ("parameters.density",),
    "parameters.similarity": ("parameters.similarity",),
    "parameters.density and parameters.similarity": ("parameters.density", "parameters.similarity"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.memory_of:
        print(json.dumps(memory_of(jobs(parsed)[parsed.memory_of])))
        return
    made = jobs(parsed)
    for job in made.values():
        job()  # once unseen: caches, allocator
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(parsed.runs):
        for name, job in made.items():
            started = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, taken in seconds.items():
        ratios = [one / plain for one, plain in zip(taken, seconds[PLAIN], strict=True)]
        rows.append(
            {
                "variant": name,
                "seconds": round(statistics.median(taken), 2),
                "ratio": round(statistics.median(ratios), 3),
                "memory": peak(parsed, name),
            }
        )
    print(tabulate(rows, headers="keys"))
    if parsed.json:
        machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        parsed.json.write_text(json.dumps({**machine, "torch": torch.__version__, "runs": parsed.runs, "rows": rows}))


def jobs(parsed: argparse.Namespace) -> dict[str, Callable[[], None]]:
    options = LoadOptions(dtype="float32", device="cpu")
    loaded = checkpoints.load(
        checkpoints.inspect(parse_reference("smollm2-135m", known_checkpoints()), options, Silent()), options, Silent()
    )
    subject = examine(loaded, REGISTRY.architectures)
    asked = InputsRequest(sequences=parsed.sequences, length=parsed.length, skip=5)
    inputs = prepare(asked, loaded.tokenizer, loaded.facts, REGISTRY.corpora)
    weights = [matrix.module.weight for block in subject.anatomy.blocks for matrix in matrices(block)]

    def plain(size: int) -> None:
        for weight in loaded.model.parameters():
            weight.requires_grad = False
        for weight in weights:
            weight.requires_grad = True
        for start in range(0, parsed.sequences, size):
            ids = torch.tensor(inputs.sequences[start : start + size])
            loaded.model(ids, use_cache=False).logits[:, -1].max(dim=-1).values.sum().backward()
            for weight in weights:
                weight.grad = None

    def measured(kinds: tuple[str, ...]) -> None:
        measures = tuple(companion_request(kind, REGISTRY) for kind in kinds)
        execute(
            Run(key=RunKey(checkpoint="smollm2-135m", inputs=asked), measures=measures),
            subject,
            inputs,
            REGISTRY,
            progress=Silent(),
        )

    return {
        PLAIN: lambda: plain(1),
        "plain, 16 sequences at a time": lambda: plain(16),
        **{name: (lambda kinds=kinds: measured(kinds)) for name, kinds in VARIANTS.items()},  # type: ignore[misc]
    }


def peak(parsed: argparse.Namespace, name: str) -> float | None:
    """Return the peak memory of a variant over the size of the weights, taken in a process of its own."""
    numbers = ["--sequences", str(parsed.sequences), "--length", str(parsed.length)]
    command = [sys.executable, __file__, *numbers, "--memory-of", name]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def memory_of(job: Callable[[], None]) -> float | None:
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def kib(name: str) -> int:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines[name].split()[0])

    model_size = 134_515_008 * 4  # of SmolLM2-135M in float32
    reset.write_text("5")  # the peak starts from here
    before = kib("VmRSS")
    job()
    return round((kib("VmHWM") - before) * 1024 / model_size, 2)


if __name__ == "__main__":
    main()
