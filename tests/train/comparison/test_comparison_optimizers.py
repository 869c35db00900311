"""The three questions for every optimizer that MindSpore has on a CPU, on snapshots of its own real updates."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import nn

import schedules
from tests.train.finished_runs import edit
from train.comparison.finished_run import open_run
from train.comparison.markdown import render
from train.comparison.proof import MOST_TOLERATED, _check_update, prove
from train.comparison.report import compare
from train.comparison.words import LANGUAGES
from train.hooks.snapshots import SnapshotHook
from train.rundir.folder import SNAPSHOTS
from train.rundir.snapshots import Layer, Snapshot, snapshot_name
from train.runtime.errors import UserError
from train.step.optimizer import make_optimizer
from train.step.options import OPTIMIZERS

pytestmark = pytest.mark.usefixtures("on_cpu")

SCHEDULE = schedules.build({"kind": "cosine", "lr_max": 0.01, "warmup": 3, "total": 12})
SHAPES = {"conv.weight": (4, 3, 3, 3), "layer.conv.weight": (6, 4), "gamma": (5,)}
STEPS = (1, 8)
TRUST_RATIO = "tests.train.tasks.trust_ratio:TrustRatio"


def maker(name: str, **options):
    """Make the optimizer as a recipe names it."""

    def make(model, lr):
        settings = {"momentum": 0.9, "weight_decay": 1e-2, "decay_norm_and_bias": False}
        return make_optimizer(model, lr, name=name, options=options, **settings)

    return make


# All that a recipe can name, and some of MindSpore's and of a reader's own.
MAKERS = {name: maker(name) for name in OPTIMIZERS}
MAKERS["a reader's SGD"] = maker("mindspore.nn:SGD", momentum=0.9)
if hasattr(nn, "AdamWeightDecay"):
    MAKERS["a reader's AdamWeightDecay"] = maker("mindspore.nn:AdamWeightDecay")
MAKERS["a reader's RMSProp"] = maker("mindspore.nn:RMSProp")
MAKERS["a reader's trust ratio"] = maker(TRUST_RATIO, clip=False)
MAKERS["clipped"] = maker(TRUST_RATIO, clip=True)
OFTEN = ("momentum", "adamw", "lamb", "a reader's RMSProp", "clipped")
"""Those of every day: both kinds of proof and of trust ratio. Each takes a good while to compile."""
NAMES = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in MAKERS]
PLAIN_MOMENTUM = ("momentum", "sgd")
MULTIPLIED_BY_ZERO = (("sgd", "before__moments__1"), ("a reader's RMSProp", "before__moment__1"))
"""States that without momentum have no effect."""


def train(folder: Path, make) -> Path:
    """Twelve updates with random gradients; the product's own hook records two of them."""
    import mindspore as ms
    from mindspore import nn

    rng = np.random.default_rng(0)
    model = nn.Cell(auto_prefix=False)
    for i, (name, shape) in enumerate(SHAPES.items()):
        values = rng.normal(scale=0.1, size=shape).astype(np.float32)
        model.insert_param_to_cell(f"p{i}", ms.Parameter(ms.Tensor(values), name=name))
    optimizer = make(model, SCHEDULE.lr)
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return cache(lambda name: train(root / name, MAKERS[name]))


@pytest.fixture(scope="module")
def report_of(trained):
    return cache(lambda name: compare(trained(name), make=MAKERS[name]))


@pytest.mark.parametrize("name", NAMES)
def test_the_optimizer_makes_each_update_again_bit_for_bit(report_of, name: str) -> None:
    report = report_of(name)
    assert report.ok, report.problems
    layers = [layer for entry in report.data["proof"]["snapshots"] for layer in entry["layers"]]
    assert len(layers) == len(STEPS) * len(SHAPES) and all(layer["replayed"] for layer in layers)
    assert all((layer["max_units"] is not None) == (name in PLAIN_MOMENTUM) for layer in layers)
    assert report.data["kind"]["direction"] == ("v" if name in PLAIN_MOMENTUM else "d")
    for layer in report.data["observed"]:
        for row in layer["steps"]:
            assert row["norm_delta_W"] == pytest.approx(row["lr"] * row["norm_d"], rel=1e-4)
        (change,) = layer["changes"]
        assert change["delta_W_ratio"] == pytest.approx(change["lr_ratio"] * change["d_ratio"], rel=1e-4)
    for language in LANGUAGES:
        assert ("‖v‖" in render(report.data, language)) == (name in PLAIN_MOMENTUM)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "clipped"])
