"""The whole curve: exact on made-up norms, whose answer is known, and present for a real run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import schedules
from train.comparison.markdown import whole_run
from train.comparison.metrics import read_metrics
from train.comparison.whole_run import LayerCurve, curve_tags, read_curves, whole_curve
from train.comparison.words import Words
from train.rundir.metrics import MetricsWriter

COSINE = schedules.build(
    {"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup": 10, "total": 100}
)


def described(norm_v: np.ndarray, schedule: schedules.Schedule = COSINE) -> dict:
    lr = schedule.lr.astype(np.float64)
    curve = LayerCurve("fc.weight", np.arange(len(lr)), lr, norm_v, lr * norm_v)
    return whole_curve(curve, schedule)


def told(*layers: dict) -> str:
    shapes = [{"layer": layer["layer"], "shape": [2, 2]} for layer in layers]
    return "\n".join(whole_run({"document": {"applies": True}, "observed": shapes, "curve": layers}, Words("en", "v")))


def phase(layer: dict, name: str) -> dict:
    return next(phase for phase in layer["phases"] if phase["phase"] == name)


def test_with_one_velocity_the_conclusion_holds_and_lr_has_all_of_it() -> None:
    layer = described(np.full(100, 2.0))
    for name, direction in (("warm-up", "longer"), ("decay", "shorter")):
        change = phase(layer, name)["change"]
        assert change["follows_lr"] is True
        assert change["fraction_lr"] == pytest.approx(1)
        assert phase(layer, name)["updates_as_lr"] == phase(layer, name)["updates"]
        assert f"the step gets {direction}; lr accounts for 100% of that" in told(layer)


def test_a_velocity_that_shrinks_faster_than_lr_grows_overrides_the_warm_up() -> None:
    layer = described(np.geomspace(1, 1e-20, 100))
    assert phase(layer, "warm-up")["change"]["follows_lr"] is False
    assert phase(layer, "decay")["change"]["follows_lr"] is True
    words = told(layer)
    assert "**v overrides lr**, the step does not get longer" in words
    # At t = 0 to 1, lr grows by 1.9 and v shrinks by 0.63: the step still gets longer.
    assert phase(layer, "warm-up")["updates_as_lr"] == 1


def test_changes_are_products() -> None:
    layer = described(np.random.default_rng(0).lognormal(size=100))
    for part in layer["phases"]:
        if change := part["change"]:
            assert change["delta_W_ratio"] == pytest.approx(change["lr_ratio"] * change["d_ratio"], rel=1e-9)
    ends = [
        [(phase(layer, name)[end]["from"], phase(layer, name)[end]["to"]) for end in ("start", "end")]
        for name in ("warm-up", "decay")
    ]
    assert ends == [[(0, 1), (8, 9)], [(11, 28), (83, 99)]]


def test_where_lr_does_not_change_there_is_nothing_to_hold() -> None:
    constant = schedules.build({"kind": "constant", "lr_max": 0.1, "total": 20})
    layer = described(np.geomspace(1, 2, 20), constant)
    assert [part["change"]["follows_lr"] for part in layer["phases"]] == [None]
    assert "lr does not change" in told(layer)


def test_updates_that_moved_nothing_are_left_out(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, keep_bytes=0)
    for step, lr, v, delta_W in [(0, 0.0, 1.0, 0.0), (1, 0.1, 1.0, 0.1), (2, 0.1, 1.0, np.nan), (3, 0.1, 2.0, 0.2)]:
        writer.write(step, {"train/lr": lr, "update/a/delta_l2": delta_W, "update/a/velocity_l2": v})
    layers = ["a", "never logged"]
    (curve,) = read_curves(read_metrics(tmp_path, curve_tags(layers)), dict.fromkeys(layers, 1.0))
    assert (curve.steps.tolist(), curve.norm_delta_W.tolist()) == ([1, 3], [0.1, 0.2])
    assert curve.controlled(0).tolist() == [0.1, 0.1]


def test_without_a_velocity_the_direction_is_the_update_over_lr(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, keep_bytes=0)
    for step, lr in enumerate([0.0, 0.1, 0.2]):
        writer.write(step, {"train/lr": lr, "update/a/delta_l2": 0.5 * lr})
    writer.close()
    (curve,) = read_curves(read_metrics(tmp_path, curve_tags(["a"])), {"a": 1.0})
    assert curve.steps.tolist() == [1, 2] and curve.norm_d.tolist() == [0.5, 0.5]


@pytest.mark.msrun
def test_a_real_run(runs_dir: Path) -> None:
    folder = runs_dir / "two" / "comparison"
    layers = json.loads((folder / "comparison.json").read_text())["curve"]
    assert {layer["layer"] for layer in layers} == {"fc.weight", "layer3.0.conv2.weight"}
    phases = layers[0]["phases"]
    assert (phases[0]["start"]["from"], phases[-1]["end"]["to"]) == (0, 11)
    assert sum(part["updates"] + 1 for part in phases) == 12
    assert "## Over the whole run" in (folder / "comparison.md").read_text()
    with Image.open(folder / "curve.png") as picture:
        assert picture.width == 1200
