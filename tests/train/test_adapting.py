"""The guide's own code, run as a reader would: files in a folder of theirs, two ranks, nothing of ours edited."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.jobs import ROOT, msrun

GUIDE = ROOT / "train" / "ADAPTING.md"
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.M | re.S)


def blocks() -> dict[str, str]:
    return dict(BLOCK.findall(GUIDE.read_text(encoding="utf-8")))


def test_each_replacement_takes_20_lines_or_fewer() -> None:
    assert len(blocks()) == 8
    for name, text in blocks().items():
        assert len(text.strip().splitlines()) <= 20, name


@pytest.mark.msrun
def test_the_guide_runs_on_two_ranks(tmp_path: Path) -> None:
    for name, text in blocks().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = msrun(2, ["-m", "train", "--config", "my_recipe.yaml"], tmp_path).check()

    points = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()]
    assert {point["step"] for point in points if "my/dead_channels" in point} == {0, 5, 10, 15}
    assert points[-1]["val/top1"] > 0.9
    assert points[-1]["val/MacroF1"] == pytest.approx(points[-1]["val/top1"], abs=0.05)
    updates = {point["step"]: point for point in points if "train/lr" in point}
    assert {updates[step]["train/lr"] for step in range(15, 20)} == {np.float32(0.02).item()}
    assert {updates[step]["train/lr/5.*"] for step in range(15, 20)} == {np.float32(0.04).item()}
    saved = json.loads((tmp_path / "runs" / "mine" / "checkpoints" / "latest" / "state.json").read_text())
    assert saved["hooks"]["Checkpoints"]["metric"] == "MacroF1" and "EarlyStopping" in saved["hooks"]
    events = EventAccumulator(str(tmp_path / "runs" / "mine" / "tensorboard"), {"histograms": 0}).Reload()
    assert [found.step for found in events.Histograms("my/gammas")] == [0, 5, 10, 15]
    comparison = json.loads((tmp_path / "runs" / "mine" / "comparison" / "comparison.json").read_text())
    assert comparison["ok"] and comparison["steps"] == [1, 12]
    for log in done.logs:  # MindSpore's own callbacks print on every rank
        assert re.findall(r"epoch: (\d+) step: (\d+), loss is", log)[-1] == ("2", "10")
        assert "per step time" in log
