"""Checkpoints as they are written and read: the state, what it is a state of (``state.json``), the model for users."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mindspore import nn
from pydantic import field_validator, model_validator
from safetensors.numpy import save

from models.weights import load_weights
from train.checkpoint import disk
from train.checkpoint.card import CARD_FILE, METADATA_KEY, ModelCard
from train.checkpoint.disk import DamagedCheckpoint
from train.checkpoint.state import AVERAGE_FILE, MODEL_FILE, OPTIMIZER_FILE, State, own_file
from train.rundir.folder import CHECKPOINTS
from train.runtime import distributed
from train.runtime.errors import StorageError, UserError, refused
from train.runtime.keys import Count, PositiveInt, Section, parse_json

STATE_FILE = "state.json"


class Description(Section):
    """What state ``step`` is, and of which run."""

    format: int = 3
    step: Count
    """Completed updates."""
    epoch: Count
    position: Count
    """Completed updates of this epoch."""
    steps_per_epoch: PositiveInt
    total_steps: PositiveInt
    evaluation_pending: bool
    """Whether the run was stopped before it could evaluate this state."""
    ended: str | None = None
    """Why a hook ended the run at this state; None: it goes on, or its schedule ends here."""
    world_size: PositiveInt
    global_batch: PositiveInt
    schedule_fingerprint: str
    data: dict[str, str]
    """Fingerprint of each part of the data set: which examples, in which order."""
    hooks: dict[str, Any]
    """What each hook remembers, by its name: see :meth:`train.hooks.base.Hook.state`."""
    config: dict[str, Any]
    """Resolved."""
    versions: dict[str, str]
    """Of packages, and what else reaches the last bits."""

    @field_validator("format")
    @classmethod
    def _known(cls, number: int) -> int:
        if number != 3:
            raise ValueError(f"is {number}, not 3: another version wrote it, and only that can go on with it")
        return number

    @model_validator(mode="after")
    def _position_is_that_of_step(self) -> Description:
        if divmod(self.step, self.steps_per_epoch) != (self.epoch, self.position):
            raise ValueError(f"step {self.step} is not epoch {self.epoch}, position {self.position}")
        return self

    def at(self, step: int, **changed: Any) -> Description:
        """Describe state ``step`` of the same run; ``changed`` are other fields that differ there."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.model_copy(update={"step": step, "epoch": epoch, "position": position, **changed})

    def to_json(self) -> bytes:
        return json.dumps(self.model_dump(), indent=1, allow_nan=False).encode() + b"\n"


class Checkpoint(NamedTuple):
    """A state and what it is a state of."""

    folder: Path
    description: Description
    state: State


def to_files(description: Description, state: State, card: ModelCard | None = None) -> dict[str, bytes]:
    files = {STATE_FILE: description.to_json()}
    if card is None:
        return state.to_files() | files
    return state.to_files({METADATA_KEY: card.to_json()}) | {CARD_FILE: card.to_json().encode() + b"\n"} | files


