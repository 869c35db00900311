"""The logged scalars of a finished run, or of one that goes on, as curves. Imports no MindSpore."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from statistics import harmonic_mean

import numpy as np

from train.rundir.folder import METRICS_FILE
from train.rundir.metrics import SPEED, lines, parse
from train.runtime.console import one_line
from train.runtime.errors import UserError

Curve = tuple[np.ndarray, np.ndarray]
"""Steps, int64 ascending, and values, float64; of one length."""


def logged_layers(run_dir: Path) -> list[str]:
    """Return the layers whose norms the first line of ``metrics.jsonl`` holds, in the model's order."""
    try:
        _, tags = parse(next(lines(run_dir), b""))
    except ValueError:
        return []
    return [tag.removeprefix("update/").removesuffix("/delta_l2") for tag in tags if tag.endswith("/delta_l2")]


class Metrics:
    """Some of the scalars of a run, each as a curve. Where a step is logged twice, the last value counts."""

    def __init__(self, curves: Mapping[str, Curve]):
        self._curves = dict(curves)

    def curve(self, tag: str) -> Curve:
        """Return the curve of ``tag``, empty if it was never logged; values that are not finite are among it.

        Raises:
            KeyError: for a tag that was not read.
        """
        return self._curves[tag]

    def last(self, tag: str) -> float | None:
        """Return the value of ``tag`` at its last step, None if it was never logged."""
        values = self.curve(tag)[1]
        return float(values[-1]) if len(values) else None

    def examples_per_sec(self) -> float | None:
        """Return the mean speed of the logged updates, without compilation and evaluation; None if there is none."""
        speeds = self.curve(SPEED)[1].tolist()
        return harmonic_mean(speeds) if speeds else None


def read_metrics(run_dir: Path, tags: Iterable[str], *, most_points: int | None = None) -> Metrics:
    """Read the curves of ``tags`` from ``metrics.jsonl``; a folder without that file has no curves.

    One pass, line by line: memory holds 16 bytes for each point of these tags. A torn last line, as a killed run
    leaves it, is left out; so is a damaged line, which is told on stderr.

    Args:
        most_points: thin each curve evenly to fewer than twice as many points, and always keep its last.

    Raises:
        UserError, StorageError: when the file cannot be read; the first also where no line is what
            :class:`train.rundir.metrics.MetricsWriter` writes.
    """
    path = run_dir / METRICS_FILE
    columns = {tag: (array("q"), array("d")) for tag in tags}
    good, faults = 0, []
    for line in lines(run_dir):
        if not line.endswith(b"\n"):
            continue
        try:
            step, scalars = parse(line)
        except ValueError as error:
            faults.append(str(error))
            continue
        good += 1
        for tag in columns.keys() & scalars:
            steps, values = columns[tag]
            steps.append(step)
            values.append(scalars[tag])
    if faults and not good:
        raise UserError(f"{path}: not a run's metrics ({faults[0]}); start a new run with name=…")
    if faults:
        _tell(f"{path}: {len(faults)} damaged lines are left out; the first: {faults[0]}")
    return Metrics({tag: _curve(*column, most_points) for tag, column in columns.items()})


def _curve(at: array[int], logged: array[float], most_points: int | None) -> Curve:
    steps, values = np.frombuffer(at, np.int64), np.frombuffer(logged, np.float64)
    order = np.argsort(steps, kind="stable")
    newest = np.append(np.diff(steps[order]) > 0, np.ones(min(len(steps), 1), bool))  # of a point logged twice
    kept = order[newest]
    stride = max(1, len(kept) // (most_points or len(kept) or 1))
    kept = np.append(kept[:-1:stride], kept[-1:])
    return steps[kept], values[kept]


@cache  # a process reads the file several times
def _tell(words: str) -> None:
    print(f"note: {one_line(words)}", file=sys.stderr, flush=True)
