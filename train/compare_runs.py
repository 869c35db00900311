"""Runs side by side: ``python -m train.compare_runs runs/a runs/b …`` prints one table and draws one picture.

Compared are what was set differently, how good and how fast each run was, and the learning rate and ‖ΔW‖ of the
recorded layers at the snapshot steps. Runs that differ only in their seed are summed up: mean and deviation, and in how
many of them the step followed the learning rate. Imports no MindSpore.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes

from schedules import Schedule
from train.comparison.measures import observed
from train.comparison.table import table
from train.comparison.whole_run import curve_tags, read_curves, whole_curve
from train.config import RunConfig, flat
from train.drawing import COLOURS, new_figure
from train.errors import OneLineParser, UserError, run_command
from train.keys import traits
from train.rundir.folder import CONFIG_FILE, SCHEDULE_FILE, SNAPSHOTS, load_run_config
from train.rundir.metrics import SPEED, Metrics, logged_layers, read_metrics
from train.rundir.snapshots import open_run

TAGS = ("train/loss", "val/loss", "val/top1", SPEED)
MOST_POINTS = 4000
"""A curve is thinned to about so many points: the picture is 1200 pixels wide."""


@dataclass(frozen=True)
class Run:
    """What is compared of one run."""

    name: str
    settings: dict[str, Any]
    schedule: Schedule
    metrics: Metrics
    measured: list[str]
    """Metrics of its evaluations."""
    updates: dict[tuple[str, int], float]
    """‖ΔW‖ by layer and update, for those that were recorded."""
    changes: dict[tuple[str, str], dict[str, Any]]
    """By layer and phase how lr, ‖d‖ and ‖ΔW‖ changed in it, see :func:`train.comparison.whole_run.whole_curve`."""


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: Sequence[str] | None) -> int:
    parser = OneLineParser(
        prog="python -m train.compare_runs",
        description="Print one table of several runs and draw one picture of them: lr, loss, accuracy, and ΔW at the "
        "snapshot steps.",
    )
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, runs/<name>")
    parser.add_argument(
        "--picture", type=Path, default=Path("compare_runs.png"), help="the PNG to write (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    print(compare_runs(options.run_dirs, options.picture))
    print(f"\npicture: {options.picture}")
    return 0


def compare_runs(run_dirs: Sequence[Path], picture: Path) -> str:
    """Return the tables as Markdown and save the picture.

    Raises:
        UserError: for fewer than two folders, one that holds no run, or a picture that cannot be written.
    """
    if len(run_dirs) < 2:
        raise UserError(f"{run_dirs[0]}: one run alone; name two or more folders of runs")
    runs = [load(path, name) for path, name in zip(run_dirs, short_names(run_dirs), strict=True)]
    try:
        draw(picture, runs)
    except (OSError, ValueError) as error:
        raise UserError(f"--picture {picture}: cannot be written: {error}") from None
    settings, figures = list(_settings(runs)), [*_results(runs), *_updates(runs)]
    parts = [table(["", *(run.name for run in runs)], [*settings, *figures])]
    if [row[0] for row in settings] == ["`seed`"]:
        parts += [f"{len(runs)} runs that differ only in their seed, mean ± standard deviation:", _summary(figures)]
        if any(run.changes for run in runs):
            parts += ["Of each layer's update from the start of a phase to its end:", _conclusions(runs)]
    return "\n\n".join(parts)


def load(folder: Path, name: str) -> Run:
    """Read what a run left in ``folder``."""
    config = load_run_config(folder)
    try:
        schedule = Schedule.load(folder / SCHEDULE_FILE)
        versions = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("versions", {})
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: damaged run folder ({error})") from None
    settings = {key: value for key, value in flat(config.model_dump()) if traits(RunConfig, key).compared}
    ranks = {"ranks": versions.get("world_size", "?")}
    layers = logged_layers(folder)
    measured = config.evaluate.names
    metrics = read_metrics(
        folder, [*TAGS, *(f"val/{name}" for name in measured), *curve_tags(layers)], most_points=MOST_POINTS
    )
    changes = {
        (curve.layer, phase["phase"]): phase["change"]
        for curve in read_curves(metrics, dict.fromkeys(layers, 1.0))  # only changes of lr count here
        for phase in whole_curve(curve, schedule, reference=0)["phases"]
        if phase["change"]
    }
    return Run(name, {**ranks, **settings}, schedule, metrics, measured, _norms(folder), changes)


def short_names(run_dirs: Sequence[Path]) -> list[str]:
    """Folder names, with the folders above where two are alike."""
    names = [path.resolve().name for path in run_dirs]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, run_dirs, strict=True)]


def _norms(folder: Path) -> dict[tuple[str, int], float]:
    if not any((folder / SNAPSHOTS).glob("*.npz")):
        return {}
    recorded = open_run(folder)
    layers = observed([recorded.load(step) for step in recorded.steps], recorded.schedule)
    return {(layer["layer"], row["step"]): row["norm_delta_W"] for layer in layers for row in layer["steps"]}


def _settings(runs: Sequence[Run]) -> Iterator[list[object]]:
    """One row for each key whose value is not the same in all runs."""
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = [run.settings.get(key) for run in runs]
        if any(value != values[0] for value in values):
            yield [f"`{key}`", *("–" if value is None else str(value) for value in values)]


def _results(runs: Sequence[Run]) -> Iterator[list[object]]:
    yield ["updates", *(run.schedule.total_steps for run in runs)]
    yield ["highest lr", *(float(run.schedule.lr.max()) for run in runs)]
    yield ["last training loss", *(run.metrics.last("train/loss") for run in runs)]
    for name in dict.fromkeys(name for run in runs for name in run.measured):
        values = [run.metrics.last(f"val/{name}") if name in run.measured else None for run in runs]
        share = name in ("top1", "top5")
        yield [f"validation {name}", *(_percent(value) if share else value for value in values)]
    yield ["images/s while training", *(run.metrics.images_per_sec() for run in runs)]


def _updates(runs: Sequence[Run]) -> Iterator[list[object]]:
    recorded = recorded_updates(runs)
    for step in sorted({step for _, step in recorded}):
        known = [run.schedule.lr[step : step + 1].tolist() for run in runs]
        yield [f"lr at t = {step}", *(rate[0] if rate else None for rate in known)]
    for key in recorded:
        layer, step = key
        yield [f"‖ΔW‖ of {layer} at t = {step}", *(run.updates.get(key) for run in runs)]


def recorded_updates(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """Layers and updates that any of the runs recorded, layer by layer."""
    found = dict.fromkeys(key for run in runs for key in run.updates)
    layers = list(dict.fromkeys(layer for layer, _ in found))
    return sorted(found, key=lambda key: (layers.index(key[0]), key[1]))


def _summary(rows: Sequence[list[Any]]) -> str:
    """Mean and deviation of each row of figures that all runs have."""
    summed = []
    for name, *cells in rows:
        shown = [float(cell.rstrip("%")) if isinstance(cell, str) and cell.endswith("%") else cell for cell in cells]
        if all(isinstance(value, (int, float)) for value in shown):
            percent = "%" if isinstance(cells[0], str) else ""
            summed.append([name, _mean_and_deviation(shown, percent)])
    return table(["", f"{len(rows[0]) - 1} runs"], summed)


def _conclusions(runs: Sequence[Run]) -> str:
    """For each layer and phase how ‖ΔW‖ = lr·‖d‖ changed, and in how many runs it grew or shrank as lr did."""
    rows = []
    for layer, phase in dict.fromkeys(key for run in runs for key in run.changes):
        changes = [run.changes[layer, phase] for run in runs if (layer, phase) in run.changes]
        factors = [[change[key] for change in changes] for key in ("lr_ratio", "d_ratio", "delta_W_ratio")]
        followed = [change["follows_lr"] for change in changes if change["follows_lr"] is not None]
        held = f"{sum(followed)} of {len(followed)}" if followed else "–"
        rows.append([layer, phase, *map(_mean_and_deviation, factors), held])
    return table(["layer", "phase", "lr ×", "‖d‖ ×", "‖ΔW‖ ×", "the step followed lr in"], rows)


def _mean_and_deviation(values: Sequence[float], unit: str = "") -> str:
    """The deviation is that of a sample, with n - 1."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return f"{np.mean(values):.4g}{unit} ± {deviation:.2g}{unit}"


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction:.2%}"


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Save a PNG of 1200 × 960 pixels: lr, loss, accuracy, and ‖ΔW‖ at the snapshot steps."""
    figure = new_figure(height=8.0)
    (rates, losses), (accuracies, norms) = figure.subplots(2, 2)
    for i, run in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        rates.plot(np.arange(run.schedule.total_steps), run.schedule.lr, color=colour, label=run.name)
        losses.plot(*run.metrics.curve("train/loss"), color=colour, linewidth=1, alpha=0.6)
        losses.plot(*run.metrics.curve("val/loss"), "o-", color=colour, markersize=4)
        accuracies.plot(*run.metrics.curve("val/top1"), "o-", color=colour, markersize=4)
    rates.legend()
    rates.set(title="Learning rate", ylabel="lr")
    losses.set(title="Loss: training, and validation (dots)", ylabel="cross-entropy, nats", yscale="log")
    accuracies.set(title="Validation top1", ylabel="fraction correct")
    for axes in (rates, losses, accuracies):
        axes.set_xlabel("step t")
        axes.grid(alpha=0.3)
    _draw_updates(norms, runs)
    figure.savefig(path, format="png")


def _draw_updates(axes: Axes, runs: Sequence[Run]) -> None:
    recorded = recorded_updates(runs)
    places = np.arange(len(recorded))
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        lengths = [run.updates.get(key, np.nan) for key in recorded]
        axes.bar(places + (i - (len(runs) - 1) / 2) * width, lengths, width, color=COLOURS[i % len(COLOURS)])
    axes.set(title="‖ΔW‖ at the snapshot steps", yscale="log" if recorded else "linear")
    axes.set_xticks(places, [f"{layer}\nt = {step}" for layer, step in recorded], fontsize=7, rotation=30, ha="right")
    axes.grid(axis="y", alpha=0.3)


if __name__ == "__main__":
    sys.exit(main())
