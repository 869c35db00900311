"""The model behind its input normalisation, and two things that are asked of any model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from train.data.example import Tree, map_leaves
from train.runtime.errors import UserError
from train.step.reduction import each, picked


def as_tensors(tree: Tree) -> Any:
    """Return arrays as a compiled cell takes them: a tuple or a mapping that is not marked as mutable would be a
    constant of the graph, which would be compiled again for each batch."""
    made = map_leaves(Tensor, tree)
    return made if isinstance(made, Tensor) else ms.mutable(made)


def inputs_as_tensors(inputs: Tree) -> Any:
    """The same of inputs, those with names as a tuple in their declared order: see :class:`Network`."""
    return as_tensors(tuple(inputs.values()) if isinstance(inputs, Mapping) else inputs)


def count(inputs):
    """Return how many examples ``inputs``, a tensor or a tuple of tensors, are of."""
    return inputs[0].shape[0] if isinstance(inputs, tuple) else inputs.shape[0]


def flipped(targets):
    """Return targets, a tensor or a tuple or mapping of tensors, in the opposite order."""
    if isinstance(targets, dict):
        return {name: ops.flip(targets[name], (0,)) for name in targets}
    return each(_flip, targets) if isinstance(targets, tuple) else _flip(targets)


def _flip(tensor):
    return ops.flip(tensor, (0,))


def _float32(tensor):
    return tensor.astype(ms.float32)


class Network(nn.Cell):
    """uint8 images (N, C, H, W) in, the model's outputs (tensor or tuple) as float32 out: logits (N, classes), mostly.

    Images travel to the device as uint8 (a quarter of float32's bytes) and are scaled here to (x/255 - mean) / std;
    with an empty ``mean`` the model gets what the data gives, as it is. Of several inputs those are images that are
    uint8 of four axes.

    Args:
        names: of the inputs, where they have any: each reaches the parameter of the model's construct of that name.
    """

    def __init__(self, model: nn.Cell, mean: Sequence[float], std: Sequence[float], names: Sequence[str] = ()):
        super().__init__(auto_prefix=False)
        self.model = model
        self.order = tuple(_places(model, names))
        self.normalises = len(mean) > 0
        scale = 1.0 / (255.0 * np.asarray(std, np.float64))
        shift = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
        self.scale = Tensor(scale.reshape(1, -1, 1, 1).astype(np.float32))
        self.shift = Tensor(shift.reshape(1, -1, 1, 1).astype(np.float32))

    def construct(self, inputs):
        outputs = self.model(*self.given(inputs))
        return each(_float32, outputs) if isinstance(outputs, tuple) else _float32(outputs)

    def given(self, inputs):
        """Return the arguments of the model."""
        if not isinstance(inputs, tuple):
            return (inputs.astype(ms.float32) * self.scale + self.shift if self.normalises else inputs,)
        several: tuple = ()
        for one in inputs:
            if self.normalises and one.ndim == 4 and one.dtype == ms.uint8:
                several += (one.astype(ms.float32) * self.scale + self.shift,)
            else:
                several += (one,)
        return each(ops.partial(picked, several), self.order) if self.order else several


def _places(model: nn.Cell, names: Sequence[str]) -> list[int]:
    """Return which of ``names`` each parameter of the model's ``construct`` is."""
    if not names:
        return []
    wanted = list(inspect.signature(model.construct).parameters)[: len(names)]
    if sorted(wanted) != sorted(names):
        raise UserError(f"model: its construct takes {', '.join(wanted)}, and the data's inputs are {', '.join(names)}")
    return [list(names).index(name) for name in wanted]


def correct_within(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return float32 (N,): 1 where the true class is among the ``k`` largest logits, else 0.

    Of equal logits the one of the lower class counts as larger, as argmax has it; NaN is never right.
    """
    column = labels.reshape(-1, 1)
    true = ops.gather_elements(logits, 1, column)
    behind = ops.select(ops.arange(logits.shape[1]) < column, logits < true, logits <= true)
    return (behind.astype(ms.float32).sum(axis=1) > logits.shape[1] - k).astype(ms.float32)


def moving_statistics(model: nn.Cell) -> list[Parameter]:
    """Return BatchNorm's moving means and variances, in the model's order."""
    return [p for p in model.get_parameters() if p.name.endswith((".moving_mean", ".moving_variance"))]


DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def refuse_cells(model: nn.Cell) -> None:
    """Refuse what draws masks from a generator inside a kernel, which can be neither saved nor told apart by rank, and
    what has sparse gradients, which are no tensor that could be exchanged.

    Raises:
        UserError: names the layer.
    """
    for name, cell in model.cells_and_names():
        # Of nn.Dropout either says that it does nothing; the others hold one of the two.
        if isinstance(cell, DROPOUTS) and getattr(cell, "keep_prob", None) != 1.0 and getattr(cell, "p", None) != 0.0:
            raise UserError(
                f"model: {name} is a {type(cell).__name__}, whose masks are the same on all ranks and others after a "
                "resume; leave it out, or use train.step.dropout.Dropout, whose masks follow seed, update and rank"
            )
        if type(cell).__name__.endswith("EmbeddingLookup") and getattr(cell, "sparse", False):
            raise UserError(
                f"model: {name}, {type(cell).__name__}, has sparse gradients, which are not exchanged; use nn.Embedding"
            )
