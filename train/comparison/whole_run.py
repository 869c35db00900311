"""The watched layers' updates over the whole run: where ‖ΔW_t‖ follows lr_t, and where the velocity overrides it.

‖ΔW_t‖ = lr_t·‖v_t‖ at every update. The run is cut into stretches, and each stretch is described by geometric means,
because these keep the product: the mean of ‖ΔW‖ is the mean of lr times the mean of ‖v‖, so that every change from one
stretch to another is exactly a factor of lr times a factor of ‖v‖. NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from schedules import Schedule
from train.comparison.measures import share_of_lr
from train.comparison.table import listed, number, share, table
from train.drawing import COLOURS, new_figure
from train.rundir.metrics import Metrics

STRETCHES_OF_A_PHASE = 5
UPDATES_OF_A_STRETCH = 2
"""The fewest, so that one noisy gradient does not decide; but every phase is cut into two if it can be."""

SAME_LR = 1e-6
"""A relative change of lr below this is rounding."""


@dataclass(frozen=True)
class LayerCurve:
    """Norms of one layer's updates, all of one length: steps int64 ascending, the others float64 and above zero.

    Updates that moved nothing (lr or v zero, or skipped) are left out.
    """

    layer: str
    steps: NDArray[np.int64]
    lr: NDArray[np.float64]
    norm_v: NDArray[np.float64]
    norm_delta_W: NDArray[np.float64]

    def controlled(self, reference: int) -> NDArray[np.float64]:
        """lr_t·‖v_r‖ with the velocity of the logged update nearest to ``reference``: only lr changes."""
        return self.lr * self.norm_v[np.abs(self.steps - reference).argmin()]


def curve_tags(layers: Sequence[str]) -> list[str]:
    """What :func:`read_curves` needs of the metrics."""
    norms = [f"update/{layer}/{norm}_l2" for layer in layers for norm in ("delta", "velocity")]
    return ["train/lr", *norms]


def read_curves(metrics: Metrics, layers: Sequence[str]) -> list[LayerCurve]:
    """The curves of those ``layers`` whose norms were logged at two updates at least."""
    curves = []
    rates = dict(zip(*metrics.curve("train/lr"), strict=True))
    for layer in layers:
        steps, norm_delta_W = metrics.curve(f"update/{layer}/delta_l2")
        v_steps, norm_v = metrics.curve(f"update/{layer}/velocity_l2")
        if not np.array_equal(steps, v_steps):
            continue
        lr = np.array([rates.get(step, np.nan) for step in steps.tolist()], np.float64)
        figures = np.stack([lr, norm_v, norm_delta_W]) if len(steps) else np.empty((3, 0))
        usable = np.all(np.isfinite(figures) & (figures > 0), axis=0)
        if usable.sum() > 1:
            curves.append(LayerCurve(layer, steps[usable], *figures[:, usable]))
    return curves


def whole_curve(curve: LayerCurve, schedule: Schedule, reference: int) -> dict[str, Any]:
    """What comparison.json says of a layer's whole run.

    Returns its ``layer``; ``reference``, the update whose velocity the controlled column uses; and ``phases``, for each
    phase of the schedule with logged updates its ``phase``, ``stretches`` (in each the first and last logged update
    ``from`` and ``to``, and the geometric means ``lr``, ``norm_v``, ``norm_delta_W`` and ``controlled``), ``changes``
    from each stretch to the next, ``change`` from the first to the last, None where there is one only, and from one
    logged update to the next the number of changes, ``updates``, and of those in which ‖ΔW‖ grew or shrank as lr did,
    ``updates_as_lr``. A change has ``lr_ratio``, ``v_ratio`` and ``delta_W_ratio``, the product of both; ``share_lr``,
    the part of lr in it (see :func:`train.comparison.measures.share_of_lr`); and ``follows_lr``, whether ‖ΔW‖ grew or
    shrank as lr did (False: the velocity overrode it; None: lr did not change).
    """
    phases = []
    controlled = curve.controlled(reference)
    for phase in schedule.phases:
        inside = np.flatnonzero((curve.steps >= phase.start) & (curve.steps < phase.stop))
        if not len(inside):
            continue
        count = min(STRETCHES_OF_A_PHASE, max(len(inside) // UPDATES_OF_A_STRETCH, min(len(inside), 2)))
        stretches = [_describe(curve, controlled, part) for part in np.array_split(inside, count)]
        phases.append(
            {
                "phase": phase.name,
                "stretches": stretches,
                "changes": [_change(*pair) for pair in pairwise(stretches)],
                "change": _change(stretches[0], stretches[-1]) if count > 1 else None,
                "updates": len(inside) - 1,
                "updates_as_lr": _following(curve.lr[inside], curve.norm_delta_W[inside]),
            }
        )
    return {"layer": curve.layer, "reference": reference, "phases": phases}


def _describe(curve: LayerCurve, controlled: NDArray[np.float64], part: NDArray[np.intp]) -> dict[str, Any]:
    return {
        "from": int(curve.steps[part[0]]),
        "to": int(curve.steps[part[-1]]),
        "lr": _geometric_mean(curve.lr[part]),
        "norm_v": _geometric_mean(curve.norm_v[part]),
        "norm_delta_W": _geometric_mean(curve.norm_delta_W[part]),
        "controlled": _geometric_mean(controlled[part]),
    }


def _change(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    lr_ratio, v_ratio, delta_W_ratio = (later[key] / earlier[key] for key in ("lr", "norm_v", "norm_delta_W"))
    constant = abs(lr_ratio - 1) < SAME_LR
    return {
        "lr_ratio": lr_ratio,
        "v_ratio": v_ratio,
        "delta_W_ratio": delta_W_ratio,
        "share_lr": share_of_lr(lr_ratio, v_ratio),
        "follows_lr": None if constant else (lr_ratio - 1) * (delta_W_ratio - 1) > 0,
    }


def _following(lr: NDArray[np.float64], norm_delta_W: NDArray[np.float64]) -> int:
    return int(np.sum(np.diff(lr) * np.diff(norm_delta_W) > 0))


def _geometric_mean(values: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(values).mean()))


MOST_LAYERS = 3
"""Layers told in full; comparison.json has all."""


def whole_run(layers: Sequence[dict[str, Any]]) -> list[str]:
    """Paragraphs and tables for what :func:`train.comparison.whole_run.whole_curve` returned for each layer."""
    if not layers:
        return ["Left out: the norms of these layers were not logged (metrics.jsonl, `update/<layer>/…`)."]
    parts = [
        "![lr, ‖v‖ and ‖ΔW‖ over the whole run](curve.png)",
        "The document concludes: as lr rises in the warm-up the step gets longer, as it falls in the decay the step "
        "gets shorter. That is so with one velocity; as it happened the velocity changes too, and may override lr. "
        "Figures are geometric means over stretches of updates, so that the change of ‖ΔW‖ is that of lr times that "
        "of ‖v‖.",
    ]
    for layer in layers[:MOST_LAYERS]:
        parts += [f"### {layer['layer']}", "\n".join(_verdicts(layer)), _stretches(layer)]
    if len(layers) > MOST_LAYERS:
        parts += ["### All layers", "\n".join(_counts(layers))]
    return parts


def _verdicts(layer: dict[str, Any]) -> Iterator[str]:
    for phase in layer["phases"]:
        change = phase["change"]
        if change is None:
            continue
        first, last = phase["stretches"][0], phase["stretches"][-1]
        lr, v, delta_W = (number(change[key], 3) for key in ("lr_ratio", "v_ratio", "delta_W_ratio"))
        name = f"- **{phase['phase']}** (t = {first['from']} to {last['to']})"
        if change["follows_lr"] is None:
            yield f"{name}: lr does not change; ‖v‖ and with it ‖ΔW‖ by the factor {v}."
            continue
        yield (
            f"{name}: ‖ΔW‖ changes by the factor {delta_W} = {lr} (lr) × {v} (‖v‖): {_verdict(change)}"
            f"{_exceptions(phase, change['follows_lr'])}. From one update to the next, ‖ΔW‖ went the way of lr "
            f"{phase['updates_as_lr']} of {phase['updates']} times."
        )


def _verdict(change: dict[str, Any]) -> str:
    direction = "longer" if change["lr_ratio"] > 1 else "shorter"
    if not change["follows_lr"]:
        return f"**the velocity overrides lr**, the step does not get {direction}"
    if change["share_lr"] is None:
        return f"holds as stated, the step gets {direction}, though the velocity works against it"
    return f"holds as stated, the step gets {direction}; lr's share in that is {share(change['share_lr'])}"


def _exceptions(phase: dict[str, Any], whole: bool) -> str:
    """Where inside the phase it is otherwise than for the whole of it."""
    places = [
        f"t = {earlier['from']}–{earlier['to']} to {later['from']}–{later['to']}"
        for earlier, later, change in zip(phase["stretches"], phase["stretches"][1:], phase["changes"], strict=False)
        if change["follows_lr"] is not None and change["follows_lr"] != whole
    ]
    if not places:
        return ""
    return f"; otherwise from {listed(places)}, where " + ("the velocity overrides lr" if whole else "it follows lr")


def _stretches(layer: dict[str, Any]) -> str:
    header = ["phase", "t", "lr", "‖v‖", "‖ΔW‖", f"lr·‖v_{layer['reference']}‖", "lr ×", "‖v‖ ×", "‖ΔW‖ ×", "as lr"]
    rows = []
    for phase in layer["phases"]:
        for stretch, change in zip(phase["stretches"], [None, *phase["changes"]], strict=True):
            row = [phase["phase"], f"{stretch['from']}–{stretch['to']}"]
            row += [number(stretch[key], 4) for key in ("lr", "norm_v", "norm_delta_W", "controlled")]
            ratios = ("lr_ratio", "v_ratio", "delta_W_ratio")
            row += [number(change[key] if change else None, 3) for key in ratios]
            follows = change["follows_lr"] if change else None
            rows.append([*row, "–" if follows is None else "yes" if follows else "**no**"])
    return table(header, rows)


def _counts(layers: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = dict.fromkeys(phase["phase"] for layer in layers for phase in layer["phases"])
    for name in names:
        changes = [phase["change"] for layer in layers for phase in layer["phases"] if phase["phase"] == name]
        answers = [change["follows_lr"] for change in changes if change and change["follows_lr"] is not None]
        if answers:
            yield f"- {name}: holds as stated for {sum(answers)} of {len(answers)} layers."


MOST_LAYERS = 3


def save_curve_picture(path: Path, curves: Sequence[LayerCurve], schedule: Schedule, reference: int) -> None:
    """Draw the first layers, one row each under the learning rate, and save a PNG 1200 pixels wide."""
    curves = curves[:MOST_LAYERS]
    figure = new_figure(height=2.2 + 2.6 * len(curves))
    rows: list[list[str]] = [["lr", "lr"], *([f"v{i}", f"d{i}"] for i in range(len(curves)))]
    grid = figure.subplot_mosaic(cast(Any, rows))
    grid["lr"].plot(np.arange(schedule.total_steps), schedule.lr, color="0.3")
    grid["lr"].set(title="Learning rate lr_t", ylabel="lr")
    for i, curve in enumerate(curves):
        velocity, update = grid[f"v{i}"], grid[f"d{i}"]
        velocity.plot(curve.steps, curve.norm_v, color="0.45", linewidth=1.2)
        velocity.set(title=f"{curve.layer}: velocity ‖v_t‖", yscale="log")
        same = f"lr_t·‖v_{reference}‖: only lr changes"
        update.plot(curve.steps, curve.controlled(reference), "--", color=COLOURS[0], label=same)
        update.plot(curve.steps, curve.norm_delta_W, color=COLOURS[1], linewidth=1.2, label="as it happened")
        update.set(title=f"{curve.layer}: step ‖ΔW_t‖", yscale="log")
        update.legend(fontsize=8)
    for axes in grid.values():
        _finish(axes, schedule)
    figure.savefig(path, format="png")


def _finish(axes: Axes, schedule: Schedule) -> None:
    axes.set_xlim(-0.02 * schedule.total_steps, 1.02 * schedule.total_steps)
    axes.set_xlabel("step t")
    axes.grid(alpha=0.3, which="both")
    for phase in schedule.phases[1:]:
        axes.axvline(phase.start, color="0.5", linestyle=":", linewidth=1)
