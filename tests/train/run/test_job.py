"""Whole jobs of 1, 2 and 3 ranks (128 images do not divide by 3), and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import schedules
from tests.jobs import Finished, alone, msrun, train_task

STEPS = [2, 7, 11]
WORLDS = [1, 2, 3]
pytestmark = pytest.mark.msrun


class Job(NamedTuple):
    world: int
    folder: Path
    done: Finished

    def snapshot(self, step: int, rank: int) -> dict[str, np.ndarray]:
        with np.load(self.folder / "snapshots" / f"step-{step:08d}.rank-{rank}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def metrics(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)],
    ids=lambda world: f"{world}-ranks",
)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    world, folder = request.param, tmp_path_factory.mktemp("job")
    task = train_task(folder, "trial", "snapshots.layers=['*']", f"snapshots.steps={STEPS}", "evaluate.every=5")
    done = alone(task, folder) if world == 1 else msrun(world, task, folder)
    return Job(world, folder / "trial", done.check())


def test_every_rank_holds_the_same_weights_and_velocities(job: Job) -> None:
    first = job.snapshot(STEPS[-1], 0)
    assert len(first["layers"]) > 20
    for rank in range(1, job.world):
        other = job.snapshot(STEPS[-1], rank)
        assert int(other["rank"]) == rank
        for key in first.keys() - {"rank"}:
            np.testing.assert_array_equal(first[key], other[key], err_msg=f"rank {rank}, {key}")


def test_the_update_is_lr_times_velocity(job: Job) -> None:
    lr = schedules.Schedule.load(job.folder / "schedule.npz").lr
    for step in STEPS:
        arrays = job.snapshot(step, 0)
        assert int(arrays["kernel_step"]) == step
        assert arrays["lr"] == lr[step]
        for i in range(len(arrays["layers"])):
            start, v, new = (arrays[f"{what}.{i}"].astype(np.float64) for what in ("W_start", "v", "W_new"))
            unit = np.spacing(np.maximum.reduce([abs(start), abs(lr[step] * v), abs(new)]).astype(np.float32))
            assert np.all(abs(start - lr[step] * v - new) <= unit)
            assert np.any(start != new), "a layer that does not move proves nothing"


def test_evaluation_counts_every_held_out_image_once(job: Job) -> None:
    points = [point for point in job.metrics() if "val/top1" in point]
    assert [point["step"] for point in points] == [5, 10, 12]
    for point in points:
        assert point["val/examples"] == 360
        assert (point["val/top1"] * 360) == pytest.approx(round(point["val/top1"] * 360), abs=1e-9)


def test_metrics_hold_every_update_with_the_planned_lr(job: Job) -> None:
    lr = schedules.get_lr(lr_init=0.01, lr_max=0.1, lr_end=0.001, warmup_steps=3, total_steps=12)
    points = [point for point in job.metrics() if "train/lr" in point]
    assert [point["step"] for point in points] == list(range(12))
    assert [point["train/lr"] for point in points] == [float(value) for value in lr]
    assert points[-1]["train/loss"] < points[0]["train/loss"]


def test_tensorboard_shows_the_metrics(job: Job) -> None:
    events = EventAccumulator(str(job.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    for tag in ("train/loss", "train/lr", "val/top1"):
        logged = {point["step"]: point[tag] for point in job.metrics() if tag in point}
        shown = {event.step: event.value for event in events.Scalars(tag)}
        assert shown == {step: np.float32(value) for step, value in logged.items()}


def test_the_run_folder_says_what_ran(job: Job) -> None:
    config = yaml.safe_load((job.folder / "config.yaml").read_text())
    assert config["schedule"]["total"] == 12
    assert config["versions"]["world_size"] == str(job.world)
    comparison = json.loads((job.folder / "comparison" / "comparison.json").read_text())
    assert comparison["ok"] and comparison["steps"] == STEPS


def test_the_saved_model_alone_scores_what_the_run_reported(job: Job, tmp_path: Path) -> None:
    pytest.importorskip("train.score")
    scored = json.loads(alone(["-m", "train.score", job.folder], tmp_path).check().logs[0].splitlines()[-1])
    reported = job.metrics()[-1]
    assert (scored["top1"], scored["examples"]) == (reported["val/top1"], 360)
    assert scored["loss"] == pytest.approx(reported["val/loss"], rel=1e-6)


def test_a_second_run_does_not_touch_the_first(job: Job, tmp_path: Path) -> None:
    before = (job.folder / "metrics.jsonl").read_bytes()
    again = alone(train_task(job.folder.parent, "trial"), tmp_path)
    assert again.code == 2
    assert again.logs[0].strip().startswith("error: rank 0:") and "already holds a run" in again.logs[0]
    assert (job.folder / "metrics.jsonl").read_bytes() == before


def test_the_examples_of_an_update_do_not_depend_on_the_number_of_ranks() -> None:
    from train.data.arrays import open_digits
    from train.data.loader import TrainLoader

    source = open_digits(8).train
    for step in (0, 10, 11, 25):
        whole = TrainLoader(source, global_batch=128, seed=3).indices(step)
        for world in WORLDS:
            parts = [
                TrainLoader(source, global_batch=128, seed=3, rank=rank, world_size=world) for rank in range(world)
            ]
            np.testing.assert_array_equal(np.concatenate([part.indices(step) for part in parts]), whole)
            assert sum(part.local_batch for part in parts) == 128
