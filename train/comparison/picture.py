"""The pictures: comparison.png with the recorded steps, curve.png and layers.png with the whole run; and each of their
parts alone, as TensorBoard shows it, whose cards are a quarter as wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import get_font_names
from numpy.typing import NDArray

from schedules import Schedule
from schedules.plot import shade_phases
from train.comparison.metrics import Curve
from train.comparison.whole_run import LayerCurve
from train.comparison.words import Words
from train.runtime.drawing import as_matrix, colour_limit, column_name, new_card

# Okabe and Ito's palette, told apart by colour-blind readers
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


CHINESE_FONTS = {
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("SimHei", "SimSun", "Microsoft YaHei", "PingFang SC", "Heiti SC", "Arial Unicode MS"),
}

MOST_LABELS = 4
"""With more steps than this, figures beside each point and bar would overlap."""
MAPS_IN_A_ROW = 4
MOST_NAMES = 60
"""Of one kind of layers in layers.png; of more every second, third … is named."""

Row = Mapping[str, Any]
"""An entry of comparison.json."""


@cache
def find_chinese_font() -> bool:
    """Whether this machine has a font with Chinese characters; pictures then take from it what their own one lacks."""
    found = CHINESE_FONTS.intersection(get_font_names())
    rcParams["font.family"] = [*rcParams["font.family"], *sorted(found)]
    return bool(found)


def colours(count: int) -> Sequence[Any]:
    """So many colours, all different: the palette, or a row of a colour map where it has too few."""
    return COLOURS if count <= len(COLOURS) else colormaps["viridis"](np.linspace(0, 0.95, count))


def new_figure(*, height: float) -> Figure:
    """Return an empty figure, 1200 pixels wide and 120 pixels for each inch of ``height``, drawn without a window."""
    figure = Figure(figsize=(10.0, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def comparison_picture(data: Row, schedule: Schedule, updates: Mapping[int, NDArray[np.float64]], say: Words) -> Figure:
    """Draw lr, the updates and their norms, 1200 pixels wide, and 960 high for up to four steps.

    ``data`` is what comparison.json says; ``updates`` holds the observed ΔW of its first layer by step, ascending.
    """
    observed = data["observed"][0]
    rows = math.ceil(len(updates) / MAPS_IN_A_ROW)
    heights = [2.4, 0.7 + 2.4 * rows, 2.5]
    figure = new_figure(height=sum(heights))
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights)
    _draw_rates(top.subplots(), schedule, observed["steps"], say)
    _draw_maps(middle, updates, rows, observed["layer"], say)
    lengths, norms = bottom.subplots(1, 2, width_ratios=[2, 1])
    _draw_lengths(lengths, observed["steps"], data["controlled"]["steps"], say)
    _draw_norms(norms, observed["steps"], say)
    return figure


def small_pictures(
    data: Row, schedule: Schedule, curves: Sequence[LayerCurve], say: Words
) -> Iterator[tuple[str, Figure]]:
    """Yield the parts of the pictures, but for the maps of ΔW: name and figure, as wide as TensorBoard's cards."""
    steps = data["observed"][0]["steps"]
    draw: dict[str, Callable[[Axes], None]] = {
        "lr": lambda axes: _draw_rates(axes, schedule, steps, say),
        "norm_delta_W": lambda axes: _draw_lengths(axes, steps, data["controlled"]["steps"], say),
        **{f"curve/{one.layer}": partial(_draw_curve, one, schedule, data["steps"], say) for one in curves},
    }
    for name, part in draw.items():
        figure = new_card()
        part(figure.subplots())
        yield name, figure


def _draw_rates(axes: Axes, schedule: Schedule, steps: Sequence[Row], say: Words) -> None:
    """The schedule over its phases, and the recorded steps on it."""
    axes.plot(np.arange(schedule.total_steps), schedule.lr, color="0.3", linewidth=1.5)
    for row, colour in zip(steps, colours(len(steps)), strict=False):
        label = f"t = {row['step']}: lr = {row['lr']:.4g}" if len(steps) <= MOST_LABELS else None
        axes.plot(row["step"], row["lr"], "o", color=colour, markersize=8, label=label)
    _over_phases(axes, schedule, say)
    axes.set(title=say("drawn_lr"), ylabel="lr")
    axes.legend(fontsize=8, loc="upper right", framealpha=0.9)


