"""A short run must give the losses it has always given. ``python -m tests.train.test_golden`` renews the file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from tests.jobs import alone, train_task

GOLDEN = Path(__file__).with_name("golden.json")
# Processors sum in different orders: with oneDNN's SSE4.1 instead of AVX2 kernels the losses moved by up to 7e-8.
TOLERANCE = 1e-4


def losses(folder: Path) -> list[float]:
    alone(train_task(folder, "golden", "log.tensorboard=false"), folder).check()
    points = [json.loads(line) for line in (folder / "golden" / "metrics.jsonl").read_text().splitlines()]
    return [point["train/loss"] for point in points if "train/loss" in point] + [points[-1]["val/loss"]]


def test_the_losses_are_those_of_the_golden_run(tmp_path: Path) -> None:
    np.testing.assert_allclose(losses(tmp_path), json.loads(GOLDEN.read_text()), rtol=TOLERANCE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(losses(Path(folder)), indent=1) + "\n")
