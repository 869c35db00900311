"""Checkpoints that are damaged on the disk, and disks that refuse. No training: arrays of a few bytes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schedules
from tests.faults.checkpoints import STATE, cut, describe, put, put_files, save
from tests.jobs import DIGITS
from train.checkpoint import disk as files
from train.checkpoint.disk import DamagedCheckpoint
from train.checkpoint.resume import prepare
from train.checkpoint.saved import Checkpoint, Description, Writer, first_good, load, to_files
from train.checkpoint.state import own_file
from train.recipe.read import load_config
from train.rundir.folder import RunFolder
from train.rundir.snapshots import write_snapshot
from train.runtime.errors import EXIT_STORAGE, RunError, StorageError, UserError
from train.runtime.keys import parse_json

SCHEDULE = schedules.build({"kind": "constant", "lr_max": 0.1, "total": 9})


def flip_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << (place % 8)
    path.write_bytes(content)


def link_out(path: Path) -> None:
    outside = path.parents[2] / path.name
    path.rename(outside)
    path.symlink_to(outside)


def become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    return first_good(folder for _, folder in files.list_steps(root))


def older_format(path: Path) -> None:
    folder = path.parent
    contents = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}
    contents["state.json"] = contents["state.json"].replace(b'"format": 3', b'"format": 2')
    shutil.rmtree(folder)
    put_files(folder.parent, 20, contents)


def link_folder_out(path: Path) -> None:
    outside = path.parents[4] / "elsewhere"
    path.parent.rename(outside)
    path.parent.symlink_to(outside)


def climb_out(path: Path) -> None:
    sums = path.parent / files.SUMS_FILE
    (path.parents[2] / "model.safetensors").write_bytes(path.read_bytes())
    sums.write_text(sums.read_text().replace("  model.safetensors", "  ../../model.safetensors"))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("model.safetensors", cut, r"model\.safetensors is damaged"),
        ("optimizer.safetensors", lambda path: flip_byte(path, 321), r"optimizer\.safetensors is damaged"),
        ("ranks/00/rank-0.safetensors", Path.unlink, r"rank-0\.safetensors is missing"),
        ("ranks/00/rank-0.safetensors", link_folder_out, r"rank-0\.safetensors is behind a link"),
        ("state.json", lambda path: path.write_text("{}"), r"state\.json is damaged"),
        ("SHA256SUMS", Path.unlink, "SHA256SUMS is missing"),
        ("SHA256SUMS", lambda path: path.write_text(""), "SHA256SUMS is damaged"),
        ("SHA256SUMS", lambda path: path.write_text(path.read_text().splitlines()[0] + "\n"), "is missing"),
        ("state.json", older_format, "format: is 2, not 3: another version"),
        ("model.safetensors", link_out, r"model\.safetensors is a link"),
        ("model.safetensors", become_pipe, r"model\.safetensors is not a regular file"),
        ("model.safetensors", climb_out, "SHA256SUMS is damaged"),
    ],
)
def test_damage_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, file: str, damage: Callable[[Path], object], words: str
) -> None:
    save(tmp_path / "run" / "checkpoints", 10, 20)
    root = tmp_path / "run" / "checkpoints"
    damage(root / "step-00000020" / file)
    with pytest.raises(DamagedCheckpoint, match=words):
        load(root / "step-00000020")
    saved, faults = newest(root)
    assert saved is not None and saved.description.step == 10 and len(faults) == 1
    np.testing.assert_array_equal(saved.state.model["w"], STATE.model["w"])


def test_a_disk_that_fails_for_a_moment_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read now may be read by the next try; only a missing file or a wrong sum is damage."""
    save(tmp_path, 10, 20)
    real = os.stat

    def failing(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if "SHA256SUMS" in str(path) and "step-00000020" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(RunError, match=r"step-00000020/SHA256SUMS: cannot be read: Input/output error") as told:
        newest(tmp_path)
    assert told.value.exit_code == EXIT_STORAGE
    monkeypatch.undo()
    saved, faults = newest(tmp_path)
    assert saved is not None and saved.description.step == 20 and not faults


def numpy_position(position: int) -> np.ndarray:
    return np.append(np.zeros(624), [position, 0]).astype(np.uint32)


@pytest.mark.parametrize(
    ("part", "name", "value", "words"),
    [
        (
            "optimizer",
            "optimizer.global_step",
            np.array([11], np.int32),
            r"global_step is \[11\], the state is of step 10",
        ),
        ("optimizer", "optimizer.moments.w", np.array([np.inf], np.float32), r"moments\.w is not finite"),
        ("model", "bn.moving_mean", np.array([np.nan], np.float32), r"bn\.moving_mean is not finite"),
        ("own", "random.numpy", numpy_position(2**31 - 1), r"random\.numpy is not a state of that generator"),
        ("own", "random.numpy", np.zeros(5, np.uint32), r"random\.numpy is not a state of that generator"),
        ("own", "random.python", np.full(625, 999, np.uint32), r"random\.python is not a state of"),
    ],
)
def test_values_that_no_run_has_are_refused_though_their_sums_are_right(
    tmp_path: Path, part: str, name: str, value: np.ndarray, words: str
) -> None:
    """NumPy, for one, takes a generator's position on trust, and its next draw reads far outside of the table."""
    put(tmp_path, describe(10), STATE._replace(**{part: {name: value}}))
    with pytest.raises(DamagedCheckpoint, match=words):
        load(tmp_path / "step-00000010")


def test_all_that_a_run_is_made_of_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file before it gets its name, and each new name in its folder: a machine may stop at any moment."""
    reached: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: reached.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    config = load_config(DIGITS, [f"runs_dir={tmp_path / 'runs'}", "name=trial"])
    folder = RunFolder(config.run_dir)
    prepare(folder, describe(0).model_copy(update={"config": config.model_dump()}), SCHEDULE, continued_at=None)
    write_snapshot(folder.path / "snapshots" / "s.npz", {"a": np.zeros(1)})
    save(folder.path / "checkpoints", 10)
    found = [str(Path(path).relative_to(tmp_path)) for path in reached]
    for name in ("schedule.npz", "config.yaml", "snapshots/s.npz"):
        whole = f"runs/trial/{name}"
        assert found.index(f"{whole}.partial") < len(found) - found[::-1].index(str(Path(whole).parent)), name
    for name in ("model.safetensors", "state.json", "SHA256SUMS", "ranks/00/rank-0.safetensors", "ranks/00", "ranks"):
        assert f"runs/trial/checkpoints/.partial-step-00000010/{name}" in found
    # names: of runs/, trial/, and of the folders and files in them
    assert {".", "runs", "runs/trial", "runs/trial/snapshots", "runs/trial/checkpoints"} <= set(found)
    assert found.count("runs/trial") == 4, "schedule.npz, config.yaml, snapshots/ and checkpoints/"


def test_links_for_people_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without links, and a copy of the folder in which they have become folders."""
    monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    save(tmp_path, 10)
    monkeypatch.undo()
    shutil.copytree(tmp_path / "step-00000010", tmp_path / "latest")
    save(tmp_path, 20)
    assert [step for step, _ in files.list_steps(tmp_path)] == [20, 10] and (tmp_path / "latest").is_dir()


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, 10)
    whole = tmp_path / "step-00000010"
    rng = random.Random(0)
    for number in range(300):
        path = rng.choice([*sorted(whole.rglob("*.*")), whole / files.SUMS_FILE])
        content = path.read_bytes()
        flip_byte(path, rng.randrange(8 * len(content)))
        with pytest.raises(DamagedCheckpoint):
            load(whole)
        path.write_bytes(content)
        assert number or load(whole)


