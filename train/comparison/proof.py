"""Proof of the update rule W_new = W_start − lr_t·v_t on every snapshot of a run. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from train.comparison.rounding import BOUND_UNITS, update_error
from train.rundir.snapshots import FinishedRun, Layer, Snapshot, require_same_layers

Problem = dict[str, Any]


def prove(run: FinishedRun) -> dict[str, Any]:
    """Checks every snapshot (step × rank × layer) of a run; holds three files in memory at a time.

    Returns plain values: ``holds``, ``bound_units`` (what rounding can explain, see
    ``train.comparison.rounding.rounding_unit``), ``max_difference`` and ``max_units`` of
    |W_new − (W_start − lr·v)| over all snapshots, ``snapshots`` (for each its ``step``, ``rank``, ``world_size``,
    ``kernel_step``, ``lr``, ``lr_equals_schedule`` and ``identical_across_ranks``, both bit for bit,
    ``kernel_step_equals_step``, and ``layers`` with ``layer``, ``max_difference``, ``max_units``) and ``problems``:
    each with ``step``, ``rank``, ``layer``, ``element`` (index in the layer, from 0; None where the problem is of no
    layer) and ``message``.

    Raises UserError for a damaged snapshot, or snapshots that watch different layers.
    """
    snapshots: list[dict[str, Any]] = []
    problems: list[Problem] = []
    first = run.load(run.steps[0])
    for step, ranks in run.files.items():
        reference = run.load(step)
        problems += _missing_ranks(reference, set(ranks))
        for rank in ranks:
            snapshot = reference if rank == reference.rank else run.load(step, rank)
            require_same_layers(first, snapshot)
            layers = [_check_rule(snapshot, layer, problems) for layer in snapshot.layers]
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
        "max_difference": float(np.max([layer["max_difference"] for layer in every_layer])),
        "max_units": float(np.max([layer["max_units"] for layer in every_layer])),
        "snapshots": snapshots,
        "problems": problems,
    }


def rule_violation(layer: Layer, lr: np.float32) -> tuple[dict[str, float], tuple[int, ...] | None]:
    """The largest error of one update (``max_difference``, ``max_units``), and the index of the worst element if
    rounding cannot explain it (a value that is not finite is never explained)."""
    absolute, units = update_error(layer.W_start, layer.v, lr, layer.W_new)
    figures = {"max_difference": float(absolute.max()), "max_units": float(units.max())}
    if figures["max_units"] <= BOUND_UNITS:
        return figures, None
    return figures, _index(np.argmax(units), units.shape)


def describe_violation(layer: Layer, lr: np.float32, element: tuple[int, ...], units: float) -> str:
    """One line that gives the element's four values and the value W_new should have."""
    W_start, v, W_new = (value[element] for value in layer.arrays.values())
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


def _check_rule(snapshot: Snapshot, layer: Layer, problems: list[Problem]) -> dict[str, Any]:
    figures, element = rule_violation(layer, snapshot.lr)
    if element is not None:
        message = describe_violation(layer, snapshot.lr, element, figures["max_units"])
        problems.append(_problem(snapshot, message, layer.name, element))
    return {"layer": layer.name, **figures}


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


def _missing_ranks(reference: Snapshot, present: set[int]) -> list[Problem]:
    expected = set(range(reference.world_size))
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
