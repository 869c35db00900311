"""Snapshots of updates: written by chosen ranks, and read back with the schedule of a finished run. No MindSpore.

File: ``snapshots/step-00000005.rank-0.npz``, one for each step and rank, all arrays without pickling. Scalars ``step``,
``kernel_step`` (the optimizer's ``global_step`` before the update), ``lr`` (float32, the element of the optimizer's own
learning-rate tensor), ``rank``, ``world_size``, ``optimizer`` (its class; Momentum where it is not given); ``layers``
(names); and for the i-th layer ``lr.i`` (its rate, a scalar), ``W_start.i``, ``W_new.i`` (float32, the parameter's
shape), with plain momentum its velocity ``v.i``, and ``gradient.i``, what the optimizer was handed, with its state
before and after under its own names: ``before.moment1.i``, ``after.moment1.i``, and without ``.i`` what all layers
share, as ``before.beta1_power``. Where not every rank writes (``snapshots.ranks``), ``hashes``, uint8 (world_size,
layers, 32): of each rank and layer :func:`layer_hashes`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schedules import Schedule
from train.recipe.sections import RunConfig
from train.rundir.folder import CONFIG_FILE, SCHEDULE_FILE, SNAPSHOTS, load_run_config, make_folder, replace_file
from train.runtime.errors import StorageError, UserError, refused
from train.runtime.files import open_file, read_file

FloatArray = NDArray[np.float32]

MOST_RANKS = 1 << 20
"""A file that counts more is damaged."""

_FILE_NAME = re.compile(r"step-(\d+)\.rank-(\d+)\.npz")
# What np.load and the zip reader beneath it raise on a file that is cut short or overwritten.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, OSError, MemoryError, NotImplementedError)


def snapshot_name(step: int, rank: int) -> str:
    return f"step-{step:08d}.rank-{rank}.npz"


def write_snapshot(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz into a folder of a run, so that a reader sees the whole file or none."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    make_folder(path.parent)
    replace_file(path, content.getbuffer())


@dataclass(frozen=True)
class Layer:
    """One recorded parameter across one update; the arrays are float32 and of one shape, any rank.

    ``W_start`` is the parameter before the update, ``W_new`` the parameter after, ``v`` the velocity the update used
    (None unless the optimizer is plain momentum), ``gradient`` what the optimizer was handed (None where not recorded),
    ``before`` and ``after`` its state by name.
    """

    name: str
    W_start: FloatArray
    W_new: FloatArray
    v: FloatArray | None = None
    gradient: FloatArray | None = None
    lr: np.float32 | None = None
    """Its own rate, where ``optimizer.groups`` gives one; else the snapshot's."""
    before: Mapping[str, FloatArray] = field(default_factory=dict)
    after: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, FloatArray]:
        """The arrays by name."""
        arrays = {"W_start": self.W_start, "v": self.v, "W_new": self.W_new, "gradient": self.gradient}
        state = {f"{name} {when}": a for when in ("before", "after") for name, a in getattr(self, when).items()}
        return {name: value for name, value in {**arrays, **state}.items() if value is not None}


@dataclass(frozen=True)
class Snapshot:
    """One update on one rank. ``lr`` is the element of the optimizer's own array that its kernel used, and
    ``kernel_step`` the index it used it by (the optimizer's ``global_step`` before the update)."""

    file: str
    step: int
    kernel_step: int
    lr: np.float32
    rank: int
    world_size: int
    optimizer: str
    layers: tuple[Layer, ...]
    shared: Mapping[str, FloatArray] = field(default_factory=dict)
    """The optimizer's state that no layer owns, before the update."""
    shared_after: Mapping[str, FloatArray] = field(default_factory=dict)
    hashes: NDArray[np.uint8] | None = None
    """Of every rank, uint8 (world_size, layers, 32); None where every rank wrote a snapshot."""


