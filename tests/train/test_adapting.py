"""The guide's own code, run as a reader would: files in a folder of theirs, two ranks, nothing of ours edited."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models import create_model
from models.weights import export_weights
from tests.jobs import ROOT, alone, environment, msrun
from train import new
from train.data import open_readers
from train.data.loader import TrainLoader
from train.data.options import DataConfig


def test_each_replacement_takes_20_lines_or_fewer() -> None:
    assert len(new.files()) == 9
    for name, text in new.files().items():
        assert len(text.strip().splitlines()) <= 20 or name.startswith("test_"), name


@pytest.mark.msrun
def test_the_guide_runs_on_two_ranks(tmp_path: Path) -> None:
    new.write(tmp_path)
    done = msrun(2, ["-m", "train", "--config", "my_recipe.yaml"], tmp_path).check()

    points = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()]
    assert {point["step"] for point in points if "my/dead_channels" in point} == {0, 5, 10, 15}
    assert points[-1]["val/top1"] > 0.9
    assert points[-1]["val/MacroF1"] == pytest.approx(points[-1]["val/top1"], abs=0.05)
    updates = {point["step"]: point for point in points if "train/lr" in point}
    assert {updates[step]["train/lr"] for step in range(15, 20)} == {np.float32(0.02).item()}
    assert {updates[step]["train/lr/head.*"] for step in range(15, 20)} == {np.float32(0.04).item()}
    saved = json.loads((tmp_path / "runs" / "mine" / "checkpoints" / "latest" / "state.json").read_text())
    assert saved["hooks"]["Checkpoints"]["metric"] == "MacroF1" and "EarlyStopping" in saved["hooks"]
    events = EventAccumulator(str(tmp_path / "runs" / "mine" / "tensorboard"), {"histograms": 0}).Reload()
    assert [found.step for found in events.Histograms("my/gammas")] == [0, 5, 10, 15]
    comparison = json.loads((tmp_path / "runs" / "mine" / "comparison" / "comparison.json").read_text())
    assert comparison["ok"] and comparison["steps"] == [1, 12]
    for log in done.logs:  # MindSpore's own callbacks print on every rank
        assert re.findall(r"epoch: (\d+) step: (\d+), loss is", log)[-1] == ("2", "10")
        assert "per step time" in log


SLOW = pytest.mark.slow
TASKS = ROOT / "train" / "TASKS.md"


@pytest.mark.msrun
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("task", "figure", "least"),
    [
        ("words", "val/top1", 0.6),
        ("masks", "val/MedianOverlap", 0.6),
        pytest.param("pose", "val/Errors/angle", -0.4, marks=SLOW),
        pytest.param("student", "val/loss/labels", -3.0, marks=SLOW),
        pytest.param("views", "val/Spread", 0.05, marks=SLOW),
        pytest.param("tar", "val/top1", 0.5, marks=SLOW),
        ("rare", "val/top1", 0.5),
    ],
)
def test_other_tasks_run_on_two_ranks(tmp_path: Path, task: str, figure: str, least: float) -> None:
    for name, text in new.BLOCK.findall(TASKS.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    if task == "student":
        export_weights(create_model("resnet20", num_classes=10, in_channels=1), tmp_path / "teacher.safetensors")
    if task == "tar":
        subprocess.run([sys.executable, "my_tar.py"], cwd=tmp_path, env=environment(), check=True)
    done = msrun(2, ["-m", "train", "--config", f"{task}.yaml"], tmp_path).check()
    points = [json.loads(line) for line in (tmp_path / "runs" / task / "metrics.jsonl").read_text().splitlines()]
    assert points[-1][figure] * np.sign(least) > least
    graphs = [re.findall(r"a graph is compiled for them, number (\d)", log) for log in done.logs]
    assert all(1 <= len(found) <= 4 and max(map(int, found)) <= 2 for found in graphs) == (task == "words")
    for loss in ("train/loss", "val/loss") if task != "rare" else ():
        last = next(point for point in reversed(points) if loss in point)
        parts = [value for key, value in last.items() if key.startswith(f"{loss}/")]
        assert not parts or sum(parts) == pytest.approx(last[loss], rel=1e-5)
        assert bool(parts) == (task in ("masks", "student"))
    if task == "rare":
        check_weighted_mean([point["train/loss"] for point in points if "train/loss" in point][:3])


def check_weighted_mean(losses: list[float]) -> None:
    """Three updates of softmax regression with NumPy, on the whole batch: Σ w·loss / Σ w, wherever the classes fall."""
    readers = open_readers(DataConfig(source="digits", image_size=8))
    loader = TrainLoader(readers.train, global_batch=30, seed=1)
    weights, matrix, bias = np.array([1.0] * 8 + [2.5, 5.0]), np.zeros((10, 64)), np.zeros(10)
    velocity = [np.zeros_like(matrix), np.zeros_like(bias)]
    for batch, found in zip(loader.batches(0, 3), losses, strict=True):
        x = (batch.images.reshape(30, 64) / 255 - readers.train.source.mean) / readers.train.source.std
        logits = x @ matrix.T + bias
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        of_each = weights[batch.labels]
        assert np.ptp(of_each.reshape(2, 15).sum(axis=1)) > 0, "the rare classes fall to the ranks in different numbers"
        true = p[np.arange(30), batch.labels]
        assert found == pytest.approx(np.average(-np.log(true), weights=of_each), rel=1e-4)
        error = of_each[:, None] * (p - np.eye(10)[batch.labels]) / of_each.sum()
        velocity = [0.9 * v + g for v, g in zip(velocity, (error.T @ x, error.sum(axis=0)), strict=True)]
        matrix, bias = matrix - 0.1 * velocity[0], bias - 0.1 * velocity[1]


def test_a_new_project_is_written_once_and_its_own_tests_pass(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    project = tmp_path / "mine"
    assert new.main([str(project)]) == 0
    own = environment() | {"PYTHONPATH": f"{project}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=project, env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    (project / "my_loss.py").write_text("def focal(outputs, targets, *, gamma):\n    return outputs.mean()\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=project, env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "test_the_loss" in done.stdout

    for there in (project, project / "README.md", tmp_path / ("a" * 300)):
        capsys.readouterr()
        assert new.main([str(there)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_namesake_of_ours_in_front_of_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    done = alone(["-m", "train", "--help"], tmp_path)
    assert done.code == 2 and done.logs[0].startswith(f"error: Python finds {tmp_path}/models/__init__.py")
    shutil.rmtree(tmp_path / "models")
    alone(["-m", "train", "--help"], tmp_path).check()
