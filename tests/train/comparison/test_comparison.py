"""The comparison on run folders made of real float32 updates, and what it says when one of them is touched."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import schedules
from tests.train.finished_runs import DOCUMENT, LAYERS, moved, write_run
from train.comparison import document
from train.comparison.document import document_example, update_at, uses_document_script
from train.comparison.markdown import render
from train.comparison.report import compare
from train.rundir.folder import SNAPSHOTS
from train.rundir.metrics import MetricsWriter
from train.rundir.snapshots import snapshot_name
from train.runtime.drawing import as_matrix

pytestmark = pytest.mark.usefixtures("on_cpu")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose updates the real kernel made, compared once."""

    def by_kernel(step, W_start, v, lr):
        return update_at([step], W_start, v, lr)[step]

    folder = write_run(tmp_path_factory.mktemp("runs") / "trial", update=by_kernel)
    return compare(folder)


def test_a_faithful_run_passes_and_leaves_three_files(finished):
    assert finished.ok
    assert sorted(file.name for file in finished.folder.iterdir()) == [
        "comparison.json",
        "comparison.md",
        "comparison.png",
    ]
    assert json.loads((finished.folder / "comparison.json").read_text()) == finished.data
    assert (finished.folder / "comparison.md").read_text() == finished.text
    with Image.open(finished.folder / "comparison.png") as image:
        image.load()
        assert image.format == "PNG" and image.size == (1200, 960)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 100


def test_json_covers_every_step_rank_and_layer(finished):
    data = finished.data
    assert (data["run"], data["steps"], data["layers"]) == ("trial", [5, 60], list(LAYERS))
    assert [layer["layer"] for layer in data["observed"]] == list(LAYERS)
    proved = [(entry["step"], entry["rank"], len(entry["layers"])) for entry in data["proof"]["snapshots"]]
    assert proved == [(5, 0, 4), (5, 1, 4), (60, 0, 4), (60, 1, 4)]


def test_the_document_to_four_decimals_and_its_two_slips(finished):
    document = finished.data["document"]
    assert document["holds"] and document["max_difference"] <= 1e-4
    for step, lr in ((0, 0.055), (1, 0.0419)):
        entry = document["steps"][step]
        assert entry["lr"] == pytest.approx(lr, abs=1e-5)
        measured, printed = (np.array(entry["delta_W"][key]) for key in ("measured", "printed"))
        assert measured.shape == printed.shape == (4, 2)
        np.testing.assert_allclose(measured, printed, rtol=0, atol=1e-4)
        np.testing.assert_allclose(entry["W_new"]["measured"], entry["W_new"]["printed"], rtol=0, atol=1e-4)
    slips = {(e["step"], matrix): e[matrix]["slips"] for e in document["steps"] for matrix in ("delta_W", "W_new")}
    assert slips == {(5, "delta_W"): [[2, 1]], (5, "W_new"): [[2, 1]], (60, "delta_W"): [], (60, "W_new"): []}
    assert "ΔW[2,1] at t = 5 is 0.034925, rounded 0.0349, printed 0.0350" in finished.text
    assert "W_new[2,1] at t = 5 is 8.965075, rounded 8.9651, printed 8.9650" in finished.text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_documents_example_without_a_run(language, capsys):
    assert document.main(["--language", language]) == 0
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["0.055", "-0.0198"] in [row[1:3] for row in rows] and ["0.0419", "-0.0151"] in [row[1:3] for row in rows]
    longer = {int(row[0]): "no" not in row[3] and "否" not in row[3] for row in rows if row[0].isdigit()}
    assert longer == {0: False, 1: False, 2: False, 3: False, 4: True, 5: True}
    assert "t ≤ 3" in text and "0.01" in text and "0.037" in text
    assert len(re.findall(r"7 of 8|8 个中 7 个", text)) == 2 and len(re.findall(r"8 of 8|8 个中 8 个", text)) == 2
    assert text.count("0.034925") == 2 and text.count("8.965075") == 2, "in the table and as a slip of rounding"


def test_a_number_that_is_not_reproduced_is_an_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(document, "VELOCITY", document.VELOCITY * np.float32(1.01))
    assert document.main([]) == 7
    assert "**not** all within" in capsys.readouterr().out


def test_another_schedule_leaves_the_document_out():
    other = schedules.build({**DOCUMENT, "lr_end": 0.0}).lr
    assert uses_document_script(schedules.build(DOCUMENT).lr) and not uses_document_script(other)
    assert document_example(other)["applies"] is False


def test_controlled_follows_lr_and_observed_follows_both(finished):
    script = schedules.build(DOCUMENT).lr
    ratio = float(script[60]) / float(script[5])
    same = finished.data["controlled"]["changes"][0]
    assert same["equal"] and same["lr_ratio"] == ratio
    assert same["delta_W_ratio"] == pytest.approx(ratio, rel=1e-6)
    for layer in finished.data["observed"]:
        change = layer["changes"][0]
        assert change["delta_W_ratio"] == pytest.approx(change["lr_ratio"] * change["d_ratio"], rel=1e-5)
        if change["fraction_lr"] is not None:
            logs = np.log([change["lr_ratio"], change["d_ratio"]])
            assert change["fraction_lr"] == pytest.approx(logs[0] / logs.sum())
    assert [row["phase"] for row in finished.data["observed"][0]["steps"]] == ["warm-up", "decay"]
    assert "**The document's conclusion holds**" in finished.text


