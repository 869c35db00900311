"""What TensorBoard shows of a run: ``tensorboard --logdir runs --host 127.0.0.1``.

One folder, ``tensorboard/``, for the life of a run; rank 0 writes; x is the update t everywhere.

==============================================  ===============================================================
tag                                             what
==============================================  ===============================================================
``train/loss``, ``train/top1``                  of update t, over the global batch
``train/lr``, ``train/lr_planned``              as the optimizer read it, and as the schedule has it to the end
``train/lr/<group>``                            rate of each group of ``optimizer.groups`` with an ``lr_scale``
``val/loss``, ``/top1``, ``/top5``              of state t, over all validation examples; and the metrics of one's own
``watch/grad_norm``                             of update t
``watch/perf/examples_per_sec``, ``/step_ms``   speed of update t
``watch/perf/data_wait``                        fraction of its time spent waiting for data
``watch/perf/first_update_s``                   the first update of a process, which compiles; in no other figure
``watch/ranks/step_ms/…``, ``/data_wait_ms/…``  slowest, mean and fastest rank (:mod:`train.hooks.scalars`)
``watch/ranks/loss/…``                          highest, mean and lowest of the ranks' own losses
``watch/batch``                                 images of the first batch, augmented, with their classes
``weights/update/<layer>/…``                    norms of each recorded layer's update; gradients of ``log.layers``
``weights/W/<layer>``, ``weights/delta_W/…``    histograms of W_start and ΔW at the snapshot steps
``weights/delta_W_map/<layer>``                 the same ΔW as images, each layer on one scale of colours
``weights/comparison/…``                        the pictures of the comparison, in parts
``run/config``, ``run/comparison``              text: the resolved recipe; the report of the comparison
==============================================  ===============================================================

The page "Custom Scalars" draws together what is to be compared, "HParams" compares runs. TensorBoard sorts tags by name
and opens the first two groups, hence the groups ``watch`` and ``weights``; ``metrics.jsonl`` has the same scalars
without these two words, and the number of the slowest rank, which makes no curve.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont
from tensorboardX.proto.summary_pb2 import Summary

from train.data import example
from train.hooks import events
from train.hooks.base import Hook
from train.hooks.events import EventLog
from train.hooks.runstate import RunState
from train.hooks.scalars import FIGURES
from train.hooks.snapshots import SnapshotHook
from train.recipe.sections import leaves
from train.rundir.folder import CONFIG_FILE, TENSORBOARD
from train.rundir.metrics import points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANNED_LR = "train/lr_planned"
MOST_PLANNED_POINTS = 1000
"""TensorBoard itself shows no more points of a curve than this."""
MOST_HEAT_MAPS = 12
"""Layers drawn as heat maps, the first of the recorded ones: a drawing takes a tenth of a second, a histogram none."""
MOST_IMAGES = 36
SMALLEST_SIDE = 48
"""Images of fewer pixels are enlarged by a whole factor."""
GAP = 4
"""Pixels between two images."""
FIRST_METRICS = ("top1", "loss")
COMPARED = ("train/loss", "perf/examples_per_sec")
"""Columns of the table of runs, behind the metrics of evaluation."""
MEDIA: dict[str, Callable[[str, Any], Summary]] = {
    "image": events.picture,
    "text": events.text,
    "histogram": events.histogram,
}
GROUPS = {"perf": "watch", "ranks": "watch", "update": "weights", "W": "weights", "delta_W": "weights"}
GROUPS |= {"delta_W_map": "weights", "comparison": "weights"}
MOVED = {"train/grad_norm": "watch/grad_norm", "val/examples": "watch/val_examples"}
SHOWN = ("data.global_batch", "model.name", "schedule.lr_max", "seed", "world_size")
"""Keys that the table shows at once; it also holds every other key that is compared."""


class TensorBoard(Hook):
    """Write all that is listed above; it comes after :class:`train.hooks.scalars.MetricsFile`.

    A run that continues at state t voids the points from x = t on; those of state t itself (its evaluation) are written
    again, so that every point is shown once.

    Args:
        snapshots: records W and ΔW at the snapshot steps, and is called before.
        metrics: names of an evaluation's figures.
        class_names: by label; empty: labels are shown as numbers.
    """

    def __init__(self, snapshots: SnapshotHook, metrics: Sequence[str] = (), class_names: Sequence[str] = ()):
        self.snapshots = snapshots
        self.metrics = sorted(metrics, key=lambda name: (*FIRST_METRICS, name).index(name))
        self.class_names = class_names
        self._limits: dict[str, float] = {}
        self._batch_shown = False

    def on_train_begin(self, run: RunState) -> None:
        self._batch_shown = run.continues and run.step > 0
        self._events = EventLog(run.run_dir / TENSORBOARD, purge_step=run.step if run.continues else None)
        self._describe(run)
        self._plan(run)
        if run.continues:
            self._write_again(run)
        self._events.flush()

    def on_train_step_end(self, run: RunState) -> None:
        if not self._batch_shown and run.batch is not None:
            self._batch_shown = True
            if images := [one for one in example.leaves(run.batch.inputs) if drawable(one)]:
                sheet = tiled(images[0][:MOST_IMAGES], self._labels(run.batch.targets))
                self._events.add(run.step, events.picture("watch/batch", sheet))
        for index, (layer, (before, after)) in enumerate(self.snapshots.recorded.items()):
            self._show_update(run, layer, before, after, drawn=index < MOST_HEAT_MAPS)

    def on_scalars(self, run: RunState) -> None:
        if run.scalars:
            self._events.add_scalars(run.step, as_shown(run.scalars))
        for kind, tag, content in run.media:
            self._events.add(run.step, MEDIA[kind](tag, content))

    def on_save(self, run: RunState) -> None:
        self._events.flush()

    def on_train_end(self, run: RunState) -> None:
        if run.ending is not None and run.ending.complete and not run.evaluation_pending:
            self._events.add(run.step, events.run_succeeded())
        self._events.close()

    def _describe(self, run: RunState) -> None:
        """What is known before the first update: the recipe, how to draw, and this run's row in the table of runs."""
        recipe = (run.run_dir / CONFIG_FILE).read_text(encoding="utf-8")
        values = {**table_row(yaml.safe_load(recipe)), "world_size": run.world_size}
        measured = [f"val/{name}" for name in self.metrics] + list(COMPARED)
        row = events.hyperparameters(values, metrics=[*map(shown_as, measured)], shown=SHOWN)
        layout = chart_layout(self.snapshots.layers, self.metrics, ranks=run.world_size > 1)
        self._events.add(run.step, row, events.text("run/config", f"```yaml\n{recipe}```"), events.charts(layout))

    def _plan(self, run: RunState) -> None:
        """The learning rate from here to the end of the run, to be seen before it is used."""
        steps = np.linspace(run.step, run.total_steps - 1, MOST_PLANNED_POINTS).astype(int).tolist()
        steps += [phase.start for phase in run.schedule.phases]
        for step in sorted({step for step in steps if run.step <= step < run.total_steps}):
            self._events.add_scalars(step, {PLANNED_LR: float(run.schedule.lr[step])})

    def _write_again(self, run: RunState) -> None:
        for step, scalars in points(run.run_dir, run.step):
            self._events.add_scalars(step, as_shown(scalars))

    def _labels(self, targets: Any) -> list[str]:
        """What to write under the images; nothing where they are not of one class each."""
        if not isinstance(targets, np.ndarray) or targets.ndim != 1 or targets.dtype.kind not in "iu":
            return []
        return [self.class_names[label] if self.class_names else str(label) for label in targets.tolist()]

    def _show_update(self, run: RunState, layer: str, before: np.ndarray, after: np.ndarray, *, drawn: bool) -> None:
        delta_W = before - after
        self._events.add(
            run.step,
            events.histogram(shown_as(f"W/{layer}"), before),
            events.histogram(shown_as(f"delta_W/{layer}"), delta_W),
        )
        if drawn:
            from train.runtime.drawing import (  # Matplotlib, at the first snapshot and not at the start
                colour_limit,
                heat_map,
            )

            limit = self._limits.setdefault(layer, colour_limit([delta_W]))
            title = f"ΔW of {layer} at t = {run.step}, lr = {run.schedule.lr[run.step]:.4g}"
            self._events.add(run.step, events.figure(shown_as(f"delta_W_map/{layer}"), heat_map(delta_W, limit, title)))


