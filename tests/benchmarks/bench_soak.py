"""A long life: what a process holds, and how long an update takes, early and late in a run with everything on.

``python -m tests.benchmarks.bench_soak [--updates 20000]`` trains a small network on the digits in batches of 8, with
an evaluation, a checkpoint and a comparison of the ranks every 100 updates, and prints a table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from tests.jobs import DIGITS, environment, msrun_command
from train.hooks import Hook, RunState

WINDOW = 500
"""Updates over which the time of one is taken."""


class Sampler(Hook):
    """Prints what this process holds after some of the updates."""

    def __init__(self, at: list[int]):
        self.at = at
        self.seconds: list[float] = []

    def on_result(self, run: RunState) -> None:
        self.seconds = [*self.seconds[1 - WINDOW :], run.step_seconds + run.data_seconds]
        if run.step + 1 in self.at and run.rank == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            files = len(os.listdir("/proc/self/fd"))
            threads = len(os.listdir("/proc/self/task"))
            figures = (
                f"{memory:.0f} | {files} | {threads} | {threading.active_count()} | {1e3 * median(self.seconds):.2f}"
            )
            print(f"sample | {run.step + 1:,} | {figures} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    at = sorted({1000, options.updates // 4, options.updates // 2, options.updates})
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            "data.image_size=8",
            "model.options={depths: [1, 1, 1], widths: [4, 8, 16]}",
            "data.global_batch=16",
        ]
        settings += [
            f"schedule.total={options.updates}",
            "schedule.warmup=100",
            "snapshots.steps=[5, 60]",
            "snapshots.layers=[fc.weight]",
        ]
        settings += ["evaluate.every=100", "checkpoint.every=100", "replicas.every=100", "checkpoint.background=true"]
        settings += [f"hooks=[{{'tests.benchmarks.bench_soak:Sampler': {{at: {at}}}}}]", f"runs_dir={folder}"]
        command = msrun_command(options.ranks, ["-m", "train", "--config", DIGITS, *settings], Path(folder) / "logs")
        began = time.monotonic()
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        said = (Path(folder) / "logs/worker_0.log").read_text()
        if done.returncode:
            print(said[-3000:], file=sys.stderr)
            return done.returncode
    print("| after update | MiB | open files | threads | of them Python's | ms an update (median) |")
    print("|--:|--:|--:|--:|--:|--:|")
    print("\n".join(line.removeprefix("sample ") for line in said.splitlines() if line.startswith("sample ")))
    print(f"{options.ranks} ranks, {time.monotonic() - began:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