def test_observed_figures_are_those_of_the_snapshot(finished):
    with np.load(finished.folder.parent / SNAPSHOTS / snapshot_name(60, 0)) as stored:
        delta_W = stored["W_start.1"].astype(float) - stored["W_new.1"]
        expected = {
            "first_element": delta_W[0, 0],
            "norm_delta_W": np.sqrt((delta_W**2).sum()),
            "norm_d": np.sqrt((stored["v.1"].astype(float) ** 2).sum()),
            "norm_W": np.sqrt((stored["W_start.1"].astype(float) ** 2).sum()),
        }
        lr = stored["lr"]
    row = finished.data["observed"][1]["steps"][1]
    assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-12)
    assert row["relative"] == pytest.approx(expected["norm_delta_W"] / expected["norm_W"])
    assert row["lr"] == lr


def test_when_v_outweighs_lr_the_words_say_so(tmp_path):
    report = compare(write_run(tmp_path / "run", steps=(5, 9), world_size=1, v_scale=0.1))
    assert "lr and v pull in opposite directions" in report.text
    assert "In training the step did not follow lr (t = 5 → 9)" in report.text


@pytest.mark.parametrize(
    ("steps", "schedule"),
    [
        ((10,), DOCUMENT),
        ((0, 9, 10, 11, 99), DOCUMENT),
        ((0, 3), {**DOCUMENT, "lr_init": 0.0, "warmup": 2, "total": 4}),
    ],
)
def test_any_steps_and_schedule(tmp_path, steps, schedule):
    report = compare(write_run(tmp_path / "run", steps=steps, schedule=schedule, layers={"bn1.gamma": (5,)}))
    assert report.ok and report.data["steps"] == list(steps)
    assert len(report.data["controlled"]["changes"]) == len(steps) - 1
    assert ("two are needed" in report.text) == (len(steps) == 1)
    assert report.data["document"]["applies"] == (schedule is DOCUMENT)
    assert ("document" in report.text) == (schedule is DOCUMENT)
    assert ("文档" in render(report.data, "zh")) == (schedule is DOCUMENT)


def test_a_convolution_is_drawn_as_output_channels_by_the_rest():
    shapes = [(8, 3, 5, 5), (10, 64), (7,), ()]
    assert [as_matrix(np.zeros(shape)).shape for shape in shapes] == [(8, 75), (10, 64), (1, 7), (1, 1)]


def test_the_command(tmp_path):
    write_run(tmp_path / "runs/trial")
    command = [sys.executable, "-m", "train.comparison"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "runs/trial"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == (tmp_path / "runs/trial/comparison/comparison.md").read_text().strip()
    none = subprocess.run([*command, "runs/none"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert none.returncode == 2 and none.stderr == (
        "error: runs/none: no such folder; give the folder of a finished run, runs/<name>\n"
    )


def test_reading_and_proving_need_no_mindspore(tmp_path):
    folder = write_run(tmp_path / "run")
    code = (
        "import sys; from train.comparison.proof import prove; from train.comparison.finished_run import open_run;"
        "from train.comparison.measures import observed; run = open_run(sys.argv[1]); assert prove(run)['holds'];"
        "observed([run.load(step) for step in run.steps], run.schedule); assert 'mindspore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)


RANK = """
import sys
from train.runtime import device, distributed
device.configure()
distributed.init()
import mindspore as ms
ms.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True)
from train.comparison.report import compare
if distributed.rank() == 0:
    assert compare(sys.argv[1]).ok
distributed.barrier()
"""


@pytest.mark.msrun
def test_rank_0_of_a_job_compares_alone(tmp_path):
    folder = write_run(tmp_path / "run")
    (tmp_path / "rank.py").write_text(RANK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    job = ["--worker_num=2", "--local_worker_num=2", "--join=True", f"--master_port={port}", "--log_dir=logs"]
    command = [str(bin_folder / "msrun"), *job, "rank.py", str(folder)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "comparison/comparison.png").is_file()


@pytest.mark.parametrize("v", [True, False])
def test_a_layer_with_its_own_rate_is_described_by_that(tmp_path, v):
    """As optimizer.groups with lr_scale leaves it: each rate is rounded to float32 once."""
    script = schedules.build(DOCUMENT)
    own = (script.lr.astype(np.float64) * 0.1).astype(np.float32)
    folder = write_run(
        tmp_path / "run", world_size=1, layers={"a": (4, 3), "b": (5,)}, update=lambda step, W, v, lr: W - own[step] * v
    )
    for file in (folder / SNAPSHOTS).iterdir():
        with np.load(file) as stored:
            arrays = dict(stored)
        step = int(arrays["step"])
        np.savez(file, **arrays, **{"lr.0": own[step], "lr.1": own[step]})
    writer, recorded = MetricsWriter(folder, keep_bytes=0), moved(folder)
    for step, lr in enumerate(script.lr.astype(np.float64)):
        norms = {f"update/{layer}/delta_l2": recorded.get((step, layer), 0.1 * lr * 2.0) for layer in "ab"}
        norms |= {f"update/{layer}/velocity_l2": 2.0 for layer in "ab"} if v else {}
        writer.write(step, {"train/lr": lr, **norms})
    writer.close()
    report = compare(folder)
    assert report.ok, report.problems
    assert report.data["conclusion"]["verdict"] == "holds"
    for row in report.data["controlled"]["steps"]:
        assert row["lr"] == own[row["step"]]
    for row in (row for layer in report.data["observed"] for row in layer["steps"]):
        assert row["norm_delta_W"] == pytest.approx(row["lr"] * row["norm_d"], rel=1e-5)
    parts = [phase[end] for layer in report.data["curve"] for phase in layer["phases"] for end in ("start", "end")]
    assert parts and all(part["norm_d"] == pytest.approx(2.0) for part in parts)
    for part in parts:
        assert part["norm_delta_W"] == pytest.approx(part["lr"] * part["norm_d"])
