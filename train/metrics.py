"""Read back what a run logged. Imports no MindSpore."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from train.errors import UserError
from train.hooks.scalars import METRICS_FILE

Curve = tuple[np.ndarray, np.ndarray]
"""Steps, int64 ascending, and values, float64; of one length."""


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
        UserError: when a line is not what :class:`train.hooks.scalars.MetricsFile` writes.
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
