"""Proof of the update rule W_new = W_start − lr_t·v_t on every snapshot, up to float32's rounding. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.comparison.kernel import MakeOptimizer, Replay
from train.rundir.snapshots import FinishedRun, Layer, Snapshot, layer_hashes, require_same_layers

FloatArray = NDArray[np.float32]

# Below the smallest normal number a kernel may flush to zero (MindSpore's CPU kernels do), so no unit is smaller.
_SMALLEST_UNIT = float(np.finfo(np.float32).tiny)

BOUND_UNITS = 1.0
"""The largest error that rounding can explain, in the units of :func:`rounding_unit`."""


def rounding_unit(W_start: FloatArray, p: FloatArray, W_new: FloatArray) -> NDArray[np.float64]:
    """One unit in the last place of the largest of |W_start|, |p| and |W_new|, element by element; p = lr·v.

    A kernel that works in float32 rounds twice, p = fl(lr·v) and W_new = fl(W_start − p), or once if it fuses the
    two (FMA). Round-to-nearest errs by at most half a unit in the last place of its result (Higham, "Accuracy and
    Stability of Numerical Algorithms", 2nd ed., section 2.2), so

        |W_new − (W_start − lr·v)| ≤ ½ ulp(p) + ½ ulp(W_new) ≤ 1 ulp(max(|W_start|, |p|, |W_new|)).

    Arguments are float32 arrays of one shape; the result is float64 of that shape, nowhere
    below float32's smallest normal number (2**-126), and NaN where an argument is not finite.
    """
    with np.errstate(all="ignore"):
        largest = np.maximum(np.maximum(np.abs(W_start), np.abs(p)), np.abs(W_new))
        return np.maximum(np.spacing(largest).astype(np.float64), _SMALLEST_UNIT)


def update_error(
    W_start: FloatArray, v: FloatArray, lr: np.float32, W_new: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|W_new − (W_start − lr·v)|: absolute, and in units of :func:`rounding_unit`. Both float64, of W's shape.

    The exact value is computed in float64. The product of two float32 numbers is exact there; the difference is
    too wherever the bound can be reached, and elsewhere its error (2**-53, relative) is far below the slack.
    """
    with np.errstate(all="ignore"):
        exact = W_start.astype(np.float64) - np.float64(lr) * v.astype(np.float64)
        absolute = np.abs(W_new.astype(np.float64) - exact)
        return absolute, absolute / rounding_unit(W_start, lr * v, W_new)


Problem = dict[str, Any]


def prove(run: FinishedRun, make: MakeOptimizer | None = None) -> dict[str, Any]:
    """Checks every snapshot (step × rank × layer) of a run; holds three files, and each layer's optimizer, in memory.

    ``make`` rebuilds the run's optimizer; without it, or where no gradient was recorded, only the rule of momentum is
    checked. Returns plain values, as comparison.json has them.

    Raises UserError for a damaged snapshot, or snapshots of different layers.
    """
    snapshots: list[dict[str, Any]] = []
    problems: list[Problem] = []
    first = run.load(run.steps[0])
    replay_of = cache(lambda i: Replay(make, first.layers[i], run.schedule.lr)) if make else None
    for step, ranks in run.files.items():
        reference = run.load(step)
        problems += _other_hashes(reference, set(ranks)) if reference.hashes is not None else []
        problems += _missing_ranks(reference, set(ranks))
        for rank in ranks:
            snapshot = reference if rank == reference.rank else run.load(step, rank)
            require_same_layers(first, snapshot)
            layers = [_check_update(replay_of, snapshot, i, problems) for i in range(len(snapshot.layers))]
            followed = _check_script(snapshot, run.schedule.lr[step], problems)
            identical = _check_identical(snapshot, reference, problems)
            snapshots.append(
                {
                    "step": step,
                    "rank": rank,
                    "world_size": snapshot.world_size,
                    "kernel_step": snapshot.kernel_step,
                    "lr": float(snapshot.lr),
                    **followed,
                    "identical_across_ranks": identical,
                    "layers": layers,
                }
            )
    every_layer = [layer for entry in snapshots for layer in entry["layers"]]
    return {
        "holds": not problems,
        "bound_units": BOUND_UNITS,
        "max_difference": largest(layer["max_difference"] for layer in every_layer),
        "max_units": largest(layer["max_units"] for layer in every_layer),
        "snapshots": snapshots,
        "problems": problems,
    }


def rule_violation(layer: Layer, lr: np.float32) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    """The largest error of one update (``max_difference``, ``max_units``), and the index of the worst element if
    rounding cannot explain it (a value that is not finite is never explained)."""
    assert layer.v is not None
    absolute, units = update_error(layer.W_start, layer.v, lr, layer.W_new)
    figures = {"max_difference": float(absolute.max()), "max_units": float(units.max())}
    if figures["max_units"] <= BOUND_UNITS:
        return figures, None
    return figures, _index(np.argmax(units), units.shape)


def describe_violation(layer: Layer, lr: np.float32, element: tuple[int, ...], units: float) -> str:
    """One line that gives the element's four values and the value W_new should have."""
    assert layer.v is not None
    W_start, v, W_new = (value[element] for value in (layer.W_start, layer.v, layer.W_new))
    exact = float(W_start) - float(lr) * float(v)
    return (
        f"W_new is {W_new!s}, but W_start − lr·v = {W_start!s} − {lr!s} · {v!s} = {exact:.9g}; "
        f"off by {units:.3g} units in the last place, rounding explains {BOUND_UNITS:g}"
    )


def _problem(
    snapshot: Snapshot, message: str, layer: str | None = None, element: tuple[int, ...] | None = None
) -> Problem:
    where = [f"step {snapshot.step}", f"rank {snapshot.rank}"]
    if layer is not None:
        where.append(f"layer {layer}")
    if element is not None:
        where.append(f"element {list(element)}")
    return {
        "step": snapshot.step,
        "rank": snapshot.rank,
        "layer": layer,
        "element": None if element is None else list(element),
        "message": f"{', '.join(where)}: {message}",
    }


def largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.max(known)) if known else None


