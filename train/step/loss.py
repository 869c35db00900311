"""The loss: one value for each example, whose mean is weighed by each rank's fraction of the global batch.

A loss of a reader's own is a function, or a class of cells, that ``step.loss`` refers to::

    def focal(outputs, targets, *, gamma: float): ...   # float32 (N,)

``outputs`` is what the model returns, float32, ``targets`` what the data gives: a tensor or a tuple of tensors, the
first axis is that of the examples. Keywords are ``step.loss_options``; a class gets them when it is made. It is
compiled into the update: plain operators, no NumPy.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from train.runtime.errors import UserError
from train.runtime.keys import is_reference, load_reference

SHAPE = "step.loss: must return one value for each example, float32 (N,)"


class CrossEntropy(nn.Cell):
    """Cross-entropy of softmax, in nats; ``targets`` are int32 (N,), ``outputs`` float32 (N, classes)."""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__(auto_prefix=False)
        self.label_smoothing = label_smoothing

    def construct(self, outputs, targets):
        """Return float32 (N,), without label smoothing: of it only training is to know."""
        return ops.cross_entropy(outputs, targets, reduction="none")

    def mean(self, outputs, targets):
        return ops.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)


class OwnLoss(nn.Cell):
    """A reader's function or cell."""

    def __init__(self, function: Any, options: Mapping[str, Any]):
        super().__init__(auto_prefix=False)
        self.function = function
        self.options = dict(options)

    def construct(self, outputs, targets):
        if self.options:  # noqa: SIM108, the compiler
            values = self.function(outputs, targets, **self.options)
        else:
            values = self.function(outputs, targets)
        if values.ndim != 1:
            raise ValueError(SHAPE)
        return values.astype(ms.float32)

    def mean(self, outputs, targets):
        return self.construct(outputs, targets).mean()


def make_loss(
    name: str = "cross_entropy", options: Mapping[str, Any] | None = None, label_smoothing: float = 0.0
) -> Any:
    """Return the cell that ``step.loss`` names.

    Raises:
        UserError: for a reference that does not take the options.
    """
    if not is_reference(name):
        return CrossEntropy(label_smoothing)
    options = options or {}
    found = load_reference(name, "step.loss")
    made = inspect.isclass(found)
    try:
        if made:
            inspect.signature(found).bind(**options)
        else:
            inspect.signature(found).bind(None, None, **options)
    except (TypeError, ValueError) as error:
        words = "made with its options" if made else "called with outputs, targets and its options"
        raise UserError(f"step.loss={name}: is {words} (step.loss_options={dict(options)}): {error}") from None
    return OwnLoss(found(**options), {}) if made else OwnLoss(found, options)
