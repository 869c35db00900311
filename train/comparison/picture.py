"""comparison.png: the learning-rate curve, ΔW as heat maps on one scale, and the norms side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from train.drawing import COLOURS, as_matrix, colour_limit, column_name, new_figure

MOST_LABELS = 4
"""With more steps than this, figures beside each point and bar would overlap."""


def save_picture(
    path: Path,
    lr: NDArray[np.float32],
    updates: Mapping[int, NDArray[np.float64]],
    observed: Mapping[str, Any],
    controlled: Mapping[str, Any],
) -> None:
    """Draws the picture and saves it as a PNG of 1200 × 960 pixels.

    ``lr`` is the whole schedule (total_steps,); ``updates`` holds the observed ΔW of one layer by step, ascending,
    any shape; ``observed`` and ``controlled`` are that layer's entries of ``train.comparison.measures``. With more
    than two steps the heat maps show the first and the last.
    """
    figure = new_figure(height=8.0)
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1, 1.25, 1])
    _draw_curve(top.subplots(), lr, observed["steps"])
    ends = sorted({min(updates), max(updates)})
    _draw_maps(middle, {step: updates[step] for step in ends}, observed["layer"])
    _draw_norms(bottom.subplots(1, 2, width_ratios=[2, 1]), observed["steps"], controlled["steps"])
    figure.savefig(path, format="png")


def _draw_curve(axes: Axes, lr: NDArray[np.float32], steps: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(np.arange(len(lr)), lr, color="0.45", linewidth=1.5)
    for i, row in enumerate(steps):
        label = f"t = {row['step']}, {row['phase']}\nlr = {row['lr']:.4g}"
        axes.plot(row["step"], row["lr"], "o", color=COLOURS[i % len(COLOURS)], markersize=8, label=label)
    axes.set(title="Learning rate of the run", xlabel="step t", ylabel="lr")
    axes.margins(x=0.02, y=0.12)
    axes.grid(alpha=0.3)
    if len(steps) <= MOST_LABELS:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _draw_maps(part: SubFigure, updates: Mapping[int, NDArray[Any]], layer: str) -> None:
    shape = next(iter(updates.values())).shape
    matrices = [as_matrix(delta_W) for delta_W in updates.values()]
    limit = colour_limit(matrices)
    grid = part.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    for axes, step, matrix in zip(grid, updates, matrices, strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.set(title=f"t = {step}", xlabel=column_name(shape))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
    if len(shape) < 2:
        grid[0].set_yticks([])
    else:
        grid[0].set_ylabel("output")
    part.suptitle(f"ΔW of {layer} {list(shape)}, as it happened")
    part.colorbar(image, ax=list(grid), pad=0.01, extend="both")


def _draw_norms(
    grid: Sequence[Axes], observed: Sequence[Mapping[str, Any]], controlled: Sequence[Mapping[str, Any]]
) -> None:
    lengths, velocities = grid
    same = [row["norm_delta_W"] for row in controlled]
    seen = [row["norm_delta_W"] for row in observed]
    _draw_bars(lengths, same, -0.2, 0.36, color=COLOURS[0], label="same W and v")
    _draw_bars(lengths, seen, 0.2, 0.36, color=COLOURS[1], label="as it happened")
    _draw_bars(velocities, [row["norm_v"] for row in observed], 0.0, 0.5, color="0.6")
    lengths.legend(loc="upper center", frameon=False, ncols=2)
    for axes, title in ((lengths, "Length of the update ‖ΔW‖"), (velocities, "Velocity ‖v‖, as it happened")):
        axes.set(title=title, xlabel="step t", xlim=(-0.6, len(observed) - 0.4))
        axes.set_xticks(range(len(observed)), [str(row["step"]) for row in observed])
        axes.margins(y=0.5)  # room for the legend above the bars
        axes.set_ylim(bottom=0)
        axes.set_axisbelow(True)
        axes.grid(axis="y", alpha=0.3)


def _draw_bars(axes: Axes, heights: Sequence[float], shift: float, width: float, **style: Any) -> None:
    bars = axes.bar(np.arange(len(heights)) + shift, heights, width, **style)
    if len(heights) <= MOST_LABELS:
        axes.bar_label(bars, fmt="%.3g", padding=2)
