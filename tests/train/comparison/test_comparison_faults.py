"""What the comparison says of a run that was touched (code 7) or cannot be compared (2; 5 where the disk fails)."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from itertools import pairwise

import numpy as np
import pytest

import schedules
from tests.jobs import DIGITS
from tests.train.finished_runs import DOCUMENT, edit, flip_lowest_bit, write_run
from train.comparison import document, report
from train.comparison.__main__ import main
from train.comparison.document import update_at
from train.comparison.finished_run import load_snapshot, open_run
from train.comparison.report import compare
from train.recipe.read import load_config, to_yaml
from train.rundir.folder import SNAPSHOTS
from train.rundir.metrics import MetricsWriter
from train.rundir.snapshots import layer_hashes, snapshot_name
from train.runtime.errors import StorageError, UserError

pytestmark = pytest.mark.usefixtures("on_cpu")


def one_bit(folder):
    edit(folder, 60, 1, W_new__0=lambda old: flip_lowest_bit(old, (2, 1, 0, 2)))


def beyond_rounding(folder):
    for rank in (0, 1):
        edit(folder, 5, rank, W_new__1=lambda old: np.where(np.arange(8) == 3, old * np.float32(1.0001), old))


def lr_by_an_ulp(folder):
    for rank in (0, 1):
        edit(folder, 5, rank, lr=lambda old: np.nextafter(old, np.float32(1)))


def not_a_number(folder):
    for rank in (0, 1):
        edit(folder, 5, rank, W_new__2=lambda old: np.full_like(old, np.nan))


def minus_zero(folder):
    for rank, zero in enumerate((0.0, -0.0)):
        edit(folder, 5, rank, v__3=lambda old, zero=zero: np.full_like(old, zero), W_new__3=lambda old: np.float32(0))
        edit(folder, 5, rank, W_start__3=lambda old: np.float32(0))


TOUCHED = {
    "one bit of W_new": (one_bit, "step 60, rank 1, layer conv1.weight, element [2, 1, 0, 2]: W_new is"),
    "one bit of v": (
        lambda folder: edit(folder, 5, 1, v__2=lambda old: flip_lowest_bit(old, 4)),
        "step 5, rank 1, layer bn1.gamma, element [4]: v is",
    ),
    "the sign of zero": (minus_zero, "layer scale, element []: v is -0.0 (0x80000000), on rank 0 0.0 (0x00000000)"),
    "beyond rounding": (beyond_rounding, "rank 0, layer fc.weight, element ["),
    "lr by an ulp": (
        lr_by_an_ulp,
        "step 5, rank 0: lr is 0.055000003 (0x3d6147af), the schedule's is 0.055 (0x3d6147ae)",
    ),
    "lr on one rank": (
        lambda folder: edit(folder, 5, 1, lr=lambda old: np.nextafter(old, np.float32(1))),
        "step 5, rank 1: lr is 0.055000003 (0x3d6147af), on rank 0 0.055 (0x3d6147ae)",
    ),
    "kernel's step": (
        lambda folder: edit(folder, 60, 0, kernel_step=lambda old: old - 1),
        "step 60, rank 0: the kernel was at its step 59",
    ),
    "missing rank": (
        lambda folder: (folder / SNAPSHOTS / snapshot_name(60, 1)).unlink(),
        "step 60, rank 1: no snapshot of this rank (2 ranks took this step)",
    ),
    "missing rank 0": (
        lambda folder: (folder / SNAPSHOTS / snapshot_name(5, 0)).unlink(),
        "step 5, rank 0: no snapshot of this rank",
    ),
    "world size": (
        lambda folder: edit(folder, 5, 1, world_size=lambda old: old + 1),
        "step 5, rank 1: counts 3 ranks, rank 0 counts 2",
    ),
    "not a number": (not_a_number, "step 5, rank 0, layer bn1.gamma, element [0]: W_new is nan"),
}


@pytest.mark.parametrize(("touch", "line"), TOUCHED.values(), ids=TOUCHED.keys())
def test_what_was_touched_is_named_with_exit_code_7(tmp_path, capsys, touch, line):
    folder = write_run(tmp_path / "run")
    touch(folder)
    assert main([str(folder)]) == 7
    stderr = capsys.readouterr().err
    assert line in stderr
    problems = json.loads((folder / "comparison/comparison.json").read_text())["problems"]
    assert stderr.splitlines() == [f"error: {problem}" for problem in problems]
    assert "Something is wrong" in (folder / "comparison/comparison.md").read_text()
    assert (folder / "comparison/comparison.png").is_file()


@pytest.mark.parametrize(
    ("touch", "lines"),
    [
        (lambda folder: None, []),
        (
            lambda folder: edit(folder, 60, 0, hashes=lambda old: flip_a_bit_of(old, rank=2, layer=1)),
            ["step 60, rank 2, layer fc.weight: its hash is not that on rank 0: the ranks differ"],
        ),
        (
            lambda folder: edit(folder, 5, 0, v__2=lambda old: flip_lowest_bit(old, 4)),
            [f"step 5, rank {rank}, layer bn1.gamma: its hash is not that on rank 0" for rank in (1, 2)],
        ),
        (
            lambda folder: edit(folder, 5, 0, hashes=lambda old: old[:2]),
            ["step-00000005.rank-0.npz: damaged snapshot (hashes are uint8[2, 4, 32])"],
        ),
    ],
    ids=["nothing", "a hash", "what was hashed", "too few hashes"],
)
def test_ranks_without_a_snapshot_are_compared_by_hash(tmp_path, capsys, touch, lines):
    folder = write_run(tmp_path / "run", world_size=3)
    for step in (5, 60):
        file = folder / SNAPSHOTS / snapshot_name(step, 0)
        rows = np.stack([layer_hashes(load_snapshot(file))] * 3)
        np.savez(file, **dict(np.load(file)), hashes=rows)
        for rank in (1, 2):
            (folder / SNAPSHOTS / snapshot_name(step, rank)).unlink()
    touch(folder)
    code = main([str(folder)])
    stderr = capsys.readouterr().err
    assert [line for line in lines if line not in stderr] == []
    assert bool(code) == bool(lines)


def flip_a_bit_of(hashes, rank, layer):
    changed = np.array(hashes)
    changed[rank, layer, 0] ^= 1
    return changed


def test_a_kernel_one_step_late_is_named(tmp_path, monkeypatch):
    def late(steps, W_start, v, lr):
        return update_at(steps, W_start, v, np.roll(lr, 1))

    monkeypatch.setattr(report, "update_at", late)
    monkeypatch.setattr(document, "update_at", late)
    problems = "\n".join(compare(write_run(tmp_path / "run")).problems)
    assert "controlled update, step 5, layer conv1.weight, element [" in problems
    assert "controlled update, steps 5 and 60: ‖ΔW‖ changed by a factor of 0.9" in problems
    assert "the document's example is off by" in problems
    text = (tmp_path / "run/comparison/comparison.md").read_text()
    assert "**The document's conclusion fails here**" in text and "**not** all within" in text


def truncate(folder):
    file = folder / SNAPSHOTS / snapshot_name(60, 1)
    file.write_bytes(file.read_bytes()[:-100])


def bomb(folder):
    np.savez_compressed(folder / "snapshots" / "step-00000005.rank-0.npz", lr=np.zeros(1 << 20, np.float32))


def huge(folder):
    """An array whose header tells of 40 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(folder / "snapshots" / "step-00000005.rank-0.npz", "w") as packed:
        packed.writestr("lr.npy", header.getvalue())