class Writer:
    """Writes below ``root`` and keeps the newest ``keep`` checkpoints and the best.

    With ``background`` a thread of rank 0 writes what is large while training goes on, at most one checkpoint at a
    time: the next :meth:`write` and :meth:`wait` first wait for the one before, and raise its error.
    """

    def __init__(self, root: Path, *, keep: int, background: bool, card: ModelCard | None = None):
        self.root = root
        self.keep = keep
        self.card = card
        """What each saved model says of itself."""
        self.written: list[Path] = []
        """Checkpoints that are whole on disk, the latest last; whoever is told of one takes it out."""
        self._thread = ThreadPoolExecutor(1) if background else None
        self._running: Future[None] | None = None

    def write(self, description: Description, state: State, best: int | None) -> None:
        """Write one checkpoint; ``best`` is the step of the best state saved so far. Collective.

        Raises StorageError when this checkpoint, or the one before in the background, cannot be written."""
        name, rank = disk.step_name(description.step), distributed.rank()
        files = [own_file(rank) for rank in range(distributed.world_size())]
        distributed.together(lambda: self._begin(name, files) if rank == 0 else None)
        own = distributed.together(lambda: disk.add(self.root, name, files[rank], save(state.own)))
        sums = dict(zip(files, distributed.gather_json(own), strict=True))
        distributed.together(lambda: self._finish(description, state, sums, best) if rank == 0 else None)

    def _begin(self, name: str, files: list[str]) -> None:
        self.wait()
        disk.begin(self.root, name, files)

    def _finish(self, *arguments: Any) -> None:
        if self._thread is None:
            self._write(*arguments)
        else:
            self._running = self._thread.submit(self._write, *arguments)

    def wait(self) -> None:
        """Wait until nothing is being written; raise the error of what was."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def mark_best(self, step: int) -> None:
        """Let ``best`` stand for a state that was saved before it was evaluated."""
        self.wait()
        if (self.root / disk.step_name(step)).is_dir():
            disk.point(self.root, disk.BEST, disk.step_name(step))

    def _write(self, description: Description, state: State, sums: dict[str, str], best: int | None) -> None:
        name = disk.step_name(description.step)
        disk.finish(self.root, name, to_files(description, state, self.card), sums)
        disk.point(self.root, disk.LATEST, name)
        if best == description.step:
            disk.point(self.root, disk.BEST, name)
        self.written.append(self.root / name)
        disk.prune(self.root, self.keep, None if best is None else disk.step_name(best))


def load(folder: Path) -> Checkpoint:
    """Read what this rank needs of the checkpoint ``folder``, and check its share of what others need.

    Raises:
        DamagedCheckpoint: when it is not whole, or of another format; the message names folder, file and fault.
        StorageError: when it is not there, which another rank has found.
    """
    try:
        folder.lstat()
    except OSError as error:  # on this rank; as damage it would let all go on with an older one
        raise StorageError(f"{folder}: {error.strerror}; every node must see the same run folder") from None
    own = own_file(distributed.rank())
    contents = disk.read(folder, (STATE_FILE, MODEL_FILE, OPTIMIZER_FILE, own), check=distributed.share())
    try:
        if STATE_FILE not in contents:
            raise ValueError(f"{STATE_FILE} is missing")
        try:
            description = parse_json(Description, contents[STATE_FILE])
        except ValueError as error:
            raise ValueError(f"{STATE_FILE}: {error}") from None
        state = State.from_files(contents, own if description.world_size == distributed.world_size() else None)
        if disk.step_name(description.step) != folder.name:
            raise ValueError(f"{STATE_FILE} is of step {description.step}")
        state.check(description.step)
    except ValueError as error:
        raise DamagedCheckpoint(f"{folder}: {' '.join(str(error).split())}") from None
    return Checkpoint(folder, description, state)


def first_good(folders: Iterable[Path]) -> tuple[Checkpoint | None, list[str]]:
    """Return the first good checkpoint (None: no good one) and why each before it is not good to a rank. Collective."""
    faults: list[str] = []
    for folder in folders:
        try:
            return distributed.together(partial(load, folder)), faults
        except UserError as error:
            faults.append(str(error))
    return None, faults


def find_model(path: Path, *, averaged: bool = False, best: bool = False) -> Path:
    """Return ``path`` if it is a file, the model of a checkpoint's folder, and of a run's its newest.

    Args:
        averaged: the moving average of its weights instead.
        best: of a run the best of its saved states instead.

    Raises:
        UserError: when there is none, or it is damaged.
    """
    if not path.is_file():
        folder = path / CHECKPOINTS / disk.BEST if best else path
        if (folder / disk.SUMS_FILE).is_file():
            return model_in(folder.resolve(), averaged=averaged)  # latest and best are links
        if best:
            raise UserError(f"{path}: no best state in {CHECKPOINTS}/; a run keeps one with checkpoint.every above 0")
        for _, folder in disk.list_steps(path / CHECKPOINTS):
            return model_in(folder, averaged=averaged)
        raise UserError(f"{path}: no saved model in {CHECKPOINTS}/")
    if best:
        raise UserError(f"{path}: --best needs the folder of a run")
    if averaged and path.name != AVERAGE_FILE:
        beside = path.with_name(AVERAGE_FILE)
        if path.name != MODEL_FILE or not beside.is_file():
            raise UserError(
                f"{path}: --ema needs the folder of a run, or a {MODEL_FILE} that has {AVERAGE_FILE} beside it"
            )
        return beside
    return path


def model_in(folder: Path, *, averaged: bool = False) -> Path:
    """Return the model of the checkpoint ``folder``, see :func:`find_model`."""
    name = AVERAGE_FILE if averaged else MODEL_FILE
    if name not in disk.read(folder, [name]):
        raise UserError(f"{folder}: holds no {name}; a run saves one with step.ema above 0")
    return folder / name


def load_model(model: nn.Cell, path: Path) -> None:
    """Give ``model`` the values of a checkpoint's model file.

    Raises:
        UserError: when the file is missing or damaged, or its names and shapes are not the model's.
    """
    try:
        kept = load_weights(model, path)
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    if kept:  # for another task a reason to draw them freshly, here the wrong file
        raise UserError(f"{path}: does not fit the model at {', '.join(kept)}")
