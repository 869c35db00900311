"""The parts of a run against plain NumPy: optimizer, evaluation, snapshots, saved models."""

from __future__ import annotations

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn
from safetensors.numpy import save

import models
import schedules
from models.weights import export_weights
from tests.faults.checkpoints import put_files
from tests.jobs import alone, train_task
from train.checkpoint.saved import find_model, load_model
from train.checkpoint.state import MODEL_FILE
from train.data.arrays import MemorySource
from train.data.loader import EvalLoader
from train.rundir.folder import CHECKPOINTS
from train.runtime.errors import UserError
from train.runtime.keys import match_names
from train.step.evaluate import EvalStep, evaluate, mean_statistics
from train.step.network import Network, correct_within, moving_statistics
from train.step.optimizer import make_optimizer
from train.step.reduction import Buckets, make_buckets

pytestmark = pytest.mark.usefixtures("on_cpu")

DOCUMENT = {"lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup_steps": 10, "total_steps": 100}


def small_model(seed: int = 1) -> nn.Cell:
    ms.set_seed(seed)
    return models.create_model("resnet20", num_classes=10, in_channels=1, depths=[1, 1, 1])


@pytest.mark.parametrize(("everything", "decayed"), [(False, {"conv", "fc.weight"}), (True, {"conv", "fc", "bn"})])
def test_weight_decay_spares_norms_and_biases(everything: bool, decayed: set[str]) -> None:
    model = small_model()
    optimizer = make_optimizer(
        model, schedules.get_lr(**DOCUMENT), momentum=0.9, weight_decay=0.5, decay_norm_and_bias=everything
    )
    before = {p.name: p.asnumpy().copy() for p in optimizer.parameters}
    optimizer(tuple(Tensor(np.zeros(p.shape, np.float32)) for p in optimizer.parameters))
    for p in optimizer.parameters:
        expected = any(word in p.name for word in decayed) and (before[p.name] != 0).any()
        assert (p.asnumpy() != before[p.name]).any() == expected, p.name


def test_the_kernel_picks_the_learning_rate_by_its_own_step() -> None:
    lr = schedules.get_lr(**DOCUMENT)
    parameter = ms.Parameter(np.zeros(3, np.float32), name="w")
    cell = nn.Cell()
    cell.insert_param_to_cell("w", parameter)
    optimizer = make_optimizer(cell, lr, momentum=0.0, weight_decay=0.0, decay_norm_and_bias=False)
    for t in range(100):
        parameter.set_data(Tensor(np.zeros(3, np.float32)))
        optimizer((Tensor(np.ones(3, np.float32)),))
        np.testing.assert_array_equal(parameter.asnumpy(), np.full(3, -lr[t]))


def test_top_k_counts_like_sorting_and_nan_is_wrong() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    labels = np.arange(50, dtype=np.int32) % 10
    order = np.argsort(-logits, axis=1)
    for k in (1, 5):
        expected = (order[:, :k] == labels[:, None]).any(axis=1)
        np.testing.assert_array_equal(correct_within(Tensor(logits), Tensor(labels), k).asnumpy(), expected)
    logits[:] = 1.0
    np.testing.assert_array_equal(correct_within(Tensor(logits), Tensor(labels), 5).asnumpy(), labels < 5)
    logits[:] = np.nan
    assert not correct_within(Tensor(logits), Tensor(labels), 1).asnumpy().any()


@pytest.mark.parametrize("length", [12, 13, 16])
def test_evaluation_equals_numpy(length: int) -> None:
    rng = np.random.default_rng(length)
    images = rng.integers(0, 256, (length, 1, 8, 8), np.uint8)
    labels = rng.integers(0, 10, length).astype(np.int32)
    source = MemorySource(images, labels, num_classes=10)
    model = small_model()
    network = Network(model, source.mean, source.std)
    found = evaluate(EvalStep(network, 10), EvalLoader(source, batch=5))

    model.set_train(False)
    scaled = ((images / 255 - source.mean[0]) / source.std[0]).astype(np.float32)
    logits = model(Tensor(scaled)).asnumpy().astype(np.float64)
    log_probability = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert found["examples"] == length
    assert found["loss"] == pytest.approx(-log_probability[np.arange(length), labels].mean(), rel=1e-4)
    assert found["top1"] == (logits.argmax(axis=1) == labels).mean()
    assert found["top5"] == (np.argsort(-logits, axis=1)[:, :5] == labels[:, None]).any(axis=1).mean()


