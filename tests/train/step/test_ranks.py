"""What ranks owe each other: one gradient, one schedule, one end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests import jobs
from tests.jobs import msrun, train_task

TASKS = Path(__file__).parents[1] / "tasks"
pytestmark = pytest.mark.msrun


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3], ids=lambda n: f"{n}-ranks")
def one_step(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank of tasks/one_step.py found; 64 images do not divide by 3."""
    done = msrun(request.param, [TASKS / "one_step.py"], tmp_path_factory.mktemp("one_step")).check()
    return [json.loads(log.strip().splitlines()[-1]) for log in done.logs]


def test_the_gradient_is_the_mean_over_the_global_batch(one_step: list[dict]) -> None:
    for found in one_step:
        assert max(found["gradients"]["reduced"]) < 1e-5
        assert max(found["gradients"]["reduced, norm"]) < 1e-5
        assert min(found["gradients"]["left out"]) > 1e-2, "the comparison above could not fail"


def test_the_mean_is_clipped_and_not_the_parts(one_step: list[dict]) -> None:
    for found in one_step:
        assert max(found["gradients"]["clipped"]) < 1e-5
        assert max(found["gradients"]["clipped, norm"]) < 1e-5, "reported as it was"


def test_a_poisoned_batch_on_one_rank_leaves_no_trace_on_any(one_step: list[dict]) -> None:
    lr = np.array([0.01, 0.055, 0.1], np.float32)
    for found in one_step:
        poisoned = found["poisoned"]
        assert poisoned["applied"] == [True, False, True]
        assert poisoned["bad_ranks"] == [[], [len(one_step) - 1], []], "the rank is named on every rank"
        assert poisoned["changed"][0] == 0, "weights, velocities and moving statistics stay as they were"
        assert poisoned["changed"][1] == poisoned["watched"], "the next update moves all of them again"
        assert poisoned["global_step"] == 3
        assert poisoned["lr"] == [float(value) for value in lr]


NOISE = ("data.source=synthetic", "data.synthetic_examples=500", "schedule.total=3 epochs")


@pytest.mark.parametrize(
    ("odd", "settings", "what"),
    [
        pytest.param("schedule.lr_max=0.2", (), "schedule.lr_max", marks=pytest.mark.slow),
        pytest.param("seed=2", (), "seed", marks=pytest.mark.slow),
        ("evaluate.every=3", NOISE, "evaluate.every"),  # reaches no weight, but ranks would wait for each other
    ],
    ids=["schedule", "seed", "evaluation"],
)
def test_a_rank_unlike_the_others_ends_the_job_and_is_named(
    odd: str, settings: tuple[str, ...], what: str, tmp_path: Path
) -> None:
    task = [TASKS / "odd_rank.py", "1", odd, *train_task(tmp_path, "trial", *settings)[2:]]
    done = msrun(3, task, tmp_path)
    assert done.code != 0
    assert any(f"{what} differs between ranks: rank 1 has" in log for log in done.logs)
    assert not (tmp_path / "trial").exists()


def test_a_module_that_is_another_on_one_rank_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node whose copy of the reader's own code was forgotten."""
    for folder in ("new", "old"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own_module.py").write_text(f'"""The {folder} one."""\n')
    monkeypatch.setattr(jobs, "ROOT", f"{tmp_path / 'new'}{os.pathsep}{jobs.ROOT}")
    task = [
        TASKS / "odd_rank.py",
        "1",
        str(tmp_path / "old"),
        *train_task(tmp_path, "trial", "imports=[own_module]")[2:],
    ]
    done = msrun(3, task, tmp_path)
    assert done.code != 0 and not (tmp_path / "trial").exists()
    assert any("the source of own_module differs between ranks: rank 1 has" in log for log in done.logs), done.logs


UNLIKE = """
import os
from mindspore import nn

def create(*, num_classes, in_channels):
    more = [nn.Dense(num_classes, num_classes)] * (os.environ["RANK_ID"] == "1")
    return nn.SequentialCell(nn.Flatten(), nn.Dense(64 * in_channels, num_classes), *more)
"""


def test_a_model_that_is_another_on_one_rank_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights would be exchanged with others', or waited for until the ranks are given up."""
    (tmp_path / "unlike.py").write_text(UNLIKE)
    monkeypatch.setattr(jobs, "ROOT", f"{tmp_path}{os.pathsep}{jobs.ROOT}")
    model = ("model.name=unlike:create", "model.options={}", "data.image_size=8")
    done = msrun(2, train_task(tmp_path, "trial", *model), tmp_path)
    assert done.code != 0 and not (tmp_path / "trial").exists()
    assert all("the model differs between ranks: rank 1 has [4, " in log for log in done.logs), done.logs


def test_batch_norm_over_one_value_a_channel_is_refused_by_name(tmp_path: Path) -> None:
    """It would write NaN into the moving statistics, while no weight moves and all else looks well."""
    model = ("model.name=resnet18", "model.options={}", "data.image_size=32")
    done = msrun(2, train_task(tmp_path, "trial", *model, "data.global_batch=4", "step.accumulate=2"), tmp_path)
    assert done.code != 0 and not (tmp_path / "trial").exists()
    for log in done.logs:
        assert "data.global_batch=4: BatchNorm layer4.0.bn1" in log and "would see one value a channel" in log


def test_an_error_on_one_rank_ends_all_with_its_message(tmp_path: Path) -> None:
    """Of 127 images rank 0 gets 63, which are too few, and rank 1 gets 64."""
    done = msrun(2, train_task(tmp_path, "trial", "data.global_batch=127", "step.accumulate=64"), tmp_path)
    assert done.code != 0
    for rank, log in enumerate(done.logs):
        assert f"error: rank {rank}: step.accumulate=64: a rank's batch of 63 examples (2 ranks) cannot" in log
        assert "Traceback" not in log