def _check_update(
    replay_of: Callable[[int], Replay] | None, snapshot: Snapshot, index: int, problems: list[Problem]
) -> dict[str, Any]:
    layer = snapshot.layers[index]
    checked: dict[str, Any] = {"layer": layer.name, "max_difference": None, "max_units": None}
    if layer.v is not None:
        checked |= _check_rule(snapshot, layer, problems)
    replayed: dict[str, Any] = {"replayed": None, "other_path": 0, "other_path_ulp": 0.0}
    if replay_of is not None and layer.gradient is not None:
        replayed |= _check_replay(replay_of(index), snapshot, layer, problems)
    return checked | replayed


def _check_replay(replay: Replay, snapshot: Snapshot, layer: Layer, problems: list[Problem]) -> dict[str, Any]:
    """Whether the optimizer makes the same W_new and the same state again, bit for bit; elements that it makes so only
    in the other of its kernel's two paths are counted."""
    made = replay(layer, snapshot)
    recorded = {"W_new": layer.W_new, **{name: layer.after[name] for name in made if name != "W_new"}}
    same = {name: _same_bits(recorded[name], made[name]).reshape(-1) for name in made}
    places = np.flatnonzero(~np.logical_and.reduce(list(same.values())))
    other = np.zeros(len(places), bool)
    if 0 < len(places) <= MOST_AT_ENDS:
        at_places = {name: recorded[name].reshape(-1)[places] for name in made}
        for path in replay.both_paths(layer, snapshot, places):
            other |= np.logical_and.reduce([_same_bits(at_places[name], path[name]) for name in made])
    if not other.all():
        for name, equal in same.items():
            wrong = places[~other & ~equal[places]]
            if len(wrong):
                element = _index(wrong[0], layer.W_new.shape)
                values = f"{name} is {_exactly(recorded[name][element])}, but of the same W_start, state and gradient "
                message = f"{values}{snapshot.optimizer} makes {_exactly(made[name][element])}"
                problems.append(_problem(snapshot, message, layer.name, element))
    apart = [_ulp(recorded[name].reshape(-1)[places[other]], made[name].reshape(-1)[places[other]]) for name in made]
    return {
        "replayed": bool(other.all()),
        "other_path": int(other.sum()),
        "other_path_ulp": float(np.max(apart, initial=0.0)),
    }


MOST_AT_ENDS = 1024
"""Elements of an array at the ends of blocks: at most 64 blocks of MindSpore's, and 15 left of a vector of 16."""