def layer_hashes(snapshot: Snapshot) -> NDArray[np.uint8]:
    """Return the SHA-256 sums, uint8 (layers, 32), of what must be the same on all ranks: a layer's arrays and rate,
    what all layers share, and the place in the schedule."""
    common = [np.array([snapshot.step, snapshot.kernel_step, snapshot.world_size]), snapshot.lr]
    common += [snapshot.shared[name] for name in sorted(snapshot.shared)]
    rows = []
    for layer in snapshot.layers:
        own = [layer.arrays[name] for name in sorted(layer.arrays)]
        rate = [] if layer.lr is None else [layer.lr]
        content = b"".join(np.asarray(array).tobytes() for array in [*common, *rate, *own])
        rows.append(np.frombuffer(hashlib.sha256(content).digest(), np.uint8))
    return np.stack(rows)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder, its schedule, and its snapshot files by step and rank, both ascending."""

    path: Path
    schedule: Schedule
    files: Mapping[int, Mapping[int, Path]]
    config: RunConfig | None = None
    """As the run left it; None where the folder holds none."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, ascending; at least one."""
        return tuple(self.files)

    def load(self, step: int, rank: int | None = None) -> Snapshot:
        """The snapshot of ``step`` on ``rank`` (None: the lowest rank there). Raises UserError on damage."""
        ranks = self.files[step]
        path = ranks[min(ranks) if rank is None else rank]
        snapshot = load_snapshot(path)
        if snapshot.kernel_step >= self.schedule.total_steps:
            raise UserError(f"{path}: of the kernel's step {snapshot.kernel_step}, past the end of the run's schedule")
        return snapshot


