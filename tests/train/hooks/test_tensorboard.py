"""What a run writes for TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata

import schedules
from tests.jobs import alone
from train.hooks import events
from train.hooks.scalars import FIGURES, summarised
from train.hooks.tensorboard import GAP, shown_as, tiled
from train.rundir.folder import METRICS_FILE

LAYERS = ("fc.weight", "layer3.0.conv2.weight")
LOGGED = {
    *(f"train/{name}" for name in ("loss", "lr", "lr_planned", "top1", "grad_norm")),
    *(f"val/{name}" for name in ("loss", "top1", "top5", "examples")),
    *(f"perf/{name}" for name in ("examples_per_sec", "step_ms", "data_wait", "first_update_s")),
    *(f"ranks/{figure}/{word}" for figure, words in FIGURES.items() for word in words),
    *(
        f"update/{layer}/{norm}"
        for layer in LAYERS
        for norm in ("delta_l2", "weight_l2", "ratio", "predicted_l2", "velocity_l2")
    ),
}
SCALARS = {shown_as(tag) for tag in LOGGED}


@pytest.fixture(scope="module")
def run(runs_dir: Path) -> Path:
    return runs_dir / "two"


@pytest.fixture(scope="module")
def shown(run: Path) -> EventAccumulator:
    return read(run / "tensorboard")


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(
        str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    ).Reload()


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]


def text(shown: EventAccumulator, tag: str) -> str:
    return shown.Tensors(tag)[-1].tensor_proto.string_val[0].decode()


def test_every_scalar_stands_at_its_step(run: Path, shown: EventAccumulator) -> None:
    assert set(shown.Tags()["scalars"]) == SCALARS
    for tag in LOGGED - {"train/lr_planned"}:
        logged = [(line["step"], np.float32(line[tag])) for line in lines(run) if tag in line]
        assert [(event.step, event.value) for event in shown.Scalars(shown_as(tag))] == logged


def test_loss_accuracy_and_lr_stand_in_the_groups_that_are_open(shown: EventAccumulator) -> None:
    """TensorBoard sorts the groups of all kinds and opens the first two."""
    tags = [tag for kind in ("scalars", "images", "histograms") for tag in shown.Tags()[kind]]
    assert sorted({tag.partition("/")[0] for tag in tags}) == ["train", "val", "watch", "weights"]
    assert [tag for tag in sorted(tags) if tag.startswith(("train/", "val/"))] == [
        *(f"train/{name}" for name in ("loss", "lr", "lr_planned", "top1")),
        *(f"val/{name}" for name in ("loss", "top1", "top5")),
    ]


def test_the_plan_is_the_schedule(run: Path, shown: EventAccumulator) -> None:
    lr = schedules.Schedule.load(run / "schedule.npz").lr
    planned = [(event.step, event.value) for event in shown.Scalars("train/lr_planned")]
    assert planned == list(enumerate(lr))


def test_one_folder_and_no_runs_inside_it(run: Path) -> None:
    assert all(path.is_file() for path in (run / "tensorboard").iterdir())


def test_the_compiling_update_is_in_no_speed(shown: EventAccumulator) -> None:
    assert [event.step for event in shown.Scalars("watch/perf/first_update_s")] == [0]
    assert [event.step for event in shown.Scalars("watch/perf/step_ms")] == list(range(1, 12))


def test_ranks_differ_in_loss_and_their_mean_is_the_loss(shown: EventAccumulator) -> None:
    curves = {word: shown.Scalars(f"watch/ranks/loss/{word}") for word in ("highest", "mean", "lowest")}
    whole = {event.step: event.value for event in shown.Scalars("train/loss")}
    assert [event.step for event in curves["mean"]] == [3, 6, 9]
    for highest, mean, lowest in zip(*curves.values(), strict=True):
        assert highest.value > mean.value > lowest.value
        assert mean.value == pytest.approx(whole[mean.step], rel=1e-6)


def test_the_slowest_rank_is_named() -> None:
    assert summarised("t", ("slowest", "mean", "fastest"), np.array([1.0, 5.0, 3.0])) == {
        "t/slowest": 5.0,
        "t/mean": 3.0,
        "t/fastest": 1.0,
        "t/rank": 1.0,
    }


def test_histograms_of_weights_and_updates_at_the_snapshot_steps(run: Path, shown: EventAccumulator) -> None:
    assert set(shown.Tags()["histograms"]) == {
        f"weights/{what}/{layer}" for what in ("W", "delta_W") for layer in LAYERS
    }
    for event in shown.Histograms("weights/delta_W/fc.weight"):
        with np.load(run / "snapshots" / f"step-{event.step:08d}.rank-0.npz") as arrays:
            i = arrays["layers"].tolist().index("fc.weight")
            delta_W = (arrays[f"W_start.{i}"] - arrays[f"W_new.{i}"]).astype(np.float64)
        counts = event.histogram_value
        assert (counts.num, counts.min, counts.max) == (delta_W.size, delta_W.min(), delta_W.max())
        assert sum(counts.bucket) == delta_W.size
    assert [event.step for event in shown.Histograms("weights/W/fc.weight")] == [2, 7]


def test_pictures(shown: EventAccumulator) -> None:
    steps = {tag: [event.step for event in shown.Images(tag)] for tag in shown.Tags()["images"]}
    maps = {f"weights/delta_W_map/{layer}": [2, 7] for layer in LAYERS}
    parts = [f"weights/comparison/{part}" for part in ("lr", "norm_delta_W", *(f"curve/{layer}" for layer in LAYERS))]
    assert steps == {"watch/batch": [0], **{part: [12] for part in parts}, **maps}
    for tag in steps:
        for event in shown.Images(tag):
            with Image.open(io.BytesIO(event.encoded_image_string)) as picture:
                assert picture.size == (event.width, event.height)
                assert len(picture.convert("L").getcolors(256)) > 10


def test_images_are_laid_out_in_rows_with_gaps_and_labels() -> None:
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(48, axis=2).repeat(48, axis=3)
    sheet = tiled(images)
    assert sheet.shape == (2 * (48 + GAP) + GAP, 3 * (48 + GAP) + GAP, 3)
    assert sheet[GAP :: 48 + GAP, GAP :: 48 + GAP, 0].tolist() == [[0, 1, 2], [3, 4, 255]]
    labelled = tiled(images, ["five"] * 5)
    assert labelled.shape[0] > sheet.shape[0] and (labelled[GAP + 48 + 1 : GAP + 48 + 10, GAP : GAP + 40] < 128).any()
    colours = tiled(np.arange(3, dtype=np.uint8).reshape(1, 3, 1, 1).repeat(2, axis=3))
    assert colours.shape == (48 + 2 * GAP, 96 + 2 * GAP, 3) and colours[GAP, GAP].tolist() == [0, 1, 2]


def test_texts(run: Path, shown: EventAccumulator) -> None:
    page = text(shown, "run/config")
    assert page.startswith("```yaml\n") and page.endswith("```")
    assert yaml.safe_load(page.removeprefix("```yaml\n")[:-3]) == yaml.safe_load((run / "config.yaml").read_text())
    comparison = (run / "comparison" / "comparison.md").read_text()
    told = text(shown, "run/comparison").splitlines()
    assert [line for line in told if line != "```"] == [
        line for line in comparison.splitlines() if not line.startswith("![")
    ]
    fences = [place for place, line in enumerate(told) if line == "```"]
    for first, last in zip(fences[::2], fences[1::2], strict=True):
        assert {line[0] for line in told[first + 1 : last]} == {"|"}
    assert all(line[:1] != "|" or sum(place < at for place in fences) % 2 for at, line in enumerate(told))


def test_charts_find_their_curves(shown: EventAccumulator) -> None:
    """As the page does: each pattern must match from a tag's beginning."""

    layout = Layout.FromString(shown.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    drawn = {
        chart.title: [[tag for tag in SCALARS if re.match(pattern, tag)] for pattern in chart.multiline.tag]
        for section in layout.category
        for chart in section.chart
    }
    assert drawn["learning rate, planned and applied"] == [["train/lr_planned"], ["train/lr"]]
    assert drawn["step_ms"] == [[f"watch/ranks/step_ms/{word}"] for word in ("slowest", "mean", "fastest")]
    assert drawn["fc.weight"] == [[f"weights/update/fc.weight/{norm}_l2"] for norm in ("delta", "predicted")]
    assert all(len(found) == 1 for chart in drawn.values() for found in chart)


def test_a_row_in_the_table_of_runs(shown: EventAccumulator) -> None:
    def content(tag: str) -> bytes:
        return shown.SummaryMetadata(tag).plugin_data.content

    row = metadata.parse_session_start_info_plugin_data(content(metadata.SESSION_START_INFO_TAG)).hparams
    assert row["schedule.lr_max"].number_value == pytest.approx(0.1)
    assert (row["model.name"].string_value, row["world_size"].number_value) == ("resnet20", 2)
    assert row["optimizer.decay_norm_and_bias"].bool_value is False
    assert row["data.augment"].string_value == '["flip"]'
    assert not {"name", "runs_dir", "log.every"} & set(row)
    experiment = metadata.parse_experiment_plugin_data(content(metadata.EXPERIMENT_TAG))
    assert {info.name for info in experiment.hparam_infos} == set(row)
    compared = [info.name.tag for info in experiment.metric_infos]
    assert {*compared} < SCALARS and compared[:2] == ["val/top1", "val/loss"]
    assert metadata.parse_session_end_info_plugin_data(content(metadata.SESSION_END_INFO_TAG)).status == 1


def test_a_log_that_goes_on_voids_what_is_repeated(tmp_path: Path) -> None:
    first = events.EventLog(tmp_path)
    for step in range(6):
        first.add_scalars(step, {"a": float(step)})
    first.close()
    second = events.EventLog(tmp_path, suffix=".later", purge_step=4)
    second.add_scalars(4, {"a": 40.0})
    second.close()
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("a")] == [
        *((step, float(step)) for step in range(4)),
        (4, 40.0),
    ]


