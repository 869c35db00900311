"""Schedules as pictures. The only file that needs matplotlib, which it imports when asked to draw."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from schedules.config import build
from schedules.errors import read_file
from schedules.schedule import Schedule

PNG = b"\x89PNG"
MAX_POINTS = 20_000  # more than a picture can show
MAX_LABELS = 8
PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#9c755f")
_LABEL: Mapping[str, Any] = {"fontsize": 9, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
NUMBERED = ("#f28e2b", "#b07aa1", "#9c755f", "#ff9da7", "#bab0ac")
"""For stage 1, stage 2, … and cycle 1, cycle 2, …"""
COLORS = {
    "warm-up": "#4e79a7",
    "peak": "#e15759",
    "decay": "#59a14f",
    "cool-down": "#76b7b2",
    "annihilation": "#76b7b2",
    "stable": "#edc948",
    "constant": "#edc948",
}

# One schedule of every kind, for the picture of all kinds and for whoever wants to copy one.
_WARM = {"lr_max": 0.1, "warmup": 100, "total": 1000}
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "constant": _WARM,
    "cosine": {**_WARM, "lr_end": 0.001},
    "linear": {**_WARM, "lr_end": 0.001},
    "polynomial": {**_WARM, "lr_end": 0.001, "power": 2},
    "exponential": {**_WARM, "lr_end": 0.001},
    "step": {**_WARM, "every": 300, "gamma": 0.5},
    "multistep": {**_WARM, "milestones": ["30%", "60%", "80%"], "gamma": 0.5},
    "cosine_restarts": {**_WARM, "lr_end": 0.001, "cycles": 3, "cycle_mult": 2, "cycle_decay": 0.8},
    "inverse_sqrt": _WARM,
    "warmup_stable_decay": {**_WARM, "lr_end": 0.001, "decay": "20%", "decay_shape": "sqrt"},
    "one_cycle": {"lr_init": 0.004, "lr_max": 0.1, "lr_end": 0.0, "total": 1000, "three_phase": True},
}


def may_write(path: str, beginning: bytes) -> str:
    """`path`, if nothing is there, or a file that begins as the one to be written.

    Raises:
        ValueError: something else is there, and would be lost.
    """
    if os.path.lexists(path) and (os.path.islink(path) or not read_file(path).startswith(beginning)):
        raise ValueError(f"{path}: exists, and this command did not write it; choose another name")
    return path


def save_plot(schedule: Schedule, path: str, *, title: str, at: Sequence[int] = ()) -> None:
    """One schedule as a PNG: phases shaded, the steps in `at` marked with their values.

    Raises:
        ValueError: a step does not exist, or matplotlib is not installed.
        OSError: the file cannot be written.
    """
    for t in at:
        schedule.phase_at(t)
    figure = _figure(figsize=(9, 4.5))
    axes = figure.subplots()
    _draw(axes, schedule)
    for t in at:
        axes.plot(t, schedule.lr[t], "o", color="black", markersize=5)
        side, gap = ("left", 6) if t < schedule.total_steps * 0.85 else ("right", -6)
        label = f"lr[{t}] = {schedule.lr[t]!s}"
        axes.annotate(label, (t, schedule.lr[t]), (gap, 6), textcoords="offset points", ha=side, **_LABEL)
    axes.set_title(textwrap.fill(f"{title} (fingerprint {schedule.fingerprint})", 100), fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
    figure.savefig(path, dpi=120, format="png")


def save_gallery(path: str) -> None:
    """A PNG with one panel for every example, and one for the shapes of a warm-up."""
    figure = _figure(figsize=(12, 8.5))
    panels = list(figure.subplots(3, 4, sharey=True, sharex=True).flat)
    for axes, (kind, options) in zip(panels, EXAMPLES.items(), strict=False):
        _draw(axes, build({"kind": kind, **options}))
        axes.set_title(kind, fontsize=10)
        axes.set_xticks((0, 300, 600, 900))
    for axes in panels[-4:]:
        axes.set_xlabel("step")
    axes = panels[len(EXAMPLES)]
    for shape, color in zip(("linear", "cosine", "exponential", "sqrt", "constant"), PALETTE, strict=False):
        options = {"lr_init": 0.01, "lr_max": 0.1, "warmup": 600, "total": 1000, "warmup_shape": shape}
        axes.plot(build({"kind": "constant", **options}).lr, color=color, label=shape, linewidth=1.4)
    axes.set_title("warm-up shapes", fontsize=10)
    axes.legend(fontsize=7, loc="lower right")
    phases = {
        label: handle
        for panel in panels[: len(EXAMPLES)]
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(phases.values(), phases.keys(), loc="outside lower center", ncols=7, fontsize=9, title="phases")
    figure.supylabel("learning rate", fontsize=10)
    figure.savefig(path, dpi=110, format="png")


def _figure(figsize: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure  # no pyplot: no window, no global state
    except ImportError as error:
        raise ValueError(f"plot: needs matplotlib ({error}); pip install matplotlib") from None
    return Figure(figsize=figsize, layout="constrained")


def _draw(axes: Any, schedule: Schedule) -> None:
    shade_phases(axes, schedule)
    steps = np.unique(np.linspace(0, schedule.total_steps - 1, MAX_POINTS).round().astype(np.int64))
    axes.plot(steps, schedule.lr[steps], color="black", linewidth=1.4)
    axes.set_xlim(0, schedule.total_steps)
    axes.set_ylim(0, 1.08 * float(schedule.lr.max()) or 1)
    axes.grid(alpha=0.3)


def shade_phases(axes: Any, schedule: Schedule, named: Callable[[str], str] = str) -> None:
    """Shade each phase in its colour, and label it for a legend by what ``named`` makes of its name."""
    for number, phase in enumerate(schedule.phases):
        color = COLORS.get(phase.name) or NUMBERED[number % len(NUMBERED)]
        label = named(phase.name).replace("$", r"\$") if number < MAX_LABELS else None  # no formula
        if phase.stop == phase.start + 1:  # too narrow for a shade to be seen
            axes.axvline(phase.start, color=color, linestyle=":", linewidth=1.5, label=label)
        else:
            axes.axvspan(phase.start, phase.stop, color=color, alpha=0.2, linewidth=0, label=label)
