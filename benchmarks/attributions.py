"""What attributing to every weight costs beside forward and backward passes, in time and memory, on the default model.

    python benchmarks/attributions.py [--runs 3] [--sequences 64] [--length 64] [--json FILE]

The plain way is that of the code of arXiv:2405.17799: one sequence at a time, the largest next-token logit, backward
into the gradients of all matrices of the blocks. Nothing is compared or counted in it.
Every run makes all variants in turn, each in a process of its own that has been warmed up by a few sequences. Told are
the medians over the runs of wall-clock and processor time, over those of the plain way of the same run, and the peak of
the resident set, less what was resident once the model was loaded, in units of the size of its weights (on Linux
alone).
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
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
PLAIN = {"plain, one sequence at a time": 1, "plain, 16 sequences at a time": 16}
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
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.variant:
        print(json.dumps(figures_of(parsed)))
        return
    runs = [{name: figures(parsed, name) for name in (*PLAIN, *VARIANTS)} for _ in range(parsed.runs)]
    base = next(iter(PLAIN))
    rows = [
        {
            "variant": name,
            **{
                f"{what} ratio": round(statistics.median(run[name][what] / run[base][what] for run in runs), 3)
                for what in ("wall", "processor")
            },
            "wall seconds": round(statistics.median(run[name]["wall"] for run in runs), 1),
            "memory": max(run[name]["memory"] for run in runs),
        }
        for name in runs[0]
    ]
    print(tabulate(rows, headers="keys"))
    if parsed.json:
        machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        parsed.json.write_text(json.dumps({**machine, "torch": torch.__version__, "runs": parsed.runs, "rows": rows}))


def figures(parsed: argparse.Namespace, name: str) -> dict[str, float]:
    numbers = ["--sequences", str(parsed.sequences), "--length", str(parsed.length)]
    command = [sys.executable, __file__, *numbers, "--variant", name]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    print(name, found, file=sys.stderr, flush=True)
    return found


def figures_of(parsed: argparse.Namespace) -> dict[str, float]:
    """Run one variant, and return what it took."""
    job = Job(parsed)
    gc.collect()
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kib(what: str) -> int:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines[what].split()[0])

    if reset.exists():
        reset.write_text("5")  # the peak starts from here
    before = kib("VmRSS") if reset.exists() else 0
    job(min(4, parsed.sequences))  # once unseen: caches, allocator
    wall, processor = time.perf_counter(), time.process_time()
    job(parsed.sequences)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = kib("VmHWM") - before if reset.exists() else float("nan")
    return {"wall": wall, "processor": processor, "memory": round(peak * 1024 / job.weights, 2)}


class Job:
    """One variant on the loaded model; called with how many sequences to take."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        options = LoadOptions(dtype="float32", device="cpu")
        reference = parse_reference("smollm2-135m", known_checkpoints())
        self.loaded = checkpoints.load(checkpoints.inspect(reference, options, Silent()), options, Silent())
        self.subject = examine(self.loaded, REGISTRY.architectures)
        self.variant, self.length = parsed.variant, parsed.length
        self.weights = sum(weight.numel() * weight.element_size() for weight in self.loaded.model.parameters())

    def __call__(self, count: int) -> None:
        asked = InputsRequest(sequences=count, length=self.length, skip=5)
        inputs = prepare(asked, self.loaded.tokenizer, self.loaded.facts, REGISTRY.corpora)
        if self.variant in PLAIN:
            self.plain(inputs.sequences, PLAIN[self.variant])
            return
        measures = tuple(companion_request(kind, REGISTRY) for kind in VARIANTS[self.variant])
        run = Run(key=RunKey(checkpoint="smollm2-135m", inputs=asked), measures=measures)
        execute(run, self.subject, inputs, REGISTRY, progress=Silent())

    def plain(self, sequences: tuple[tuple[int, ...], ...], size: int) -> None:
        model = self.loaded.model
        weights = [matrix.module.weight for block in self.subject.anatomy.blocks for matrix in matrices(block)]
        for weight in model.parameters():
            weight.requires_grad = False
        for weight in weights:
            weight.requires_grad = True
        for start in range(0, len(sequences), size):
            ids = torch.tensor(sequences[start : start + size])
            model(ids, use_cache=False).logits[:, -1].max(dim=-1).values.sum().backward()
            for weight in weights:
                weight.grad = None


if __name__ == "__main__":
    main()
