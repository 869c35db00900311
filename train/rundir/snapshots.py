"""Snapshots of updates: as chosen ranks write them, and what is in them. No MindSpore.

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
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.rundir.folder import make_folder, replace_file

FloatArray = NDArray[np.float32]

MOST_RANKS = 1 << 20
"""A file that counts more is damaged."""

FILE_NAME = re.compile(r"step-(\d+)\.rank-(\d+)\.npz")


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


def list_snapshots(folder: Path) -> dict[int, dict[int, Path]]:
    """Return the snapshot files in ``folder`` by step and rank, both ascending."""
    found: dict[int, dict[int, Path]] = {}
    for file in folder.glob("*.npz"):
        if match := FILE_NAME.fullmatch(file.name):
            found.setdefault(int(match[1]), {})[int(match[2])] = file
    return {step: dict(sorted(found[step].items())) for step in sorted(found)}


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
