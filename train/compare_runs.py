"""Runs side by side: ``python -m train.compare_runs runs/a runs/b …`` prints one table and draws one picture.

Compared are what was set differently, how good and how fast each run was, the learning rate and ‖ΔW‖ of the recorded
layers at the snapshot steps, and by layer and phase whether the step followed the learning rate. Runs that differ only
in their seed are summed up: mean and deviation, and in how many of them it did. Imports no MindSpore.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from schedules import Schedule
from schedules.plot import PNG, may_write
from train.comparison.finished_run import load_schedule, open_run
from train.comparison.measures import main_layers, observed
from train.comparison.metrics import Metrics, logged_layers, read_metrics
from train.comparison.picture import COLOURS, new_figure
from train.comparison.table import plain, table
from train.comparison.whole_run import curve_tags, read_curves, whole_curve
from train.recipe.read import read_recipe
from train.recipe.sections import leaves
from train.rundir.folder import CONFIG_FILE, SNAPSHOTS, load_run_config
from train.rundir.metrics import SPEED
from train.runtime.errors import OneLineParser, UserError, a_path, run_command

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
    phases: dict[tuple[str, str], dict[str, Any]]
    """By layer and phase what happened in it, see :func:`train.comparison.whole_run.whole_curve`."""


class Figure(NamedTuple):
    """One figure of every run, None where a run has none."""

    name: str
    values: list[float | None]
    percent: bool = False
    """Whether a part of one, to be shown as a percentage."""

    @property
    def cells(self) -> list[object]:
        return ["–" if value is None else f"{value:.2%}" for value in self.values] if self.percent else [*self.values]


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: Sequence[str] | None) -> int:
    parser = OneLineParser(
        prog="python -m train.compare_runs",
        description="Print one table of several runs and draw one picture of them: lr, loss, accuracy, and ΔW at the "
        "snapshot steps.",
    )
    parser.add_argument("run_dirs", type=a_path, nargs="+", metavar="RUN", help="the folder of a run, runs/<name>")
    parser.add_argument(
        "--picture", type=a_path, default=Path("compare_runs.png"), help="the PNG to write (default: %(default)s)"
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
        raise UserError(f"{run_dirs[0]}: only one run; name two or more folders of runs")
    runs = [load(path, name) for path, name in zip(run_dirs, short_names(run_dirs), strict=True)]
    try:
        may_write(str(picture), PNG)
        draw(picture, runs)
    except (OSError, ValueError) as error:
        raise UserError(f"--picture {picture}: cannot be written: {error}") from None
    figures = [*_results(runs), *_updates(runs)]
    rows = [*_settings(runs), *([figure.name, *figure.cells] for figure in figures)]
    parts = [table(["", *(run.name for run in runs)], rows)]
    groups = _groups(runs)
    if len(groups) < len(runs):
        parts += ["Runs that differ only in their seed, mean ± standard deviation:", _summary(figures, runs, groups)]
    if any(run.phases for run in runs):
        parts += ["Of each layer's update from the start of a phase to its end:", _phases(groups)]
    return "\n\n".join(parts)


def load(folder: Path, name: str) -> Run:
    """Read what a run left in ``folder``."""
    config = load_run_config(folder)
    schedule = load_schedule(folder)
    versions = read_recipe(folder / CONFIG_FILE).get("versions")
    settings = leaves(config.model_dump(), lambda key: key.compared)
    ranks = {"ranks": versions.get("world_size", "?") if isinstance(versions, dict) else "?"}
    layers = logged_layers(folder)
    measured = config.evaluate.names
    metrics = read_metrics(
        folder, [*TAGS, *(f"val/{name}" for name in measured), *curve_tags(layers)], most_points=MOST_POINTS
    )
    updates = _norms(folder)
    told = {layer for layer, _ in updates} or {*map(plain, layers)}
    phases = {
        (plain(curve.layer), plain(phase["phase"])): phase
        for curve in read_curves(metrics, dict.fromkeys(layers, 1.0))  # only changes of lr count here
        if plain(curve.layer) in told
        for phase in whole_curve(curve, schedule)["phases"]
        if phase["change"]
    }
    return Run(plain(name), {**ranks, **settings}, schedule, metrics, measured, updates, phases)


def short_names(run_dirs: Sequence[Path]) -> list[str]:
    """Folder names, with the folders above where two are alike."""
    names = [path.resolve().name for path in run_dirs]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, run_dirs, strict=True)]


def _norms(folder: Path) -> dict[tuple[str, int], float]:
    if not any((folder / SNAPSHOTS).glob("*.npz")):
        return {}
    recorded = open_run(folder)
    layers = observed([recorded.load(step) for step in recorded.steps], recorded.schedule)
    told = main_layers(layers)
    return {
        (plain(layer["layer"]), row["step"]): row["norm_delta_W"]
        for layer in layers
        if layer["layer"] in told
        for row in layer["steps"]
    }


def _settings(runs: Sequence[Run]) -> Iterator[list[object]]:
    """One row for each key whose value is not the same in all runs."""
    for key in differing(runs):
        values = [run.settings.get(key) for run in runs]
        yield [f"`{plain(key)}`", *("–" if value is None else plain(value) for value in values)]


def differing(runs: Sequence[Run]) -> list[str]:
    """Keys whose value is not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs, those together of which any two differ in their seed and in nothing else."""
    groups: list[list[Run]] = []
    for run in runs:
        fitting = (group for group in groups if all(differing([run, other]) == ["seed"] for other in group))
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(run)
    return groups


def _results(runs: Sequence[Run]) -> Iterator[Figure]:
    yield Figure("updates", [run.schedule.total_steps for run in runs])
    yield Figure("highest lr", [float(run.schedule.lr.max()) for run in runs])
    yield Figure("last training loss", [run.metrics.last("train/loss") for run in runs])
    for name in dict.fromkeys(name for run in runs for name in run.measured):
        values = [run.metrics.last(f"val/{name}") if name in run.measured else None for run in runs]
        yield Figure(f"validation {plain(name)}", values, percent=name in ("top1", "top5"))
    yield Figure("examples/s while training", [run.metrics.examples_per_sec() for run in runs])


def _updates(runs: Sequence[Run]) -> Iterator[Figure]:
    recorded = recorded_updates(runs)
    for step in sorted({step for _, step in recorded}):
        known = [run.schedule.lr[step : step + 1].tolist() for run in runs]
        yield Figure(f"lr at t = {step}", [rate[0] if rate else None for rate in known])
    for layer, step in recorded:
        yield Figure(f"‖ΔW‖ of {layer} at t = {step}", [run.updates.get((layer, step)) for run in runs])


def recorded_updates(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """Layers and updates that any of the runs recorded, layer by layer."""
    found = dict.fromkeys(key for run in runs for key in run.updates)
    layers = list(dict.fromkeys(layer for layer, _ in found))
    return sorted(found, key=lambda key: (layers.index(key[0]), key[1]))


def _summary(figures: Sequence[Figure], runs: Sequence[Run], groups: Sequence[Sequence[Run]]) -> str:
    """Mean and deviation of each figure in each group of runs."""
    rows = []
    for figure in figures:
        of_run = dict(zip([run.name for run in runs], figure.values, strict=True))
        values = [[of_run[run.name] for run in group] for group in groups]
        rows.append([figure.name, *(_mean_and_deviation(known, figure.percent) for known in values)])
    return table(["", *(_named(group) for group in groups)], rows)


def _phases(groups: Sequence[Sequence[Run]]) -> str:
    """For each layer, phase and group how ‖ΔW‖ = lr·‖d‖ changed, and whether it grew or shrank as lr did."""
    rows = []
    for key in dict.fromkeys(key for group in groups for run in group for key in run.phases):
        for group in groups:
            phases = [run.phases[key] for run in group if key in run.phases]
            if not phases:
                continue
            changes = [phase["change"] for phase in phases]
            factors = [
                _mean_and_deviation([change[ratio] for change in changes])
                for ratio in ("lr_ratio", "d_ratio", "delta_W_ratio")
            ]
            followed = [change["follows_lr"] for change in changes if change["follows_lr"] is not None]
            updates = [sum(phase[count] for phase in phases) for count in ("updates_as_lr", "updates")]
            held = [f"{sum(followed)} of {len(followed)}", f"{updates[0]} of {updates[1]}"] if followed else ["–", "–"]
            rows.append([*key, _named(group), *factors, *held])
    followed_in = ["the step followed lr in", "from one update to the next"]
    return table(["layer", "phase", "run", "lr ×", "‖d‖ ×", "‖ΔW‖ ×", *followed_in], rows)


def _named(group: Sequence[Run]) -> str:
    return ", ".join(run.name for run in group)


def _mean_and_deviation(values: Sequence[float | None], percent: bool = False) -> str:
    """A dash where a value is missing, no deviation of one alone; else that of a sample, with n - 1."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "–"
    shown, unit = (100 * np.array(known), "%") if percent else (np.array(known), "")
    mean = f"{shown.mean():.4g}{unit}"
    return mean if len(known) == 1 else f"{mean} ± {shown.std(ddof=1):.2g}{unit}"


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Save a PNG of 1200 × 960 pixels: lr, loss, accuracy, and ‖ΔW‖ at the snapshot steps."""
    figure = new_figure(height=8.0)
    (rates, losses), (accuracies, norms) = figure.subplots(2, 2)
    recorded = recorded_updates(runs)
    for i, run in enumerate(runs):
        covered = min(len(runs) - 1 - i, 4)  # the first are the widest, so that one which later ones cover is seen
        line: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.2 + 1.2 * covered}
        dots = {**line, "marker": "o", "markersize": 5 + 3 * covered}
        rates.plot(np.arange(run.schedule.total_steps), run.schedule.lr, **line, label=run.name)
        losses.plot(*run.metrics.curve("train/loss"), **line)
        losses.plot(*run.metrics.curve("val/loss"), **{**dots, "linestyle": ":"})
        accuracies.plot(*run.metrics.curve("val/top1"), **dots, clip_on=False)
        rings = {**dots, "linestyle": "none", "fillstyle": "none", "markeredgewidth": 2}
        norms.plot([run.updates.get(key, np.nan) for key in recorded], **rings)
    rates.legend()
    rates.set(title="Learning rate", ylabel="lr")
    losses.set(title="Loss: training (lines), validation (dots)", ylabel="cross-entropy, nats; log scale", yscale="log")
    accuracies.set(title="Validation top1", ylabel="fraction correct")
    accuracies.set_ylim(top=min(1.0, accuracies.get_ylim()[1]))
    for axes in (rates, losses, accuracies):
        axes.set_xlabel("step t")
        axes.grid(alpha=0.3)
    norms.set(title="‖ΔW‖ at the snapshot steps", ylabel="log scale", yscale="log" if recorded else "linear")
    norms.set_xticks(range(len(recorded)), [f"{layer}, t = {step}" for layer, step in recorded])
    norms.tick_params("x", rotation=90 if len(recorded) > 4 else 15, labelsize=8)
    norms.margins(x=0.2)
    norms.grid(alpha=0.3)
    figure.savefig(path, format="png")


if __name__ == "__main__":
    sys.exit(main())
