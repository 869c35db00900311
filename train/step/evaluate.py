"""Exact metrics over all ranks: every validation example counts once, and counts are summed, never averages.

BatchNorm's moving statistics differ between ranks, since each saw its own images. Evaluation and the saved model use
their mean over the ranks; training goes on with each rank's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from train import distributed
from train.data.loader import EvalLoader
from train.step.network import Network, correct_within, moving_statistics


class EvaluationStopped(Exception):
    """The run was asked to stop, and has no figures of this evaluation: it is to be made again."""


class EvalStep(nn.Cell):
    """Per-batch sums as one float32 tensor (4,): loss, correct in top 1, correct in top 5, examples.

    Labels of -1 are padding and count nowhere.
    """

    def __init__(self, network: Network, num_classes: int):
        super().__init__(auto_prefix=False)
        self.network = network
        self.top = min(5, num_classes)

    def construct(self, images, labels):
        logits = self.network(images).astype(ms.float32)
        counted = (labels >= 0).astype(ms.float32)
        known = ops.maximum(labels, 0)
        loss = ops.cross_entropy(logits, known, reduction="none")
        return ops.stack(
            (
                (loss * counted).sum(),
                (correct_within(logits, known, 1) * counted).sum(),
                (correct_within(logits, known, self.top) * counted).sum(),
                counted.sum(),
            )
        )


def nothing() -> None:
    pass


def never() -> bool:
    return False


def evaluate(
    step: EvalStep,
    loader: EvalLoader,
    before_batch: Callable[[], None] = nothing,
    asked_to_stop: Callable[[], bool] = never,
) -> dict[str, float]:
    """Return loss (mean cross-entropy, nats), top1, top5 (fractions) and the number of examples counted.

    Collective: all ranks must call it; all get the same figures.

    Args:
        before_batch: called before each batch.
        asked_to_stop: whether this rank was; asked before each batch.

    Raises:
        EvaluationStopped: on all ranks before the same batch, once any was asked to stop.
    """
    sums = np.zeros(4, np.float64)
    step.set_train(False)
    try:
        for batch in loader.batches():
            before_batch()
            if distributed.any_rank(asked_to_stop()):
                raise EvaluationStopped
            sums += step(Tensor(batch.images), Tensor(batch.labels)).asnumpy()
    finally:
        step.set_train(True)
    loss, top1, top5, count = distributed.gather_array(sums).sum(axis=0)
    return {"loss": loss / count, "top1": top1 / count, "top5": top5 / count, "examples": int(count)}


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
