"""Two real runs side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.jobs import ROOT, environment
from train.compare_runs import compare_runs
from train.errors import UserError

pytestmark = pytest.mark.msrun


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {first: rest for first, *rest in cells}


def test_table_and_picture(runs_dir: Path, tmp_path: Path) -> None:
    told = rows(compare_runs([runs_dir / "one", runs_dir / "two"], tmp_path / "picture.png"))
    assert told[""] == ["one", "two"]
    assert told["`schedule.lr_max`"] == ["0.05", "0.1"]
    assert told["`ranks`"] == ["1", "2"]
    assert "`seed`" not in told and "`name`" not in told
    last = [json.loads((runs_dir / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("one", "two")]
    assert told["held-out top1"] == [f"{line['val/top1']:.2%}" for line in last]
    for i, name in enumerate(("one", "two")):
        with np.load(runs_dir / name / "snapshots" / "step-00000007.rank-0.npz") as arrays:
            layer = arrays["layers"].tolist().index("fc.weight")
            norm = np.linalg.norm((arrays[f"W_start.{layer}"].astype(float) - arrays[f"W_new.{layer}"]).ravel())
            assert float(told["‖ΔW‖ of fc.weight at t = 7"][i]) == pytest.approx(norm, rel=1e-5)
            assert float(told["lr at t = 7"][i]) == pytest.approx(float(arrays["lr"]), rel=1e-5)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1200, 960)


def test_the_command(runs_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train.compare_runs", runs_dir / "one", runs_dir / "two"]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\npicture: compare_runs.png\n") and (tmp_path / "compare_runs.png").exists()


def test_mistakes_are_one_line_and_leave_nothing(runs_dir: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    with pytest.raises(UserError, match="one run alone; name two or more"):
        compare_runs([runs_dir / "one"], picture)
    with pytest.raises(UserError, match=r"no run folder, it has no config\.yaml"):
        compare_runs([runs_dir / "one", tmp_path], picture)
    with pytest.raises(UserError, match=r"--picture .*: cannot be written"):
        compare_runs([runs_dir / "one", runs_dir / "two"], tmp_path / "no folder" / "picture.png")
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_mindspore() -> None:
    code = "import sys, train.compare_runs; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=100).returncode == 0
