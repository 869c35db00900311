"""The three questions for every optimizer that MindSpore has on a CPU, on snapshots of its own real updates."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import schedules
from tests.train.comparison.runs import edit, flip_lowest_bit
from train.comparison import compare
from train.comparison.markdown import render
from train.comparison.words import LANGUAGES
from train.errors import UserError
from train.hooks.snapshots import SnapshotHook

pytestmark = pytest.mark.usefixtures("on_cpu")

SCHEDULE = schedules.build({"kind": "cosine", "lr_max": 0.01, "warmup": 3, "total": 12})
SHAPES = {"conv.weight": (4, 3, 3, 3), "layer.conv.weight": (6, 4), "gamma": (5,)}
STEPS = (1, 8)


def momentum(parameters, lr):
    from mindspore import nn

    return nn.Momentum(parameters, lr, momentum=0.9, weight_decay=1e-4)


def sgd(parameters, lr):
    from mindspore import nn

    return nn.SGD(parameters, lr, momentum=0.9, weight_decay=1e-4)


def adam(parameters, lr):
    from mindspore import nn

    return nn.Adam(parameters, lr, weight_decay=1e-4)


def adamw(parameters, lr):
    from mindspore import nn

    return nn.AdamWeightDecay(parameters, lr, weight_decay=0.01)


def normalised(parameters, lr):
    """A layer's trust ratio as LAMB and LARS have it: ‖ΔW‖ = lr·‖W‖, whatever the gradient's size."""
    from tests.train.tasks.trust_ratio import TrustRatio

    return TrustRatio(parameters, lr, clip=False)


def clipped(parameters, lr):
    """A trust ratio that is cut off at lr, as LARS has with use_clip: no step is longer than 0.001·‖W‖."""
    from tests.train.tasks.trust_ratio import TrustRatio

    return TrustRatio(parameters, lr, clip=True)


OPTIMIZERS = {f.__name__: f for f in (momentum, sgd, adam, adamw, normalised, clipped)}


def train(folder: Path, make) -> Path:
    """Twelve updates with random gradients; the product's own hook records two of them."""
    import mindspore as ms
    from mindspore import nn

    rng = np.random.default_rng(0)
    model = nn.Cell(auto_prefix=False)
    for i, (name, shape) in enumerate(SHAPES.items()):
        values = rng.normal(scale=0.1, size=shape).astype(np.float32)
        model.insert_param_to_cell(f"p{i}", ms.Parameter(ms.Tensor(values), name=name))
    optimizer = remade(make)(model, SCHEDULE.lr)
    handed = {name: ms.Parameter(ms.Tensor(np.zeros(shape, np.float32)), name="g") for name, shape in SHAPES.items()}
    hook = SnapshotHook(list(SHAPES), STEPS)
    run = SimpleNamespace(run_dir=folder, model=model, optimizer=optimizer, gradients=handed, rank=0, world_size=1)
    run.result = None
    folder.mkdir()
    SCHEDULE.save(folder / "schedule.npz")
    for run.step in range(SCHEDULE.total_steps):
        hook.on_train_step_begin(run)
        gradients = [ms.Tensor(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES.values()]
        optimizer(tuple(gradients))
        for parameter, gradient in zip(handed.values(), gradients, strict=True):
            parameter.set_data(gradient)
        hook.on_train_step_end(run)
    return folder


def remade(make):
    def from_model(model, lr):
        import mindspore as ms

        from train.step.optimizer import OPTIMIZER

        weights = model.trainable_params()
        optimizer = make(weights, ms.Tensor(lr))
        for parameter in optimizer.get_parameters():
            if not any(parameter is weight for weight in weights):
                parameter.name = f"{OPTIMIZER}{parameter.name}"  # as the product has it
        return optimizer

    return from_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {name: train(root / name, make) for name, make in OPTIMIZERS.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_makes_each_update_again_bit_for_bit(trained, name: str) -> None:
    report = compare(trained[name], make=remade(OPTIMIZERS[name]))
    assert report.ok, report.problems
    layers = [layer for entry in report.data["proof"]["snapshots"] for layer in entry["layers"]]
    assert len(layers) == len(STEPS) * len(SHAPES) and all(layer["replayed"] for layer in layers)
    assert all((layer["max_units"] is not None) == (name == "momentum") for layer in layers)
    assert report.data["kind"]["direction"] == ("v" if name == "momentum" else "d")
    for layer in report.data["observed"]:
        for row in layer["steps"]:
            assert row["norm_delta_W"] == pytest.approx(row["lr"] * row["norm_d"], rel=1e-4)
        (change,) = layer["changes"]
        assert change["delta_W_ratio"] == pytest.approx(change["lr_ratio"] * change["d_ratio"], rel=1e-4)
    for language in LANGUAGES:
        assert ("‖v‖" in render(report.data, language)) == (name == "momentum")


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "clipped"])
def test_with_the_same_state_and_gradient_the_step_follows_lr(trained, name: str) -> None:
    report = compare(trained[name], make=remade(OPTIMIZERS[name]))
    (change,) = report.data["controlled"]["changes"]
    assert change["equal"] and report.data["conclusion"]["verdict"] == "holds"
    assert change["lr_ratio"] == float(SCHEDULE.lr[8]) / float(SCHEDULE.lr[1]) != 1
    assert change["delta_W_ratio"] == pytest.approx(change["lr_ratio"], rel=1e-5)


def test_a_trust_ratio_that_is_cut_off_does_not_follow_lr(trained) -> None:
    report = compare(trained["clipped"], make=remade(clipped))
    assert report.data["conclusion"]["verdict"] == "fails" and "does not follow lr here" in report.text
    assert report.ok  # of such an optimizer this is a fact, not a fault


def other_gradient(folder: Path) -> None:
    """Another direction, since a trust ratio does not care for the size."""
    edit(folder, 8, 0, gradient__1=lambda old: np.where(np.arange(old.size).reshape(old.shape) == 3, -old, old))


def other_weight(folder: Path) -> None:
    edit(folder, 8, 0, W_new__1=lambda old: flip_lowest_bit(old.reshape(-1), 3).reshape(old.shape))


@pytest.mark.parametrize("touch", [other_gradient, other_weight])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_that_it_does_not_make_is_named(tmp_path: Path, name: str, touch) -> None:
    folder = train(tmp_path / name, OPTIMIZERS[name])
    touch(folder)
    report = compare(folder, make=remade(OPTIMIZERS[name]))
    assert not report.ok
    assert any("step 8, rank 0, layer layer.conv.weight, element [" in problem for problem in report.problems)
    assert not any("layer conv.weight" in problem or "gamma" in problem for problem in report.problems)


@pytest.mark.parametrize(("name", "state"), [("adam", "before__moment2__1"), ("sgd", "before__accum__1")])
def test_another_state_is_named(tmp_path: Path, name: str, state: str) -> None:
    folder = train(tmp_path / name, OPTIMIZERS[name])
    edit(folder, 8, 0, **{state: lambda old: old * np.float32(2)})
    report = compare(folder, make=remade(OPTIMIZERS[name]))
    assert any("W_new is" in problem for problem in report.problems)


def test_another_optimizer_is_named(trained) -> None:
    def slower(parameters, lr):
        from mindspore import nn

        return nn.Adam(parameters, lr, beta2=0.99, weight_decay=1e-4)

    assert not compare(trained["adam"], make=remade(slower)).ok


def test_without_a_configuration_one_line_says_so(trained) -> None:
    with pytest.raises(UserError, match=r"without config\.yaml Adam cannot be made again"):
        compare(trained["adam"])