def _draw_maps(part: SubFigure, updates: Mapping[int, NDArray[Any]], rows: int, layer: str, say: Words) -> None:
    shape = next(iter(updates.values())).shape
    matrices = [as_matrix(delta_W) for delta_W in updates.values()]
    limit = colour_limit(matrices)
    grid = part.subplots(rows, min(len(matrices), MAPS_IN_A_ROW), squeeze=False, sharey=True)
    for axes, step, matrix, colour in zip(grid.flat, updates, matrices, colours(len(matrices)), strict=False):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.set(xlabel=say(column_name(shape)))
        axes.set_title(f"t = {step}", color=colour)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
    for axes in grid.flat[len(matrices) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        if len(shape) < 2:
            axes.set_yticks([])
        else:
            axes.set_ylabel(say("output"))
    part.suptitle(say("drawn_maps", layer=layer, shape=list(shape)))
    part.colorbar(image, ax=list(grid.flat), pad=0.01, extend="both")


def _draw_lengths(axes: Axes, observed: Sequence[Row], controlled: Sequence[Row], say: Words) -> None:
    colour = list(colours(len(observed)))
    same = [row["norm_delta_W"] for row in controlled]
    _draw_bars(axes, same, -0.2, 0.36, color=colour, alpha=0.4, label=say("drawn_pale"))
    seen = [row["norm_delta_W"] for row in observed]
    _draw_bars(axes, seen, 0.2, 0.36, color=colour, label=say("drawn_full"))
    axes.legend(loc="upper center", frameon=False, ncols=2, handlelength=0, fontsize=9)
    _label_bars(axes, say("drawn_lengths"), observed, say)


def _draw_norms(axes: Axes, observed: Sequence[Row], say: Words) -> None:
    _draw_bars(axes, [row["norm_d"] or 0.0 for row in observed], 0.0, 0.5, color=list(colours(len(observed))))
    _label_bars(axes, say(f"drawn_norms_{say.direction}"), observed, say)


def _draw_bars(axes: Axes, heights: Sequence[float], shift: float, width: float, **style: Any) -> None:
    bars = axes.bar(np.arange(len(heights)) + shift, heights, width, **style)
    if len(heights) <= MOST_LABELS:
        axes.bar_label(bars, fmt="%.3g", padding=2)


def _label_bars(axes: Axes, title: str, rows: Sequence[Row], say: Words) -> None:
    axes.set(title=title, xlabel=say("drawn_t"), xlim=(-0.6, len(rows) - 0.4))
    shown = range(0, len(rows), math.ceil(len(rows) / 12))
    axes.set_xticks(shown, [str(rows[i]["step"]) for i in shown])
    axes.margins(y=0.5)  # room for the legend above the bars
    axes.set_ylim(bottom=0)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)


def curve_picture(data: Row, schedule: Schedule, curves: Sequence[LayerCurve], say: Words) -> Figure:
    """Draw the layers, one row each under the learning rate, 1200 pixels wide."""
    figure = new_figure(height=2.4 + 2.6 * len(curves))
    top, *parts = figure.subfigures(1 + len(curves), 1, height_ratios=[2.4, *[2.6] * len(curves)])
    _draw_rates(top.subplots(), schedule, data["observed"][0]["steps"], say)
    for part, curve in zip(parts, curves, strict=True):
        norm, update = part.subplots(1, 2)
        norm.plot(curve.steps, curve.norm_d, color="0.45", linewidth=1.2)
        _mark(norm, curve.steps, curve.norm_d, data["steps"])
        norm.set(title=say(f"drawn_norm_{say.direction}", layer=curve.layer), yscale="log", ylabel=say("drawn_log"))
        _over_phases(norm, schedule, say)
        _draw_curve(curve, schedule, data["steps"], say, update)
    return figure


def _draw_curve(curve: LayerCurve, schedule: Schedule, marked: Sequence[int], say: Words, axes: Axes) -> None:
    same = say("drawn_same", t=marked[0])
    axes.plot(curve.steps, curve.controlled(marked[0]), "--", color=COLOURS[0], label=same)
    axes.plot(curve.steps, curve.norm_delta_W, color=COLOURS[1], linewidth=1.2, label=say("drawn_seen"))
    _mark(axes, curve.steps, curve.norm_delta_W, marked)
    axes.set(title=say("drawn_step", layer=curve.layer), yscale="log", ylabel=say("drawn_log"))
    axes.legend(fontsize=8)
    _over_phases(axes, schedule, say)


def _mark(axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], marked: Sequence[int]) -> None:
    """A dot at each recorded step that was logged, in the colours of the other pictures."""
    for step, colour in zip(marked, colours(len(marked)), strict=False):
        axes.plot(steps[steps == step], values[steps == step], "o", color=colour, markersize=6)


def layers_picture(kinds: Mapping[str, Mapping[str, Curve]], schedule: Schedule, say: Words) -> Figure:
    """Draw layers × time, coloured by ‖ΔW‖/‖W‖, under the learning rate, 1200 pixels wide.

    ``kinds`` holds for each kind of layers, which has a scale of colours of its own, and each of its layers the logged
    steps and ‖ΔW‖/‖W‖ there.
    """
    heights = [0.6 + 0.19 * max(min(len(layers), MOST_NAMES), 4) for layers in kinds.values()]
    figure = new_figure(height=2.2 + sum(heights))
    top, *parts = figure.subplots(1 + len(kinds), 1, height_ratios=[2.2, *heights])
    _draw_rates(top, schedule, [], say)
    for axes, (kind, ratios) in zip(parts, kinds.items(), strict=True):
        steps = np.unique(np.concatenate([steps for steps, _ in ratios.values()]))
        grid = np.full((len(ratios), len(steps)), np.nan)
        for row, (at, values) in zip(grid, ratios.values(), strict=True):
            row[np.searchsorted(steps, at)] = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        image = axes.pcolormesh(steps, np.arange(len(ratios)), grid, norm=LogNorm(), cmap="viridis", shading="nearest")
        shown = range(0, len(ratios), math.ceil(len(ratios) / MOST_NAMES))
        axes.set_yticks(shown, [list(ratios)[i] for i in shown], fontsize=8)
        axes.invert_yaxis()
        axes.set(title=say(kind), xlabel=say("drawn_t"), xlim=top.get_xlim())
        figure.colorbar(image, ax=axes, label="‖ΔW‖/‖W‖", pad=0.01)
    return figure


def _over_phases(axes: Axes, schedule: Schedule, say: Words) -> None:
    shade_phases(axes, schedule, say.phase)
    axes.set(xlabel=say("drawn_t"), xlim=(-0.02 * schedule.total_steps, 1.02 * schedule.total_steps))
    axes.grid(alpha=0.3)
