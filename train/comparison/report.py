"""Puts the parts of the comparison together and writes its files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from train.comparison.document import document_example, update_at
from train.comparison.finished_run import FinishedRun, open_run
from train.comparison.kernel import MakeOptimizer, replay_at
from train.comparison.markdown import render
from train.comparison.measures import (
    conclude,
    controlled,
    delta,
    main_layers,
    meaning,
    meaning_tags,
    observed,
    own_rates,
    rate_scales,
)
from train.comparison.metrics import Curve, Metrics, read_metrics
from train.comparison.picture import (
    comparison_picture,
    curve_picture,
    find_chinese_font,
    layers_picture,
    small_pictures,
)
from train.comparison.proof import prove, rule_violation
from train.comparison.table import plain
from train.comparison.whole_run import LayerCurve, curve_tags, read_curves, whole_curve
from train.comparison.words import Language, Words
from train.recipe.read import read_schedule
from train.recipe.sections import RunConfig
from train.rundir.folder import COMPARISON, CONFIG_FILE, METRICS_FILE, SCHEDULE_FILE, refuse_links
from train.rundir.snapshots import Layer, Snapshot
from train.rundir.trust import refuse_modules
from train.runtime.errors import UserError, refused

MOST_POINTS = 20_000
"""Of more logged updates evenly spaced ones are used, so that memory stays bounded."""
PICTURE_WIDTH = 1200
LOGGED_NORM = 1e-3
"""Relative error of a norm that a device summed in float32."""
VERSION = 5
"""Of comparison.json; raised when an entry is renamed, removed or means something else."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`compare`.

    ``folder`` holds the files; ``data`` is what comparison.json says, ``text`` what comparison.md says; ``pictures``
    are those in parts for TensorBoard, drawn once, as they are asked for; ``problems`` are lines, each of which
    names where an update was not what the optimizer makes of it (with momentum W_new = W_start − lr_t·v_t), or where
    ranks differ.
    """

    folder: Path
    data: dict[str, Any]
    text: str
    pictures: Iterable[tuple[str, Figure]]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not self.problems


def compare(
    run_dir: str | Path,
    *,
    language: Language | None = None,
    before_kernel: Callable[[], object] | None = None,
    make: MakeOptimizer | None = None,
    trust_code: bool = False,
) -> Comparison:
    """Compare the updates of a finished run; write comparison.{json,md,png}, curve.png and layers.png into it.

    Needs snapshots of at least one step; ratios need two. Uses MindSpore on the device and in the mode that are
    set already; ``before_kernel`` is called once before that, and may set them. No collective operation is used: call
    it on one rank, once all ranks have written their snapshots.

    JSON.md beside this file describes each entry of comparison.json, whose numbers are plain floats (null where one
    does not exist or is not finite). There are no curves where the norms of the updates were not logged.

    Args:
        language: None: the run's own ``log.language``. Another one is written beside it, as comparison.zh.md or .en.md.
        make: rebuilds the run's optimizer, as ``make(model, lr)``; None: as the run's configuration says.
        trust_code: import the module that the run's configuration names as its optimizer.

    Raises UserError if the folder cannot be compared; nothing is written then.
    """
    run = open_run(run_dir)
    if make is None and run.config is not None:
        named = {"optimizer": {"name": run.config.optimizer.name}}
        refuse_modules(named, run.path / CONFIG_FILE, trust_code=trust_code)
        make = optimizer_of(run.config)
    if before_kernel is not None:
        before_kernel()
    proof = prove(run, make)
    snapshots = [run.load(step) for step in run.steps]
    with_same_v, problems_of_same_v = _with_same_v(run, snapshots, make)
    in_training = observed(snapshots, run.schedule)
    first = snapshots[0]
    layers = [layer.name for layer in first.layers]
    metrics = read_metrics(run.path, [*curve_tags(layers), *meaning_tags(layers[0])], most_points=MOST_POINTS)
    curves = read_curves(metrics, rate_scales(snapshots))
    document = document_example(run.schedule.lr)
    problems = [*(problem["message"] for problem in proof["problems"]), *problems_of_same_v]
    problems += _unlike_the_rest(run, in_training, metrics)
    if document["applies"] and not document["holds"]:
        problems.append(f"the document's example is off by {document['max_difference']:.3g} (allowed 1e-4)")
    data = {
        "version": VERSION,
        "run": run.path.resolve().name,
        "kind": {
            "optimizer": first.optimizer,
            "direction": "d" if first.layers[0].v is None else "v",
            "ranks": first.world_size,
            "layers": len(layers),
            "steps": len(run.steps),
            "seed": run.config.seed if run.config else None,
        },
        "total_steps": run.schedule.total_steps,
        "schedule_fingerprint": run.schedule.fingerprint,
        "steps": list(run.steps),
        "layers": layers,
        "conclusion": conclude(with_same_v["changes"], in_training[0]["changes"]),
        "meaning": meaning(in_training[0]["steps"], layers[0], metrics),
        "controlled": with_same_v,
        "observed": in_training,
        "document": document,
        "proof": proof,
        "curve": [whole_curve(curve, run.schedule) for curve in curves],
        "ok": not problems,
        "problems": problems,
    }
    return _write(run, _mapped(data, _named), language, snapshots, curves)


def _ratios(
    run: FinishedRun, observed: Sequence[dict[str, Any]], curves: Sequence[LayerCurve]
) -> dict[str, dict[str, Curve]]:
    """The logged ‖ΔW‖/‖W‖ of the weights and, apart from them, of norms and biases, which move by other amounts."""
    kinds: dict[str, dict[str, Curve]] = {"drawn_weights": {}, "drawn_others": {}}
    logged = {plain(curve.layer): f"update/{curve.layer}/ratio" for curve in curves}
    ratios = read_metrics(run.path, logged.values(), most_points=PICTURE_WIDTH)
    for layer in observed:
        if layer["layer"] in logged:
            kind = "drawn_weights" if len(layer["shape"]) > 1 else "drawn_others"
            kinds[kind][layer["layer"]] = ratios.curve(logged[layer["layer"]])
    return {kind: layers for kind, layers in kinds.items() if layers}


def optimizer_of(config: RunConfig) -> MakeOptimizer:
    """How the run of ``config`` makes its optimizer, with its groups; of one layer alone, too."""

    def make(model: Any, lr: Any) -> Any:
        from train.step.optimizer import make_optimizer

        return make_optimizer(model, lr, **dict(config.optimizer))

    return make


def _with_same_v(
    run: FinishedRun, snapshots: Sequence[Snapshot], make: MakeOptimizer | None
) -> tuple[dict[str, Any], list[str]]:
    """The controlled comparison: make the first recorded update of the first layer again at every recorded step, with
    the same W and v, so that only lr differs. Return the figures, and what is wrong with them."""
    first = snapshots[0]
    source, lr = first.layers[0], own_rates(snapshots, run.schedule, 0)
    if source.v is not None:
        updated = update_at(run.steps, source.W_start, source.v, lr)
    elif make is not None:
        updated = {step: replay_at(make, first, 0, run.schedule.lr[step]) for step in run.steps}
    else:
        raise UserError(
            f"{run.path}: without {CONFIG_FILE} {first.optimizer} cannot be made again; only plain momentum can be "
            "compared then"
        )
    same = controlled(source, updated, run.schedule, lr)
    return same, [] if source.v is None else _controlled_problems(lr, source, updated, same)


def _unlike_the_rest(run: FinishedRun, seen: Sequence[dict[str, Any]], metrics: Metrics) -> list[str]:
    """Where the schedule is not the configuration's, or the logs, of which curves are drawn, not the snapshots'."""
    problems = []
    if run.config is not None:
        with suppress(UserError):  # in epochs, whose length only the data know, or of a kind that a module registers
            asked = read_schedule(run.config, None)
            # Not bit for bit: another machine's cosine may differ in the last place.
            same = asked.phases == run.schedule.phases and np.allclose(asked.lr, run.schedule.lr, rtol=1e-6, atol=0)
            if not same:
                problems.append(f"{SCHEDULE_FILE} is not the schedule of {CONFIG_FILE}")
    held = {"train/lr": {step: float(run.schedule.lr[step]) for step in run.steps}}
    held |= {f"update/{of['layer']}/delta_l2": {row["step"]: row["norm_delta_W"] for row in of["steps"]} for of in seen}
    for tag, values in held.items():
        logged = dict(zip(*metrics.curve(tag), strict=True))
        for step, value in values.items():
            there = logged.get(step, value)
            if not math.isclose(there, value, rel_tol=LOGGED_NORM, abs_tol=1e-30):
                problems.append(f"step {step}: {tag} is {value:.9g}, {METRICS_FILE} has {there:.9g}")
    return problems


def _controlled_problems(
    rates: NDArray[np.float32], source: Layer, updated: dict[int, Any], same: dict[str, Any]
) -> list[str]:
    problems = []
    for step, W_new in updated.items():
        lr = rates[step]
        layer = Layer(source.name, source.W_start, W_new, source.v)
        _, worst = rule_violation(layer, lr)
        if worst is not None:
            element, message = worst
            problems.append(f"controlled update, step {step}, layer {source.name}, element {list(element)}: {message}")
    for change in same["changes"]:
        if change["equal"] is False:
            problems.append(
                f"controlled update, steps {change['from']} and {change['to']}: ‖ΔW‖ changed by a factor of "
                f"{change['delta_W_ratio']:.9g}, lr by {change['lr_ratio']:.9g}; "
                f"rounding explains {change['rounding']:.3g}"
            )
    return problems


def _write(
    run: FinishedRun,
    data: dict[str, Any],
    language: Language | None,
    snapshots: Sequence[Snapshot],
    curves: Sequence[LayerCurve],
) -> Comparison:
    folder = run.path / COMPARISON
    own = run.config.log.language if run.config else "en"
    name = "comparison.md" if language in (None, own) else f"comparison.{language}.md"
    try:
        folder.mkdir(exist_ok=True)
        refuse_links(folder)
    except OSError as error:
        raise refused(error, f"{folder}: cannot be written ({error.strerror}); make room for it there") from None
    text = render(data, language or own)
    (folder / "comparison.json").write_text(
        json.dumps(_mapped(data, _finite), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    (folder / name).write_text(text, encoding="utf-8")
    told = main_layers(data["observed"])
    named = [replace(curve, layer=plain(curve.layer)) for curve in curves]
    shown = [curve for curve in named if curve.layer in told]
    updates = {snapshot.step: delta(snapshot.layers[0]) for snapshot in snapshots}
    say = Words(own if own == "en" or find_chinese_font() else "en", data["kind"]["direction"])
    comparison_picture(data, run.schedule, updates, say).savefig(folder / "comparison.png")
    if shown:
        curve_picture(data, run.schedule, shown, say).savefig(folder / "curve.png")
    if shown and len(told) < len(data["layers"]):
        layers_picture(_ratios(run, data["observed"], curves), run.schedule, say).savefig(folder / "layers.png")
    return Comparison(folder, data, text, small_pictures(data, run.schedule, shown, say), tuple(data["problems"]))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with each of its leaves changed."""
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return change(value)


def _finite(value: Any) -> Any:
    """None for a number that JSON cannot hold (NaN, infinity)."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _named(value: Any) -> Any:
    """A name or a sentence as text that is shown: layers, phases and the folder are named by whoever made the run."""
    return plain(value) if isinstance(value, str) else value
