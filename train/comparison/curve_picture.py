"""curve.png: lr_t, ‖v_t‖ and ‖ΔW_t‖ of the watched layers over the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from schedules import Schedule
from train.comparison.curve import LayerCurve
from train.comparison.picture import COLOURS, DOTS_PER_INCH, WIDTH

MOST_LAYERS = 3


def save_curve_picture(path: Path, curves: Sequence[LayerCurve], schedule: Schedule, reference: int) -> None:
    """Draw the first layers, one row each under the learning rate, and save a PNG 1200 pixels wide."""
    curves = curves[:MOST_LAYERS]
    figure = Figure(figsize=(WIDTH, 2.2 + 2.6 * len(curves)), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
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
