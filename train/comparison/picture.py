"""The pictures: comparison.png with the recorded steps, curve.png and layers.png with the whole run.

They hold signs and Latin labels only, since fonts for Chinese are not everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from schedules import Schedule
from train.comparison.whole_run import LayerCurve
from train.rundir.metrics import Curve
from train.runtime.drawing import COLOURS, as_matrix, colour_limit, colours, column_name, new_figure

NORMS = {"v": "Velocity norm", "d": "Direction norm"}
MOST_LABELS = 4
"""With more steps than this, figures beside each point and bar would overlap."""
MAPS_IN_A_ROW = 4
MOST_CURVES = 3
"""Layers in curve.png; where there are more, layers.png has them all."""
MOST_NAMES = 80
"""Of layers in layers.png; of more every second, third … is named."""


def save_picture(
    path: Path,
    lr: NDArray[np.float32],
    updates: Mapping[int, NDArray[np.float64]],
    observed: Mapping[str, Any],
    controlled: Mapping[str, Any],
    direction: str,
) -> None:
    """Draws the picture and saves it as a PNG 1200 pixels wide, 960 high for up to four steps.

    ``lr`` is the whole schedule (total_steps,); ``updates`` holds the observed ΔW of one layer by step, ascending,
    any shape; ``observed`` and ``controlled`` are that layer's entries of comparison.json.
    """
    rows = math.ceil(len(updates) / MAPS_IN_A_ROW)
    heights = [2.4, 0.7 + 2.4 * rows, 2.5]
    figure = new_figure(height=sum(heights))
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights)
    _draw_rates(top.subplots(), lr, observed["steps"])
    _draw_maps(middle, updates, rows, observed["layer"])
    _draw_norms(bottom.subplots(1, 2, width_ratios=[2, 1]), observed["steps"], controlled["steps"], direction)
    figure.savefig(path, format="png")


def _draw_rates(axes: Axes, lr: NDArray[np.float32], steps: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(np.arange(len(lr)), lr, color="0.45", linewidth=1.5)
    for row, colour in zip(steps, colours(len(steps)), strict=False):
        label = f"t = {row['step']}, {row['phase']}\nlr = {row['lr']:.4g}"
        axes.plot(row["step"], row["lr"], "o", color=colour, markersize=8, label=label)
    axes.set(title="Learning rate of the run", xlabel="step t", ylabel="lr")
    axes.margins(x=0.02, y=0.12)
    axes.grid(alpha=0.3)
    if len(steps) <= MOST_LABELS:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _draw_maps(part: SubFigure, updates: Mapping[int, NDArray[Any]], rows: int, layer: str) -> None:
    shape = next(iter(updates.values())).shape
    matrices = [as_matrix(delta_W) for delta_W in updates.values()]
    limit = colour_limit(matrices)
    grid = part.subplots(rows, min(len(matrices), MAPS_IN_A_ROW), squeeze=False, sharey=True)
    for axes, step, matrix, colour in zip(grid.flat, updates, matrices, colours(len(matrices)), strict=False):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.set(xlabel=column_name(shape))
        axes.set_title(f"t = {step}", color=colour)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
    for axes in grid.flat[len(matrices) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        if len(shape) < 2:
            axes.set_yticks([])
        else:
            axes.set_ylabel("output")
    part.suptitle(f"ΔW of {layer} {list(shape)}, as it happened")
    part.colorbar(image, ax=list(grid.flat), pad=0.01, extend="both")


def _draw_norms(
    grid: Sequence[Axes],
    observed: Sequence[Mapping[str, Any]],
    controlled: Sequence[Mapping[str, Any]],
    direction: str,
) -> None:
    lengths, directions = grid
    colour = list(colours(len(observed)))
    same = [row["norm_delta_W"] for row in controlled]
    seen = [row["norm_delta_W"] for row in observed]
    pale: dict[str, Any] = {"color": colour, "alpha": 0.4}
    _draw_bars(lengths, same, -0.2, 0.36, **pale, label=f"pale: same W and {direction}")
    _draw_bars(lengths, seen, 0.2, 0.36, color=colour, label="full: as it happened")
    _draw_bars(directions, [row["norm_d"] or 0.0 for row in observed], 0.0, 0.5, color=colour)
    lengths.legend(loc="upper center", frameon=False, ncols=2, handlelength=0)
    titles = ("Length of the update ‖ΔW‖", f"{NORMS[direction]} ‖{direction}‖, as it happened")
    for axes, title in zip((lengths, directions), titles, strict=True):
        axes.set(title=title, xlabel="step t", xlim=(-0.6, len(observed) - 0.4))
        shown = range(0, len(observed), math.ceil(len(observed) / 12))
        axes.set_xticks(shown, [str(observed[i]["step"]) for i in shown])
        axes.margins(y=0.5)  # room for the legend above the bars
        axes.set_ylim(bottom=0)
        axes.set_axisbelow(True)
        axes.grid(axis="y", alpha=0.3)


def _draw_bars(axes: Axes, heights: Sequence[float], shift: float, width: float, **style: Any) -> None:
    bars = axes.bar(np.arange(len(heights)) + shift, heights, width, **style)
    if len(heights) <= MOST_LABELS:
        axes.bar_label(bars, fmt="%.3g", padding=2)


def save_curve_picture(
    path: Path, curves: Sequence[LayerCurve], schedule: Schedule, reference: int, direction: str
) -> None:
    """Draw the layers, one row each under the learning rate, and save a PNG 1200 pixels wide."""
    figure = new_figure(height=2.2 + 2.6 * len(curves))
    rows: list[list[str]] = [["lr", "lr"], *([f"d{i}", f"update{i}"] for i in range(len(curves)))]
    grid = figure.subplot_mosaic(cast(Any, rows))
    grid["lr"].plot(np.arange(schedule.total_steps), schedule.lr, color="0.3")
    grid["lr"].set(title="Learning rate lr_t", ylabel="lr")
    for i, curve in enumerate(curves):
        norm, update = grid[f"d{i}"], grid[f"update{i}"]
        norm.plot(curve.steps, curve.norm_d, color="0.45", linewidth=1.2)
        norm.set(title=f"{curve.layer}: direction ‖{direction}_t‖", yscale="log")
        same = f"lr_t·‖{direction}_{reference}‖: only lr changes"
        update.plot(curve.steps, curve.controlled(reference), "--", color=COLOURS[0], label=same)
        update.plot(curve.steps, curve.norm_delta_W, color=COLOURS[1], linewidth=1.2, label="as it happened")
        update.set(title=f"{curve.layer}: step ‖ΔW_t‖", yscale="log")
        update.legend(fontsize=8)
    for axes in grid.values():
        _mark_phases(axes, schedule)
    figure.savefig(path, format="png")


def save_layers_picture(path: Path, ratios: Mapping[str, Curve], schedule: Schedule) -> None:
    """Draw layers × time, coloured by ‖ΔW‖/‖W‖, under the learning rate, and save a PNG 1200 pixels wide.

    ``ratios`` holds for each layer the logged steps and ‖ΔW‖/‖W‖ there; what is zero or not finite stays white.
    """
    steps = np.unique(np.concatenate([steps for steps, _ in ratios.values()]))
    grid = np.full((len(ratios), len(steps)), np.nan)
    for row, (at, values) in zip(grid, ratios.values(), strict=True):
        row[np.searchsorted(steps, at)] = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    height = max(2.0, 0.16 * len(ratios))
    figure = new_figure(height=2.6 + height)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, height])
    top.plot(np.arange(schedule.total_steps), schedule.lr, color="0.3")
    top.set(title="Learning rate lr_t", ylabel="lr")
    image = bottom.pcolormesh(steps, np.arange(len(ratios)), grid, norm=LogNorm(), cmap="viridis", shading="nearest")
    shown = range(0, len(ratios), math.ceil(len(ratios) / MOST_NAMES))
    bottom.set_yticks(shown, [list(ratios)[i] for i in shown], fontsize=6)
    bottom.invert_yaxis()
    figure.colorbar(image, ax=bottom, label="‖ΔW‖/‖W‖", pad=0.01)
    for axes in (top, bottom):
        _mark_phases(axes, schedule)
    top.set_xlabel("")
    figure.savefig(path, format="png")


def _mark_phases(axes: Axes, schedule: Schedule) -> None:
    axes.set_xlim(-0.02 * schedule.total_steps, 1.02 * schedule.total_steps)
    axes.set_xlabel("step t")
    axes.grid(alpha=0.3, which="both")
    for phase in schedule.phases[1:]:
        axes.axvline(phase.start, color="0.5", linestyle=":", linewidth=1)