def test_a_folder_that_is_a_link_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", 20)
    save(tmp_path / "here", 10)
    (tmp_path / "here" / "step-00000020").symlink_to(tmp_path / "elsewhere" / "step-00000020")
    saved, faults = newest(tmp_path / "here")
    assert saved is not None and saved.description.step == 10 and "not a checkpoint folder" in faults[0]


def test_a_folder_that_only_another_node_has_is_not_damaged(tmp_path: Path) -> None:
    """Or the ranks would agree on an older one, and the first would put the newest aside."""
    save(tmp_path, 10)
    with pytest.raises(RunError, match=r"step-00000020: No such file or directory; every node must see") as told:
        first_good([tmp_path / "step-00000020", tmp_path / "step-00000010"])
    assert told.value.exit_code == EXIT_STORAGE


def test_the_newest_good_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30, 40, keep=2, best=20)
    assert [step for step, _ in files.list_steps(tmp_path)] == [40, 30, 20]
    assert os.readlink(tmp_path / "best") == "step-00000020" and os.readlink(tmp_path / "latest") == "step-00000040"


def test_the_last_good_ones_stay_where_the_newest_were_damaged(tmp_path: Path) -> None:
    config = load_config(DIGITS, [f"runs_dir={tmp_path}", "name=trial", "resume=auto"])
    root = config.run_dir / "checkpoints"
    save(root, 10, 20, 30, 40)
    for step in (30, 40):
        cut(root / f"step-000000{step}" / "model.safetensors")
    checkpoint, _ = newest(root)
    assert checkpoint is not None and checkpoint.description.step == 20
    now = describe(20).model_copy(update={"config": config.model_dump()})
    prepare(RunFolder(config.run_dir), now, SCHEDULE, continued_at=20)
    save(root, 30, keep=2)
    assert [(step, files.is_whole(folder)) for step, folder in files.list_steps(root)] == [(30, True), (20, True)]


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path: Path, background: bool) -> None:
    """A limit on the size of files stands for the disk: the system refuses in the same place, write(2)."""
    save(tmp_path, 10)
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.faults.checkpoints import STATE, describe
from train.checkpoint.saved import Writer
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
writer = Writer(Path({str(tmp_path)!r}), keep=2, background={background})
writer.write(describe(20), STATE, None)
print("went on")
writer.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "GLOG_v": "3"}
    )
    assert "step-00000020: cannot be written: File too large" in done.stderr
    assert "the last checkpoint there is: step-00000010" in done.stderr
    assert ("went on" in done.stdout) == background, "in the background, the error comes at the next save or at the end"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000010"]
    load(tmp_path / "step-00000010")