def write_comparison(run_dir: Path, step: int, markdown: str, pictures: Iterable[tuple[str, Figure]]) -> None:
    """Add the finished comparison to a run's events at x = ``step``, unless the run has none.

    Args:
        markdown: its text; lines that embed a picture are left out.
        pictures: with their names.
    """
    folder = run_dir / TENSORBOARD
    if not any(folder.glob("events.*")):
        return
    text = re.sub(r"^!\[.*\n", "", markdown, flags=re.M)
    log = EventLog(folder, suffix=".comparison")
    log.add(step, events.text("run/comparison", text))
    for name, figure in pictures:
        log.add(step, events.figure(shown_as(f"comparison/{name}"), figure))
    log.close()


def shown_as(tag: str) -> str:
    """The tag of a scalar or picture in TensorBoard, in a group that is sorted behind ``train`` and ``val``."""
    group = GROUPS.get(tag.partition("/")[0])
    return MOVED.get(tag, f"{group}/{tag}" if group else tag)


def as_shown(scalars: Mapping[str, float]) -> dict[str, float]:
    """The scalars that make curves, under their tags in TensorBoard."""
    return {shown_as(tag): value for tag, value in scalars.items() if not re.fullmatch("ranks/.*/rank", tag)}


def table_row(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """What may distinguish runs, by dotted key; a list becomes one word."""
    return {
        key: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for key, value in leaves(config, lambda key: key.compared).items()
        if key.partition(".")[0] != "versions"
    }


def chart_layout(layers: Iterable[str], metrics: Iterable[str], *, ranks: bool) -> dict[str, dict[str, list[str]]]:
    """Sections of charts of the page "Custom Scalars", each chart with the regular expressions of its tags."""
    first = {name: (f"train/{name}", f"val/{name}") for name in metrics if name in FIRST_METRICS}
    others = {name: (f"val/{name}",) for name in metrics if name not in FIRST_METRICS}
    sections: dict[str, dict[str, Sequence[str]]] = {
        "training and validation": {**first, "learning rate, planned and applied": (PLANNED_LR, "train/lr"), **others},
        "updates: measured ‖ΔW‖ and lr·‖v‖": {
            layer: (f"update/{layer}/delta_l2", f"update/{layer}/predicted_l2") for layer in layers
        },
    }
    if ranks:
        sections["ranks"] = {figure: [f"ranks/{figure}/{word}" for word in words] for figure, words in FIGURES.items()}
    return {
        section: {title: [f"{re.escape(shown_as(tag))}$" for tag in tags] for title, tags in drawn.items()}
        for section, drawn in sections.items()
    }


def drawable(images: np.ndarray) -> bool:
    """Whether they are grey or RGB images."""
    return images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)


def tiled(images: np.ndarray, labels: Sequence[str] = ()) -> np.ndarray:
    """Lay uint8 images (N, C, H, W) with C of 1 or 3 out in a square of rows, each with its label below it, on white;
    return (height, width, 3)."""
    count, _, height, width = images.shape
    factor = -(-SMALLEST_SIDE // min(height, width))
    images = np.broadcast_to(images, (count, 3, height, width)).transpose(0, 2, 3, 1)
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = images.shape[1:3]
    line = max(12, height // 8) if labels else 0
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + line + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=line) if labels else None
    for place, image in enumerate(images):
        x = GAP + place % columns * (width + GAP)
        y = GAP + place // columns * (height + line + GAP)
        sheet.paste(Image.fromarray(image), (x, y))
        if labels:
            letters = width // (line // 2)  # about as many as fit
            draw.text((x, y + height), labels[place][:letters], "black", font)
    return np.asarray(sheet)
