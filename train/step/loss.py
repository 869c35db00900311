"""The loss: one value for each example, whose mean is weighed by each rank's fraction of the global batch.

A loss of a user's own is a function, or a class of cells, that ``step.loss`` refers to::

    def focal(outputs, targets, *, gamma: float): ...   # float32 (N,)

``outputs`` is what the model returns, float32, ``targets`` what the data gives: a tensor, or a tuple or mapping of
tensors, the first axis is that of the examples. Keywords are ``step.loss_options``; a class gets them when it is made.
It is compiled into the update: plain operators, no NumPy.

A loss that has an attribute ``figures`` returns its components too, to be logged as ``train/loss/<name>`` and
``val/loss/<name>``, means over all examples as the loss is::

    def detection(outputs, targets):
        ...
        return boxes + classes, {"boxes": boxes, "classes": classes}   # each float32 (N,)

    detection.figures = ("boxes", "classes")

The loss is a mean over examples. With an attribute ``mean_over``, the name of one of its figures, it is their sum
divided by that figure's sum over the global batch: by class weights, or by the number of words that are no padding::

    def weighted(outputs, targets):
        ...
        return weights * losses, {"weight": weights}

    weighted.figures, weighted.mean_over = ("weight",), "weight"
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from train.runtime.errors import UserError
from train.runtime.keys import is_reference, load_part, load_reference

SHAPE = "step.loss: must return one value for each example, float32 (N,)"


class CrossEntropy(nn.Cell):
    """Cross-entropy of softmax, in nats; ``targets`` are int32 (N,), ``outputs`` float32 (N, classes)."""

    figures: tuple[str, ...] = ()
    mean_over = ""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__(auto_prefix=False)
        self.label_smoothing = label_smoothing

    def construct(self, outputs, targets):
        """Return (float32 (N,),), without label smoothing, of which only training is to know."""
        return (_of_true_class(_log_softmax(outputs), targets),)

    def means(self, outputs, targets):
        log_softmax = _log_softmax(outputs)
        loss = _of_true_class(log_softmax, targets).mean()
        if self.label_smoothing:
            loss = (1.0 - self.label_smoothing) * loss - self.label_smoothing * log_softmax.mean()
        return (loss,)


def _log_softmax(outputs):
    return outputs - ops.logsumexp(outputs, 1, True)


def _of_true_class(log_softmax, targets):
    return -ops.gather_elements(log_softmax, 1, targets.reshape(-1, 1)).reshape(-1)


class OwnLoss(nn.Cell):
    """A user's function or cell, called with ``options``."""

    def __init__(self, function: Any, options: Mapping[str, Any]):
        super().__init__(auto_prefix=False)
        self.function = function
        self.options = dict(options)
        self.figures = tuple(getattr(function, "figures", ()))
        self.mean_over = getattr(function, "mean_over", "")
        if self.mean_over and self.mean_over not in self.figures:
            raise UserError(f"step.loss: mean_over={self.mean_over!r} is not one of its figures, {list(self.figures)}")

    def construct(self, outputs, targets):
        """Return the loss of each example, float32 (N,), and the same of each of ``figures``, in a tuple."""
        if self.options:  # noqa: SIM108, the compiler
            found = self.function(outputs, targets, **self.options)
        else:
            found = self.function(outputs, targets)
        if not self.figures:
            return (_of_each(found),)
        values, parts = found
        several: tuple = (_of_each(values),)
        for name in self.figures:
            several += (_of_each(parts[name]),)
        return several

    def means(self, outputs, targets):
        """Return the mean of each of these."""
        means: tuple = ()
        for values in self.construct(outputs, targets):
            means += (values.mean(),)
        return means


def _of_each(values):
    if isinstance(values, tuple) or values.ndim != 1:
        raise ValueError(SHAPE)
    return values.astype(ms.float32)


def make_loss(
    name: str = "cross_entropy", options: Mapping[str, Any] | None = None, label_smoothing: float = 0.0
) -> Any:
    """Return the cell that ``step.loss`` names.

    Raises:
        UserError: for a reference that does not take the options, or a ``mean_over`` that is not one of its figures.
    """
    if not is_reference(name):
        return CrossEntropy(label_smoothing)
    options = options or {}
    if inspect.isclass(load_reference(name, "step.loss")):
        return OwnLoss(load_part(name, options, "step.loss")(**options), {})
    return OwnLoss(load_part(name, options, "step.loss", "outputs", "targets"), options)
