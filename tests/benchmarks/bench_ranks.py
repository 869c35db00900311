"""What all but the update costs with more ranks, measured here and projected to 1,024.

    python -m tests.benchmarks.bench_ranks                       worlds of 1, 2, 4, 8 and 16 ranks, ResNet-20
    python -m tests.benchmarks.bench_ranks --worlds 2 4 --model resnet50

Where there are fewer cores than ranks, wall times say how the cores are shared. So of each action the table has what
rank 0 itself computes, the CPU time of its main thread: with a core for each rank it would take that long, and what
the network adds. To it is fitted a + b·log2(n) + c·n, no coefficient negative; what has a c that counts grows on
rank 0 with the number of ranks. The start is wall time, from msrun's command until all ranks have met, and not
projected: here it is the imports of all ranks on the same cores. A second table is of worlds that no
machine here holds: what rank 0 does with the messages of so many ranks, which are copies of its own, and their bytes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

from train.runtime import device

device.set_environment_defaults("cpu")

import numpy as np  # noqa: E402
from scipy.optimize import nnls  # noqa: E402

from tests.benchmarks.speed.measure import STARTED, report, run_job  # noqa: E402
from tests.faults.checkpoints import describe, untrained  # noqa: E402
from tests.train.finished_runs import write_run  # noqa: E402
from train.comparison.finished_run import load_snapshot, open_run  # noqa: E402
from train.rundir.folder import SNAPSHOTS  # noqa: E402
from train.rundir.snapshots import layer_hashes, snapshot_name  # noqa: E402
from train.runtime import distributed  # noqa: E402
from train.step.train_step import TrainStep  # noqa: E402

START = "start: until all ranks have met (wall)"
PROJECTED = 1024
SIMULATED = (8, 64, 1024, 8192)
LAYERS = {"fc.weight": (10, 64), "layer3.2.conv2.weight": (64, 64, 3, 3)}
"""Those of the digits recipe."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_ranks")
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        work(options.model, options.rounds)
        return
    found: dict[str, dict[int, float]] = {}
    for world in options.worlds:
        task = ["-m", "tests.benchmarks.bench_ranks", "--measure", f"--model={options.model}"]
        figures = {**run_job(world, [*task, f"--rounds={options.rounds}"]), **compared(world)}
        for what, seconds in figures.items():
            found.setdefault(what, {})[world] = seconds
    print(f"| {options.model}, ms | {' | '.join(map(str, options.worlds))} | {PROJECTED:,} | of that for each rank |")
    print(f"|---|{'--:|' * (len(options.worlds) + 2)}")
    for what, measured in found.items():
        projected, per_rank = project(measured)
        cells = [f"{1e3 * seconds:.1f}" for seconds in measured.values()]
        cells += ["–", "–"] if what == START else [f"{1e3 * projected:,.0f}", f"{1e3 * per_rank:.3f}"]
        print(f"| {what} | {' | '.join(cells)} |")
    device.configure("cpu")
    columns = [simulated(options.model, ranks, options.rounds) for ranks in SIMULATED]
    print(f"\n| bytes gathered, and ms | {' | '.join(f'{ranks:,}' for ranks in SIMULATED)} |")
    print(f"|---|{'--:|' * len(SIMULATED)}")
    for what in columns[0]:
        cells = [f"{column[what][0]:,}, {1e3 * column[what][1]:.1f}" for column in columns]
        print(f"| {what} | {' | '.join(cells)} |")


def project(measured: Mapping[int, float]) -> tuple[float, float]:
    """Return the seconds on ``PROJECTED`` ranks and how many of them each rank adds."""
    ranks = np.array(list(measured), float)
    seconds = np.array(list(measured.values()))
    terms = [np.ones_like(ranks), np.log2(ranks), ranks]
    fitted, _ = nnls(np.stack(terms, axis=1) / seconds[:, None], np.ones_like(seconds))
    return float(fitted @ [1, np.log2(PROJECTED), PROJECTED]), float(fitted[2])


