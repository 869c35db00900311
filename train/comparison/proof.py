"""Proof of the update rule W_new = W_start − lr_t·v_t on every snapshot: by the rule, up to float32's rounding, and by
the optimizer's own kernel, which makes the update again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.comparison.finished_run import FinishedRun, require_same_layers
from train.comparison.kernel import MakeOptimizer, Replay
from train.rundir.snapshots import FloatArray, Layer, Snapshot, layer_hashes

# Below the smallest normal number a kernel may flush to zero (MindSpore's CPU kernels do), so no unit is smaller.
_SMALLEST_UNIT = float(np.finfo(np.float32).tiny)

BOUND_UNITS = 1.0
"""The largest error that rounding can explain, in the units of :func:`rounding_unit`."""

MOST_TOLERATED = 1024
"""Elements of an array at the ends of blocks: at most 64 blocks of MindSpore's, and 15 left of a vector of 16."""


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
        problems += _of_other_ranks(reference, set(ranks))
        for rank in ranks:
            snapshot = reference if rank == reference.rank else run.load(step, rank)
            require_same_layers(first, snapshot)
            layers, found = [], []
            for i, layer in enumerate(snapshot.layers):
                replay = replay_of(i) if replay_of and layer.gradient is not None else None
                checked, wrong = _check_update(replay, snapshot, layer)
                layers.append(checked)
                found += wrong
            script = {
                "lr_equals_schedule": bool(_same_bits(snapshot.lr, run.schedule.lr[step])),
                "kernel_step_equals_step": snapshot.kernel_step == step,
            }
            if not script["lr_equals_schedule"]:
                values = f"lr is {_exactly(snapshot.lr)}, the schedule's is {_exactly(run.schedule.lr[step])}"
                found.append(_problem(step, rank, values))
            if not script["kernel_step_equals_step"]:
                found.append(_problem(step, rank, f"the kernel was at its step {snapshot.kernel_step}"))
            between_ranks = list(_between_ranks(snapshot, reference))
            problems += found + between_ranks
            snapshots.append(
                {
                    "step": step,
                    "rank": rank,
                    "world_size": snapshot.world_size,
                    "kernel_step": snapshot.kernel_step,
                    "lr": float(snapshot.lr),
                    **script,
                    "identical_across_ranks": not between_ranks,
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


def rule_violation(layer: Layer, lr: np.float32) -> tuple[dict[str, Any], tuple[tuple[int, ...], str] | None]:
    """The largest error of one update (``max_difference``, ``max_units``), and if rounding cannot explain it (a value
    that is not finite is never explained) the index of the worst element with a line about its four values."""
    assert layer.v is not None
    absolute, units = update_error(layer.W_start, layer.v, lr, layer.W_new)
    figures = {"max_difference": float(absolute.max()), "max_units": float(units.max())}
    if figures["max_units"] <= BOUND_UNITS:
        return figures, None
    element = _index(np.argmax(units), units.shape)
    W_start, v, W_new = (value[element] for value in (layer.W_start, layer.v, layer.W_new))
    exact = float(W_start) - float(lr) * float(v)
    return figures, (
        element,
        f"W_new is {W_new!s}, but W_start − lr·v = {W_start!s} − {lr!s} · {v!s} = {exact:.9g}; "
        f"off by {units.max():.3g} units in the last place, rounding explains {BOUND_UNITS:g}",
    )


def _problem(
    step: int, rank: int, message: str, layer: str | None = None, element: tuple[int, ...] | None = None
) -> Problem:
    where = [f"step {step}", f"rank {rank}"]
    where += [] if layer is None else [f"layer {layer}"]
    where += [] if element is None else [f"element {list(element)}"]
    index = None if element is None else list(element)
    message = f"{', '.join(where)}: {message}"
    return {"step": step, "rank": rank, "layer": layer, "element": index, "message": message}


def largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.max(known)) if known else None


def _check_update(replay: Replay | None, snapshot: Snapshot, layer: Layer) -> tuple[dict[str, Any], list[Problem]]:
    """Hold each array of a layer to the others, up to rounding by the rule and bit for bit by its own kernel."""
    checked: dict[str, Any] = {"layer": layer.name, "max_difference": None, "max_units": None}
    checked |= {"replayed": None, "tolerated": 0, "tolerated_ulp": 0.0}
    problems = []

    def wrong(message: str, element: tuple[int, ...] | None = None) -> None:
        problems.append(_problem(snapshot.step, snapshot.rank, message, layer.name, element))

    if layer.v is not None:
        lr = snapshot.lr if layer.lr is None else layer.lr
        figures, worst = rule_violation(layer, lr)
        checked |= figures
        if worst is not None:
            where, message = worst
            wrong(message, where)
        if "moments" in layer.after:
            for element, message in _differing("v", layer.v, layer.after["moments"], "in its state after it"):
                wrong(message, element)
    if replay is not None:
        if layer.lr is not None and not _same_bits(layer.lr, replay.rate[snapshot.kernel_step]):
            wrong(f"its lr is {_exactly(layer.lr)}, the optimizer's {_exactly(replay.rate[snapshot.kernel_step])}")
        found = len(problems)
        places: set[int] = set()
        for name, made in replay(layer, snapshot).items():
            recorded = layer.W_new if name == "W_new" else {**snapshot.shared_after, **layer.after}.get(name)
            if recorded is None or recorded.shape != made.shape:
                wrong(f"the snapshot does not hold {name} after the update")
                continue
            ulp = _ulp(recorded, made, layer.W_start if name == "W_new" else None)
            apart = np.flatnonzero(~_same_bits(recorded, made))
            if 0 < len(apart) <= MOST_TOLERATED and replay.tolerance and ulp.max() <= replay.tolerance:
                places.update(apart.tolist())
                checked["tolerated_ulp"] = max(checked["tolerated_ulp"], float(ulp.max()))
                continue
            but = f"but of the same W_start, state and gradient {snapshot.optimizer} makes"
            for element, message in _differing(name, recorded, made, but):
                wrong(message, element)
        checked |= {"replayed": len(problems) == found, "tolerated": len(places)}
    return checked, problems


def _ulp(left: FloatArray, right: FloatArray, W_start: FloatArray | None) -> NDArray[np.float64]:
    """How far two arrays are apart in units in the last place of the larger; for W_new, which is the difference of
    W_start and a step, in those of W and of the step together."""
    with np.errstate(all="ignore"):
        unit = np.spacing(np.maximum(np.abs(left), np.abs(right))).astype(np.float64)
        if W_start is not None:
            unit = np.maximum(unit, np.spacing(np.abs(W_start))) + np.spacing(np.abs(W_start - left))
        return np.abs(left.astype(np.float64) - right.astype(np.float64)) / unit


def _differing(name: str, value: Any, other: Any, elsewhere: str) -> Iterator[tuple[tuple[int, ...] | None, str]]:
    """Yield the first element at which two arrays have not the same bits, and one line about it; or nothing."""
    value, other = np.asarray(value), np.asarray(other)
    if value.shape != other.shape:
        yield None, f"{name} has the shape {list(value.shape)}, {elsewhere} {list(other.shape)}"
        return
    same = np.asarray(_same_bits(value, other))
    if not same.all():
        element = _index(np.argmin(same), value.shape)
        count = f"; {same.size - np.count_nonzero(same)} of {same.size} elements differ" if same.size > 1 else ""
        yield element, f"{name} is {_exactly(value[element])}, {elsewhere} {_exactly(other[element])}{count}"


def _between_ranks(snapshot: Snapshot, reference: Snapshot) -> Iterator[Problem]:
    """What has not the bits that it has on ``reference``'s rank: lr, what layers share, and all their arrays."""
    there = f"on rank {reference.rank}"
    if snapshot.world_size != reference.world_size:
        message = f"counts {snapshot.world_size} ranks, rank {reference.rank} counts {reference.world_size}"
        yield _problem(snapshot.step, snapshot.rank, message)
    owners: list[tuple[str | None, Mapping[str, Any], Mapping[str, Any]]]
    owners = [(None, {"lr": snapshot.lr, **snapshot.shared}, {"lr": reference.lr, **reference.shared})]
    owners += [
        (mine.name, mine.arrays, its.arrays) for mine, its in zip(snapshot.layers, reference.layers, strict=True)
    ]
    for layer, arrays, others in owners:
        if arrays.keys() != others.keys():
            message = f"holds {', '.join(arrays)}, {there} {', '.join(others)}"
            yield _problem(snapshot.step, snapshot.rank, message, layer)
            continue
        for name, value in arrays.items():
            for element, message in _differing(name, value, others[name], there):
                yield _problem(snapshot.step, snapshot.rank, message, layer, element if layer else None)


def _of_other_ranks(reference: Snapshot, present: set[int]) -> Iterator[Problem]:
    """What differs on the ranks that wrote no snapshot, of which ``reference`` holds the hashes; and ranks that are
    missing, or too many."""
    expected = present
    if reference.hashes is None:
        expected = set(range(reference.world_size))
    else:
        for rank, index in np.argwhere(~(reference.hashes == layer_hashes(reference)).all(axis=2)).tolist():
            message = f"its hash is not that on rank {reference.rank}: the ranks differ"
            yield _problem(reference.step, rank, message, reference.layers[index].name)
    for rank in sorted(expected ^ present):
        reason = "no snapshot of this rank" if rank in expected else "a rank that was not in the job"
        yield _problem(reference.step, rank, f"{reason} ({reference.world_size} ranks took this step)")


def _same_bits(left: Any, right: Any) -> Any:
    return np.equal(np.asarray(left).view(np.uint32), np.asarray(right).view(np.uint32))


def _exactly(value: Any) -> str:
    """A float32 as its shortest decimal and its bits, since two values may print alike but differ."""
    return f"{value!s} (0x{int(np.asarray(value).view(np.uint32)):08x})"


def _index(flat: np.intp, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))
