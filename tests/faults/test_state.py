"""All that a step owns goes into a checkpoint and comes back: nothing is compiled or trained here."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

import models
import schedules
from tests.faults.checkpoints import describe, put, put_files
from tests.jobs import DIGITS
from train.checkpoint import disk as files
from train.checkpoint.saved import Checkpoint, Description, Writer, load
from train.checkpoint.state import State, capture, misfits, restore
from train.data import open_readers
from train.hooks import RunState
from train.hooks.checkpoints import Best, Checkpoints
from train.hooks.guard import Guard
from train.hooks.runstate import Ending
from train.hooks.scalars import MetricsFile
from train.recipe.read import load_config
from train.run.job import continue_from, restore_hooks
from train.run.loop import evaluate
from train.rundir.folder import RunFolder
from train.runtime import distributed
from train.runtime.errors import DivergedError, FiguresError, RunError, StorageError, UserError
from train.step.network import Network
from train.step.optimizer import make_optimizer
from train.step.options import StepOptions
from train.step.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("on_cpu")


HYPER_PARAMETERS = ("optimizer.learning_rate", "optimizer.momentum")
SCALE = ("train_step.loss_scale", "train_step.updates_since_scaling")
EXPECTED = {*SCALE, "optimizer.global_step", "optimizer.moments.fc.weight", "train_step.ema.fc.weight"}


def make(seed: int, classes: int = 10) -> TrainStep:
    """A step with all extras, every parameter of which has a value of its own."""
    model = models.create_model("resnet20", num_classes=classes, in_channels=1, depths=[1, 1, 1])
    lr = np.full(9, 0.1 * seed, np.float32)
    optimizer = make_optimizer(model, lr, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=False)
    options = StepOptions(ema=0.9, accumulate=2, loss_scale=2.0, loss_scale_window=5)
    step = TrainStep(Network(model, [0.5], [0.2]), optimizer, global_batch=8, world_size=1, options=options)
    rng = np.random.default_rng(seed)
    for parameter in step.get_parameters():
        if parameter.name not in HYPER_PARAMETERS:
            values = rng.integers(1, 1000, parameter.shape).astype(parameter.asnumpy().dtype)
            parameter.set_data(ms.Tensor(values))
    optimizer.global_step.set_data(ms.Tensor([4], ms.int32))  # the state is of step 4
    return step


def captured(step: TrainStep) -> State:
    state = capture(step)
    assert state is not None
    return state


def values(step: TrainStep) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in step.get_parameters()}


def test_everything_comes_back_but_the_schedule(tmp_path: Path) -> None:
    saved, other = make(1), make(2)
    loaded = load(put(tmp_path, describe(4), captured(saved))).state
    assert misfits(loaded, other) == []
    restore(loaded, other)
    expected, found = values(saved), values(other)
    for name in expected:
        if name == "optimizer.learning_rate":
            np.testing.assert_array_equal(
                found[name], np.full(9, 0.2, np.float32), "an old schedule must not come back"
            )
        elif name.startswith("train_step.statistics_copy."):
            copied = other.joined_statistics()[int(name.removeprefix("train_step.statistics_copy."))]
            np.testing.assert_array_equal(
                found[name], copied, err_msg="a skipped update would bring back another state"
            )
        elif not name.startswith("train_step.accumulated"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert set(found) >= EXPECTED


def test_another_number_of_ranks_starts_from_the_mean_of_the_statistics() -> None:
    state, other = captured(make(1)), make(2)
    mean = state.model["bn1.moving_mean"] + 1
    restore(state._replace(model=state.model | {"bn1.moving_mean": mean}, own={}), other)
    np.testing.assert_array_equal(values(other)["bn1.moving_mean"], mean)


SCHEDULE = schedules.build({"kind": "constant", "lr_max": 0.1, "total": 9})


def described(*settings: str) -> Description:
    config = load_config(DIGITS, ["step.loss_scale=1024", "step.loss_scale_window=5", *settings])
    data = {part: reader.source.fingerprint() for part, reader in open_readers(config.data)._asdict().items()}
    changed = {"config": config.model_dump(), "data": data, "total_steps": 9, "world_size": 1}
    changed["schedule_fingerprint"] = SCHEDULE.fingerprint
    return describe(0).model_copy(update=changed)


def run_of(trained: TrainStep, folder: Path, **fields: Any) -> RunState:
    return RunState(folder, trained, trained.optimizer, SCHEDULE, global_batch=8, steps_per_epoch=9, **fields)


def resume(continues: bool, folder: Path, *settings: str) -> tuple[RunState, dict[str, np.ndarray], TrainStep]:
    """Take a saved run up with changed ``settings``; return it, the saved parameters and the step they came to."""
    saved, step = make(1), make(2)
    description = described().at(4, hooks={"Guard": {"skipped": 2, "in_a_row": 1}})
    run = run_of(step, folder, continues=continues)
    assert continue_from(Checkpoint(folder, description, captured(saved)), run, step, described(*settings))
    return run, values(saved), step


@pytest.mark.parametrize(
    ("change", "comes_back"),
    [
        ("log.every=2", True),
        ("step.loss_scale_window=9", True),
        ("step.loss_scale=8", False),
        ("step.loss_scale_window=0", False),  # a constant is what the configuration says
    ],
)
def test_the_loss_scale_a_run_has_found_comes_back_unless_another_is_given(
    change: str, comes_back: bool, tmp_path: Path
) -> None:
    before = values(make(2))
    _, saved, step = resume(True, tmp_path, change, "resume_changes=[step]")
    found = values(step)
    for name in SCALE:
        assert before[name] != saved[name] and found[name] == (saved if comes_back else before)[name], name
    assert found["optimizer.global_step"] == saved["optimizer.global_step"]


@pytest.mark.parametrize(
    ("continues", "there"), [(True, "whole"), (False, "whole"), (True, "damaged"), (True, "removed")]
)
def test_the_best_state_is_one_of_this_folder(
    continues: bool, there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = make(1)
    run = run_of(step, tmp_path, step=4, resumed=True, continues=continues)
    hook = saving(step, tmp_path)
    folder = put_files(tmp_path, 3, {"state.json": b"{}"})
    if there == "damaged":
        (folder / "state.json").write_bytes(b"[]")
    elif there == "removed":
        shutil.rmtree(folder)
    hook.restore(Best(metric="top1", value=0.5, step=3).model_dump())
    hook.on_train_begin(run)
    assert (hook.best is not None) == (continues and there == "whole")
    assert ("step-00000003, the best state, is missing or damaged" in capsys.readouterr().out) == (there != "whole")


def saving(step: TrainStep, folder: Path) -> Checkpoints:
    run_folder = RunFolder(folder)
    run_folder.write_plan(SCHEDULE, load_config(DIGITS, []).model_dump(), {})
    run_folder.remember()
    one_rank = describe(0).model_copy(update={"world_size": 1})
    return Checkpoints(run_folder, step, one_rank, Writer(folder, keep=2, background=False), every=0, others=[])


def test_a_folder_that_was_moved_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    step = make(1)
    (tmp_path / "run").mkdir()
    hook = saving(step, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    run = run_of(step, tmp_path / "run", step=4, ending=Ending("signal"))
    with pytest.raises(RunError, match=r"/run: No such file or directory; it was there when the run began") as raised:
        hook.save(run)
    assert raised.value.exit_code == StorageError.exit_code
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match=r"/run: was replaced by another folder"):
        hook.save(run)
    assert not list((tmp_path / "run").iterdir())


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    step = make(1)
    step.statistics[0].set_data(ms.Tensor(np.full(step.statistics[0].shape, np.nan, np.float32)))
    with pytest.raises(RunError, match=r"state 4 is not saved: .*moving_.* is not finite") as raised:
        saving(step, tmp_path).save(run_of(step, tmp_path, step=4))
    assert raised.value.exit_code == DivergedError.exit_code
    assert not files.list_steps(tmp_path)


def test_a_state_that_its_hook_does_not_know_is_one_line() -> None:
    for forged in ({"skipped": -1, "in_a_row": 0}, {"skipped": 1}, [], "x", None):
        with pytest.raises(UserError, match="resume: Guard cannot take back the state"):
            restore_hooks([Guard(3)], {"Guard": forged})
    for forged in (10**30 + 0.5, -1, "x"):
        with pytest.raises(UserError, match="resume: MetricsFile cannot take back the state"):
            restore_hooks([MetricsFile()], {"MetricsFile": forged})


@pytest.mark.parametrize("continues", [True, False])
def test_a_state_from_another_folder_is_not_yet_saved_in_this_one(continues: bool, tmp_path: Path) -> None:
    step = make(1)
    run = run_of(step, tmp_path, step=4)
    run.resumed, run.continues, run.ending = True, continues, Ending("signal")
    hook = saving(step, tmp_path)
    hook.on_train_begin(run)
    hook.on_state_complete(run)
    assert [found for found, _ in files.list_steps(tmp_path)] == ([] if continues else [4])


@pytest.mark.parametrize("saved_before", [True, False])
@pytest.mark.parametrize("reason", [None, "this rank has seen enough"])
def test_what_one_rank_s_hook_asks_for_makes_no_exchange_of_its_own(
    saved_before: bool, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the request all ranks learn behind ``on_eval_end``: until then it may decide nothing that all have to do."""
    step = make(1)
    run = run_of(step, tmp_path, step=4, resumed=saved_before, continues=saved_before)
    exchanges = []
    monkeypatch.setattr(distributed, "together", lambda action: (exchanges.append(1), action())[1])
    hook = saving(step, tmp_path)
    hook.on_train_begin(run)
    run.scalars, run.stop_reason = {"val/top1": 0.5}, reason
    hook.on_eval_end(run)
    hook.on_state_complete(run)
    assert len(exchanges) == saved_before and hook.best is None
    run.scalars, run.ending = {"val/top1": 0.6}, Ending("hook", "all know")
    hook.on_eval_end(run)
    hook.on_state_complete(run)
    assert hook.best == Best(metric="top1", value=0.6, step=4)


