"""The parts of the benchmark: each starts its jobs and returns the lines of a Markdown table."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tests.benchmarks.speed.kernels import profile
from tests.benchmarks.speed.loop import AT_ONCE, BARE, OURS, measure_loop, measure_reading, train_job
from tests.benchmarks.speed.measure import run_job, seconds, table, take_turns
from tests.jobs import environment
from tests.machines import two_machines

PACKAGE = "tests.benchmarks.speed"
GLOBAL_BATCH = 128
MEASURED = "2 layers measured at every update"
NO_LAYER = ["snapshots.layers=[]", "snapshots.steps=[]"]
RESNET18 = [*NO_LAYER, "model.name=resnet18", "data.global_batch=32"]
DEFAULT = "buckets of 8 MiB"


def loop(options: argparse.Namespace) -> list[str]:
    """The whole loop against a bare one."""
    lines: list[str] = []
    usual = f"ResNet-20, {GLOBAL_BATCH} images in all"
    for ranks, words, settings in (
        (1, f"{usual}, no layer measured", NO_LAYER),
        (1, f"{usual}, {MEASURED}", []),
        (2, f"{usual}, {MEASURED}", []),
        (1, "ResNet-18, 11.2 M parameters, 32 images, no layer measured", RESNET18),
    ):
        figures = measure_loop(ranks, options.rounds, settings)
        lines += [*table(f"{named(ranks)}, {words}", figures, BARE), ""]
    return lines


def reading(options: argparse.Namespace) -> list[str]:
    """What it brings to read the result of an update after the next one was handed over."""
    lines: list[str] = []
    for ranks in (1, 2):
        figures = measure_reading(ranks, options.rounds)
        lines += [*table(f"{named(ranks)}, digits, 8 images an update in all", figures, AT_ONCE), ""]
    return lines


def layers(options: argparse.Namespace) -> list[str]:
    """What recording and logging all layers costs: the loop against that without, bytes, and time of the report."""
    everything = ['snapshots.layers=["*"]', 'log.layers=["*"]']
    lines = ["| 2 ranks | the loop, ratio | metrics.jsonl, kB an update | TensorBoard, kB an update |"]
    lines[0] += " a snapshot of a rank, MB | the report, s |"
    lines.append("|---|--:|--:|--:|--:|--:|")
    without = None
    for words, settings in {"no layer": NO_LAYER, "all layers": everything}.items():
        with tempfile.TemporaryDirectory() as folder:
            figures = measure_loop(2, options.rounds, settings, folder)
            run = Path(folder, "speed")
            updates = len((run / "metrics.jsonl").read_bytes().splitlines())
            written = [
                sum(file.stat().st_size for file in run.glob(name)) for name in ("metrics.jsonl", "tensorboard/*")
            ]
            snapshots = [file.stat().st_size for file in run.glob("snapshots/*")]
            report = seconds_of_report(run) if snapshots else 0.0
        speed = float(np.median(np.array(figures[BARE]) / np.array(figures[OURS])))
        without = without or speed
        cells = [f"{speed / without:.3f}", *(f"{size / updates / 1e3:.1f}" for size in written)]
        cells += [f"{np.mean(snapshots) / 1e6:.2f}", f"{report:.1f}"] if snapshots else ["–", "–"]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def seconds_of_report(run: Path) -> float:
    command = [sys.executable, "-m", "train.comparison", str(run)]
    return seconds(lambda: subprocess.run(command, env=environment(), check=True, capture_output=True))


def ranks(options: argparse.Namespace) -> list[str]:
    """The same global batch on 1, 2 and 4 ranks, with cores and threads as by default and otherwise; and beside another
    job."""
    variants = {
        "1 rank": lambda: updates(options, 1),
        "2 ranks, each its part of the cores": lambda: updates(options, 2),
        "2 ranks, --no-bind-core": lambda: updates(options, 2, bound=False),
        "2 ranks, --no-bind-core, 1 runtime thread each": lambda: updates(options, 2, "--threads=1", bound=False),
        "4 ranks": lambda: updates(options, 4),
    }
    figures = take_turns(variants, options.jobs, warm_up=False)
    lines = table(f"{GLOBAL_BATCH} images in all, on 1, 2 and 4 ranks", figures, next(iter(variants)))
    both = {"--no-bind-core": lambda: two_jobs(options, bound=False), "by default": lambda: two_jobs(options)}
    title = "two jobs of 2 ranks at once, the slower one"
    return [*lines, "", *table(title, take_turns(both, options.jobs, warm_up=False), "--no-bind-core")]


def two_jobs(options: argparse.Namespace, *, bound: bool = True) -> float:
    with ThreadPoolExecutor() as pool:
        return max(pool.map(lambda _: updates(options, 2, bound=bound), range(2)))


def exchange(options: argparse.Namespace) -> list[str]:
    """One message a parameter against few large ones; between two nodes with --delay."""
    lines: list[str] = []
    steps: dict[int, float] = {}

    def measured(ranks: int, title: str, nodes: Sequence[str] = ()) -> dict[str, list[float]]:
        arguments = ["--exchange", f"--batch={GLOBAL_BATCH // ranks}", "--updates=4", f"--rounds={options.rounds}"]
        figures = run_job(ranks, ["-m", f"{PACKAGE}.updates", *arguments], nodes=nodes)
        lines.extend([*table(f"{title}: exchange of gradients", figures, "no exchange"), ""])
        return figures

    for ranks in (2, 4):
        figures = measured(ranks, f"{named(ranks)} on one machine")
        alone, together = (float(np.median(figures[name])) for name in ("no exchange", DEFAULT))
        steps.setdefault(1, alone)
        steps[ranks] = steps[1] + together - alone
    for delay in options.delay:
        with two_machines(delay) as nodes:
            measured(2, f"2 nodes, {1e3 * delay:g} ms from one to the other", nodes)
    write_csv(options.csv, steps)
    return lines


def torch(options: argparse.Namespace) -> list[str]:
    """Ours against PyTorch's DistributedDataParallel over gloo."""
    if subprocess.run([options.torch_python, "-c", "import torch"], capture_output=True).returncode:
        return [f"against PyTorch: left out, {options.torch_python} has none; give --torch-python"]
    task = ["-m", f"{PACKAGE}.torch_ddp", "--ranks=2", *sizes(options, 2)]
    variants = {
        "PyTorch": lambda: run_job(0, task, python=options.torch_python),
        "PyTorch, channels last": lambda: run_job(0, [*task, "--channels-last"], python=options.torch_python),
        "PyTorch held to AVX2": lambda: run_job(0, task, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, python=options.torch_python),
        "ours": lambda: updates(options, 2),
        "ours, --no-bind-core": lambda: updates(options, 2, bound=False),
    }
    figures = take_turns(variants, options.jobs, warm_up=False)
    return table(f"ResNet-20, 2 ranks of {GLOBAL_BATCH // 2} images", figures, "PyTorch")


