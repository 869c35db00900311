"""Puts the parts of the comparison together and writes its files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.comparison.document import document_example, update_at
from train.comparison.markdown import render
from train.comparison.measures import controlled, delta, observed
from train.comparison.picture import save_picture
from train.comparison.proof import describe_violation, prove, rule_violation
from train.comparison.whole_run import LayerCurve, curve_tags, read_curves, save_curve_picture, whole_curve
from train.errors import UserError
from train.rundir.folder import COMPARISON
from train.rundir.metrics import read_metrics
from train.rundir.snapshots import FinishedRun, Layer, Snapshot, open_run


@dataclass(frozen=True)
class Report:
    """The outcome of :func:`compare`.

    ``folder`` holds the files; ``data`` is what comparison.json says, ``text`` what comparison.md says;
    ``problems`` are lines, each of which names where an update was not W_new = W_start − lr_t·v_t, or where ranks
    differ.
    """

    folder: Path
    data: dict[str, Any]
    text: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not self.problems


def compare(run_dir: str | Path, *, before_kernel: Callable[[], object] | None = None) -> Report:
    """Compares the updates of a finished run; writes comparison/comparison.{json,md,png} into it, and curve.png.

    Needs snapshots of at least one step; ratios need two. Uses MindSpore on the device and in the mode that are
    set already; ``before_kernel`` is called once before that, and may set them. No collective operation is used: call
    it on one rank, once all ranks have written their snapshots.

    comparison.json holds numbers as plain floats (null where one does not exist or is not finite):

    - ``run`` (the folder's name), ``total_steps``, ``schedule_fingerprint``, ``steps``, ``layers``, ``world_size``
      (at the first watched step);
    - ``document``: the document's own example, see :func:`train.comparison.document.document_example`;
    - ``controlled``: the same W_start and v at all steps, see :func:`train.comparison.measures.controlled`;
    - ``observed``: a list with one entry for each layer, see :func:`train.comparison.measures.observed`;
    - ``proof``: W_new against W_start − lr_t·v_t for every snapshot, see :func:`train.comparison.proof.prove`;
    - ``curve``: a list with one entry for each layer whose norms were logged at every update, see
      :func:`train.comparison.whole_run.whole_curve`; without such layers it is empty, and there is no curve.png;
    - ``ok`` and ``problems``, all lines of :class:`Report`.

    Raises UserError if the folder cannot be compared; nothing is written then.
    """
    run = open_run(run_dir)
    proof = prove(run)
    snapshots = [run.load(step) for step in run.steps]
    layers = [layer.name for layer in snapshots[0].layers]
    metrics = read_metrics(run.path, curve_tags(layers))
    seen = observed(snapshots, run.schedule)
    if before_kernel is not None:
        before_kernel()
    source = snapshots[0].layers[0]
    updated = update_at(run.steps, source.W_start, source.v, run.schedule.lr)
    same = controlled(source, updated, run.schedule)
    document = document_example(run.schedule.lr)
    curves = read_curves(metrics, layers)
    problems = [problem["message"] for problem in proof["problems"]]
    problems += _controlled_problems(run, source, updated, same)
    if document["applies"] and not document["holds"]:
        problems.append(f"the document's example is off by {document['max_difference']:.3g} (allowed 1e-4)")
    data = {
        "run": run.path.resolve().name,
        "total_steps": run.schedule.total_steps,
        "schedule_fingerprint": run.schedule.fingerprint,
        "steps": list(run.steps),
        "layers": layers,
        "world_size": snapshots[0].world_size,
        "document": document,
        "controlled": same,
        "observed": seen,
        "proof": proof,
        "curve": [whole_curve(curve, run.schedule, run.steps[0]) for curve in curves],
        "ok": not problems,
        "problems": problems,
    }
    return _write(run, snapshots, curves, data)


def _controlled_problems(run: FinishedRun, source: Layer, updated: dict[int, Any], same: dict[str, Any]) -> list[str]:
    problems = []
    for step, W_new in updated.items():
        lr = run.schedule.lr[step]
        layer = Layer(source.name, source.W_start, source.v, W_new)
        figures, element = rule_violation(layer, lr)
        if element is not None:
            where = f"controlled update, step {step}, layer {source.name}, element {list(element)}"
            problems.append(f"{where}: {describe_violation(layer, lr, element, figures['max_units'])}")
    for change in same["changes"]:
        if change["equal"] is False:
            problems.append(
                f"controlled update, steps {change['from']} and {change['to']}: ‖ΔW‖ changed by a factor of "
                f"{change['delta_W_ratio']:.9g}, lr by {change['lr_ratio']:.9g}; "
                f"rounding explains {change['rounding']:.3g}"
            )
    return problems


def _write(run: FinishedRun, snapshots: list[Snapshot], curves: list[LayerCurve], data: dict[str, Any]) -> Report:
    folder = run.path / COMPARISON
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); make room for it there") from None
    text = render(data)
    (folder / "comparison.json").write_text(
        json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    updates = {snapshot.step: delta(snapshot.layers[0]) for snapshot in snapshots}
    save_picture(folder / "comparison.png", run.schedule.lr, updates, data["observed"][0], data["controlled"])
    if curves:
        save_curve_picture(folder / "curve.png", curves, run.schedule, run.steps[0])
    return Report(folder, data, text, tuple(data["problems"]))


def _plain(value: Any) -> Any:
    """``value`` with every number that JSON cannot hold (NaN, infinity) as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
