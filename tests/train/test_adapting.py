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

from tests.jobs import ROOT, alone, environment, msrun
from train import new


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


@pytest.mark.msrun
@pytest.mark.parametrize(("task", "figure"), [("words", "val/top1"), ("masks", "val/MedianOverlap")])
def test_other_tasks_run_on_two_ranks(tmp_path: Path, task: str, figure: str) -> None:
    page = (ROOT / "train" / "TASKS.md").read_text(encoding="utf-8")
    for name, text in new.BLOCK.findall(page):
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = msrun(2, ["-m", "train", "--config", f"{task}.yaml"], tmp_path).check()
    points = [json.loads(line) for line in (tmp_path / "runs" / task / "metrics.jsonl").read_text().splitlines()]
    assert points[-1][figure] > 0.6
    if task == "words":
        graphs = [re.findall(r"a graph is compiled for them, number (\d)", log) for log in done.logs]
        assert all(1 <= len(found) <= 4 and max(map(int, found)) <= 2 for found in graphs)
    else:
        assert "train/top1" not in points[0]
        for part in ("train", "val"):
            last = next(point for point in reversed(points) if f"{part}/loss" in point)
            parts = last[f"{part}/loss/entropy"] + last[f"{part}/loss/dice"]
            assert parts == pytest.approx(last[f"{part}/loss"], rel=1e-5)


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

    for there in (project, project / "README.md"):
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
