"""What a run's age costs: reading ``metrics.jsonl`` and opening it on resume, in CPU-seconds and megabytes.

python -m tests.benchmarks.bench_metrics --lines 200000 1000000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from pathlib import Path

from train.comparison.metrics import read_metrics
from train.rundir.folder import METRICS_FILE
from train.rundir.metrics import SPEED, MetricsWriter

LAYERS = ("fc.weight", "layer3.2.conv2.weight")
NORMS = [f"update/{layer}/{norm}" for layer in LAYERS for norm in ("delta_l2", "velocity_l2", "weight_l2")]
COMPARISON = ["train/lr", "train/loss", *NORMS]
RUNS_SIDE_BY_SIDE = ["train/loss", "val/loss", "val/top1", "val/top5", SPEED]
# what a run of the digits recipe on two ranks logs at an update
KEYS = [
    *("train/loss", "train/lr", "train/top1", "train/grad_norm", *NORMS),
    *(f"update/{layer}/{figure}" for layer in LAYERS for figure in ("predicted_l2", "ratio")),
    *(SPEED, "perf/step_ms", "perf/data_wait"),
    *(f"ranks/{figure}/{word}" for figure in ("step_ms", "data_wait_ms") for word in ("slowest", "mean", "fastest")),
    *(f"ranks/loss/{word}" for word in ("highest", "mean", "lowest")),
    *(f"ranks/{figure}/rank" for figure in ("step_ms", "data_wait_ms", "loss")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="+", default=[200_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| lines | MB | what | CPU-seconds, fewest of the rounds | MB, peak above that of the imports |")
    print("|--:|--:|---|--:|--:|")
    for lines in options.lines:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size = make_run(folder, lines) / 1e6
            for what, read in READERS.items():
                seconds, memory = zip(*(in_a_process(read, folder) for _ in range(options.rounds)), strict=True)
                print(f"| {lines:,} | {size:.0f} | {what} | {min(seconds):.3f} | {max(memory):.0f} |", flush=True)


def make_run(folder: Path, lines: int) -> int:
    """Write so many updates, and an evaluation every thousand; return the bytes."""
    draw = random.Random(0).random
    writer = MetricsWriter(folder, keep_bytes=0)
    for step in range(lines):
        scalars = {key: draw() for key in KEYS}
        if step % 1000 == 999:
            scalars |= {"val/loss": draw(), "val/top1": draw(), "val/top5": draw()}
        writer.write(step, scalars)
    writer.close()
    return file_size(folder)


def file_size(folder: Path) -> int:
    return (folder / METRICS_FILE).stat().st_size


def resume(folder: Path) -> None:
    MetricsWriter(folder, keep_bytes=file_size(folder) - 1).close()


def compare(folder: Path) -> None:
    read_metrics(folder, COMPARISON)


def side_by_side(folder: Path) -> None:
    read_metrics(folder, RUNS_SIDE_BY_SIDE, most_points=4000)


def everything(folder: Path) -> None:
    points: dict[str, dict[int, float]] = {}
    for line in (folder / METRICS_FILE).read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        for tag, value in values.items():
            points.setdefault(tag, {})[step] = value


READERS = {
    "every key, by json.loads": everything,
    "comparison": compare,
    "compare_runs": side_by_side,
    "opened on resume": resume,
}


def in_a_process(read, folder: Path) -> tuple[float, float]:
    """Return the CPU-seconds that ``read(folder)`` takes in a fresh process, and the megabytes it adds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (read, folder))


def measured(read, folder: Path) -> tuple[float, float]:
    before = peak_megabytes()
    began = time.process_time()
    read(folder)
    return time.process_time() - began, peak_megabytes() - before


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
