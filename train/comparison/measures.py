"""What the updates at the recorded steps were: their sizes, what changed them, and what follows. NumPy only.

ΔW = W_start − W_new, so that W_new = W_start − ΔW; every norm is the L2 norm over all elements, in float64. An
update is ΔW = lr·d with the direction d: the velocity v of plain momentum, ΔW/lr of any other optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules import Schedule
from train.comparison.metrics import Metrics
from train.comparison.proof import rounding_unit
from train.rundir.snapshots import FloatArray, Layer, Snapshot

ALIKE = 0.05
"""A relative change below this is called no change, in loss and in ‖ΔW‖/‖W‖."""


MOST_LAYERS = 3
"""Layers of which tables and pictures tell; comparison.json has all."""


def main_layers(observed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the layers that tables and pictures tell of: of many the weights of the first, a middle and the last."""
    names = [layer["layer"] for layer in observed]
    if len(names) <= MOST_LAYERS:
        return names
    weights = [layer["layer"] for layer in observed if len(layer["shape"]) > 1] or names
    return list(dict.fromkeys([weights[0], weights[len(weights) // 2], weights[-1]]))


def delta(layer: Layer) -> NDArray[np.float64]:
    """ΔW = W_start − W_new of one update, exact in float64, in the layer's shape."""
    return layer.W_start.astype(np.float64) - layer.W_new.astype(np.float64)


def own_rates(snapshots: Sequence[Snapshot], schedule: Schedule, index: int) -> NDArray[np.float32]:
    """Return the schedule with, at the recorded steps, the rate of the layer ``index`` where ``lr_scale`` gave one."""
    lr = schedule.lr.copy()
    for snapshot in snapshots:
        own = snapshot.layers[index].lr
        if own is not None and own != snapshot.lr:
            lr[snapshot.step] = own
    return lr


def rate_scales(snapshots: Sequence[Snapshot]) -> dict[str, float]:
    """Return what each layer's rate is times the schedule's; 1 where lr is zero at every recorded step."""
    snapshot = next((one for one in snapshots if one.lr), snapshots[0])
    return {
        layer.name: 1.0 if layer.lr is None or not snapshot.lr else float(layer.lr) / float(snapshot.lr)
        for layer in snapshot.layers
    }


def observed(snapshots: Sequence[Snapshot], schedule: Schedule) -> list[dict[str, Any]]:
    """What happened to each recorded layer; ``snapshots`` holds one for each step, ascending."""
    result = []
    for i, first in enumerate(snapshots[0].layers):
        rows, lr = [], own_rates(snapshots, schedule, i)
        for snapshot in snapshots:
            layer = snapshot.layers[i]
            row = _row(snapshot.step, schedule, lr, delta(layer))
            norm_W = _norm(layer.W_start)
            norm_d = ratio(row["norm_delta_W"], row["lr"]) if layer.v is None else _norm(layer.v)
            rows.append(row | {"norm_d": norm_d, "norm_W": norm_W, "relative": ratio(row["norm_delta_W"], norm_W)})
        changes = [{"from": a["step"], "to": b["step"], **split(a, b)} for a, b in pairwise(rows)]
        result.append({"layer": first.name, "shape": list(first.W_start.shape), "steps": rows, "changes": changes})
    return result


def controlled(
    source: Layer, updated: Mapping[int, FloatArray], schedule: Schedule, lr: NDArray[np.float32]
) -> dict[str, Any]:
    """The same W_start and direction at every step: only lr differs.

    ``source`` gives W_start, ``updated`` the kernel's W_new by step, ascending; ``lr`` is its rate, float32
    (total_steps,).
    """
    rows, rounding = [], []
    for step, W_new in updated.items():
        moved = delta(Layer(source.name, source.W_start, W_new))
        rows.append(_row(step, schedule, lr, moved))
        rounding.append(_norm(rounding_unit(source.W_start, moved.astype(np.float32), W_new)))
    changes = [_against_lr(*pair, *errors) for pair, errors in zip(pairwise(rows), pairwise(rounding), strict=True)]
    return {"layer": source.name, "shape": list(source.W_start.shape), "steps": rows, "changes": changes}


def _row(step: int, schedule: Schedule, lr: NDArray[np.float32], delta_W: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "step": step,
        "phase": schedule.phase_at(step),
        "lr": float(lr[step]),
        "first_element": float(delta_W.flat[0]),
        "norm_delta_W": _norm(delta_W),
    }


def split(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The change of ‖ΔW‖ = lr·‖d‖ as a product: ``delta_W_ratio`` = ``lr_ratio`` · ``d_ratio``, up to rounding."""
    ratios = {name: ratio(later[of], earlier[of]) for name, of in RATIOS.items()}
    return {**ratios, "fraction_lr": _fraction_of_lr(ratios["lr_ratio"], ratios["d_ratio"])}


RATIOS = {"lr_ratio": "lr", "d_ratio": "norm_d", "delta_W_ratio": "norm_delta_W"}


def _fraction_of_lr(lr_ratio: float | None, d_ratio: float | None) -> float | None:
    """log(lr_ratio) / log(lr_ratio·d_ratio), the part of lr in a product's change; the rest is that of the direction.

    None where no such parts exist: a ratio over or of zero, no change at all, or lr and d pulling in opposite
    directions.
    """
    if not lr_ratio or not d_ratio:
        return None
    log_lr, log_d = math.log(lr_ratio), math.log(d_ratio)
    return log_lr / (log_lr + log_d) if log_lr * log_d >= 0 and log_lr + log_d != 0 else None


def _against_lr(
    earlier: dict[str, Any], later: dict[str, Any], earlier_error: float, later_error: float
) -> dict[str, Any]:
    lr_ratio = ratio(later["lr"], earlier["lr"])
    delta_ratio = ratio(later["norm_delta_W"], earlier["norm_delta_W"])
    difference = rounding = equal = None
    if lr_ratio is not None and delta_ratio is not None:
        # As ‖ΔW‖ = lr·‖d‖ ± error at both steps, later − lr_ratio·earlier is at most the sum below.
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


def conclude(same: Sequence[dict[str, Any]], seen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether the larger lr takes the longer step: ``same`` and ``seen`` are the changes of the first layer.

    ``verdict`` is of the controlled updates: ``holds``, ``fails``, or why it was not tested (``one_step``,
    ``no_ratio``, ``same_lr``). ``against`` lists the pairs of steps where, in training, ‖ΔW‖ went the other way.
    """
    tested = [(one, other) for one, other in zip(same, seen, strict=True) if one["equal"] is not None]
    if not tested:
        verdict = "no_ratio" if same else "one_step"
    elif not all(one["equal"] for one, _ in tested):
        verdict = "fails"
    else:
        verdict = "same_lr" if all(one["lr_ratio"] == 1 for one, _ in tested) else "holds"
    against = [[one["from"], one["to"]] for one, other in tested if opposite(one["lr_ratio"], other["delta_W_ratio"])]
    return {"verdict": verdict, "against": against}


def meaning_tags(layer: str) -> list[str]:
    """What :func:`meaning` needs of the metrics."""
    return ["train/loss", f"update/{layer}/ratio"]


def meaning(rows: Sequence[dict[str, Any]], layer: str, metrics: Metrics) -> list[dict[str, Any]]:
    """What each recorded update meant for the training, read off the loss and off ‖ΔW‖/‖W‖ of ``layer``.

    ``rows`` are the layer's steps in :func:`observed`. Each is compared with the row before, the first with the first
    update that was logged. ``loss`` is the training loss of the logged update nearest to the step, ``loss_at``.
    """
    losses, ratios = metrics.curve("train/loss"), metrics.curve(f"update/{layer}/ratio")
    points = [{"step": row["step"], "relative": row["relative"], **_loss_near(losses, row["step"])} for row in rows]
    earlier: dict[str, Any] | None = None
    if len(ratios[0]) and ratios[0][0] < points[0]["step"]:
        start = int(ratios[0][0])
        earlier = {"step": start, "relative": float(ratios[1][0]), **_loss_near(losses, start)}
    result = []
    for point in points:
        loss_ratio = ratio(point["loss"], earlier["loss"]) if earlier else None
        relative_ratio = ratio(point["relative"], earlier["relative"]) if earlier else None
        reading = _reading(loss_ratio, relative_ratio)
        result.append(
            {
                **point,
                "since": earlier["step"] if earlier and reading != "unknown" else None,
                "loss_ratio": loss_ratio,
                "relative_ratio": relative_ratio,
                "reading": reading,
            }
        )
        earlier = point
    return result


def _loss_near(losses: tuple[NDArray[Any], NDArray[Any]], step: int) -> dict[str, Any]:
    steps, values = losses
    if not len(steps):
        return {"loss": None, "loss_at": None}
    nearest = int(np.abs(steps - step).argmin())
    return {"loss": float(values[nearest]), "loss_at": int(steps[nearest])}


def _reading(loss_ratio: float | None, relative_ratio: float | None) -> str:
    if loss_ratio is None or relative_ratio is None:
        return "unknown"
    return f"{_trend(relative_ratio, 'shorter', 'longer')}_{_trend(loss_ratio, 'lower', 'higher')}"


def _trend(change: float, down: str, up: str) -> str:
    return "alike" if abs(change - 1) < ALIKE else up if change > 1 else down


def opposite(left: float | None, right: float | None) -> bool:
    """Whether one ratio grows and the other shrinks; False where one does not exist."""
    return left is not None and right is not None and (left - 1) * (right - 1) < 0


def _norm(values: NDArray[Any]) -> float:
    return float(np.linalg.norm(values.astype(np.float64).ravel()))


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if denominator and numerator is not None else None
