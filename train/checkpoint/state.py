"""The arrays of a state: taken from the parameters of a run, as files, checked, and put back.

What a rank has of its own (BatchNorm's moving statistics, random generators) goes no further than to its own file.
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
from train.rundir.folder import of_rank
from train.runtime import distributed
from train.step.network import moving_statistics
from train.step.optimizer import OPTIMIZER
from train.step.parameters import AVERAGE
from train.step.train_step import TrainStep

Arrays = dict[str, np.ndarray]

MODEL_FILE = "model.safetensors"
AVERAGE_FILE = "ema.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
GLOBAL_STEP = f"{OPTIMIZER}global_step"
_RANDOM = "random."
# How many words a generator's state has, where among them stands its place in its own table, and how far that may be.
_GENERATORS = {f"{_RANDOM}numpy": (626, -2, 624), f"{_RANDOM}python": (625, -1, 624)}


def own_file(rank: int) -> str:
    return f"ranks/{of_rank(rank)}.safetensors"


class State(NamedTuple):
    """The arrays of a state, on the host."""

    model: Arrays
    """All parameters of the model; moving statistics as their mean over the ranks."""
    optimizer: Arrays
    """All other parameters: of the optimizer, the moving average, the loss scale; statistics as their mean, too."""
    own: Arrays
    """Moving statistics and random generators of this rank; empty where the state is of another number of ranks."""

    def averaged_model(self) -> Arrays:
        """Return ``model`` with the moving average of each array that has one; empty where none is kept."""
        if not any(name.startswith(AVERAGE) for name in self.optimizer):
            return {}
        return {name: self.optimizer.get(AVERAGE + name, array) for name, array in self.model.items()}

    def to_files(self, metadata: dict[str, str] | None = None) -> dict[str, bytes]:
        """Return the content of each file that all ranks share; ``metadata`` goes into those for users of the model."""
        files = {MODEL_FILE: save(self.model, metadata), OPTIMIZER_FILE: save(self.optimizer)}
        if average := self.averaged_model():  # for users; a resumed run reads the other two
            files[AVERAGE_FILE] = save(average, metadata)
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], own: str | None) -> State:
        """Read the file ``own`` of this rank with the others (None: the state is of another number of ranks).

        Raises ValueError, naming the file, for one that is missing or holds no arrays."""
        return cls(_load(files, MODEL_FILE), _load(files, OPTIMIZER_FILE), _load(files, own) if own else {})

    def check(self, step: int) -> None:
        """Raise ValueError, naming file and array, for a value that no run has at ``step``."""
        own = own_file(distributed.rank())
        for file, arrays in zip((MODEL_FILE, OPTIMIZER_FILE, own), self, strict=True):
            if bad := not_finite(arrays):
                raise ValueError(f"{file}: {bad[0]} is not finite")
            if bad := [name for name in arrays if name.endswith(VARIANCE) and (arrays[name] < 0).any()]:
                raise ValueError(f"{file}: {bad[0]} holds a variance below 0")
        for name, (length, place, most) in _GENERATORS.items():
            # A generator believes its place in its own table, and its next draw would read far outside of it.
            words = self.own.get(name)
            if words is not None and (words.shape != (length,) or words[place] > most):
                raise ValueError(f"{own}: {name} is not a state of that generator")
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
    own = {p.name for p in moving_statistics(step)}
    return {name: p for name, p in _parameters(step).items() if name not in own}


def _parameters(step: TrainStep) -> dict[str, ms.Parameter]:
    scratch = {id(p) for p in step.scratch()}
    return {p.name: p for p in step.get_parameters() if id(p) not in scratch}


def _on_this_rank(step: TrainStep) -> State:
    """Return what ``step`` holds here, statistics everywhere as this rank has them."""
    arrays = {name: p.asnumpy() for name, p in _parameters(step).items()}
    model = {p.name: arrays[p.name] for p in step.differentiate.network.get_parameters()}
    others = {name: array for name, array in arrays.items() if name not in model}
    return State(model, others, _own(step))


def _own(step: TrainStep) -> Arrays:
    return {p.name: p.asnumpy().copy() for p in moving_statistics(step)} | _random_state()


def capture(step: TrainStep) -> State:
    """Copy the state of ``step`` to the host, on ranks other than 0 only their own. Collective."""
    statistics = moving_statistics(step)
    means = {p.name: mean for p, mean in zip(statistics, distributed.average_parameters(statistics), strict=True)}
    if distributed.rank() != 0:
        return State({}, {}, _own(step))
    model, others, own = _on_this_rank(step)
    model, others = ({n: means.get(n, array).copy() for n, array in part.items()} for part in (model, others))
    return State(model, others, own)


def misfits(state: State, step: TrainStep) -> list[str]:
    """Return the names of arrays of ``state`` that are missing, unknown or of another shape or type in ``step``."""
    present = _on_this_rank(step)
    wrong: set[str] = set()
    for there, here in zip(state, present if state.own else present._replace(own={}), strict=True):
        found, wanted = ({name: (array.shape, array.dtype) for name, array in one.items()} for one in (there, here))
        wrong |= {name for name in found.keys() | wanted if found.get(name) != wanted.get(name)}
    return sorted(wrong)


def restore(state: State, step: TrainStep, *, exclude: Container[str] = ()) -> None:
    """Put ``state`` into ``step``; statistics as their mean where it holds nothing of this rank's own.

    Args:
        exclude: names that keep the values they have here.
    """
    arrays = state.model | state.optimizer | state.own
    for name, parameter in _parameters(step).items():
        if name not in exclude:
            parameter.set_data(ms.Tensor(np.array(arrays[name])))
    step.refresh_copies()
    if state.own:
        _restore_random(state.own)


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