def test_with_the_same_state_and_gradient_the_step_follows_lr(report_of, name: str) -> None:
    report = report_of(name)
    (change,) = report.data["controlled"]["changes"]
    assert change["equal"] and report.data["conclusion"]["verdict"] == "holds"
    assert change["lr_ratio"] == float(SCHEDULE.lr[8]) / float(SCHEDULE.lr[1]) != 1
    # LARS's steps are a thousandth of the others', and rounding is as much more of them
    assert change["delta_W_ratio"] == pytest.approx(change["lr_ratio"], rel=2e-3 if name == "lars" else 1e-5)


def test_a_trust_ratio_that_is_cut_off_does_not_follow_lr(report_of) -> None:
    report = report_of("clipped")
    assert report.data["conclusion"]["verdict"] == "fails" and "does not follow lr here" in report.text
    assert report.ok  # of such an optimizer this is a fact, not a fault


@pytest.fixture
def copied(trained, tmp_path: Path):
    """Copy the run of an optimizer, to be damaged, with its snapshot of step 8 alone."""

    def copy(name: str) -> Path:
        folder = shutil.copytree(trained(name), tmp_path / name)
        (folder / SNAPSHOTS / snapshot_name(1, 0)).unlink()
        return folder

    return copy


def problems(folder: Path, make) -> list[str]:
    return [problem["message"] for problem in prove(open_run(folder), make)["problems"]]


def other_gradient(folder: Path) -> None:
    """Another direction, since a trust ratio does not care for the size."""
    edit(folder, 8, 0, gradient__1=lambda old: np.where(np.arange(old.size).reshape(old.shape) == 3, -old, old))


def other_weight(folder: Path) -> None:
    """By 4 ulp: more than any kernel is allowed."""
    edit(folder, 8, 0, W_new__1=lambda old: flip_bits(old, slice(3, 4), 4))


def flip_bits(old: np.ndarray, places: slice, bits: int) -> np.ndarray:
    changed = old.copy()
    changed.reshape(-1).view(np.uint32)[places] ^= bits
    return changed


@pytest.mark.parametrize("touch", [other_gradient, other_weight])
@pytest.mark.parametrize("name", NAMES)
def test_an_update_that_it_does_not_make_is_named(copied, name: str, touch) -> None:
    folder = copied(name)
    touch(folder)
    found = problems(folder, MAKERS[name])
    assert found and all("step 8, rank 0, layer layer.conv.weight, element [" in problem for problem in found)


@pytest.mark.parametrize("name", NAMES)
def test_another_state_is_named(copied, name: str) -> None:
    folder = copied(name)
    with np.load(folder / SNAPSHOTS / snapshot_name(8, 0)) as stored:
        before = {key.replace(".", "__"): stored[key] for key in stored if re.fullmatch(r"before\..*\.1", key)}
    assert before or "trust ratio" in name or name == "clipped"
    for state, values in before.items():
        edit(folder, 8, 0, **{state: lambda old: old * np.float32(2) + np.float32(0.1)})
        named = any("step 8, rank 0, layer layer.conv.weight" in one for one in problems(folder, MAKERS[name]))
        assert named != ((name, state) in MULTIPLIED_BY_ZERO)
        edit(folder, 8, 0, **{state: lambda old, values=values: values})


def test_a_kernel_that_repeats_every_bit_is_allowed_none(copied) -> None:
    folder = copied("adamw")
    edit(folder, 8, 0, W_new__1=lambda old: flip_bits(old, slice(3, 4), 1))
    (found,) = problems(folder, MAKERS["adamw"])
    assert "layer layer.conv.weight, element [0, 3]: W_new is" in found and "1 of 24 elements differ" in found


