"""The tensors that make a run continue bit for bit, taken from the running network and put back into it.

Everything that the compiled step owns is saved, so that a new extra of the step is never forgotten: weights,
velocities, ``global_step``, the moving average, the loss scale. Left out are the hyper-parameters, which come from the
configuration (the optimizer keeps the whole schedule as a parameter, and an old one must not come back), and what the
step calls its scratch.
A loss scale is both: :mod:`train.checkpoint.resume` knows whether it is the run's own or the configuration's.

What each rank has of its own (BatchNorm's moving statistics, random generators) is kept for each rank.
"""

from __future__ import annotations

import random
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import nn
from safetensors import SafetensorError
from safetensors.numpy import load, save

from models.weights import VARIANCE
from train.runtime import distributed
from train.step.optimizer import OPTIMIZER
from train.step.own import AVERAGE
from train.step.train_step import TrainStep

Arrays = dict[str, np.ndarray]

MODEL_FILE = "model.safetensors"
AVERAGE_FILE = "ema.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RANKS_FILE = "ranks.safetensors"
_RANDOM = "random."
GLOBAL_STEP = f"{OPTIMIZER}global_step"


class State(NamedTuple):
    """The arrays of a state, on the host."""

    model: Arrays
    """All parameters of the model; moving statistics as their mean over the ranks."""
    optimizer: Arrays
    """All else that is the same on every rank."""
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
        return cls(*(load_arrays(files, name) for name in (MODEL_FILE, OPTIMIZER_FILE, RANKS_FILE)))

    def check(self, step: int, world_size: int) -> None:
        """Raise ValueError, naming file and array, for a value that no run of ``world_size`` ranks has at ``step``."""
        for file, arrays in ((MODEL_FILE, self.model), (OPTIMIZER_FILE, self.optimizer), (RANKS_FILE, self.ranks)):
            if bad := not_finite(arrays):
                raise ValueError(f"{file}: {bad[0]} is not finite")
            if bad := [name for name in arrays if name.endswith(VARIANCE) and (arrays[name] < 0).any()]:
                raise ValueError(f"{file}: {bad[0]} holds a variance below 0")
        for name, rows in self.ranks.items():
            if rows.shape[:1] != (world_size,):
                raise ValueError(f"{RANKS_FILE}: {name} has the shape {list(rows.shape)} for {world_size} ranks")
        kernel_step = self.optimizer.get(GLOBAL_STEP)
        if kernel_step is not None and kernel_step.tolist() != [step]:
            raise ValueError(f"{OPTIMIZER_FILE}: {GLOBAL_STEP} is {kernel_step.tolist()}, the state is of step {step}")
        # A generator takes its position in its own table on trust.
        for row in self.ranks.get(f"{_RANDOM}numpy", ()):
            if row.shape != (626,) or row[-2] > 624 or row[-1] > 1:
                raise ValueError(f"{RANKS_FILE}: {_RANDOM}numpy is no state of that generator")
        for row in self.ranks.get(f"{_RANDOM}python", ()):
            if row.shape != (625,) or row[-1] > 624:
                raise ValueError(f"{RANKS_FILE}: {_RANDOM}python is no state of that generator")


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of float arrays that hold NaN or infinity; random generators may."""
    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f" and not name.startswith(_RANDOM)}
    return [name for name, array in floats.items() if not np.isfinite(array).all()]


def load_arrays(files: Mapping[str, bytes], name: str) -> Arrays:
    if name not in files:
        raise ValueError(f"{name} is missing")
    try:
        return load(files[name])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{name} is not readable ({error})") from None


class TrainingState:
    """The state of a run, held in the parameters of its ``step`` (all of them) and its ``model`` (the weights)."""

    def __init__(self, step: TrainStep, model: nn.Cell):
        scratch = {id(p) for p in step.scratch()}
        kept = [p for p in step.get_parameters() if id(p) not in scratch]
        self.own = {p.name: p for p in kept if _is_own(p.name)}
        self.shared = {p.name: p for p in kept if not _is_own(p.name)}
        self.model = {p.name: p for p in model.get_parameters()}
        self._step = step

    def capture(self) -> State | None:
        """Copy the state to the host; None on ranks other than 0. Collective: every rank must call it."""
        own = {name: p.asnumpy() for name, p in self.own.items()} | _random_state()
        rows = distributed.gather_bytes(save({name: np.ascontiguousarray(array) for name, array in own.items()}))
        if distributed.rank() != 0:
            return None
        loaded = [load(row) for row in rows]
        ranks = {name: np.stack([row[name] for row in loaded]) for name in own}
        shared = {name: p.asnumpy().copy() for name, p in self.shared.items()}
        return State(
            model={name: shared[name] if name in shared else mean_over_ranks(ranks[name]) for name in self.model},
            optimizer={name: array for name, array in shared.items() if name not in self.model},
            ranks=ranks,
        )

    def misfits(self, state: State) -> list[str]:
        """Return the names of arrays that are missing, unknown or of another shape or type than here."""
        kinds_here = {name: _kind(p.asnumpy()) for name, p in (self.shared | self.own | self.model).items()}
        kinds_here |= {name: _kind(array) for name, array in _random_state().items()}
        kinds = {name: _kind(array) for name, array in (state.optimizer | state.model).items()}
        kinds_of_rows = {name: _kind(rows[0]) for name, rows in state.ranks.items()}
        both = kinds.keys() & kinds_of_rows.keys()
        wrong = {name for name in both if kinds[name] != kinds_of_rows[name]} | (state.model.keys() ^ self.model.keys())
        kinds |= kinds_of_rows
        return sorted(
            wrong | {name for name in kinds.keys() | kinds_here.keys() if kinds.get(name) != kinds_here.get(name)}
        )

    def restore(self, state: State, *, same_world: bool, exclude: Container[str] = ()) -> None:
        """Put ``state`` into the network. A rank of another world size gets the mean of the ranks' statistics.

        Args:
            exclude: names that keep the values they have here.
        """
        rank = distributed.rank()
        for name, parameter in self.shared.items():
            if name not in exclude:
                _assign(parameter, state.model[name] if name in state.model else state.optimizer[name])
        for name, parameter in self.own.items():
            rows = state.ranks[name]
            _assign(parameter, rows[rank] if same_world else mean_over_ranks(rows))
        self._step.refresh_copies()
        if same_world:
            _restore_random({name: rows[rank] for name, rows in state.ranks.items() if name.startswith(_RANDOM)})


def mean_over_ranks(rows: np.ndarray) -> np.ndarray:
    """Return the float64 mean of float32 (world_size, …) over the ranks, rounded to float32."""
    return rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)


def _is_own(name: str) -> bool:
    return name.endswith((".moving_mean", ".moving_variance"))


def _kind(array: np.ndarray) -> tuple[tuple[int, ...], np.dtype]:
    return array.shape, array.dtype


def _assign(parameter: ms.Parameter, array: np.ndarray) -> None:
    parameter.set_data(ms.Tensor(np.array(array)))


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
