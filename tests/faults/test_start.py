"""From which checkpoint a run may start, and what is refused by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from schedules import Schedule, build
from tests.faults.checkpoints import cut, describe, put, save
from tests.jobs import DIGITS
from tests.train.finished_runs import write_run
from train.checkpoint import disk
from train.checkpoint.resume import choose_start, differences, prepare
from train.checkpoint.saved import Description
from train.recipe.read import load_config, to_yaml
from train.recipe.sections import RunConfig
from train.rundir.folder import RunFolder
from train.runtime import distributed
from train.runtime.errors import UserError


def used_folder(root: Path, *steps: int, name: str = "trial") -> Path:
    config = load_config(DIGITS, [f"runs_dir={root}", f"name={name}"])
    (config.run_dir / "checkpoints").mkdir(parents=True)
    save(config.run_dir / "checkpoints", *steps)
    (config.run_dir / "config.yaml").write_text(to_yaml(config))
    return config.run_dir


def folder_of(config: RunConfig) -> RunFolder:
    return RunFolder(config.run_dir)


def find(root: Path, *settings: str) -> tuple[str | None, bool]:
    config = load_config(DIGITS, [f"runs_dir={root}", "name=trial", *settings])
    checkpoint, continues = choose_start(config.resume, folder_of(config))
    return checkpoint and str(checkpoint.folder), continues


def test_auto_takes_the_newest_good_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find(tmp_path, "resume=auto") == (None, False), "nothing there yet"
    run_dir = used_folder(tmp_path, 10, 20, 30)
    assert find(tmp_path, "resume=auto") == (str(run_dir / "checkpoints/step-00000030"), True)
    cut(run_dir / "checkpoints/step-00000030/model.safetensors")
    assert find(tmp_path, "resume=auto") == (str(run_dir / "checkpoints/step-00000020"), True)
    assert "step-00000030: model.safetensors is damaged" in capsys.readouterr().out
    for step in (10, 20):
        cut(run_dir / f"checkpoints/step-000000{step}/model.safetensors")
    with pytest.raises(UserError, match=r"step-00000030: model\.safetensors is damaged.*allows no other that is good"):
        find(tmp_path, "resume=auto")


@pytest.mark.parametrize("resume", ["auto", "{run}", "{run}/checkpoints/latest"])
def test_a_checkpoint_is_read_once(resume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rank that chooses it, too: a state is hundreds of megabytes, each of them hashed."""
    run_dir = used_folder(tmp_path, 10, 20)
    monkeypatch.setattr(disk, "read", read := Mock(side_effect=disk.read))
    config = load_config(DIGITS, [f"runs_dir={tmp_path}", "name=trial", f"resume={resume.format(run=run_dir)}"])
    start, _ = choose_start(config.resume, folder_of(config))
    assert start is not None and start.folder.resolve() == run_dir / "checkpoints/step-00000020"
    assert read.call_count == 1


def test_a_run_without_a_checkpoint_starts_over_in_its_folder(tmp_path: Path) -> None:
    used_folder(tmp_path)
    assert find(tmp_path, "resume=auto") == (None, True)


def test_a_run_that_lost_its_configuration_is_still_a_run(tmp_path: Path) -> None:
    run_dir = used_folder(tmp_path, 10)
    (run_dir / "config.yaml").unlink()
    assert find(tmp_path, "resume=auto") == (str(run_dir / "checkpoints/step-00000010"), True)
    with pytest.raises(UserError, match="already holds a run"):
        find(tmp_path)
    shutil.rmtree(run_dir / "checkpoints")
    assert find(tmp_path, "resume=auto") == (None, False), "nothing is left of it"
    (run_dir / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="already holds a run"):
        find(tmp_path)


