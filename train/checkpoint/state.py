"""The arrays of a state: taken from the parameters of a run, as files, checked, and put back.

What each rank has of its own (BatchNorm's moving statistics, random generators) is kept for each rank.
"""

from __future__ import annotations

import random
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from models.weights import VARIANCE
from train.runtime import distributed
from train.step.optimizer import OPTIMIZER
from train.step.parameters import AVERAGE
from train.step.train_step import TrainStep

Arrays = dict[str, np.ndarray]

MODEL_FILE = "model.safetensors"
AVERAGE_FILE = "ema.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RANKS_FILE = "ranks.safetensors"
GLOBAL_STEP = f"{OPTIMIZER}global_step"
_RANDOM = "random."
# How many words a generator's state has, where among them stands its place in its own table, and how far that may be.
_GENERATORS = {f"{_RANDOM}numpy": (626, -2, 624), f"{_RANDOM}python": (625, -1, 624)}


class State(NamedTuple):
    """The arrays of a state, on the host."""

    model: Arrays
    """All parameters of the model; moving statistics as their mean over the ranks."""
    optimizer: Arrays
    """All else that is the same on every rank: of the optimizer, the moving average, the loss scale."""
    ranks: Arrays
    """What each rank has of its own, stacked: (world_size, …)."""

    def averaged_model(self) -> Arrays:
        """Return ``model`` with the moving average of each array that has one; empty where none is kept."""
        averages = {name: mean_over_ranks(rows) for name, rows in self.ranks.items() if name.startswith(AVERAGE)}
        averages |= {name: array for name, array in self.optimizer.items() if name.startswith(AVERAGE)}
        return {name: averages.get(AVERAGE + name, array) for name, array in self.model.items()} if averages else {}

    def to_files(self, metadata: dict[str, str] | None = None) -> dict[str, bytes]:
        """Return the content of each file; ``metadata`` goes into those for users of the model."""
        files = {MODEL_FILE: save(self.model, metadata)}
        files |= {OPTIMIZER_FILE: save(self.optimizer), RANKS_FILE: save(self.ranks)}
        if average := self.averaged_model():  # for users; a resumed run reads the other three
            files[AVERAGE_FILE] = save(average, metadata)
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> State:
        """Raises ValueError, naming the file, for one that is missing or holds no arrays."""
        return cls(*(_load(files, name) for name in (MODEL_FILE, OPTIMIZER_FILE, RANKS_FILE)))

    def check(self, step: int, world_size: int) -> None:
        """Raise ValueError, naming file and array, for a value that no run of ``world_size`` ranks has at ``step``."""
        for file, arrays in zip((MODEL_FILE, OPTIMIZER_FILE, RANKS_FILE), self, strict=True):
            if bad := not_finite(arrays):
                raise ValueError(f"{file}: {bad[0]} is not finite")
            if bad := [name for name in arrays if name.endswith(VARIANCE) and (arrays[name] < 0).any()]:
                raise ValueError(f"{file}: {bad[0]} holds a variance below 0")
        for name, rows in self.ranks.items():
            if rows.shape[:1] != (world_size,):
                raise ValueError(f"{RANKS_FILE}: {name} has the shape {list(rows.shape)} for {world_size} ranks")
            # A generator believes its place in its own table, and its next draw would read far outside of it.
            length, place, most = _GENERATORS.get(name, (None, 0, 0))
            if length and (rows.shape[1:] != (length,) or (rows[:, place] > most).any()):
                raise ValueError(f"{RANKS_FILE}: {name} is not a state of that generator")
        kernel_step = self.optimizer.get(GLOBAL_STEP)
        if kernel_step is not None and kernel_step.tolist() != [step]:
            raise ValueError(f"{OPTIMIZER_FILE}: {GLOBAL_STEP} is {kernel_step.tolist()}, the state is of step {step}")


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of float arrays that hold NaN or infinity; random generators may."""
    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f" and not name.startswith(_RANDOM)}
    return [name for name, array in floats.items() if not np.isfinite(array).all()]


def _load(files: Mapping[str, bytes], name: str) -> Arrays:
    if name not in files:
        raise ValueError(f"{name} is missing")
    try:
        return load(files[name])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{name} is not readable ({error})") from None


def shared_parameters(step: TrainStep) -> dict[str, ms.Parameter]:
    """Return, by name, the parameters that make up the state of ``step`` and are the same on every rank."""
    return {name: p for name, p in _parameters(step).items() if not _is_own(name)}


def _parameters(step: TrainStep) -> dict[str, ms.Parameter]:
    scratch = {id(p) for p in step.scratch()}
    return {p.name: p for p in step.get_parameters() if id(p) not in scratch}


def _on_this_rank(step: TrainStep) -> State:
    """Return what ``step`` holds here: in ``model`` the statistics are this rank's, and ``ranks`` are not stacked."""
    arrays = {name: p.asnumpy() for name, p in _parameters(step).items()}
    model = {p.name: arrays[p.name] for p in step.differentiate.network.get_parameters()}
    own = {name: np.ascontiguousarray(array) for name, array in arrays.items() if _is_own(name)}
    others = {name: array for name, array in arrays.items() if name not in model and name not in own}
    return State(model, others, own | _random_state())


