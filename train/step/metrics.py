"""Metrics of an evaluation: sums over batches and ranks, and one figure, or several, computed from the whole sum.

A metric of a user's own is a class with the two methods of :class:`Metric`; ``evaluate.metrics`` names it, and where
it takes options ``{"my_metric:MacroF1": {classes: 10}}``. It works on NumPy arrays on the host. The three classes here
are examples that can be used as they are (``train.step.metrics:MacroF1``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load, save

from train.data.example import map_leaves
from train.runtime import distributed
from train.runtime.errors import FiguresError, UserError
from train.runtime.faults import print_fault
from train.runtime.keys import References, load_part, split_reference
from train.step.options import MEASURED

KEY = "evaluate.metrics"
Arrays = Any
"""An array, a tuple or a mapping of arrays."""


class Metric(Protocol):
    """Its name in the logs is what the recipe calls it, without the module.

    What it raises ends the run on all ranks with one line; the state is saved before, its evaluation still to be made.
    """

    def sums(self, outputs: Arrays, targets: Arrays) -> np.ndarray:
        """Return what is to be added up of some examples, in an array of one shape: counts, sums of errors, a matrix.

        Args:
            outputs: what the model returned for them, float32 (n, …).
            targets: what the data says, (n, …); of both there are tuples where model or data give several, of targets
                with names a mapping.

        A figure of the whole set that is no sum, as the area under a curve, has a method ``rows`` with these arguments
        in its place: it returns a row for each example, (n, …), and ``compute`` gets the rows of all, in any order.
        """

    def compute(self, sums: np.ndarray) -> float | Mapping[str, float]:
        """Return the figure, or figures by name, of all examples; ``sums`` are whole numbers (int64) or float64."""


class ConfusionMatrix:
    """How often class i (row) was taken for class j (column); its figures are the recall of each class."""

    def __init__(self, classes: int):
        if type(classes) is not int or classes < 1:
            raise UserError(f"{KEY}: {type(self).__name__}(classes={classes!r}): classes is a whole number, 1 or more")
        self.classes = classes

    def sums(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        told = f"{KEY}: {type(self).__name__}(classes={self.classes})"
        if outputs.shape != (len(targets), self.classes):
            raise UserError(f"{told}: the model's outputs are {list(outputs.shape)}; give its number of classes")
        if targets.ndim != 1 or targets.dtype.kind not in "iu" or targets.min() < 0 or targets.max() >= self.classes:
            raise UserError(f"{told}: the targets are not classes, 0 to {self.classes - 1}")
        pairs = self.classes * targets.astype(np.int64) + outputs.argmax(axis=1)
        return np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    def compute(self, sums: np.ndarray) -> float | Mapping[str, float]:
        return {f"recall_{i}": row[i] / max(row.sum(), 1) for i, row in enumerate(sums)}


class MacroF1(ConfusionMatrix):
    """Mean over the classes of the harmonic mean of precision and recall."""

    def compute(self, sums: np.ndarray) -> float:
        return float(np.mean(2 * np.diag(sums) / np.maximum(sums.sum(axis=0) + sums.sum(axis=1), 1)))


class MeanSquaredError:
    """Over all elements of the targets."""

    def sums(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.array([((outputs - targets.reshape(outputs.shape)).astype(np.float64) ** 2).sum(), targets.size])

    def compute(self, sums: np.ndarray) -> float:
        return float(sums[0] / sums[1])


def make_metrics(references: References) -> dict[str, Metric]:
    """Make the users' metrics among ``references``, by name.

    Raises:
        UserError: for one that cannot be made, has not the two methods, or has the name of another.
    """
    made: dict[str, Metric] = {}
    for reference in references:
        name, options = split_reference(reference)
        if name in MEASURED:
            continue
        metric = load_part(name, options, KEY)(**options)
        for method in ("rows" if hasattr(metric, "rows") else "sums", "compute"):
            if not callable(getattr(metric, method, None)):
                raise UserError(f"{KEY}={name}: has no method {method}; see train.step.metrics.Metric")
        title = name.rpartition(":")[2]
        if title in made or title in (*MEASURED, "examples"):
            raise UserError(f"{KEY}={name}: there is a {title} already; give the class another name")
        made[title] = metric
    return made


class Sums:
    """Adds up what metrics return, or keeps their rows."""

    def __init__(self, metrics: Mapping[str, Metric]):
        self.metrics = metrics
        self.found: dict[str, list[np.ndarray]] = {}
        """The sum so far, or the rows of each batch."""
        self.fault: str | None = None
        """Why this rank's sums are of no use; told in :meth:`over_ranks`: until then the others would wait for it."""

    def add(self, outputs: Arrays, targets: Arrays, counted: np.ndarray) -> None:
        """Add the examples of a batch at which ``counted``, bool (N,), is true."""
        if not counted.any() or self.fault is not None:
            return
        given = [map_leaves(lambda one: one[counted], arrays) for arrays in (outputs, targets)]
        for name, metric in self.metrics.items():
            try:
                sums = getattr(metric, "rows", None) or metric.sums
                self._add(name, np.asarray(sums(*given)), int(counted.sum()))
            except UserError as error:
                self.fault = str(error)
            except Exception as error:  # a bug in the user's class, whose traceback helps
                print_fault(error)
                self.fault = f"{KEY}: {name}.sums() failed: {error!r}"

    def over_ranks(self) -> dict[str, np.ndarray]:
        """Return the sums over all ranks, by the metric's name. Collective.

        Raises:
            FiguresError: when a metric failed on any rank.
        """
        if fault := next((fault for fault in distributed.gather_json(self.fault) if fault is not None), None):
            raise FiguresError(fault)
        total = Sums(self.metrics)
        for data in distributed.gather_bytes(save(self._joined())):
            for name, array in load(data).items():
                try:
                    total._add(name, array)
                except UserError as error:  # the ranks' shapes differ
                    raise FiguresError(str(error)) from None
        return total._joined()

    def _joined(self) -> dict[str, np.ndarray]:
        return {
            name: several[0] if len(several) == 1 else np.concatenate(several) for name, several in self.found.items()
        }

    def _add(self, name: str, array: np.ndarray, examples: int | None = None) -> None:
        """Take what a metric returned for so many examples, or what another rank has."""
        if array.dtype.kind not in "biuf":
            raise UserError(f"{KEY}: {name}.sums() returned {array.dtype}; return numbers")
        array = np.array(array, np.float64 if array.dtype.kind == "f" else np.int64, order="C")
        so_far = self.found.setdefault(name, [])
        if hasattr(self.metrics[name], "rows"):
            wanted = (array.shape[:1] if examples is None else (examples,)) + (so_far or [array])[0].shape[1:]
            if array.ndim == 0 or array.shape != wanted:
                raise UserError(
                    f"{KEY}: {name}.rows() returned the shape {array.shape}, not {wanted}, a row an example"
                )
            so_far.append(array)
        elif not so_far:
            so_far.append(array)
        elif so_far[0].shape != array.shape:
            raise UserError(f"{KEY}: {name}.sums() returned the shape {array.shape}, before it was {so_far[0].shape}")
        else:
            so_far[0] = np.asarray(so_far[0] + array)


def figures_of(metrics: Mapping[str, Metric], sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return each metric's figure by its name, of those that have several as ``<name>/<figure>``.

    Collective: rank 0 computes them for all, so that nothing that follows from them differs between ranks.

    Raises:
        FiguresError: when one is no number, or cannot be computed.
    """
    try:
        return distributed.on_first_rank(lambda: _computed(metrics, sums))
    except UserError as error:
        raise FiguresError(str(error)) from None


def _computed(metrics: Mapping[str, Metric], sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, metric in metrics.items():
        try:
            found = metric.compute(sums[name])
        except UserError as error:
            raise FiguresError(str(error)) from None
        except Exception as error:
            print_fault(error)
            raise FiguresError(f"{KEY}: {name}.compute() failed: {error!r}") from None
        several = (
            {f"{name}/{key}": value for key, value in found.items()} if isinstance(found, Mapping) else {name: found}
        )
        for key, value in several.items():
            if np.ndim(value) or not isinstance(value, (int, float, np.number)):
                raise FiguresError(
                    f"{KEY}: {name}.compute() returned {key}={value!r}; return a number, or numbers by name"
                )
            figures[key] = float(value)
    return figures