def test_a_path_continues_its_own_run_or_starts_another(tmp_path: Path) -> None:
    run_dir = used_folder(tmp_path, 10, 20)
    last, first = run_dir / "checkpoints/step-00000020", run_dir / "checkpoints/step-00000010"
    assert find(tmp_path, f"resume={last}") == (str(last), True)
    assert find(tmp_path, f"resume={run_dir}") == (str(last), True)
    assert find(tmp_path, f"resume={run_dir}/checkpoints/latest") == (str(last), True)
    assert find(tmp_path, f"resume={first}", "name=other") == (str(first), False)
    with pytest.raises(UserError, match=r"the run went on to step-00000020; start a new run"):
        find(tmp_path, f"resume={first}")
    used_folder(tmp_path, 10, name="other")
    with pytest.raises(UserError, match=r"other already holds another run"):
        find(tmp_path, f"resume={first}", "name=other")
    for wrong in (tmp_path, run_dir / "checkpoints", run_dir / "nowhere"):
        with pytest.raises(UserError, match="neither a run folder nor a checkpoint"):
            find(tmp_path, f"resume={wrong}")


def test_a_run_killed_in_its_first_save_is_nothing_to_start_from(tmp_path: Path) -> None:
    run_dir = used_folder(tmp_path, name="killed")
    (run_dir / "checkpoints" / ".partial-step-00000010").mkdir()
    with pytest.raises(UserError, match=r"resume=.*/killed: no checkpoint in it"):
        find(tmp_path, f"resume={run_dir}")


@pytest.fixture
def forbidden(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not enter."""
    folder = tmp_path / "forbidden"
    folder.mkdir(mode=0)
    if os.getuid() == 0:  # who may enter all
        os.seteuid(65534)
    yield folder
    os.seteuid(os.getuid())
    folder.chmod(0o700)


@pytest.mark.parametrize("resume", ["never", "auto", "{folder}/run"])
def test_a_folder_that_may_not_be_entered_is_named(resume: str, forbidden: Path) -> None:
    runs_dir = "/nowhere" if "{" in resume else forbidden
    settings = [f"runs_dir={runs_dir}", "name=trial", f"resume={resume.format(folder=forbidden)}"]
    config = load_config(DIGITS, settings)
    with pytest.raises(UserError, match=r"/forbidden/.*: Permission denied; choose another runs_dir=… or resume=…"):
        choose_start(config.resume, folder_of(config))


def test_never_refuses_a_used_folder(tmp_path: Path) -> None:
    used_folder(tmp_path, 10)
    with pytest.raises(UserError, match="already holds a run; continue it with resume=auto"):
        find(tmp_path)


@pytest.mark.parametrize(
    "inside", ["", "lock", "checkpoints", "metrics.jsonl", "heartbeats/00/rank-0", "snapshots/s.npz"]
)
def test_links_are_refused(inside: str, tmp_path: Path) -> None:
    path = used_folder(tmp_path, 10) / inside
    if "." in inside or "-" in inside or inside == "lock":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    for resume in ("auto", "never"):
        with pytest.raises(UserError, match=r"is a link; a run folder cannot hold one|already holds a run"):
            find(tmp_path, f"resume={resume}")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(used_folder(tmp_path, 10) / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is neither a file nor a folder; a run folder cannot hold one"):
        find(tmp_path, "resume=auto")


@pytest.mark.parametrize(
    "inside", ["lock", "metrics.jsonl", "heartbeats/00/rank-1", "snapshots/step-00000002.rank-1.npz"]
)
def test_a_folder_in_the_place_of_a_file_is_refused(inside: str, tmp_path: Path) -> None:
    (used_folder(tmp_path, 10) / inside).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{inside} is a folder where a run has a file|lock: Is a directory"):
        find(tmp_path, "resume=auto")


@pytest.mark.parametrize("name", ["checkpoints", "snapshots"])
def test_a_file_in_a_folders_place_is_told_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / name).touch()
    schedule = build({"kind": "constant", "lr_max": 0.1, "total": 9})
    with pytest.raises(UserError, match=rf"cannot write .*trial/{name}: Is not a folder"):
        prepare(RunFolder(tmp_path / "trial"), described(), schedule, continued_at=0)


def test_a_damaged_choice_is_an_error_of_the_user(tmp_path: Path) -> None:
    run_dir = used_folder(tmp_path, 10)
    cut(run_dir / "checkpoints/step-00000010/ranks/00/rank-0.safetensors")
    path = run_dir / "checkpoints/step-00000010"
    config = load_config(DIGITS, [f"runs_dir={tmp_path}", "name=trial", f"resume={path}"])
    with pytest.raises(UserError, match=r"rank-0\.safetensors is damaged"):
        choose_start(config.resume, folder_of(config))


def test_ranks_must_start_from_the_same_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from copies of a folder, one of which is another's of the same name."""
    compared: list[dict[str, str]] = []
    monkeypatch.setattr(distributed, "require_same", compared.append)
    path = used_folder(tmp_path, 10) / "checkpoints" / "step-00000010"
    config = load_config(DIGITS, [f"runs_dir={tmp_path}", "name=trial", "resume=auto"])
    for total_steps in (500, 501, 501):
        shutil.rmtree(path)
        put(path.parent, describe(10).model_copy(update={"total_steps": total_steps}))
        choose_start(config.resume, folder_of(config))
    first, second, third = (found[f"the checkpoint {path}"] for found in compared)
    assert first != second == third


def described(*settings: str, **changed: Any) -> Description:
    config = load_config(DIGITS, settings).model_dump()
    return describe(10).model_copy(update={"config": config, **changed})


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        (["name=other", "evaluate.every=3", "checkpoint.every=7", "snapshots.steps=[1]", "resume=auto"], []),
        (["seed=2"], ["seed"]),
        (["optimizer.momentum=0.8", "optimizer.weight_decay=0.0"], ["optimizer.momentum", "optimizer.weight_decay"]),
        (["model.options={depths: [1, 1, 1]}"], ["model.options.depths"]),
        (["data.global_batch=64"], ["data.global_batch"]),
        (["data.root=/elsewhere", "data.source=image_folder"], ["data.source"]),
        (["step.label_smoothing=0.1"], ["step.label_smoothing"]),
        (["schedule.lr_max=0.2"], []),  # the fingerprint is the same here: another spelling of the same schedule
    ],
)
def test_keys_that_reach_the_weights_are_named(settings: list[str], keys: list[str]) -> None:
    assert list(differences(described(), described(*settings))) == keys