def open_run(path: str | Path) -> FinishedRun:
    """Opens a run folder; reads its schedule and lists its snapshots, none of which is loaded yet.

    Raises UserError if the folder does not exist, is not a run folder, holds no snapshots, or holds a
    snapshot of a step past the end of its schedule.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a finished run, runs/<name>")
    schedule = load_schedule(folder)
    files = list_snapshots(folder / SNAPSHOTS)
    if not files:
        raise UserError(
            f"{folder}: no snapshots ({SNAPSHOTS}/step-*.rank-*.npz); run it again with snapshots of at least one step"
        )
    if max(files) >= schedule.total_steps:
        raise UserError(
            f"{folder}: has a snapshot of step {max(files)}, but its schedule ends with step "
            f"{schedule.total_steps - 1}; remove what is left there of another run"
        )
    config = load_run_config(folder) if os.path.lexists(folder / CONFIG_FILE) else None
    return FinishedRun(folder, schedule, files, config)


def load_schedule(run_dir: Path) -> Schedule:
    """Return the schedule of a run. Raises UserError or StorageError, naming the file, where it cannot be read."""
    path = run_dir / SCHEDULE_FILE
    try:
        with open_file(path) as file:
            return Schedule.load(file)
    except FileNotFoundError:
        raise UserError(f"{run_dir}: not a run folder (holds no {SCHEDULE_FILE}); give runs/<name>") from None
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{_one_line(error)}; run it again") from error


def list_snapshots(folder: Path) -> dict[int, dict[int, Path]]:
    """Return the snapshot files in ``folder`` by step and rank, both ascending."""
    found: dict[int, dict[int, Path]] = {}
    for file in folder.glob("*.npz"):
        if match := _FILE_NAME.fullmatch(file.name):
            found.setdefault(int(match[1]), {})[int(match[2])] = file
    return {step: dict(sorted(found[step].items())) for step in sorted(found)}


def load_snapshot(path: Path) -> Snapshot:
    """Loads one snapshot file (``np.savez``, loaded with ``allow_pickle=False``).

    Raises UserError, naming the file, if it cannot be read (StorageError where the disk fails), lacks an entry, holds
    another type or shape than it should, or is of another step or rank than its name says.
    """
    try:
        content = read_file(path, most=sys.maxsize)  # all of it first: an error of the disk's is no damage
    except OSError as error:
        words = f"{path}: cannot be read: {error.strerror}; try again when it can"
        # It was there when the folder was listed: with the folder it was moved away, or removed.
        raise StorageError(words) if isinstance(error, FileNotFoundError) else refused(error, words) from None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as entries:
            if sum(one.file_size for one in entries.zip.infolist()) > len(content):  # np.savez packs nothing
                raise ValueError("it would unpack to more than its size")
            snapshot = parse(path.name, entries)
        match = _FILE_NAME.fullmatch(path.name)
        if match and (snapshot.step, snapshot.rank) != (int(match[1]), int(match[2])):
            raise ValueError(f"it holds step {snapshot.step} of rank {snapshot.rank}")
    except _DAMAGE as error:
        raise UserError(
            f"{path}: damaged snapshot ({_one_line(error)}); remove it or run again from the last checkpoint before it"
        ) from error
    return snapshot


def parse(file: str, entries: Mapping[str, np.ndarray]) -> Snapshot:
    """Return the snapshot whose arrays are ``entries``. Raises ValueError or KeyError for what is none."""
    integers = {key: _integer(key, entries[key]) for key in ("step", "kernel_step", "rank", "world_size")}
    # The other entries by the number of their layer; what has none is the snapshot's own, as "before." of all layers.
    groups: defaultdict[str, dict[str, FloatArray]] = defaultdict(dict)
    for key in entries:
        if key not in integers and key not in ("layers", "optimizer", "hashes"):
            name, _, number = key.rpartition(".")
            name, number = (name, number) if number.isdigit() else (key, "")
            groups[number][name] = _floats(key, entries[key], scalar=name == "lr")
    shared = groups[""]
    layers = tuple(_layer(str(name), groups[str(i)]) for i, name in enumerate(entries["layers"].reshape(-1)))
    hashes = entries.get("hashes")
    if not layers:
        raise ValueError("it holds no layer")
    if hashes is not None and (hashes.dtype, hashes.shape) != (np.uint8, (integers["world_size"], len(layers), 32)):
        raise ValueError(f"hashes are {hashes.dtype}{list(hashes.shape)}")
    snapshot = Snapshot(
        file=file,
        lr=np.float32(shared["lr"]),
        optimizer=str(entries["optimizer"]) if "optimizer" in entries else "Momentum",
        layers=layers,
        shared=_under("before.", shared),
        shared_after=_under("after.", shared),
        hashes=hashes,
        **integers,
    )
    kernel_step, rank, world_size = snapshot.kernel_step, snapshot.rank, snapshot.world_size
    if not (0 <= kernel_step < 2**31 and 0 <= rank < world_size <= MOST_RANKS):
        raise ValueError(f"it is of step {kernel_step} of the kernel, of rank {rank} of {world_size}")
    return snapshot


def _integer(key: str, value: np.ndarray) -> int:
    if value.shape != () or value.dtype.kind not in "iu":
        raise ValueError(f"{key} is {value.dtype}{list(value.shape)}, not an integer")
    return int(value)


def _floats(key: str, value: np.ndarray, *, scalar: bool) -> FloatArray:
    if value.dtype != np.float32 or value.size == 0 or (scalar and value.shape):
        wanted = "float32 number" if scalar else "non-empty float32 array"
        raise ValueError(f"{key} is {value.dtype}{list(value.shape)}, not a {wanted}")
    return value


def _layer(name: str, own: Mapping[str, FloatArray]) -> Layer:
    layer = Layer(
        name,
        own["W_start"],
        own["W_new"],
        own.get("v"),
        own.get("gradient"),
        np.float32(own["lr"]) if "lr" in own else None,
        _under("before.", own),
        _under("after.", own),
    )
    if layer.v is None and layer.gradient is None:
        raise ValueError(f"layer {name} has neither a velocity nor a gradient")
    if len({value.shape for value in layer.arrays.values()}) > 1:
        shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in layer.arrays.items())
        raise ValueError(f"layer {name} has {shapes}, not one shape")
    return layer


def _under(prefix: str, arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def require_same_layers(first: Snapshot, other: Snapshot) -> None:
    """Raises UserError unless both snapshots are of the same layers of the same shapes, in one order."""
    mine, theirs = (
        [f"{layer.name}{list(layer.W_start.shape)}" for layer in snapshot.layers] for snapshot in (first, other)
    )
    if mine != theirs:
        raise UserError(
            f"{other.file} holds {', '.join(theirs)}, but {first.file} holds {', '.join(mine)}; "
            "a comparison needs the same layers at every step and rank"
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