def test_a_kernel_that_does_not_is_allowed_little_which_is_counted(copied) -> None:
    name = "a reader's RMSProp"
    folder, make = copied(name), MAKERS[name]
    report = compare(folder, make=make)
    proved = report.data["proof"]["snapshots"][0]["layers"]
    assert report.ok and all(layer["tolerated_ulp"] <= 1 for layer in proved)
    proved[1] |= {"tolerated": 3, "tolerated_ulp": 1.0}
    counted = sum(layer["tolerated"] for layer in proved)
    for language, words in (("en", f"yes ({counted} within 1 ulp)"), ("zh", f"是（{counted} 个元素相差不超过 1 ulp）")):
        text = render(report.data, language)
        assert words in text and str(MOST_TOLERATED) in text
    edit(folder, 8, 0, after__moment__1=lambda old: flip_bits(old, slice(3, 4), 8))
    found = problems(folder, make)
    assert found and all("layer layer.conv.weight, element [" in problem for problem in found)


def test_no_more_elements_than_the_ends_of_blocks_are_allowed_it() -> None:
    """A whole array that is one ulp off is another array."""
    layer = Layer("w", *(np.full((40, 40), value, np.float32) for value in (0.1, 0.2)), gradient=np.ones((40, 40)))
    snapshot = Snapshot("", 0, 0, np.float32(0.1), 0, 1, "RMSProp", (layer,))

    class Made:
        tolerance, rate = 1.0, [np.float32(0.1)]

        def __init__(self, elements: int):
            self.elements = elements

        def __call__(self, *_: object) -> dict[str, np.ndarray]:
            return {"W_new": flip_bits(layer.W_new, slice(self.elements), 1)}

    checked, wrong = _check_update(Made(MOST_TOLERATED), snapshot, layer)  # type: ignore[arg-type]
    assert checked["replayed"] and checked["tolerated"] == MOST_TOLERATED and not wrong
    checked, wrong = _check_update(Made(MOST_TOLERATED + 1), snapshot, layer)  # type: ignore[arg-type]
    assert not checked["replayed"] and "1025 of 1600 elements differ" in wrong[0]["message"]


@pytest.mark.parametrize("name", ["momentum", pytest.param("adamw", marks=pytest.mark.slow)])
def test_every_array_of_a_snapshot_is_held_to_the_others(copied, name: str) -> None:
    """Each by as little as can be; W_start, gradient and state by as much as changes a bit of what is made of them."""
    folder, make = copied(name), MAKERS[name]
    file = folder / SNAPSHOTS / snapshot_name(8, 0)
    with np.load(file) as stored:
        arrays = {key: stored[key] for key in stored}
    assert problems(folder, make) == []
    after = of_all_layers(key for key in arrays if key.startswith(("v.", "W_new.", "after.")))
    assert len(after) == (3 if name == "momentum" else 5)  # AdamW's two moments and two powers
    before = of_all_layers(key for key in arrays if key.startswith(("W_start.", "gradient.", "before.", "lr")))
    changed = {kind: {key: flip_bits(arrays[key], slice(0, 1), 1) for key in keys} for kind, keys in after.items()}
    changed |= {kind: {key: arrays[key] * np.float32(1.01) for key in keys} for kind, keys in before.items()}
    for kind, values in changed.items():
        np.savez(file, **{**arrays, **values})
        found = problems(folder, make)
        named = {layer for layer in SHAPES if any(f"layer {layer}" in problem for problem in found)}
        assert len(named) == min(len(values), len(SHAPES)) or (found and len(values) == 1), kind
    for kind in changed:
        if not kind.startswith(("v", "W_", "lr")):
            np.savez(file, **{key: value for key, value in arrays.items() if key not in changed[kind]})
            with contextlib.suppress(UserError):
                assert problems(folder, make) or kind == "gradient", kind


def of_all_layers(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return arrays' names by what they are, without the number of the layer."""
    kinds: dict[str, list[str]] = {}
    for key in keys:
        kinds.setdefault(re.sub(r"\.\d+$", "", key), []).append(key)
    return kinds


def test_another_optimizer_is_named(trained) -> None:
    assert problems(trained("adamw"), maker("adamw", beta2=0.99))


def test_without_a_configuration_one_line_says_so(trained) -> None:
    with pytest.raises(UserError, match=r"without config\.yaml AdamW cannot be made again"):
        compare(trained("adamw"))