def test_the_ranks_own_statistics_come_back_after_evaluation() -> None:
    model = small_model()
    for parameter in moving_statistics(model):
        parameter.set_data(Tensor(np.full(parameter.shape, 0.1, np.float32)))
    with mean_statistics(model):
        for parameter in moving_statistics(model):
            parameter.set_data(Tensor(np.full(parameter.shape, 7.0, np.float32)))
    assert all((parameter.asnumpy() == np.float32(0.1)).all() for parameter in moving_statistics(model))


def test_a_model_without_batchnorm_has_no_statistics_to_average() -> None:
    with mean_statistics(nn.SequentialCell(nn.Flatten(), nn.Dense(4, 2))):
        pass


def test_buckets_hold_everything_once_and_keep_the_limit() -> None:
    sizes = [5, 5, 30, 1, 1, 8, 12]
    buckets = make_buckets(sizes, limit=10)
    assert [i for start, stop in buckets for i in range(start, stop)] == list(range(len(sizes)))
    assert all(sum(sizes[start:stop]) <= 10 or stop == start + 1 for start, stop in buckets)
    assert make_buckets(sizes, limit=1000) == [(0, 7)]
    assert make_buckets(sizes, 1000, [0.1, 0.1, 0.1, 0.0, 0.0, 0.1, 0.1]) == [(0, 3), (3, 5), (5, 7)]
    assert make_buckets([], 10) == []


class RoundTrip(nn.Cell):
    def __init__(self, count: int) -> None:
        super().__init__()
        values = [Tensor(np.full((1, 2), i, np.float32)) for i in range(count)]
        self.tensors = ParameterTuple([Parameter(value, name=f"p{i}") for i, value in enumerate(values)])
        self.buckets = Buckets(self.tensors)

    def construct(self):
        return self.buckets.split(self.buckets.join(self.tensors))


def test_more_tensors_than_mindspore_compiles_a_loop_over_come_apart_as_they_were_joined() -> None:
    found = RoundTrip(400)()
    assert [(tensor.shape, float(tensor.asnumpy()[0, 1])) for tensor in found] == [((1, 2), i) for i in range(400)]


def test_layers_are_chosen_by_name_or_glob() -> None:
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.gamma", "fc.weight"]
    found = match_names(["fc.weight", "layer1.*.weight"], names, "snapshots.layers")
    assert found == ["layer1.0.conv1.weight", "fc.weight"]
    with pytest.raises(UserError, match=r"'fc\.weigth' matches no parameter; did you mean fc\.weight"):
        match_names(["fc.weigth"], names, "snapshots.layers")


def test_a_layer_that_does_not_exist_stops_the_run_before_it_writes(tmp_path: Path) -> None:
    done = alone(train_task(tmp_path, "trial", "snapshots.layers=[fc.weigth]"), tmp_path)
    assert done.code == 2 and "did you mean fc.weight" in done.logs[0] and "Traceback" not in done.logs[0]
    assert not (tmp_path / "trial").exists()


def save_model(model: nn.Cell, root: Path) -> Path:
    arrays = {p.name: p.asnumpy() for p in model.get_parameters()}
    return put_files(root, 3, {MODEL_FILE: save(arrays)}) / MODEL_FILE


def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model, other = small_model(1), small_model(2)
    save_model(model, tmp_path / CHECKPOINTS)
    load_model(other, find_model(tmp_path))
    for mine, theirs in zip(model.get_parameters(), other.get_parameters(), strict=True):
        np.testing.assert_array_equal(mine.asnumpy(), theirs.asnumpy())


