"""Every logged scalar of a run: written line by line, and read back. Imports no MindSpore."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np

from train.rundir.folder import METRICS_FILE
from train.runtime.console import one_line
from train.runtime.errors import UserError, refused
from train.runtime.files import open_file

Curve = tuple[np.ndarray, np.ndarray]
"""Steps, int64 ascending, and values, float64; of one length."""


LONGEST_LINE = 1 << 20
"""Bytes that are read of a line; what goes on is damaged, and may be without an end."""
SPEED = "perf/examples_per_sec"


class MetricsWriter:
    """Append logged scalars to ``metrics.jsonl``: one flat object a line, floats that read back exactly.

    A value that is not finite is written as the strings "nan", "inf" or "-inf", so that every line is standard JSON.

    Args:
        keep_bytes: what stands behind so many bytes is cut off (a resumed run logs it again), and so is a torn line.
    """

    def __init__(self, run_dir: Path, *, keep_bytes: int):
        self._file = open(run_dir / METRICS_FILE, "a+b")  # noqa: SIM115, open as long as the run
        if self._file.seek(0, os.SEEK_END):  # nothing cannot be mapped
            with mmap(self._file.fileno(), 0, access=ACCESS_READ) as content:  # reads only what is looked at, the end
                whole_lines = content.rfind(b"\n", 0, keep_bytes) + 1
            self._file.truncate(whole_lines)
            self._file.seek(0, os.SEEK_END)

    @property
    def length(self) -> int:
        """Bytes written up to now."""
        return self._file.tell()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = {key: value if math.isfinite(value) else str(value) for key, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Bring what was written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def points_since(run_dir: Path, step: int) -> list[tuple[int, dict[str, float]]]:
    """Return the points from x = ``step`` on, in the order in which they were logged; damaged lines are left out."""
    points = []
    for line in _lines(run_dir):
        with contextlib.suppress(ValueError):
            points.append(_parse(line))
            if points[-1][0] < step:
                points.pop()
    return points


def logged_layers(run_dir: Path) -> list[str]:
    """Return the layers whose norms the first line of ``metrics.jsonl`` holds, in the model's order."""
    try:
        _, tags = _parse(next(_lines(run_dir), b""))
    except ValueError:
        return []
    return [tag.removeprefix("update/").removesuffix("/delta_l2") for tag in tags if tag.endswith("/delta_l2")]


def _lines(run_dir: Path) -> Iterator[bytes]:
    """Yield the lines of ``metrics.jsonl``, none where it is not there; raises UserError or StorageError."""
    path = run_dir / METRICS_FILE
    try:
        with open_file(path) as file:
            yield from iter(lambda: file.readline(LONGEST_LINE), b"")
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None


def _parse(line: bytes) -> tuple[int, dict[str, float]]:
    """Return the step of a line and its scalars; ValueError for anything that :class:`MetricsWriter` does not write."""
    try:
        scalars = json.loads(line)
        step = int(scalars.pop("step"))
        found = {tag: float(value) for tag, value in scalars.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a line is {line[:40]!r}") from error
    if not 0 <= step < 1 << 53:
        raise ValueError(f"step {step}")
    return step, found


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
        speeds = self.curve(SPEED)[1]
        return float(1.0 / np.mean(1.0 / speeds)) if len(speeds) else None


def read_metrics(run_dir: Path, tags: Iterable[str], *, most_points: int | None = None) -> Metrics:
    """Read the curves of ``tags`` from ``metrics.jsonl``; a folder without that file has no curves.

    One pass, line by line: memory holds 16 bytes for each point of these tags. A torn last line, as a killed run
    leaves it, is left out; so is a damaged line, which is told on stderr.

    Args:
        most_points: thin each curve evenly to fewer than twice as many points, and always keep its last.

    Raises:
        UserError, StorageError: when the file cannot be read; the first also where no line is what
            :class:`MetricsWriter` writes.
    """
    path = run_dir / METRICS_FILE
    columns = {tag: (array("q"), array("d")) for tag in tags}
    good, faults = 0, []
    for line in _lines(run_dir):
        if not line.endswith(b"\n"):
            continue
        try:
            step, scalars = _parse(line)
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
