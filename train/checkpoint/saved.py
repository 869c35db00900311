"""A checkpoint read back and checked."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from train.checkpoint import folder as files
from train.checkpoint.description import Description, from_json, to_json
from train.checkpoint.folder import DamagedCheckpoint
from train.checkpoint.state import State

STATE_FILE = "state.json"


class Saved(NamedTuple):
    """A state and what it is a state of."""

    folder: Path
    description: Description
    state: State


def to_files(description: Description, state: State) -> dict[str, bytes]:
    return {**state.to_files(), STATE_FILE: to_json(description)}


def load(folder: Path) -> Saved:
    """Read the checkpoint ``folder``, every byte of it checked.

    Raises:
        DamagedCheckpoint: when it is not whole, or of another format; the message names folder, file and fault.
    """
    contents = files.read(folder)
    try:
        if STATE_FILE not in contents:
            raise ValueError(f"{STATE_FILE} is missing")
        try:
            description = from_json(contents[STATE_FILE])
        except ValueError as error:
            raise ValueError(f"{STATE_FILE}: {error}") from None
        state = State.from_files(contents)
        if files.step_name(description.step) != folder.name:
            raise ValueError(f"{STATE_FILE} is of step {description.step}")
        state.check_world(description.world_size)
    except ValueError as error:
        raise DamagedCheckpoint(f"{folder}: {' '.join(str(error).split())}") from None
    return Saved(folder, description, state)


def newest(root: Path) -> tuple[Saved | None, list[str]]:
    """Return the newest good checkpoint below ``root`` (None: no good one) and why each newer one is not good."""
    faults: list[str] = []
    for _, folder in files.list_steps(root):
        try:
            return load(folder), faults
        except DamagedCheckpoint as error:
            faults.append(str(error))
    return None, faults
