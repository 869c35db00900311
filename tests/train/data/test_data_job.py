"""Damaged files in real jobs of two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.runs import run
from tests.jobs import alone, msrun, train_task
from tests.train.data.folders import damaged, fill

STEPS = 12


def settings(root: Path) -> list[str]:
    data = ["data.source=image_folder", f"data.root={root / 'data'}", "data.hold_out=3"]
    return [*data, "data.global_batch=10", "data.eval_batch=4", "data.augment=[pad_crop, flip]"]


def folder_task(root: Path, *more: str) -> list[str | Path]:
    return train_task(root / "runs", "a", *settings(root), *more)


@pytest.mark.slow
@pytest.mark.msrun
def test_ranks_that_skip_make_the_same_number_of_updates(tmp_path: Path) -> None:
    fill(tmp_path / "data", count=10)
    damaged(tmp_path / "data", 1, 2, 9)  # two to train on, one held out
    done = msrun(2, folder_task(tmp_path, "data.bad_image_limit=100", "replicas.every=1"), tmp_path).check()
    logs = "\n".join(done.logs)
    assert all(f"cat/{number:03}.jpg: " in logs for number in (1, 2, 9))
    rows = [json.loads(line) for line in (tmp_path / "runs" / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(STEPS))
    assert next(row for row in rows if "val/examples" in row)["val/examples"] == 5, "the damaged one is not counted"


@pytest.mark.msrun
def test_a_damaged_file_that_one_rank_meets_ends_all_with_one_line(tmp_path: Path) -> None:
    fill(tmp_path / "data", count=10)
    damaged(tmp_path / "data", 1)
    done = run(tmp_path, "a", *settings(tmp_path), ranks=2)
    assert done.code == 2, done.logs
    errors = [line for line in done.logs[0].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cat/001.jpg: its content is no image of a format that is read" in errors[0]
    assert "Traceback" not in done.logs[0]


def test_missing_data_is_told_before_anything_is_written(tmp_path: Path) -> None:
    done = alone(folder_task(tmp_path), tmp_path)
    assert done.code == 2, done.logs
    assert f"data.root={tmp_path / 'data'}: no such folder; expected: ROOT/train/<class>/*.jpg" in done.logs[0]
    assert "Traceback" not in done.logs[0]
    assert not (tmp_path / "runs").exists()
