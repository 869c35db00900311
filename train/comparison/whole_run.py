"""The recorded layers' updates over the whole run: where ‖ΔW_t‖ follows lr_t, and where the direction overrides it.

‖ΔW_t‖ = lr_t·‖d_t‖ at every update. Geometric means, which keep the product, describe the start and the end of each
phase: the change of ‖ΔW‖ in a phase is a factor of lr times a factor of ‖d‖. NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules import Schedule
from train.comparison.measures import split
from train.comparison.metrics import Metrics

PARTS_OF_A_PHASE = 5
"""The first and the last are its start and its end."""
UPDATES_OF_A_PART = 2
"""The fewest, so that one noisy gradient does not decide; but every phase is cut into two if it can be."""

SAME_LR = 1e-6
"""A relative change of lr below this is rounding."""


@dataclass(frozen=True)
class LayerCurve:
    """Norms of one layer's updates, all of one length: steps int64 ascending, the others float64 and above zero.

    Updates that moved nothing (lr or d zero, or skipped) are left out.
    """

    layer: str
    steps: NDArray[np.int64]
    lr: NDArray[np.float64]
    norm_d: NDArray[np.float64]
    norm_delta_W: NDArray[np.float64]

    def controlled(self, reference: int) -> NDArray[np.float64]:
        """lr_t·‖d_r‖ with the direction of the logged update nearest to ``reference``: only lr changes."""
        return self.lr * self.norm_d[np.abs(self.steps - reference).argmin()]


def curve_tags(layers: Sequence[str]) -> list[str]:
    """What :func:`read_curves` needs of the metrics."""
    norms = [f"update/{layer}/{norm}_l2" for layer in layers for norm in ("delta", "velocity")]
    return ["train/lr", *norms]


def read_curves(metrics: Metrics, scales: Mapping[str, float]) -> list[LayerCurve]:
    """The curves of those layers whose norms were logged at two updates at least.

    Args:
        scales: for each layer its rate over the schedule's.
    """
    curves = []
    rates = dict(zip(*metrics.curve("train/lr"), strict=True))
    for layer, scale in scales.items():
        steps, norm_delta_W = metrics.curve(f"update/{layer}/delta_l2")
        v_steps, norm_d = metrics.curve(f"update/{layer}/velocity_l2")
        lr = scale * np.array([rates.get(step, np.nan) for step in steps.tolist()], np.float64)
        if not len(v_steps):  # not plain momentum
            v_steps, norm_d = steps, np.divide(norm_delta_W, lr, out=np.full(len(lr), np.nan), where=lr > 0)
        if not np.array_equal(steps, v_steps):
            continue
        figures = np.stack([lr, norm_d, norm_delta_W]) if len(steps) else np.empty((3, 0))
        usable = np.all(np.isfinite(figures) & (figures > 0), axis=0)
        if usable.sum() > 1:
            curves.append(LayerCurve(layer, steps[usable], *figures[:, usable]))
    return curves


def whole_curve(curve: LayerCurve, schedule: Schedule) -> dict[str, Any]:
    """What comparison.json says of a layer's whole run."""
    phases = []
    for phase in schedule.phases:
        inside = np.flatnonzero((curve.steps >= phase.start) & (curve.steps < phase.stop))
        if not len(inside):
            continue
        count = min(PARTS_OF_A_PHASE, max(len(inside) // UPDATES_OF_A_PART, min(len(inside), 2)))
        parts = np.array_split(inside, count)
        start, end = _describe(curve, parts[0]), _describe(curve, parts[-1])
        phases.append(
            {
                "phase": phase.name,
                "start": start,
                "end": end,
                "change": _change(start, end) if count > 1 else None,
                "updates": len(inside) - 1,
                "updates_as_lr": _following(curve.lr[inside], curve.norm_delta_W[inside]),
            }
        )
    return {"layer": curve.layer, "phases": phases}


def _describe(curve: LayerCurve, part: NDArray[np.intp]) -> dict[str, Any]:
    return {
        "from": int(curve.steps[part[0]]),
        "to": int(curve.steps[part[-1]]),
        "lr": _geometric_mean(curve.lr[part]),
        "norm_d": _geometric_mean(curve.norm_d[part]),
        "norm_delta_W": _geometric_mean(curve.norm_delta_W[part]),
    }


def _change(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    change = split(earlier, later)
    constant = abs(change["lr_ratio"] - 1) < SAME_LR
    follows = (change["lr_ratio"] - 1) * (change["delta_W_ratio"] - 1) > 0
    return {**change, "follows_lr": None if constant else follows}


def _following(lr: NDArray[np.float64], norm_delta_W: NDArray[np.float64]) -> int:
    return int(np.sum(np.diff(lr) * np.diff(norm_delta_W) > 0))


def _geometric_mean(values: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(values).mean()))
