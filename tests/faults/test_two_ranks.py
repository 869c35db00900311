"""Two ranks under the launcher: cut and continued, poisoned, made to differ, frozen."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.faults.runs import metrics, require_equal, run, steps_saved
from tests.jobs import alone
from train.data.arrays import open_digits
from train.data.loader import TrainLoader

pytestmark = pytest.mark.msrun


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run(folder, "whole", ranks=2).check()
    return folder / "whole"


def test_stopped_and_killed_and_continued(undisturbed: Path) -> None:
    """SIGTERM to one rank only stops both after the same update, or before the same batch of an evaluation, which is
    then made again; kill -9 of one rank ends the job at once."""
    folder = undisturbed.parent
    options = ("checkpoint.every=3", "resume=auto", "checkpoint.background=true", "replicas.every=2")
    done = run(folder, "cut", *options, ranks=2, faults="term:4:1")
    assert done.code == 143 and "SIGTERM: state 6 is saved" in done.logs[0]
    assert steps_saved(folder / "cut") == [4, 6], "the newest two; 4 is the best too"
    files = [folder / "cut" / "checkpoints" / "step-00000006" / f"ranks/00/rank-{rank}.safetensors" for rank in (0, 1)]
    first, second = (load_file(file)["bn1.moving_mean"] for file in files)
    assert (first != second).any(), "each rank has its own, or keeping them proves nothing"
    mean = load_file(files[0].parents[2] / "model.safetensors")["bn1.moving_mean"]
    np.testing.assert_array_equal(mean, (first + second) / 2)
    done = run(folder, "cut", *options, ranks=2, faults="term-in-evaluation:8:1")
    assert done.code == 143 and "SIGTERM: state 8 is saved" in done.logs[0]
    assert steps_saved(folder / "cut") == [4, 6, 8]
    assert metrics(folder / "cut")[-1]["step"] == 7, "nothing of the evaluation is reported"
    done = run(folder, "cut", *options, ranks=2, faults="kill:10:1")
    assert done.code == 137 and "rank 1 failed (killed by SIGKILL, " in done.logs[0]
    top1 = {line["step"]: line["val/top1"] for line in metrics(folder / "cut") if "val/top1" in line}
    assert top1[8] > top1[4] and (folder / "cut/checkpoints/best").readlink().name == "step-00000008"
    (folder / "cut/checkpoints/step-00000009/ranks/00/rank-1.safetensors").write_bytes(b"x")  # only rank 1 reads it
    done = run(folder, "cut", *options, ranks=2).check()
    assert "left aside: on rank 1: " in done.logs[0] and "continuing at update 8" in done.logs[0]
    require_equal(folder / "cut", undisturbed)


@pytest.mark.slow
def test_a_rank_killed_in_the_middle_of_its_own_file(undisturbed: Path) -> None:
    folder = undisturbed.parent
    options = ("checkpoint.every=3", "resume=auto")
    done = run(folder, "torn", *options, ranks=2, faults="kill-in-save:6:1")
    torn = folder / "torn/checkpoints/.partial-step-00000006/ranks/00/rank-1.safetensors"
    assert done.code == 137 and torn.exists() and steps_saved(folder / "torn") == [3, 4]
    done = run(folder, "torn", *options, ranks=2).check()
    assert "continuing at update 4" in done.logs[0]
    require_equal(folder / "torn", undisturbed)


MOMENTS = ["saved_as", "on_train_begin", "on_result", "on_eval_step_begin", "on_eval_end", "wants_state", "on_save"]
MOMENTS += ["on_train_end"]


@pytest.mark.parametrize("moment", ["state", *(pytest.param(moment, marks=pytest.mark.slow) for moment in MOMENTS)])
def test_a_hook_that_raises_on_one_rank_ends_the_job_with_its_traceback(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first update, while others wait in an exchange, when a state is saved, and at the end."""
    monkeypatch.setenv("MOMENT", moment)
    done = run(tmp_path, "trial", "hooks=['tests.faults.inject:RaisesOnOne']", ranks=2)
    assert done.code == 1 and f"ValueError: mine, at {moment}" in done.logs[0]


@pytest.mark.slow
def test_scoring_what_is_complete_can_be_stopped(undisturbed: Path) -> None:
    folder = undisturbed.parent
    again = shutil.copytree(undisturbed, folder / "again", symlinks=True)
    done = run(folder, "again", "resume=auto", ranks=2, faults="term-in-evaluation:12:1")
    assert done.code == 143 and "SIGTERM: state 12 is saved" in done.logs[0]
    require_equal(again, undisturbed)


def test_another_number_of_ranks_says_what_is_not_the_same(undisturbed: Path) -> None:
    done = run(undisturbed.parent, "fewer", f"resume={undisturbed}", "schedule.total=14", "resume_changes=[schedule]")
    assert "2 ranks became 1: sums over ranks are rounded differently" in done.check().logs[0]
    assert "schedule.total changed from 12 to 14" in done.logs[0]
    if (cores := len(os.sched_getaffinity(0))) > 1:
        assert f"cores of a rank {cores // 2} became {cores}" in done.logs[0]
    assert [line["step"] for line in metrics(undisturbed.parent / "fewer")] == [12, 13, 14]


