"""Every logged scalar of a run, written line by line; read as curves in :mod:`train.comparison.metrics`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path

from train.rundir.folder import METRICS_FILE
from train.runtime.errors import refused
from train.runtime.files import open_file

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


def points(run_dir: Path, since: int = 0) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the points from x = ``since`` on, in the order in which they were logged; damaged lines are left out."""
    for line in lines(run_dir):
        try:
            step, scalars = parse(line)
        except ValueError:
            continue
        if step >= since:
            yield step, scalars


def lines(run_dir: Path) -> Iterator[bytes]:
    """Yield the lines of ``metrics.jsonl``, none where it is not there; raises UserError or StorageError."""
    path = run_dir / METRICS_FILE
    try:
        with open_file(path) as file:
            yield from iter(lambda: file.readline(LONGEST_LINE), b"")
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None


def parse(line: bytes) -> tuple[int, dict[str, float]]:
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