def _ulp(left: FloatArray, right: FloatArray) -> NDArray[np.float64]:
    """How far two arrays are apart, in units in the last place of the larger."""
    unit = np.spacing(np.maximum(np.abs(left), np.abs(right))).astype(np.float64)
    return np.abs(left.astype(np.float64) - right.astype(np.float64)) / unit


def _check_rule(snapshot: Snapshot, layer: Layer, problems: list[Problem]) -> dict[str, Any]:
    lr = snapshot.lr if layer.lr is None else layer.lr
    figures, element = rule_violation(layer, lr)
    if element is not None:
        message = describe_violation(layer, lr, element, figures["max_units"])
        problems.append(_problem(snapshot, message, layer.name, element))
    return figures


def _check_script(snapshot: Snapshot, scheduled: np.float32, problems: list[Problem]) -> dict[str, bool]:
    equal_lr = bool(_same_bits(snapshot.lr, scheduled))
    if not equal_lr:
        values = f"lr is {_exactly(snapshot.lr)}, the schedule's is {_exactly(scheduled)}"
        problems.append(_problem(snapshot, values))
    equal_step = snapshot.kernel_step == snapshot.step
    if not equal_step:
        problems.append(_problem(snapshot, f"the kernel was at its step {snapshot.kernel_step}"))
    return {"lr_equals_schedule": equal_lr, "kernel_step_equals_step": equal_step}


def _check_identical(snapshot: Snapshot, reference: Snapshot, problems: list[Problem]) -> bool:
    """Whether lr and all arrays have the bits they have on ``reference``'s rank."""
    found = len(problems)
    if snapshot.world_size != reference.world_size:
        message = f"counts {snapshot.world_size} ranks, rank {reference.rank} counts {reference.world_size}"
        problems.append(_problem(snapshot, message))
    if not _same_bits(snapshot.lr, reference.lr):
        message = f"lr is {_exactly(snapshot.lr)}, on rank {reference.rank} {_exactly(reference.lr)}"
        problems.append(_problem(snapshot, message))
    for layer, expected in zip(snapshot.layers, reference.layers, strict=True):
        for name, value in layer.arrays.items():
            other = expected.arrays[name]
            same = _same_bits(value, other)
            if not np.all(same):
                element = _index(np.argmin(same), value.shape)
                message = (
                    f"{name} is {_exactly(value[element])}, on rank {reference.rank} {_exactly(other[element])}; "
                    f"{np.size(same) - np.count_nonzero(same)} of {np.size(same)} elements differ"
                )
                problems.append(_problem(snapshot, message, layer.name, element))
    return len(problems) == found


def _other_hashes(reference: Snapshot, present: set[int]) -> list[Problem]:
    """What differs on the ranks that wrote no snapshot, of which ``reference`` holds the hashes."""
    assert reference.hashes is not None
    same = (reference.hashes == layer_hashes(reference)).all(axis=2)
    problems = []
    for rank, index in np.argwhere(~same):
        if rank not in present:  # what is there is compared itself, value by value
            layer = reference.layers[index].name
            where = f"step {reference.step}, rank {rank}, layer {layer}"
            message = f"{where}: its hash is not that on rank {reference.rank}: the ranks differ"
            problem = {"step": reference.step, "rank": int(rank), "layer": layer, "element": None, "message": message}
            problems.append(problem)
    return problems


def _missing_ranks(reference: Snapshot, present: set[int]) -> list[Problem]:
    expected = set(range(reference.world_size)) if reference.hashes is None else present
    problems = []
    for rank in sorted(expected ^ present):
        reason = "no snapshot of this rank" if rank in expected else "a rank that was not in the job"
        message = f"step {reference.step}, rank {rank}: {reason} ({reference.world_size} ranks took this step)"
        problems.append({"step": reference.step, "rank": rank, "layer": None, "element": None, "message": message})
    return problems


def _same_bits(left: Any, right: Any) -> Any:
    return np.equal(np.asarray(left).view(np.uint32), np.asarray(right).view(np.uint32))


def _exactly(value: np.float32) -> str:
    """A float32 as its shortest decimal and its bits, since two values may print alike but differ."""
    return f"{value!s} (0x{int(np.asarray(value).view(np.uint32)):08x})"


def _index(flat: np.intp, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))