@pytest.mark.parametrize("smaller_is_better", [False, True])
def test_the_best_is_forgotten_where_it_is_another_way_round(smaller_is_better: bool, tmp_path: Path) -> None:
    hook = saving(make(1), tmp_path)
    hook.smaller_is_better = smaller_is_better
    hook.restore(Best(metric="top1", value=0.5, step=3).model_dump())
    assert (hook.best is None) == smaller_is_better


def test_a_state_whose_evaluation_fails_is_saved_to_be_evaluated_again(tmp_path: Path) -> None:
    step = make(1)
    run = run_of(step, tmp_path, step=4, evaluation_pending=True)
    hook = saving(step, tmp_path)
    hook.metric = "ConfusionMatrix"
    figures = {"ConfusionMatrix/recall_0": 0.5}
    with pytest.raises(FiguresError, match=r"evaluate\.best=ConfusionMatrix: no such figure; did you mean"):
        evaluate(run, lambda *_: figures, [hook])
    assert load(tmp_path / "step-00000004").description.evaluation_pending


@pytest.mark.parametrize(
    ("state", "continues", "words"),
    [
        ({"step": 4, "ended": "enough"}, True, "already finished at update 4 of 9"),
        ({"step": 4, "ended": "enough"}, False, "continuing at update 4 of 9"),
        ({"step": 9}, True, "already finished at update 9 of 9"),
        ({"step": 9, "evaluation_pending": True}, True, "continuing at update 9 of 9"),
    ],
)
def test_a_run_that_is_over_says_so_and_stays_so_in_its_folder(
    state: dict[str, Any], continues: bool, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Checkpoint(tmp_path, described().at(**state), captured(make(1)))
    step = make(2)
    run = run_of(step, tmp_path, continues=continues)
    continue_from(start, run, step, described())
    assert run.ending == (Ending("hook", "enough") if "ended" in state and continues else None)
    said = capsys.readouterr().out
    assert said.startswith(f"{words} from {tmp_path}\n")
    assert ("to train on with its weights: model.init_from=…" in said) == words.startswith("already")


def test_generators_come_back() -> None:
    step = make(1)
    np.random.standard_normal()  # noqa: NPY002, leaves a second number waiting in the generator
    random.gauss(0, 1)
    state = captured(step)
    draw = lambda: [np.random.standard_normal(3).tolist(), random.gauss(0, 1), random.random()]  # noqa: E731, NPY002
    first = draw()
    assert draw() != first
    restore(state, step)
    assert draw() == first


def test_another_model_is_named() -> None:
    step, state = make(1), captured(make(2, classes=7))
    expected = [
        f"{kind}fc.{name}" for kind in ("", "train_step.ema.", "optimizer.moments.") for name in ("bias", "weight")
    ]
    assert misfits(state, step) == sorted(expected)
    del state.own["random.numpy"]
    assert "random.numpy" in misfits(state, step)


class Tricky(nn.Cell):
    """Its names are those that a step, an optimizer or a checkpoint might take for their own."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = nn.Conv2d(1, 4, 3, has_bias=True)
        self.accumulated = nn.BatchNorm2d(4)
        self.ema = nn.Dense(4, 4)
        self.moments = nn.Dense(4, 10)
        self.momentum = ms.Parameter(ms.Tensor(np.ones(4), ms.float32), name="momentum")
        self.learning_rate = ms.Parameter(ms.Tensor(np.ones(4), ms.float32), name="learning_rate")
        self.global_step = ms.Parameter(ms.Tensor(np.ones(4), ms.float32), name="global_step")
        self.loss_scale = ms.Parameter(ms.Tensor(np.ones(4), ms.float32), name="loss_scale")

    def construct(self, x):
        x = ops.ReLU()(self.accumulated(self.kept(x))).mean((2, 3)) * self.momentum + self.learning_rate
        return self.moments(self.ema(x * self.loss_scale) + self.global_step)


def test_a_model_may_give_its_layers_any_name() -> None:
    def make_tricky() -> TrainStep:
        model = Tricky()
        optimizer = make_optimizer(
            model, np.full(9, 0.1, np.float32), momentum=0.9, weight_decay=0.0, decay_norm_and_bias=True
        )
        options = StepOptions(ema=0.9, accumulate=2, loss_scale=2.0, loss_scale_window=5)
        return TrainStep(Network(model, [0.5], [0.2]), optimizer, global_batch=8, world_size=1, options=options)

    step, other = make_tricky(), make_tricky()
    images, labels = ms.Tensor(np.ones((4, 1, 8, 8)), ms.uint8), ms.Tensor(np.arange(4), ms.int32)
    step.accumulate(images, labels)
    step(images, labels, ms.Tensor(np.zeros(1), ms.float32))
    state = captured(step)
    restore(State.from_files(state.to_files(), None), other)
    expected, found = values(step), values(other)
    for name in ("kept.weight", "momentum", "learning_rate", "global_step", "moments.weight", "loss_scale"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert found["optimizer.global_step"] == [1] and state.averaged_model().keys() == state.model.keys()
