"""What fault tolerance costs: comparing the ranks, and saving. Alone or on several ranks; rank 0 prints a table.

    python -m tests.benchmarks.bench_faults --model resnet20
    msrun --worker_num=2 --local_worker_num=2 --join=True python -m tests.benchmarks.bench_faults --model resnet50

Figures are milliseconds, median of ``--rounds``. "held up" is how long training waits: for a save in the background
only until the state is copied.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from train.runtime import device

device.configure("cpu")

from tests.faults.checkpoints import describe, untrained  # noqa: E402
from train.checkpoint.saved import Writer, load  # noqa: E402
from train.checkpoint.state import GLOBAL_STEP, capture, shared_parameters  # noqa: E402
from train.hooks.replicas import compare_ranks  # noqa: E402
from train.runtime import distributed  # noqa: E402
from train.step.train_step import TrainStep  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_faults")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    distributed.init()
    step = untrained(options.model)
    with tempfile.TemporaryDirectory() as own:
        report(options, step, Path(distributed.on_first_rank(lambda: own)))
        distributed.barrier()


def report(options: argparse.Namespace, step: TrainStep, folder: Path) -> None:
    shared = shared_parameters(step)
    bytes_compared = sum(p.asnumpy().nbytes for p in shared.values())
    rows = {f"compare {bytes_compared / 1e6:.0f} MB": median(lambda _: compare_ranks(shared, 0), options.rounds)}
    for background in (False, True):
        root = folder / str(background)
        writer = Writer(root, keep=2, background=background)

        def save(number: int, writer: Writer = writer) -> None:
            captured = capture(step)
            if distributed.rank() == 0:  # a checkpoint is refused whose kernel counts another step
                captured.optimizer[GLOBAL_STEP][...] = number
            world = {"world_size": distributed.world_size()}
            writer.write(describe(number).model_copy(update=world), captured, None)

        held_up = median(save, options.rounds, after=writer.wait)
        rows[f"save, held up, {'background' if background else 'foreground'}"] = held_up
    if distributed.rank() == 0:
        newest = max(root.glob("step-*"))
        size = sum(path.stat().st_size for path in newest.rglob("*.*"))
        rows[f"read and check {size / 1e6:.0f} MB"] = median(lambda _: load(newest), options.rounds)
        print(f"{options.model}, {distributed.world_size()} ranks")
        for name, milliseconds in rows.items():
            print(f"{name:36} {milliseconds:9.1f} ms", flush=True)


def median(action: Callable[[int], object], rounds: int, after: Callable[[], None] = lambda: None) -> float:
    """Return the median wall time of ``action(number)``; ``after`` runs untimed behind each."""
    times = []
    for number in range(rounds):
        began = time.perf_counter()
        action(number)
        times.append(1e3 * (time.perf_counter() - began))
        after()
    return statistics.median(times)


if __name__ == "__main__":
    main()