def test_a_flush_leaves_nothing_behind(tmp_path: Path) -> None:
    log = events.EventLog(tmp_path)
    for step in range(300):
        log.add_scalars(step, {"a": 1.0})
    log.flush()
    assert len(read(tmp_path).Scalars("a")) == 300
    log.close()


def test_a_histogram_leaves_out_what_is_not_finite() -> None:
    counts = events.histogram("h", np.array([[1.0, np.nan], [3.0, np.inf]])).value[0].histo
    assert (counts.num, counts.min, counts.max) == (2, 1.0, 3.0)
    assert events.histogram("h", np.array([np.nan])).value[0].histo.num == 1


def test_a_clock_that_was_set_back_shows_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads files in the order of their names, which hold the time: a resumed run's file must come last."""
    for now, purged, steps in ((1_700_007_200.0, None, range(6)), (1_700_000_000.0, 4, range(4, 8))):
        monkeypatch.setattr(events.time, "time", lambda now=now: now)
        log = events.EventLog(tmp_path, purge_step=purged)
        for step in steps:
            log.add_scalars(step, {"train/loss": float(step)})
        log.close()
    assert [event.step for event in read(tmp_path).Scalars("train/loss")] == list(range(8))


def test_a_run_starts_without_what_draws(tmp_path: Path) -> None:
    """A second or two of each rank's start; rank 0 imports TensorBoard's part, and Matplotlib at the first figure."""
    code = "import sys; from train.runtime import device; device.set_environment_defaults(); "
    code += "import train.run.job; "
    code += "print({'matplotlib', 'sklearn', 'tensorboard', 'tensorboardX', 'onnx'} & set(sys.modules)); "
    code += "import train.hooks.tensorboard; print({'matplotlib'} & set(sys.modules))"
    assert alone(["-c", code], tmp_path).check().logs[0].splitlines() == ["set()", "set()"]
