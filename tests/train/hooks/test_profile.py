"""A recorded update is an update like any other; what is said of it is what the trace holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.faults.runs import run
from tests.jobs import DIGITS, alone, train_task
from train.hooks.base import make_hooks
from train.hooks.profile import covered, table
from train.recipe.read import load_config
from train.runtime.errors import UserError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"steps": [3]},
            r"profile\.steps=\[3\]: give the first and the last update, at most 100 in all, as \[20, 30\]",
        ),
        ({"steps": 3}, "give the first and the last"),
        ({"steps": [3, 2]}, "give the first and the last"),
        ({"steps": "[1, b]"}, "give the first and the last"),
        ({"steps": [1, 101]}, "at most 100 in all"),
        ({"steps": [-1, 2]}, "must be at least 0"),
        ({"steps": [1, 2], "ranks": "some"}, r"profile\.ranks='some': must be auto, all, first, or a list of ranks"),
        ({"steps": [1, 2], "ranks": [1]}, r"profile\.ranks=\[1\]: there are the ranks 0 to 0"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config = load_config(DIGITS, [f"profile.{key}={value}" for key, value in options.items()])
        make_hooks([{"train.hooks.profile:Profile": dict(config.profile)}])


def test_updates_that_the_run_never_makes_are_refused(tmp_path: Path) -> None:
    done = alone(train_task(tmp_path, "late", "profile.steps=[5, 100]"), tmp_path)
    assert done.code == 2 and "profile.steps=[5, 100]: the run makes updates 0 to " in done.logs[0]
    assert not (tmp_path / "late").exists(), "nothing is written"


def test_time_that_kernels_share_counts_once() -> None:
    assert covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (5.2, 5.4)]) == 4.0
    assert covered([]) == 0.0


def test_the_largest_kernels_and_the_gaps_between_them() -> None:
    names = {"ph": "M", "pid": 2, "name": "process_name", "args": {"name": "CPU OP"}}
    kernel = {"ph": "X", "pid": 2, "name": "Default/net/Conv2D-op3", "ts": "0.0", "dur": "6000.0"}
    later = {**kernel, "name": "Default/net/Conv2D-op4", "ts": "8000.0", "dur": "1000.0"}
    other = {**kernel, "name": "Default/net/ReLU-op1", "ts": "7000.0", "dur": "1000.0"}
    host = {**kernel, "pid": 3, "name": "host", "dur": "9000.0"}
    trace = [names, kernel, later, other, host]
    lines = table(trace, 0.01, 0.001, {"updates": 2, "evaluations": 1, "checkpoints": 0}, "en").splitlines()
    assert "2 updates, 1 evaluations in 10.0 ms: 80% with a kernel running, 20% without" in lines[0]
    assert "10% waiting for data" in lines[0]
    assert "2 次更新，共 10.0 ms" in table(trace, 0.01, 0.001, {"updates": 2}, "zh")
    assert lines[4:] == ["| Conv2D | 2 | 7.00 | 87.5% |", "| ReLU | 1 | 1.00 | 12.5% |"]


def test_recording_changes_nothing_but_the_speeds(tmp_path: Path) -> None:
    plain = alone(train_task(tmp_path, "plain"), tmp_path).check()
    recorded = alone(train_task(tmp_path, "recorded", "profile.steps=[1, 2]"), tmp_path).check()
    assert "kernel running" in recorded.logs[0] and "kernel running" not in plain.logs[0]

    weights = [load_file(tmp_path / name / "checkpoints/latest/model.safetensors") for name in ("plain", "recorded")]
    assert all(np.array_equal(value, weights[1][key]) for key, value in weights[0].items())
    lines = [json.loads(line) for line in (tmp_path / "recorded/metrics.jsonl").read_text().splitlines()]
    timed = {line["step"] for line in lines if "perf/step_ms" in line}
    assert timed and not timed & {1, 2}
    assert {line["step"] for line in lines if "train/loss" in line} >= {1, 2}

    folder = tmp_path / "recorded/profile"
    assert "Conv2D" in (folder / "profile.md").read_text()
    assert len([*folder.glob("rank-0_*/ASCEND_PROFILER_OUTPUT/trace_view.json")]) == 1
    assert not (tmp_path / "plain/profile").exists()


@pytest.mark.msrun
def test_what_another_rank_recorded_is_told_by_the_first(tmp_path: Path) -> None:
    settings = ("profile.steps=[3, 6]", "profile.ranks=[1]", "checkpoint.every=3")
    done = run(tmp_path, "one", *settings, ranks=2).check()
    # state 3 is saved before it begins, 4 evaluated and saved as the best, 6 saved, 7 is behind it
    words = "4 updates, 1 evaluations, 2 checkpoints in "
    assert done.logs[0].count(words) == 1 and "Conv2D" in done.logs[0]
    folder = tmp_path / "one/profile"
    assert (folder / "profile.md").read_text().startswith(words)
    assert [path.name.split("_")[0] for path in folder.iterdir() if path.is_dir()] == ["rank-1"]
    (events,) = (path for path in (tmp_path / "one/tensorboard").iterdir() if path.suffix != ".comparison")
    (shown,) = EventAccumulator(str(events)).Reload().Tensors("run/profile")
    assert words in shown.tensor_proto.string_val[0].decode()


def test_a_resumed_run_records_what_is_left(tmp_path: Path) -> None:
    """Also where it begins with the evaluation that was stopped, and a run that ends before the last of them."""
    assert run(tmp_path, "cut", faults="term-in-evaluation:4:0").code == 143
    done = run(tmp_path, "cut", "resume=auto", "profile.steps=[4, 6]", faults="term:5:0")
    assert done.code == 143 and "ERROR" not in done.logs[0]
    assert re.search(r"^[23] updates.* in ", done.logs[0], re.MULTILINE)
    done = run(tmp_path, "cut", "resume=auto", "profile.steps=[2, 8]").check()
    assert re.search(r"^[12] updates.* in ", done.logs[0], re.MULTILINE)
    done = run(tmp_path, "cut", "resume=auto", "profile.steps=[2, 3]").check()
    assert "note: profile.steps=[2, 3]: the run goes on at 12, nothing is recorded" in done.logs[0]


def test_a_folder_that_the_profiler_cannot_take_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()
    done = run(tmp_path / "a@b", "odd", "profile.steps=[4, 6]")
    assert done.code == 2 and "MindSpore's profiler cannot write into " in done.logs[0]
    assert not (tmp_path / "a@b/data").exists() and "loss" not in done.logs[0]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/profile").touch()
    done = run(tmp_path, "plain", "profile.steps=[4, 6]")
    assert done.code == 5 and "plain/profile" in done.logs[0] and "loss" not in done.logs[0]