def work(model_name: str, rounds: int) -> None:
    """Measure on this rank."""
    device.configure("cpu")
    distributed.init()
    met = time.time() - float(os.environ[STARTED])

    from train.step.evaluate import moving_statistics

    step = untrained(model_name)
    network = step.differentiate.network
    with tempfile.TemporaryDirectory() as own:
        actions = {
            "initial weights from rank 0": lambda: distributed.broadcast_parameters(list(network.get_parameters())),
            "mean of the moving statistics": lambda: distributed.average_parameters(moving_statistics(network)),
            **exchanges(step, Path(distributed.on_first_rank(lambda: own)), rounds),
        }
        figures = {what: cpu_seconds(action, rounds) for what, action in actions.items()}
        distributed.barrier()
    if distributed.rank() == 0:
        report({START: met, **figures})


def exchanges(step: TrainStep, folder: Path, rounds: int) -> dict[str, Callable[[], object]]:
    """Return the actions in which every rank says something to all, by name; each can be done ``rounds`` + 2 times."""
    from train.checkpoint.saved import Writer
    from train.checkpoint.state import GLOBAL_STEP, capture, shared_parameters
    from train.hooks.replicas import compare_ranks

    writer = Writer(folder, keep=2, background=False)
    numbers = iter(range(rounds + 2))

    def save() -> None:
        number = next(numbers)
        captured = capture(step)
        if distributed.rank() == 0:
            captured.optimizer[GLOBAL_STEP][...] = number
        writer.write(describe(number).model_copy(update={"world_size": distributed.world_size()}), captured, None)

    return {
        "agreeing on configuration and versions": lambda: distributed.require_same({str(n): n for n in range(90)}),
        "the ranks' figures": lambda: distributed.gather_array(np.zeros(3)),
        "an evaluation's sums": lambda: distributed.gather_array(np.zeros(4)),
        "replica check": lambda: compare_ranks(shared_parameters(step), 0),
        "a checkpoint": save,
    }


def simulated(model_name: str, ranks: int, rounds: int) -> dict[str, tuple[int, float]]:
    """Return for each exchange among ``ranks`` ranks the bytes that rank 0 gets and its CPU seconds."""
    got: list[int] = []

    def gather(words: np.ndarray) -> np.ndarray:
        rows = np.tile(words, (ranks, 1))
        got.append(rows.nbytes)
        return rows

    everyone = {"world_size": lambda: ranks, "_all_gather": gather, "_all_reduce": lambda values: values * ranks}
    found = {}
    step = untrained(model_name)
    with tempfile.TemporaryDirectory() as folder, patch.multiple(distributed, **everyone):
        for what, action in exchanges(step, Path(folder), rounds).items():
            got.clear()
            action()
            size = sum(got)
            found[what] = (size, cpu_seconds(action, rounds))
    return found


def cpu_seconds(action: Callable[[], object], rounds: int) -> float:
    """Return the median CPU time of the main thread in ``action``, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        distributed.barrier()
        began = time.thread_time()
        action()
        times.append(time.thread_time() - began)
    return float(np.median(times[1:]))


def compared(world: int) -> dict[str, float]:
    """Return the CPU time of the proof over two recorded updates, all ranks written or the first alone."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = write_run(Path(folder) / "run", world_size=world, layers=LAYERS)
        figures = {"the proof, snapshots.ranks: all": proof_seconds(run_dir)}
        for step in (5, 60):
            paths = [run_dir / SNAPSHOTS / snapshot_name(step, rank) for rank in range(world)]
            with np.load(paths[0]) as entries:
                hashes = np.stack([layer_hashes(load_snapshot(paths[0]))] * world)
                np.savez(paths[0], **{**entries, "hashes": hashes})
            for path in paths[1:]:
                path.unlink()
        return {**figures, "the proof, snapshots.ranks: first": proof_seconds(run_dir)}


def proof_seconds(run_dir: Path) -> float:
    from train.comparison.proof import prove  # may have been deleted

    times = []
    for _ in range(3):
        began = time.thread_time()
        assert prove(open_run(run_dir))["holds"]
        times.append(time.thread_time() - began)
    return float(np.median(times))


if __name__ == "__main__":
    main()