def test_another_schedule_or_data_set_is_named() -> None:
    now = described("schedule.lr_max=0.2", schedule_fingerprint="def")
    assert differences(described(), now) == {"schedule.lr_max": (0.1, 0.2)}
    assert list(differences(described(), described(schedule_fingerprint="def"))) == ["schedule"]
    now = described(data={"train": "def"})
    assert differences(described(), now) == {"data.source": ("train=abc", "train=def")}


def test_keys_that_a_new_version_adds_have_their_defaults() -> None:
    older = described()
    del older.config["step"]
    assert differences(older, described()) == {}


@pytest.mark.parametrize(
    ("settings", "aside"),
    [
        ([], False),
        (["optimizer.weight_decay=0.001"], True),
        (["optimizer.name=adam"], True),
        (["snapshots.layers=[fc.weight]"], True),
    ],
)
def test_snapshots_that_no_longer_compare_are_set_aside(settings: list[str], aside: bool, tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "trial", steps=(5, 60), world_size=1)
    (run_dir / "config.yaml").write_text(to_yaml(load_config(DIGITS, [])))
    config = load_config(DIGITS, [f"runs_dir={tmp_path}", "name=trial", "resume=auto", *settings])
    schedule = Schedule.load(run_dir / "schedule.npz")
    now = described(schedule_fingerprint=schedule.fingerprint, config=config.model_dump())
    (run_dir / "snapshots" / "step-x.npz").touch()  # of nobody's
    prepare(folder_of(config), now, schedule, continued_at=50)
    kept = run_dir / ("snapshots.before-00000050" if aside else "snapshots")
    assert {path.name for path in kept.iterdir()} == {"step-00000005.rank-0.npz", "step-x.npz"}
    assert len(list(run_dir.glob("snapshots*/*.npz"))) == 2