def capture(step: TrainStep) -> State | None:
    """Copy the state of ``step`` to the host; None on ranks other than 0. Collective: every rank must call it."""
    here = _on_this_rank(step)
    rows = [load(row) for row in distributed.gather_bytes(save(here.ranks))]
    if distributed.rank() != 0:
        return None
    ranks = {name: np.stack([row[name] for row in rows]) for name in here.ranks}
    return State(
        {name: mean_over_ranks(ranks[name]) if name in ranks else array.copy() for name, array in here.model.items()},
        {name: array.copy() for name, array in here.optimizer.items()},
        ranks,
    )


def misfits(state: State, step: TrainStep) -> list[str]:
    """Return the names of arrays of ``state`` that are missing, unknown or of another shape or type in ``step``."""
    one_rank = state._replace(ranks={name: rows[0] for name, rows in state.ranks.items()})
    wrong: set[str] = set()
    for there, here in zip(one_rank, _on_this_rank(step), strict=True):
        found, wanted = ({name: (array.shape, array.dtype) for name, array in one.items()} for one in (there, here))
        wrong |= {name for name in found.keys() | wanted if found.get(name) != wanted.get(name)}
    return sorted(wrong)


def restore(state: State, step: TrainStep, *, same_world: bool, exclude: Container[str] = ()) -> None:
    """Put ``state`` into ``step``. A rank of another world size gets the mean of the ranks' statistics.

    Args:
        exclude: names that keep the values they have here.
    """
    own = {
        name: rows[distributed.rank()] if same_world else mean_over_ranks(rows) for name, rows in state.ranks.items()
    }
    arrays = state.model | state.optimizer | own
    for name, parameter in _parameters(step).items():
        if name not in exclude:
            parameter.set_data(ms.Tensor(np.array(arrays[name])))
    step.refresh_copies()
    if same_world:
        _restore_random(own)


def mean_over_ranks(rows: np.ndarray) -> np.ndarray:
    """Return the float64 mean of float32 (world_size, …) over the ranks, rounded to float32."""
    return rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)


def _is_own(name: str) -> bool:
    """Whether each rank has a value of its own."""
    return name.endswith((".moving_mean", ".moving_variance"))


def _random_state() -> Arrays:
    """Return the generators that anyone may draw from; order and augmentation are functions of the seed anyway."""
    generator: dict[str, Any] = np.random.get_state(legacy=False)  # type: ignore[assignment]  # noqa: NPY002
    keys, position = generator["state"]["key"], generator["state"]["pos"]
    _, words, next_gauss = random.getstate()
    return {
        f"{_RANDOM}numpy": np.append(keys, np.array([position, generator["has_gauss"]], keys.dtype)),
        f"{_RANDOM}numpy_gauss": np.array([generator["gauss"]], np.float64),
        f"{_RANDOM}python": np.array(words, np.uint32),
        f"{_RANDOM}python_gauss": np.array([np.nan if next_gauss is None else next_gauss], np.float64),
        f"{_RANDOM}mindspore": ms.get_rng_state().asnumpy(),
    }


def _restore_random(saved: Mapping[str, np.ndarray]) -> None:
    numpy_state, gauss = saved[f"{_RANDOM}numpy"], float(saved[f"{_RANDOM}numpy_gauss"][0])
    position, has_gauss = (int(word) for word in numpy_state[-2:])
    np.random.set_state(("MT19937", numpy_state[:-2], position, has_gauss, gauss))  # noqa: NPY002
    next_gauss = float(saved[f"{_RANDOM}python_gauss"][0])
    words = tuple(int(word) for word in saved[f"{_RANDOM}python"])
    random.setstate((3, words, None if np.isnan(next_gauss) else next_gauss))
    ms.set_rng_state(ms.Tensor(saved[f"{_RANDOM}mindspore"]))