def test_a_damaged_or_foreign_model_is_named(tmp_path: Path) -> None:
    path = save_model(small_model(), tmp_path / CHECKPOINTS)
    with pytest.raises(UserError, match=r"does not fit the model at .*fc\.weight"):
        load_model(models.create_model("resnet20", num_classes=7, in_channels=1, depths=[1, 1, 1]), path)
    with pytest.raises(UserError, match=r"model\.safetensors' does not fit the model, .*missing: layer1\.1\.conv1"):
        load_model(models.create_model("resnet20", num_classes=10, in_channels=1, depths=[2, 1, 1]), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_model(small_model(), path)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        find_model(tmp_path)
    with pytest.raises(UserError, match="no saved model"):
        find_model(tmp_path / "nowhere")


def score(run_dir: Path, *options: str) -> dict[str, float]:
    pytest.importorskip("train.score")
    done = alone(["-m", "train.score", run_dir, *options], run_dir).check()
    return json.loads(done.logs[0].splitlines()[-1])


def test_the_moving_average_of_weights_is_a_model_that_scores_what_the_run_reported(tmp_path: Path) -> None:
    alone(train_task(tmp_path, "averaged", "step.ema=0.8"), tmp_path).check()
    reported = json.loads((tmp_path / "averaged" / "metrics.jsonl").read_text().splitlines()[-1])
    own, average = (score(tmp_path / "averaged", *options) for options in ([], ["--ema"]))
    for name, value in average.items():
        assert value == reported[f"val/ema_{name}"] and own[name] == reported[f"val/{name}"], name
    assert own["loss"] != average["loss"]


def test_a_run_without_a_moving_average_has_none_to_score(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / CHECKPOINTS)
    with pytest.raises(UserError, match=r"step-00000003: holds no ema\.safetensors; a run saves one with step\.ema"):
        find_model(tmp_path, averaged=True)


@pytest.mark.parametrize(
    ("names", "precision"), [pytest.param("torchvision", "fp16", marks=pytest.mark.slow), ("run", "fp32")]
)
def test_weights_of_another_model_are_where_a_run_starts(names: str, precision: str, tmp_path: Path) -> None:
    ms.set_seed(5)
    given = models.create_model("resnet20", num_classes=7, in_channels=1, depths=[1, 1, 1])
    path = tmp_path / "given.safetensors"
    if names == "torchvision":
        export_weights(given, path)
    else:
        path = save_model(given, tmp_path)
    task = train_task(tmp_path, "tuned", f"model.init_from={path}", f"step.precision={precision}")
    task += [
        "schedule.lr_max=0.01",
        "schedule.kind=constant",
        "schedule.lr_end=null",
        "schedule.lr_init=0",
        "schedule.warmup=11",
    ]
    task += ["snapshots.steps=[0]", "snapshots.layers=[conv1.weight, fc.weight]"]  # lr[0] is 0
    done = alone(task, tmp_path).check()
    assert "initialised at random: fc.weight, fc.bias" in done.logs[0]
    with np.load(tmp_path / "tuned" / "snapshots" / "step-00000000.rank-0.npz", allow_pickle=False) as arrays:
        assert arrays["layers"].tolist() == ["conv1.weight", "fc.weight"]
        np.testing.assert_array_equal(arrays["W_start.0"], given.conv1.weight.asnumpy())
        assert arrays["W_start.1"].shape == (10, 64)


def test_wrong_weights_and_a_missing_device_are_one_line(tmp_path: Path) -> None:
    missing = "model.init_from=none.safetensors"
    for setting, words in ((missing, "rank 0: model.init_from"), ("device=ascend", "device=ascend")):
        done = alone(train_task(tmp_path, "trial", setting), tmp_path)
        assert done.code == 2 and done.logs[0].splitlines()[-1].startswith(f"error: {words}"), done.logs[0]
        assert "Traceback" not in done.logs[0]
    assert not (tmp_path / "trial").exists()
