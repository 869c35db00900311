"""Every logged scalar of a run: written line by line, and read back. Imports no MindSpore."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from train.errors import UserError
from train.rundir.folder import METRICS_FILE

Curve = tuple[np.ndarray, np.ndarray]
"""Steps, int64 ascending, and values, float64; of one length."""


class MetricsWriter:
    """Append logged scalars to ``metrics.jsonl``: one flat object a line, floats that read back exactly.

    A value that is not finite is written as the strings "nan", "inf" or "-inf", so that every line is standard JSON.

    Args:
        keep_bytes: what stands behind so many bytes is cut off (a resumed run logs it again), and so is a torn line.
    """

    def __init__(self, run_dir: Path, *, keep_bytes: int):
        self._file = open(run_dir / METRICS_FILE, "ab")  # noqa: SIM115, open as long as the run
        with open(self._file.name, "rb") as reader:
            kept = reader.read(keep_bytes)
        self._file.truncate(kept.rfind(b"\n") + 1)
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


class Metrics:
    """Every logged scalar of a run as a curve.

    Where a step is logged twice, the last value counts; a torn last line, as a killed run leaves it, is left out.
    """

    def __init__(self, points: dict[str, dict[int, float]]):
        self._points = points

    @property
    def tags(self) -> list[str]:
        return list(self._points)

    def curve(self, tag: str) -> Curve:
        """Return the curve of ``tag``, empty if it was never logged; values that are not finite are among it."""
        points = sorted(self._points.get(tag, {}).items())
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps, np.int64), np.array(values, np.float64)

    def last(self, tag: str) -> float | None:
        """Return the value of ``tag`` at its last step, None if it was never logged."""
        values = self.curve(tag)[1]
        return float(values[-1]) if len(values) else None

    def images_per_sec(self) -> float | None:
        """Return the mean speed of the logged updates, without compilation and evaluation; None if there is none."""
        speeds = self.curve("perf/images_per_sec")[1]
        return float(1.0 / np.mean(1.0 / speeds)) if len(speeds) else None


def read_metrics(run_dir: Path) -> Metrics:
    """Read ``metrics.jsonl`` of a run folder; a folder without one has no curves.

    Raises:
        UserError: when a line is not what :class:`MetricsWriter` writes.
    """
    path = run_dir / METRICS_FILE
    points: dict[str, dict[int, float]] = {}
    if not path.is_file():
        return Metrics(points)
    try:
        whole = path.read_bytes().decode("utf-8").rpartition("\n")[0]
        for line in whole.splitlines():
            values = json.loads(line)
            step = int(values.pop("step"))
            for tag, value in values.items():
                points.setdefault(tag, {})[step] = float(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a run's metrics ({error}); start a new run with name=…") from None
    return Metrics(points)
