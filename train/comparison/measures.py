"""Sizes of the updates at the watched steps: as they happened, and with nothing but lr changed. NumPy only.

ΔW = W_start − W_new, so that W_new = W_start − ΔW; every norm is the L2 norm over all elements, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules import Schedule
from train.comparison.proof import rounding_unit
from train.rundir.snapshots import FloatArray, Layer, Snapshot


def delta(layer: Layer) -> NDArray[np.float64]:
    """ΔW = W_start − W_new of one update, exact in float64, in the layer's shape."""
    return layer.W_start.astype(np.float64) - layer.W_new.astype(np.float64)


def observed(snapshots: Sequence[Snapshot], schedule: Schedule) -> list[dict[str, Any]]:
    """What happened to each watched layer; ``snapshots`` holds one for each step, ascending.

    Returns for each layer its ``layer`` name, ``shape``, ``steps`` (for each ``step``, ``phase``, ``lr``,
    ``first_element`` of ΔW, ``norm_delta_W``, ``max_delta_W``, ``norm_v``, ``norm_W`` of W_start and
    ``relative`` = ‖ΔW‖/‖W‖) and ``changes``, one for each watched step against the one before: ``from``, ``to``,
    ``lr_ratio``, ``v_ratio``, ``delta_W_ratio``, ``share_lr`` and ``share_v`` (their parts of log ‖ΔW‖; None where lr
    and v pull in opposite directions or a ratio does not exist).
    """
    result = []
    for i, layer in enumerate(snapshots[0].layers):
        rows = []
        for snapshot in snapshots:
            watched = snapshot.layers[i]
            row = _row(snapshot.step, schedule.phase_at(snapshot.step), snapshot.lr, delta(watched))
            norm_W = _norm(watched.W_start)
            row |= {
                "norm_v": _norm(watched.v),
                "norm_W": norm_W,
                "relative": _ratio(row["norm_delta_W"], norm_W),
            }
            rows.append(row)
        changes = [_split(*pair) for pair in pairwise(rows)]
        result.append({"layer": layer.name, "shape": list(layer.v.shape), "steps": rows, "changes": changes})
    return result


def controlled(source: Layer, updated: Mapping[int, FloatArray], schedule: Schedule) -> dict[str, Any]:
    """The same W_start and v at every step: only lr differs, as the document assumes.

    ``source`` gives W_start and v, ``updated`` the kernel's W_new by step, ascending. Returns ``layer``, ``shape``,
    ``steps`` (for each ``step``, ``phase``, ``lr``, ``first_element``, ``norm_delta_W``, ``max_delta_W``) and
    ``changes``, for each watched step against the one before: ``from``, ``to``, ``lr_ratio``, ``delta_W_ratio``,
    their ``difference``, the most that ``rounding`` of W_new explains of it, and ``equal``, that it explains all.
    A ratio over zero is None, and so is what follows from it.
    """
    rows, rounding = [], []
    for step, W_new in updated.items():
        lr = schedule.lr[step]
        moved = Layer(source.name, source.W_start, source.v, W_new)
        rows.append(_row(step, schedule.phase_at(step), lr, delta(moved)))
        rounding.append(_norm(rounding_unit(source.W_start, source.v, lr, W_new)))
    changes = [_against_lr(*pair, *errors) for pair, errors in zip(pairwise(rows), pairwise(rounding), strict=True)]
    return {"layer": source.name, "shape": list(source.v.shape), "steps": rows, "changes": changes}


def _row(step: int, phase: str, lr: np.float32, delta_W: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "step": step,
        "phase": phase,
        "lr": float(lr),
        "first_element": float(delta_W.flat[0]),
        "norm_delta_W": _norm(delta_W),
        "max_delta_W": float(np.abs(delta_W).max()),
    }


def _split(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The change of ‖ΔW‖ = lr·‖v‖ as a product: ``delta_W_ratio`` = ``lr_ratio`` · ``v_ratio``, up to rounding."""
    lr_ratio = _ratio(later["lr"], earlier["lr"])
    v_ratio = _ratio(later["norm_v"], earlier["norm_v"])
    share_lr = share_of_lr(lr_ratio, v_ratio)
    return {
        "from": earlier["step"],
        "to": later["step"],
        "lr_ratio": lr_ratio,
        "v_ratio": v_ratio,
        "delta_W_ratio": _ratio(later["norm_delta_W"], earlier["norm_delta_W"]),
        "share_lr": share_lr,
        "share_v": None if share_lr is None else 1 - share_lr,
    }


def share_of_lr(lr_ratio: float | None, v_ratio: float | None) -> float | None:
    """log(lr_ratio) / log(lr_ratio·v_ratio), the part of lr in a product's change; the rest is that of v.

    None where no such parts exist: a ratio over or of zero, no change at all, or lr and v pulling in opposite
    directions.
    """
    if lr_ratio is None or v_ratio is None or lr_ratio <= 0 or v_ratio <= 0:
        return None
    log_lr, log_v = math.log(lr_ratio), math.log(v_ratio)
    return log_lr / (log_lr + log_v) if log_lr * log_v >= 0 and log_lr + log_v != 0 else None


def _against_lr(
    earlier: dict[str, Any], later: dict[str, Any], earlier_error: float, later_error: float
) -> dict[str, Any]:
    lr_ratio = _ratio(later["lr"], earlier["lr"])
    delta_ratio = _ratio(later["norm_delta_W"], earlier["norm_delta_W"])
    difference = rounding = equal = None
    if lr_ratio is not None and delta_ratio is not None:
        # As ‖ΔW‖ = lr·‖v‖ ± error at both steps, later − lr_ratio·earlier is at most the sum below.
        rounding = (later_error + lr_ratio * earlier_error) / earlier["norm_delta_W"]
        difference = abs(delta_ratio - lr_ratio)
        equal = difference <= rounding
    return {
        "from": earlier["step"],
        "to": later["step"],
        "lr_ratio": lr_ratio,
        "delta_W_ratio": delta_ratio,
        "difference": difference,
        "rounding": rounding,
        "equal": equal,
    }


def _norm(values: NDArray[Any]) -> float:
    return float(np.linalg.norm(values.astype(np.float64).ravel()))


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