def test_a_poisoned_batch_is_skipped_counted_and_in_the_end_stops_the_run(tmp_path: Path) -> None:
    """The first skip lowers a dynamic loss scale to its minimum: it is no sign of damage yet."""
    faults = "poison:1:1,poison:2:1,poison:5:1,poison:6:0"
    options = ("guard.stop_after=2", "checkpoint.every=1", "step.loss_scale=2", "step.loss_scale_window=100")
    done = run(tmp_path, "poisoned", *options, ranks=2, faults=faults)
    assert done.code == 3
    loader = TrainLoader(open_digits(8).train, global_batch=128, seed=1, rank=1, world_size=2)
    assert f"first in update 5 on rank 1, examples {loader.indices(5).tolist()}" in done.logs[0]
    skipped = {
        line["step"]: line["guard/skipped"] for line in metrics(tmp_path / "poisoned") if "guard/skipped" in line
    }
    assert skipped == {1: 1, 2: 2, 5: 3, 6: 4}
    before, after = (load_file(tmp_path / f"poisoned/checkpoints/step-0000000{t}/model.safetensors") for t in (5, 6))
    assert all((before[name] == after[name]).all() for name in before), "skipped, so nothing has changed"
    state = json.loads((tmp_path / "poisoned/checkpoints/step-00000006/state.json").read_text())
    assert state["hooks"]["Guard"] == {"skipped": 3, "in_a_row": 1}


@pytest.mark.slow
def test_a_run_of_which_no_update_was_applied_is_no_success(tmp_path: Path) -> None:
    steps = ("schedule.total=2", "schedule.warmup=1", "snapshots.steps=[]")
    done = run(tmp_path, "nothing", *steps, faults="poison:0:0,poison:1:0")
    assert done.code == 3 and "all 2 updates had a loss or gradient that was not finite" in done.logs[0]
    assert steps_saved(tmp_path / "nothing") == []


STOPS = ("guard.mode=stop", "checkpoint.every=2")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ends")


def test_told_to_stop_the_first_update_that_is_not_finite_ends_the_run_unsaved(ends: Path) -> None:
    done = run(ends, "ends", *STOPS, ranks=2, faults="poison:7:1")
    loader = TrainLoader(open_digits(8).train, global_batch=128, seed=1, rank=1, world_size=2)
    assert done.code == 3
    assert f"not finite in update 7 on rank 1, examples {loader.indices(7).tolist()}; guard.mode=stop" in done.logs[0]
    assert metrics(ends / "ends")[-1]["step"] == 6
    assert sorted(path.name for path in (ends / "ends/snapshots").iterdir()) == [
        f"step-00000002.rank-{rank}.npz" for rank in (0, 1)
    ]
    assert steps_saved(ends / "ends") == [4, 6]


@pytest.mark.slow
def test_and_it_goes_on_from_the_state_before(ends: Path, undisturbed: Path) -> None:
    if not (ends / "ends").exists():
        assert run(ends, "ends", *STOPS, ranks=2, faults="poison:7:1").code == 3
    run(ends, "ends", *STOPS, "resume=auto", ranks=2).check()
    require_equal(ends / "ends", undisturbed)  # made with guard.mode=skip: while all is finite both are equal


def test_a_weight_that_differs_on_one_rank_stops_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, "differs", "replicas.every=4", ranks=2, faults="flip:6:1")
    assert done.code == 4
    message = next(line for line in done.logs[0].splitlines() if "is not the same on all ranks" in line)
    assert "state 8 is not the same on all ranks" in message and "on ranks 0 to 1 (largest difference" in message
    assert "fc.weight" in message or "more" in message
    largest = float(message.partition("largest difference ")[2].partition(")")[0])
    assert largest > 0 and np.isfinite(largest)
    assert steps_saved(tmp_path / "differs") == []


@pytest.mark.slow
def test_a_rank_that_writes_no_snapshots_is_compared_by_their_hash(tmp_path: Path) -> None:
    options = ("snapshots.ranks=first", "snapshots.layers=[fc.weight, conv1.weight]", "replicas.every=8")
    assert run(tmp_path, "differs", *options, ranks=2, faults="flip:7:1").code == 4
    assert [path.name for path in sorted((tmp_path / "differs/snapshots").iterdir())] == [
        f"step-0000000{step}.rank-0.npz" for step in (2, 7)
    ]
    compared = alone(["-m", "train.comparison", tmp_path / "differs"], tmp_path)
    assert compared.code == 7
    assert [line for line in compared.logs[0].splitlines() if line.startswith("error: ")] == [
        "error: step 7, rank 1, layer fc.weight: its hash is not that on rank 0: the ranks differ"
    ]


@pytest.mark.slow
def test_a_finished_run_whose_comparison_fails_is_not_started_again(tmp_path: Path) -> None:
    done = run(tmp_path, "forged", ranks=2, faults="forge:5:1", launch=["--max-restarts", "1"])
    assert done.code == 7
    assert "NOT every update is W_start − lr·v" in done.logs[0] and "restart" not in done.logs[0]
    assert steps_saved(tmp_path / "forged") == [12]


@pytest.mark.parametrize("how", ["leave", pytest.param("system-exit", marks=pytest.mark.slow)])
def test_a_rank_that_leaves_with_0_ends_the_job_at_once(how: str, tmp_path: Path) -> None:
    done = run(tmp_path, "left", ranks=2, faults=f"{how}:5:1")
    said = {
        "leave": "launch: rank 1 left the job with exit code 0 before its end",
        "system-exit": "RuntimeError: SystemExit(0) in the middle of a training",
    }
    assert done.code == 1 and said[how] in done.logs[0]
    assert "did not answer" not in done.logs[0]


@pytest.mark.slow
def test_what_outlives_a_finished_training_decides_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "stays", ranks=2, faults="stay:5:0,stay:5:1", launch=["--max-restarts", "1"]).check()
    assert "everything is in" in done.logs[0] and "restart" not in done.logs[0]