def test_at_most_one_save_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go_on, running, seen = threading.Event(), [], []
    finish = files.finish

    def slow(*arguments: object) -> None:
        running.append(1)
        go_on.wait()
        seen.append(len(running))
        running.pop()
        finish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "finish", slow)
    writer = Writer(tmp_path, keep=2, background=True)
    writer.write(describe(10), STATE, None)
    assert not files.list_steps(tmp_path), "training goes on before the checkpoint is there"
    threading.Timer(0.2, go_on.set).start()
    writer.write(describe(20), STATE, None)
    writer.wait()
    assert seen == [1, 1] and [step for step, _ in files.list_steps(tmp_path)] == [20, 10]


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 10)
    shutil.copytree(tmp_path / "step-00000010", tmp_path / ".partial-step-00000020")
    assert [step for step, _ in files.list_steps(tmp_path)] == [10]
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000010"]


def test_the_description_reads_back_and_names_what_is_wrong() -> None:
    description = describe(40)
    text = description.to_json().decode()
    assert parse_json(Description, text) == description
    for old, new, words in [
        ('"step": 40', '"step": "40"', "step: must be a whole number"),
        ('"position": 40', '"position": 39', "step 40 is not epoch 0, position 39"),
        ('"world_size": 1', '"world_size": 0', "world_size"),
        ('"skipped": 0', '"skipped": NaN', "NaN is not a number"),
        ('"hooks": {', '"hoks": {', "hooks"),
    ]:
        assert old in text
        with pytest.raises(ValueError, match=words):
            parse_json(Description, text.replace(old, new, 1))


def test_damage_in_another_ranks_file_is_found(tmp_path: Path) -> None:
    """The ranks share what is to be checked: a single one checks what 151 ranks have saved."""
    save(tmp_path, 10)
    others = {own_file(rank): b"" for rank in (0, 1, 150)}
    folder = put_files(tmp_path, 20, others | to_files(describe(20).model_copy(update={"world_size": 151}), STATE))
    (folder / "ranks/01/rank-150.safetensors").write_bytes(b"x")
    saved, faults = newest(tmp_path)
    assert saved is not None and saved.description.step == 10
    assert "ranks/01/rank-150.safetensors is damaged" in faults[0]


def test_a_rank_without_a_file_of_its_own_is_told(tmp_path: Path) -> None:
    put_files(tmp_path, 10, to_files(describe(10), STATE))
    with pytest.raises(DamagedCheckpoint, match=r"ranks/00/rank-0\.safetensors is missing"):
        load(tmp_path / "step-00000010")
    put_files(tmp_path, 20, to_files(describe(20).model_copy(update={"world_size": 2}), STATE))
    assert load(tmp_path / "step-00000020").state.own == {}, "another number of ranks needs none"
    assert issubclass(DamagedCheckpoint, UserError) and not issubclass(StorageError, UserError)
