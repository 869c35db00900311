"""Runs side by side: real ones, and made-up ones whose sums are known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import schedules
from tests.jobs import DIGITS, ROOT, environment
from train.compare_runs import compare_runs
from train.recipe.read import load_config, to_yaml
from train.rundir.metrics import MetricsWriter
from train.runtime.errors import UserError

PAGES = ROOT / "train" / "comparison"


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    found: dict[str, list[str]] = {}
    for first, *rest in cells:
        found.setdefault(first, rest)  # of several tables the first one has it
    return found


@pytest.mark.msrun
def test_table_and_picture(runs_dir: Path, tmp_path: Path) -> None:
    told = rows(compare_runs([runs_dir / "one", runs_dir / "two"], tmp_path / "picture.png"))
    assert told[""] == ["one", "two"]
    assert told["`schedule.lr_max`"] == ["0.05", "0.1"]
    assert told["`ranks`"] == ["1", "2"]
    assert "`seed`" not in told and "`name`" not in told
    last = [json.loads((runs_dir / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("one", "two")]
    assert told["validation top1"] == [f"{line['val/top1']:.2%}" for line in last]
    for i, name in enumerate(("one", "two")):
        with np.load(runs_dir / name / "snapshots" / "step-00000007.rank-0.npz") as arrays:
            layer = arrays["layers"].tolist().index("fc.weight")
            norm = np.linalg.norm((arrays[f"W_start.{layer}"].astype(float) - arrays[f"W_new.{layer}"]).ravel())
            assert float(told["‖ΔW‖ of fc.weight at t = 7"][i]) == pytest.approx(norm, rel=1e-5)
            assert float(told["lr at t = 7"][i]) == pytest.approx(float(arrays["lr"]), rel=1e-5)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1200, 960)


@pytest.mark.msrun
def test_the_command(runs_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train.compare_runs", runs_dir / "one", runs_dir / "two"]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\npicture: compare_runs.png\n") and (tmp_path / "compare_runs.png").exists()


@pytest.mark.msrun
def test_mistakes_are_one_line_and_leave_nothing(runs_dir: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    with pytest.raises(UserError, match="only one run; name two or more"):
        compare_runs([runs_dir / "one"], picture)
    with pytest.raises(UserError, match=r"config\.yaml: no such file; .* is not a run folder"):
        compare_runs([runs_dir / "one", tmp_path], picture)
    (tmp_path / "recipe.yaml").write_text("seed: 1")
    with pytest.raises(UserError, match=r"--picture .*: cannot be written: .* exists, and this command did not"):
        compare_runs([runs_dir / "one", runs_dir / "two"], tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_text() == "seed: 1"
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"--picture .*: cannot be written"):
        compare_runs([runs_dir / "one", runs_dir / "two"], tmp_path / "no folder" / "picture.png")
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_mindspore() -> None:
    code = "import sys, train.compare_runs; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=100).returncode == 0


LAYERS = ("layer3.2.conv2.weight", "fc.weight")  # those of the recipe, in the model's order


def seeded(folder: Path, seed: int, v: np.ndarray, losses: float, *settings: str, layers: tuple[str, ...]) -> Path:
    """A run folder without snapshots whose velocity has the norms ``v`` (100,)."""
    folder.mkdir()
    config = load_config(DIGITS, [f"seed={seed}", "snapshots.layers=[]", "snapshots.steps=[]", *settings])
    schedule = schedules.build(config.schedule)
    schedule.save(folder / "schedule.npz")
    (folder / "config.yaml").write_text(to_yaml(config, versions={"world_size": 2}))
    writer = MetricsWriter(folder, keep_bytes=0)
    for t, lr in enumerate(schedule.lr.tolist()):
        norms = {f"update/{layer}/delta_l2": lr * v[t] for layer in layers}
        norms |= {f"update/{layer}/velocity_l2": v[t] for layer in layers}
        writer.write(t, {"train/loss": losses, "train/lr": lr, **norms})
    writer.write(100, {"val/top1": losses / 10, "val/loss": losses})
    writer.close()
    return folder


CONSTANT, OVERRIDING = np.ones(100), np.geomspace(1, 1e-20, 100)
"""Norms of the velocity; the second shrinks faster than lr grows in the warm-up."""


def phase_rows(text: str) -> dict[tuple[str, ...], list[str]]:
    """The table of the phases: (layer, phase, runs) and the cells that follow."""
    _, _, *lines = text.partition("start of a phase to its end:\n\n")[2].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {tuple(row[:3]): row[3:] for row in cells}


def test_runs_that_differ_only_in_their_seed_are_summed_up(tmp_path: Path) -> None:
    velocities = [CONSTANT, 2 * CONSTANT, OVERRIDING]
    runs = [
        seeded(tmp_path / str(i), i, v, losses=1.0 + i, layers=("fc.weight",))
        for i, v in enumerate(velocities, start=1)
    ]
    text = compare_runs(runs, tmp_path / "picture.png")
    summary = rows(text.partition("Runs that differ only in their seed")[2])
    assert summary["validation loss"] == ["3 ± 1"]  # of 2, 3 and 4
    assert summary["validation top1"] == ["30% ± 10%"]
    told = phase_rows(text)
    warm_up, decay = (told["fc.weight", phase, "1, 2, 3"] for phase in ("warm-up", "decay"))
    assert warm_up[3:] == ["2 of 3", "19 of 27"] and decay[3:] == ["3 of 3", "264 of 264"]
    lr = schedules.build(load_config(DIGITS).schedule).lr.astype(float)
    grown = np.sqrt(lr[8] * lr[9] / (lr[0] * lr[1]))
    assert warm_up[0] == f"{grown:.4g} ± {0:.2g}"
    shrunk = np.sqrt(OVERRIDING[8] * OVERRIDING[9] / (OVERRIDING[0] * OVERRIDING[1]))
    expected = np.array([grown, grown, grown * shrunk])
    assert warm_up[2] == f"{expected.mean():.4g} ± {expected.std(ddof=1):.2g}"


def test_runs_of_two_optimizers_are_summed_up_by_optimizer(tmp_path: Path) -> None:
    runs = [
        seeded(tmp_path / f"{name}-{seed}", seed, v, seed, f"optimizer.name={name}", layers=LAYERS)
        for seed in (1, 3)
        for name, v in (("momentum", CONSTANT), ("adamw", OVERRIDING))
    ]
    text = compare_runs(runs, tmp_path / "picture.png")
    summary = rows(text.partition("Runs that differ only in their seed")[2])
    assert summary["validation loss"] == ["2 ± 1.4", "2 ± 1.4"]
    told = {key: cells for key, cells in phase_rows(text).items() if key[1] == "warm-up"}
    names = ("momentum-1, momentum-3", "adamw-1, adamw-3")
    assert list(told) == [(layer, "warm-up", name) for layer in LAYERS for name in names]
    assert [cells[3] for cells in told.values()] == ["2 of 2", "0 of 2"] * 2


def test_runs_that_differ_in_more_are_not(tmp_path: Path) -> None:
    first = seeded(tmp_path / "a", 1, CONSTANT, 1.0, layers=LAYERS)
    others = [
        seeded(tmp_path / "b", 2, CONSTANT, 1.0, "optimizer.momentum=0.8", layers=LAYERS),
        seeded(tmp_path / "c", 1, CONSTANT, 1.0, "schedule.lr_max=0.2", layers=LAYERS),
        seeded(tmp_path / "d", 1, CONSTANT, 1.0, layers=LAYERS),
    ]
    for other in others:
        text = compare_runs([first, other], tmp_path / "picture.png")
        assert "only in their seed" not in text
        assert phase_rows(text)["fc.weight", "warm-up", "a"][0] == "6.267"  # one run alone has no deviation


@pytest.mark.parametrize("versions", ["null", "[1, 2]", "{world_size: '| <b>'}", "7"])
def test_what_a_run_says_of_its_versions_may_be_anything(tmp_path: Path, versions: str) -> None:
    runs = [seeded(tmp_path / name, 1, CONSTANT, 1.0, layers=LAYERS) for name in ("a", "b")]
    text = (runs[0] / "config.yaml").read_text()
    assert text.count("world_size: 2") == 1
    (runs[0] / "config.yaml").write_text(re.sub(r"versions:\n  world_size: 2\n", f"versions: {versions}\n", text))
    told = rows(compare_runs(runs, tmp_path / "picture.png"))
    assert told["`ranks`"][-1] == "2" and "<b>" not in str(told)


def test_names_from_files_are_only_names(tmp_path: Path) -> None:
    evil = "w\n\n# PROVED | <script> `$\\frac{$ \x1b[31m"
    options = "model.options={'a|b <script>\\n# PROVED': \"|<script>\"}"
    first = seeded(
        tmp_path / "a|b\n# PROVED <script>", 1, CONSTANT, 1.0, "model.name=mine:make", options, layers=(evil,)
    )
    second = seeded(tmp_path / "b", 1, CONSTANT, 1.0, layers=(evil,))
    text = compare_runs([first, second], tmp_path / "picture.png")
    assert text.count("PROVED") > 4 and not re.search("^# |<script|\x1b", text, re.M)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_pages_quote_what_the_command_prints(tmp_path: Path, page: str) -> None:
    """In shape, since figures differ from machine to machine: header, rows, and what kind of figure stands where."""
    runs = [
        seeded(tmp_path / name, 1, v, 1.0, f"optimizer.name={name}", layers=LAYERS)
        for name, v in (("momentum", CONSTANT), ("adamw", OVERRIDING))
    ]
    printed = shape(compare_runs(runs, tmp_path / "picture.png").rpartition("\n\n")[2])
    quoted = [shape(table) for table in re.findall(r"(?:^\|.*\n)+", (PAGES / page).read_text("utf-8"), re.M)]
    assert printed in quoted


def shape(table: str) -> list[list[str]]:
    """The cells of a Markdown table with 0 for every figure that may differ."""
    lines = [line for line in table.splitlines() if not line.startswith("|-")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [[*row[:3], *(re.sub(r"^[\d.]+(e-\d+)?|(?<=of )\d+$", "0", cell) for cell in row[3:])] for row in cells]