def overwrite_a_byte(folder):
    file = folder / SNAPSHOTS / snapshot_name(5, 0)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


def rename(folder):
    (folder / SNAPSHOTS / snapshot_name(60, 1)).rename(folder / SNAPSHOTS / snapshot_name(61, 1))


UNUSABLE = {
    "no snapshots": (lambda folder: [f.unlink() for f in (folder / SNAPSHOTS).iterdir()], "no snapshots"),
    "no schedule": (lambda folder: (folder / "schedule.npz").unlink(), "not a run folder"),
    "damaged schedule": (lambda folder: (folder / "schedule.npz").write_bytes(b"PK"), "schedule.npz"),
    "truncated": (truncate, "step-00000060.rank-1.npz: damaged snapshot"),
    "overwritten": (overwrite_a_byte, "step-00000005.rank-0.npz: damaged snapshot"),
    "a bomb": (bomb, "step-00000005.rank-0.npz: damaged snapshot (it would unpack to more than its size)"),
    "huge": (huge, "step-00000005.rank-0.npz: damaged snapshot"),
    "renamed": (rename, "step-00000061.rank-1.npz: damaged snapshot (it holds step 60 of rank 1)"),
    "float64": (
        lambda folder: edit(folder, 5, 0, v__1=lambda old: old.astype(np.float64)),
        "v.1 is float64[10, 8], not a non-empty float32 array",
    ),
    "empty": (lambda folder: edit(folder, 5, 0, v__2=lambda old: old[:0]), "v.2 is float32[0], not a non-empty"),
    "two shapes": (
        lambda folder: edit(folder, 5, 0, v__2=lambda old: old[1:]),
        "layer bn1.gamma has W_start [6], v [5]",
    ),
    "other layers": (
        lambda folder: edit(folder, 60, 1, layers=lambda old: np.array([*old[:-1], "other"])),
        "step-00000060.rank-1.npz holds",
    ),
    "shorter schedule": (
        lambda folder: schedules.build({**DOCUMENT, "total": 60}).save(folder / "schedule.npz"),
        "has a snapshot of step 60, but its schedule ends with step 59",
    ),
}


