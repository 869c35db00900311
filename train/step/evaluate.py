"""Exact metrics over all ranks: every validation example counts once, and counts are summed, never averages.

BatchNorm's moving statistics differ between ranks, since each saw its own images. Evaluation and the saved model use
their mean over the ranks; training goes on with each rank's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from train.data.example import map_leaves
from train.data.loader import EvalLoader
from train.runtime import distributed
from train.step.loss import CrossEntropy
from train.step.metrics import Metric, Sums, figures_of
from train.step.network import Network, as_tensors, correct_within, inputs_as_tensors, moving_statistics
from train.step.options import MEASURED

BATCHES_BETWEEN_QUESTIONS = 10
"""All ranks ask each other this rarely whether to stop: each time, every device waits for the slowest rank's host."""


class EvaluationStopped(Exception):
    """The run was asked to stop, and has no figures of this evaluation: it is to be made again."""


class EvalStep(nn.Cell):
    """Per-batch sums as one float32 tensor: of each of ``measured`` (loss and its figures, correct in top 1, in top 5),
    and examples.

    ``counted``, float32 (N,), is 0 where an example is padding, which counts nowhere.

    Args:
        measured: some of :data:`train.step.options.MEASURED`.
        loss: of each example, as :func:`train.step.loss.make_loss` returns it.
        metrics: users' own; with any the step also returns the network's outputs.
    """

    def __init__(
        self,
        network: Network,
        num_classes: int,
        *,
        measured: Sequence[str] = MEASURED,
        loss: nn.Cell | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss or CrossEntropy()
        with_figures = ["loss", *(f"loss/{name}" for name in self.loss.figures)]
        self.measured = tuple(one for name in measured for one in (with_figures if name == "loss" else [name]))
        self.metrics = dict(metrics or {})
        self.with_outputs = bool(metrics)
        within = {"loss": 0, "top1": 1, "top5": min(5, num_classes)}
        self.places = tuple(within[name] for name in measured)

    def construct(self, images, targets, counted):
        outputs = self.network(images)
        sums: tuple = ()
        for place in self.places:
            if place:
                sums += (self.counted(correct_within(outputs, targets, place), counted),)
            else:
                for values in self.loss(outputs, targets):  # its own, and its figures
                    sums += (self.counted(values, counted),)
        totals = ops.stack((*sums, counted.sum()))
        if self.with_outputs:
            return totals, outputs
        return totals

    def counted(self, values, counted):
        """Return their sum without the padding; not as a product, since what padding gives may be infinite."""
        return ops.select(counted > 0, values, ops.zeros_like(values)).sum()


def nothing() -> None:
    pass


def never() -> bool:
    return False


def evaluate(
    step: EvalStep,
    loader: EvalLoader,
    before_batch: Callable[[], None] = nothing,
    asked_to_stop: Callable[[], bool] = never,
    sums: dict[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Return what the step measures (loss: a mean; top1, top5: fractions), the figures of users' metrics and the
    number of examples counted.

    Collective: all ranks must call it; all get the same figures.

    Args:
        sums: gets the sum of each user's metric over all examples, by its name.
        before_batch: called before each batch.
        asked_to_stop: whether this rank was; asked before the first batch and every ``BATCHES_BETWEEN_QUESTIONS``.

    Raises:
        EvaluationStopped: on all ranks before the same batch, once any was asked to stop. A request that comes behind
            the last question is the caller's, who has figures then.
    """
    totals = np.zeros(len(step.measured) + 1, np.float64)
    own = Sums(step.metrics)
    step.set_train(False)
    try:
        for number, batch in enumerate(loader.batches()):  # the same number of batches on every rank
            before_batch()
            if number % BATCHES_BETWEEN_QUESTIONS == 0 and distributed.any_rank(asked_to_stop()):
                raise EvaluationStopped
            counted = batch.indices >= 0
            targets = map_leaves(partial(_cleared, padding=~counted), batch.targets)
            given = inputs_as_tensors(batch.inputs), as_tensors(targets)
            found = step(*given, Tensor(counted.astype(np.float32)))
            if step.with_outputs:
                found, outputs = found
                own.add(map_leaves(lambda tensor: tensor.asnumpy(), outputs), targets, counted)
            totals += found.asnumpy()
    finally:
        step.set_train(True)
    *means, count = distributed.gather_array(totals).sum(axis=0)
    figures = {name: total / count for name, total in zip(step.measured, means, strict=True)}
    if step.loss.mean_over and "loss" in figures:
        figures["loss"] /= figures[f"loss/{step.loss.mean_over}"] or np.nan
    if step.with_outputs:
        over_ranks = own.over_ranks()
        figures |= figures_of(own.metrics, over_ranks)
        if sums is not None:
            sums.update(over_ranks)
    return {**figures, "examples": int(count)}


def _cleared(array: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Return a copy with zeros at the padding, where any value may stand that is not a target."""
    cleared = array.copy()
    cleared[padding] = 0
    return cleared


@contextmanager
def replaced(parameters: Sequence[ms.Parameter], values: Sequence[np.ndarray]) -> Iterator[None]:
    """Inside, ``parameters`` hold ``values``; afterwards what they held before."""
    own = [parameter.asnumpy().copy() for parameter in parameters]
    _assign(parameters, values)
    try:
        yield
    finally:
        _assign(parameters, own)


@contextmanager
def mean_statistics(model: nn.Cell) -> Iterator[None]:
    """Inside, BatchNorm's moving statistics are their mean over the ranks; afterwards each rank has its own again.

    Collective: all ranks must enter it.
    """
    parameters = moving_statistics(model)
    with replaced(parameters, distributed.average_parameters(parameters)):
        yield


def _assign(parameters: Sequence[ms.Parameter], values: Sequence[np.ndarray]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.set_data(Tensor(value))