def kernels(options: argparse.Namespace) -> list[str]:
    """Where an update's time goes, and what oneDNN makes of it with other instruction sets."""
    task = ["-m", f"{PACKAGE}.updates", "--batch=16", "--updates=3"]
    sets = {"AVX2, the default here": "AVX2", "SSE4.1": "SSE41", "AVX-512, oneDNN's own choice": "ALL"}
    variants = {name: lambda isa=isa: run_job(0, task, {"ONEDNN_MAX_CPU_ISA": isa}) for name, isa in sets.items()}
    figures = take_turns(variants, options.jobs, warm_up=False)
    return [
        *profile(GLOBAL_BATCH // 2),
        "",
        *table("1 process, 16 images: ONEDNN_MAX_CPU_ISA", figures, next(iter(sets))),
    ]


def startup(options: argparse.Namespace) -> list[str]:
    """From the command to the first update."""
    with tempfile.TemporaryDirectory() as folder:
        found = run_job(2, train_job(folder, 9, module=f"{PACKAGE}.startup"))
    parts = [f"| {part} | {seconds:.2f} |" for part, seconds in found.items()]
    return ["| 2 ranks | seconds |", "|---|--:|", *parts, f"| **in all** | **{sum(found.values()):.2f}** |"]


def shares(options: argparse.Namespace) -> list[str]:
    """What a run's hooks, its evaluation and its waiting for data cost, beside an update."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["checkpoint.every=10", "checkpoint.background=true", "replicas.every=10", "evaluate.every=20"]
        found = run_job(2, train_job(folder, 20 * 3, *settings, module=f"{PACKAGE}.shares"))
    update = float(np.median(found["updates"]))
    lines = [f"| 2 ranks, an update of {1e3 * update:.0f} ms | ms a call | calls | share of all updates' time |"]
    lines.append("|---|--:|--:|--:|")
    whole = sum(found["updates"])
    costs = {"waiting for data": found["waiting"], **found["calls"]}
    for name, spent in sorted(costs.items(), key=lambda item: -sum(item[1])):
        if sum(spent) > 1e-4 * whole:
            median = 1e3 * float(np.median([s for s in spent if s > 1e-5] or [0.0]))
            lines.append(f"| {name} | {median:.2f} | {len(spent)} | {sum(spent) / whole:.2%} |")
    return lines


def updates(options: argparse.Namespace, ranks: int, *arguments: str, bound: bool = True) -> float:
    """Return the median seconds of an update in a job of its own, whose ranks get their part of the cores or not."""
    task = ["-m", f"{PACKAGE}.updates", *sizes(options, ranks), *arguments]
    return run_job(ranks, task, {"LAUNCH_RANKS": str(ranks)} if bound else {})


def sizes(options: argparse.Namespace, ranks: int) -> list[str]:
    return [f"--batch={GLOBAL_BATCH // ranks}", f"--updates={options.updates}"]


def named(ranks: int) -> str:
    return "1 rank" if ranks == 1 else f"{ranks} ranks"


def write_csv(path: str | None, steps: Mapping[int, float]) -> None:
    """Write what :mod:`tests.benchmarks.scaling_model` reads: seconds of a step by the number of ranks.

    The cores here are two: more ranks slow each other's computing, as ranks with cores of their own would not. So the
    step is that of 2 ranks without exchange, with what the exchange adds on 2 and on 4.
    """
    if path is None:
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ranks", "seconds"])
        writer.writerows(steps.items())