@pytest.mark.parametrize(("damage", "words"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_folder_is_one_line_with_exit_code_2(tmp_path, capsys, damage, words):
    folder = write_run(tmp_path / "run")
    damage(folder)
    assert main([str(folder)]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and not out
    assert not (folder / "comparison").exists()


def test_a_file_in_the_way_is_one_line(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    (folder / "comparison").touch()
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"error: {folder / 'comparison'}: cannot be written (File exists); make room for it there\n"
    )


def test_a_schedule_and_logs_of_another_run(tmp_path):
    folder = write_run(tmp_path / "run")
    writer = MetricsWriter(folder, keep_bytes=0)
    writer.write(5, {"train/lr": 0.055, "update/fc.weight/delta_l2": 9.0})
    writer.write(60, {"train/lr": 0.05})
    writer.close()
    assert [line.partition(" is ")[0] for line in compare(folder).problems] == [
        "step 60: train/lr",
        "step 5: update/fc.weight/delta_l2",
    ]
    (folder / "metrics.jsonl").unlink()
    (folder / "config.yaml").write_text(to_yaml(load_config(DIGITS, ["schedule.lr_max=0.2"]), versions={}))
    assert compare(folder).problems == ("schedule.npz is not the schedule of config.yaml",)


@pytest.mark.parametrize(
    "name", [f"{SNAPSHOTS}/{snapshot_name(60, 1)}", "schedule.npz", "metrics.jsonl", "config.yaml"]
)
def test_a_disk_that_fails_is_no_damage(tmp_path, capsys, name):
    """Who is told that an intact snapshot is damaged removes it."""
    folder = write_run(tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/proc/self/mem")  # whose first bytes cannot be read: EIO
    assert main([str(folder)]) == 5
    err = capsys.readouterr().err
    assert name in err and "Input/output error" in err and "damaged" not in err and err.count("\n") == 1


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    "name", [f"{SNAPSHOTS}/{snapshot_name(60, 1)}", "schedule.npz", "metrics.jsonl", "config.yaml"]
)
def test_what_is_no_file_is_refused_without_waiting(tmp_path, capsys, name, kind):
    folder = write_run(tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    assert main([str(folder)]) == 2
    err = capsys.readouterr().err
    assert name in err and "is not a regular file" in err and "damaged" not in err and err.count("\n") == 1


def test_a_folder_that_goes_away_meanwhile_is_a_fault_of_the_disk(tmp_path):
    run = open_run(write_run(tmp_path / "run"))
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(StorageError, match=r"rank-0\.npz: cannot be read: No such file or directory"):
        run.load(5)


def test_compare_raises_what_the_command_prints(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        compare(tmp_path / "none")


def test_a_downloaded_run_imports_no_optimizer_unless_its_code_is_trusted(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    recipe = load_config(DIGITS, ["optimizer.name=evil:make"])
    (folder / "config.yaml").write_text(to_yaml(recipe))
    assert main([str(folder)]) == 2
    err = capsys.readouterr().err
    assert "config.yaml: optimizer.name='evil:make' is code" in err and "--trust-code" in err and err.count("\n") == 1
    assert not (folder / "comparison").exists()
    assert main([str(folder), "--trust-code"]) == 0  # plain momentum without gradients: it is not made again


EVIL = "fc.weight\n\n# PROVED | <script>alert(1)</script> [a](javascript:b) $\\frac{$ `**\x1b[31m\x9b"


def test_a_name_from_a_file_is_only_a_name_wherever_it_is_shown(tmp_path, capsys):
    """In Markdown, in HTML that is made of it, in a formula of Matplotlib's and in a terminal."""
    layers = {EVIL: (4, 3), **{f"{EVIL}{i}": (5,) for i in range(4)}}
    folder = write_run(tmp_path / "a|b\n# PROVED", layers=layers, world_size=1)
    stored = dict(np.load(folder / "schedule.npz"))
    named = {"phase_names": np.array([f"{name}{EVIL}" for name in stored["phase_names"]])}
    np.savez(folder / "schedule.npz", **{**stored, **named})
    edit(folder, 5, 0, optimizer=lambda old: np.array(EVIL), W_new__1=lambda old: old + 1)
    writer = MetricsWriter(folder, keep_bytes=0)
    for step in range(20):
        norms = {f"update/{layer}/{norm}": 1.0 for layer in layers for norm in ("delta_l2", "velocity_l2", "ratio")}
        writer.write(step, {"train/lr": 1.0, **norms})
    writer.close()
    assert main([str(folder)]) == 7
    said = capsys.readouterr()
    text = (folder / "comparison" / "comparison.md").read_text()
    for shown in (text, (folder / "comparison" / "comparison.json").read_text()):
        assert "PROVED" in shown and not re.search("^# PROVED|<script|\x1b|\x9b|\\]\\(java", shown, re.M)
    assert re.findall(r"^#+ .*PROVED", text, re.M)[0].startswith("# Run a\\|b\\n# PROVED: fc.weight\\n\\n# PROVED")
    columns = [len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0 for line in text.splitlines()]
    assert all(a == b for a, b in pairwise(columns) if a and b), "no name adds a column"
    assert all(line.startswith("error: step 5") for line in said.err.splitlines())


@pytest.mark.parametrize(
    ("touch", "words"),
    [
        ({"kernel_step": 10**12}, "it is of step 1000000000000 of the kernel"),
        ({"kernel_step": 100}, "of the kernel's step 100, past the end of the run's schedule"),
        ({"world_size": 2**40}, "of rank 0 of 1099511627776"),
    ],
)
def test_numbers_that_no_run_has_are_damage(tmp_path, capsys, touch, words):
    folder = write_run(tmp_path / "run")
    edit(folder, 5, 0, **{key: lambda old, value=value: np.int64(value) for key, value in touch.items()})
    assert main([str(folder)]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
