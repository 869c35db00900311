"""A whole run on what is no image and has no classes; and what is left of one whose evaluation or hook ends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import Finished, alone

PARTS = """
import numpy as np
from mindspore import nn, ops

from train.data.arrays import MemorySource
from train.data.source import Sources
from train.hooks import Hook


def open_sources(options):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 6)).astype(np.float32)
    targets = features @ rng.normal(size=(6, 2))  # float64 (50, 2)
    return Sources(*(MemorySource(features[part], targets[part], num_classes=2) for part in (slice(40), slice(40, 50))))


def create(*, num_classes, in_channels):
    return nn.SequentialCell(nn.BatchNorm1d(in_channels), nn.Dense(in_channels, num_classes))


def squares(outputs, targets):
    return ops.square(outputs - targets).mean(axis=1)


class Late:  # fails where it sees more examples than are tried before the first update
    def sums(self, outputs, targets):
        return outputs[:2] if len(outputs) <= 2 else outputs[:, 7]

    def compute(self, sums):
        return 0.0


class Enough(Hook):
    def on_train_step_end(self, run):
        if run.step == 4:
            run.request_stop("it is good enough")
"""

RECIPE = """
name: lines
model: {name: "parts:create"}
data: {source: "parts:open_sources", global_batch: 8, eval_batch: 4}
step: {loss: "parts:squares"}
schedule: {kind: constant, lr_max: 0.1, total: 30}
evaluate: {metrics: [loss, "train.step.metrics:MeanSquaredError"]}
hooks: ["parts:Enough"]
resume: auto
"""


def train(folder: Path, *settings: str) -> Finished:
    return alone(["-m", "train", "--config", folder / "recipe.yaml", *settings], folder)


def state(folder: Path) -> tuple[int, bool, str | None]:
    found: dict[str, Any] = json.loads((folder / "runs/lines/checkpoints/latest/state.json").read_text())
    return found["step"], found["evaluation_pending"], found["ended"]


@pytest.mark.msrun
def test_numbers_in_numbers_out(tmp_path: Path) -> None:
    """The first evaluation fails; nothing that was trained is lost, and what a hook has ended is not trained on."""
    (tmp_path / "parts.py").write_text(PARTS, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    done = train(tmp_path, "evaluate.metrics=[loss,{'train.step.metrics:ConfusionMatrix': {classes: 2}}]")
    assert done.code == 2 and "Traceback" not in done.logs[0] and not (tmp_path / "runs").exists()
    assert "evaluate.metrics: ConfusionMatrix(classes=2): the targets are not classes, 0 to 1" in done.logs[0]

    done = train(tmp_path, "evaluate.metrics=[loss,'parts:Late']")
    assert done.code == 2 and "evaluate.metrics: Late.sums() failed: IndexError" in done.logs[0]
    assert state(tmp_path) == (7, True, "it is good enough")

    for _ in range(2):
        done = train(tmp_path).check()
        assert "ended after 7 of 30 updates: it is good enough" in done.logs[0]
    points = [json.loads(line) for line in (tmp_path / "runs/lines/metrics.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert points[-1]["val/MeanSquaredError"] == pytest.approx(points[-1]["val/loss"], rel=1e-5)
    assert points[-1]["val/examples"] == 10 and points[5]["train/loss"] < points[0]["train/loss"]
