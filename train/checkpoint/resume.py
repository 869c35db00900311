"""Where a run starts: at update 0, or at a checkpoint of the same run; and whether it still is the same run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schedules import Schedule
from train.checkpoint import state
from train.checkpoint.disk import SUMS_FILE, is_whole, list_steps, set_aside, sweep
from train.checkpoint.saved import Checkpoint, Description, first_good
from train.recipe.sections import leaves, with_defaults
from train.rundir.folder import (
    CHECKPOINTS,
    SCHEDULE_FILE,
    SNAPSHOTS,
    RunFolder,
    load_run_config,
    make_folder,
    refuse_links,
)
from train.rundir.snapshots import list_snapshots
from train.runtime import distributed
from train.runtime.errors import UserError, refused
from train.step.parameters import LOSS_SCALE_PARAMETERS
from train.step.train_step import TrainStep

AUTO, NEVER = "auto", "never"


def choose_start(resume: str, folder: RunFolder) -> tuple[Checkpoint | None, bool]:
    """Find and read what the key ``resume`` asks for; each rank checks its share. Collective.

    Returns the checkpoint to start from (None: update 0) and whether the run goes on in the folder that holds it.

    Raises:
        UserError: on every rank, when there is nothing good to start from, or the folder holds a run already.
    """

    def find() -> tuple[list[str], bool]:
        try:
            return _find(resume, folder)
        except OSError as error:  # a folder that may not be entered, a full disk
            place = error.filename or folder.path
            raise refused(error, f"{place}: {error.strerror}; choose another runs_dir=… or resume=…") from None

    found, continues = distributed.on_first_rank(find)
    checkpoint, faults = first_good(map(Path, found))
    if checkpoint is not None:
        for fault in faults if distributed.rank() == 0 else ():
            print(f"damaged checkpoint left aside: {fault}", flush=True)
        sums = (checkpoint.folder / SUMS_FILE).read_bytes()  # nodes may have copies of a folder that they should share
        distributed.require_same({f"the checkpoint {checkpoint.folder}": hashlib.sha256(sums).hexdigest()[:16]})
    elif faults:
        raise UserError(f"{faults[0]}; resume={resume} allows no other that is good; choose another, or a new name=…")
    return checkpoint, continues


def prepare(folder: RunFolder, now: Description, schedule: Schedule, *, continued_at: int | None) -> None:
    """Make the run's folder, or take up the one that is continued, and write what the run is. Collective.

    Args:
        now: what the run is from now on.
        continued_at: the step at which the run in this folder goes on (None: the folder is new). Checkpoints
            after it are damaged and are renamed, so that their places are free.

    Raises:
        UserError, StorageError: on every rank, when the folder cannot be written.
    """
    distributed.on_first_rank(lambda: _prepare(folder, now, schedule, continued_at))
    folder.remember()


def _prepare(folder: RunFolder, now: Description, schedule: Schedule, continued_at: int | None) -> None:
    try:
        make_folder(folder.path, parents=True)
        refuse_links(folder.path, but=CHECKPOINTS)
        folder.claim()
        if continued_at is None:
            folder.refuse_used()
        for place in (folder.path / CHECKPOINTS, folder.path / SNAPSHOTS):
            if os.path.lexists(place):
                make_folder(place)  # raises where it is none: later all would be lost that was trained by then
        sweep(folder.path / CHECKPOINTS)
        for step, later in list_steps(folder.path / CHECKPOINTS):
            if continued_at is not None and step > continued_at:
                set_aside(later)
        if continued_at is not None:
            _make_room_for_snapshots(folder, now, continued_at)
        folder.write_plan(schedule, now.config, now.versions)
    except OSError as error:
        words = f"runs_dir={folder.path.parent}: cannot write {error.filename or folder.path}: {error.strerror}"
        raise refused(error, words) from None


def _make_room_for_snapshots(folder: RunFolder, now: Description, continued_at: int) -> None:
    """Remove the snapshots that will be made again; set aside those that no longer compare with what follows.

    Those of another schedule, optimizer or of other layers go to ``snapshots.before-00000050``, for the step 50.
    """
    snapshots = folder.path / SNAPSHOTS
    for step, of_ranks in list_snapshots(snapshots).items():
        for path in of_ranks.values() if step >= continued_at else ():
            path.unlink()
    try:
        before = load_run_config(folder.path)
        same = Schedule.load(folder.path / SCHEDULE_FILE).fingerprint == now.schedule_fingerprint
        same = same and before.snapshots.layers == now.config["snapshots"]["layers"]
        same = same and before.optimizer.model_dump() == now.config["optimizer"]  # another makes other updates
    except (FileNotFoundError, ValueError, UserError):
        same = True  # unreadable: what the snapshots say of themselves is all there is
    if not same and any(snapshots.glob("*.npz")):
        aside = folder.path / f"{SNAPSHOTS}.before-{continued_at:08d}"
        snapshots.rename(aside)
        print(f"schedule, optimizer or layers changed: earlier snapshots are in {aside}", flush=True)


def restore(saved: Checkpoint, step: TrainStep, now: Description, changes: Iterable[str]) -> list[str]:
    """Put the saved state into ``step``; return what is no longer bit-identical, in words.

    Args:
        now: what the run is from now on.
        changes: keys that are allowed to differ from the checkpoint's, with all keys below them.

    Raises:
        UserError: when the run is another one, by name of the key; nothing has been changed then.
    """
    changed = differences(saved.description, now)
    refused = [key for key in changed if not any(_within(key, allowed) for allowed in changes)]
    if refused:
        key = refused[0]
        more = f" (and {len(refused) - 1} more: {', '.join(refused[1:6])})" if len(refused) > 1 else ""
        raise UserError(
            f"{saved.folder}: {key} was {_short(changed[key][0])} and is {_short(changed[key][1])} now{more}; set it "
            f"back, start a new run with name=…, or say that it is meant: resume_changes=[{', '.join(refused)}]"
        )
    if saved.description.step > now.total_steps:
        raise UserError(
            f"{saved.folder}: {saved.description.step} updates are done, but the schedule ends after {now.total_steps}"
        )
    if wrong := state.misfits(saved.state, step):
        raise UserError(f"{saved.folder}: does not fit this model and its options at {', '.join(wrong[:5])}")
    same_world = saved.description.world_size == now.world_size
    # A loss scale that the run has found comes back; one that the user gives, now or as a constant, does not.
    given = "step.loss_scale" in changed or not now.config["step"]["loss_scale_window"]
    exclude = LOSS_SCALE_PARAMETERS if given else ()
    state.restore(saved.state, step, exclude=exclude)
    notes = [f"{key} changed from {_short(old)} to {_short(new)}" for key, (old, new) in changed.items()]
    if not same_world:
        notes.append(
            f"{saved.description.world_size} ranks became {now.world_size}: sums over ranks are rounded differently, "
            "BatchNorm, mixing and dropout see other parts of each batch, and BatchNorm's moving statistics start from "
            "their mean over the ranks"
        )
    for package, version in now.versions.items():
        old = saved.description.versions.get(package, version)
        if package not in ("world_size", "schedule_fingerprint") and old != version:
            notes.append(f"{package} {old} became {version}")
    return notes


def differences(saved: Description, now: Description) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys that differ and matter, with their old and new values."""
    old, new = (
        leaves(tree, lambda key: not key.may_change_on_resume) for tree in (with_defaults(saved.config), now.config)
    )
    found = {
        key: (old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    }
    # What counts is the learning rate at every step, not how it was written down.
    if saved.schedule_fingerprint == now.schedule_fingerprint:
        found = {key: values for key, values in found.items() if not _within(key, "schedule")}
    elif not any(_within(key, "schedule") for key in found):
        found["schedule"] = (saved.schedule_fingerprint, now.schedule_fingerprint)
    if saved.data != now.data and not any(_within(key, "data") for key in found):
        name = next(name for name in saved.data.keys() | now.data.keys() if saved.data.get(name) != now.data.get(name))
        found["data.source"] = (f"{name}={saved.data.get(name)}", f"{name}={now.data.get(name)}")
    return found


def _find(resume: str, folder: RunFolder) -> tuple[list[str], bool]:
    """Return the checkpoints to start from, the best choice first, and what :func:`choose_start` does; for rank 0."""
    if resume == NEVER:
        folder.refuse_used()
        return [], False
    used = folder.claim_if_used()
    wanted = folder.path if resume == AUTO else Path(resume).resolve()
    found = [str(path) for _, path in list_steps(wanted / CHECKPOINTS)[:20]]  # they go to every rank
    if resume == AUTO:
        return found, used
    if not found and (wanted / CHECKPOINTS).is_dir():
        raise UserError(f"resume={resume}: no checkpoint in it; choose another run, or resume=never")
    steps = {path: step for step, path in list_steps(wanted.parent)}
    if not found and wanted not in steps:
        raise UserError(f"resume={resume}: neither a run folder nor a checkpoint in one (step-00000100), auto or never")
    continues = folder.path.resolve() == (wanted if found else wanted.parent.parent)
    if used and not continues:
        raise UserError(f"{folder.path} already holds another run than resume={resume}; choose another name=…")
    later = [path for path, step in steps.items() if not found and step > steps[wanted]]
    if continues and (whole := [path for path in later if is_whole(path)]):
        raise UserError(
            f"resume={resume}: the run went on to {whole[0].name}; start a new run from there with name=…, or "
            "move the later checkpoints away"
        )
    return found or [str(wanted)], continues


def _within(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
