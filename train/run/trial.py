"""Try the parts of a user's on a few examples before anything is written; what breaks its contract is one line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from train.data.example import Field, Tree, leaves, map_leaves
from train.data.reader import Batch
from train.recipe.sections import RunConfig
from train.run.task import Task
from train.runtime import distributed
from train.runtime.errors import UserError
from train.runtime.keys import is_reference
from train.step.loss import SHAPE, OwnLoss
from train.step.metrics import Sums
from train.step.network import Network, as_tensors, inputs_as_tensors

EXAMPLES = 2


def try_parts(config: RunConfig, task: Task) -> None:
    """Let model, loss and metrics see a few training examples, where one of them is a user's own.

    Raises:
        UserError: for what returns something else than it has to. What fails inside keeps its traceback.
    """
    if not any(map(is_reference, (config.model.name, config.step.loss, *map(str, config.evaluate.metrics)))):
        return
    reader = task.readers.train
    batch = reader.read(np.arange(EXAMPLES) % len(reader), np.random.default_rng)
    with uncompiled([]):
        outputs = _outputs(config, task, batch)
        _try_loss(config, task.eval_step.loss, outputs, batch)
    sums = Sums(task.eval_step.metrics)
    sums.add(map_leaves(lambda one: one.asnumpy(), outputs), batch.targets, np.ones(EXAMPLES, bool))
    if sums.fault is not None:
        raise UserError(sums.fault)


def _outputs(config: RunConfig, task: Task, batch: Batch) -> Any:
    name = f"model.name={config.model.name}"
    inputs = task.network.given(inputs_as_tensors(batch.inputs))
    try:
        inspect.signature(task.model.construct).bind(*inputs)
    except TypeError as error:
        raise UserError(
            f"{name}: its construct cannot take the data's inputs, which are {len(inputs)}: {error}"
        ) from None
    found: list[Any] = []
    written = [p for p in task.model.get_parameters() if not p.requires_grad]  # by a pass: statistics, buffers
    for training in (True, True, False):  # each from the same state
        task.model.set_train(training)
        with uncompiled(written):
            found.append(task.model(*inputs))
    task.model.set_train(True)
    for outputs in found:
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        if not several or not all(isinstance(one, Tensor) for one in several):
            raise UserError(f"{name}: returns {_form(outputs)}; return a tensor, or a tuple of tensors")
        if any(one.shape[:1] != (EXAMPLES,) for one in several):
            raise UserError(
                f"{name}: returns {_form(outputs)} for {EXAMPLES} examples, which come first in each output"
            )
    first, again = (map_leaves(lambda one: one.asnumpy(), outputs) for outputs in found[:2])
    same = all(map(partial(np.allclose, equal_nan=True), leaves(first), leaves(again)))
    if distributed.rank() == 0 and not same:
        print(
            f"note: {name}: returns other outputs for the same inputs in training; what it draws is the same on all "
            "ranks, and a resumed run draws other numbers (train.step.dropout.Dropout does not)",
            flush=True,
        )
    _, *found = found
    trained, evaluated = map(_form, found)
    if trained != evaluated:
        raise UserError(f"{name}: returns {trained} in training and {evaluated} in evaluation; return the same in both")
    target, classes = task.readers.train.example.targets, task.card.num_classes
    of_classes = config.step.loss == "cross_entropy" or {"top1", "top5"} & set(config.evaluate.names)
    if of_classes and isinstance(target, Field):
        outputs = found[1]
        if isinstance(outputs, tuple) or outputs.ndim != 2 or outputs.shape[1] < classes:
            raise UserError(f"{name}: returns {trained}, not the logits of {classes} classes, ({EXAMPLES}, {classes})")
    return map_leaves(lambda one: one.astype(ms.float32), found[1])


def _try_loss(config: RunConfig, loss: nn.Cell, outputs: Any, batch: Batch) -> None:
    if not isinstance(loss, OwnLoss):
        return
    found = loss.function(outputs, as_tensors(batch.targets), **loss.options)
    if loss.figures:
        if not isinstance(found, tuple) or len(found) != 2 or set(found[1]) != set(loss.figures):
            names = ", ".join(loss.figures)
            raise UserError(f"step.loss={config.step.loss}: returns {_form(found)}, not (loss, {{{names}: …}})")
        found = (found[0], *found[1].values())
    for one in found if loss.figures else (found,):
        if not isinstance(one, Tensor) or one.shape != (EXAMPLES,) or not one.is_floating_point():
            raise UserError(f"{SHAPE}; {config.step.loss} returns {_form(one)} for {EXAMPLES} examples")


def _form(outputs: Any) -> str:
    if isinstance(outputs, Tensor):
        return f"{str(outputs.dtype).lower()} {outputs.shape}"
    if isinstance(outputs, tuple):
        return f"({', '.join(map(_form, outputs))})"
    return "None" if outputs is None else f"a {type(outputs).__name__}"


def try_optimizer(optimizer: nn.Optimizer, name: str) -> None:
    """Let a user's optimizer make an update of nothing.

    Raises:
        UserError: when it does not count it, and so would take the same learning rate for ever.
    """
    if not is_reference(name):
        return
    with uncompiled([*optimizer.get_parameters()]):
        optimizer(tuple(ops.zeros_like(parameter) for parameter in optimizer.parameters))
        counted = int(optimizer.global_step.asnumpy()[0])
    if counted != 1:
        raise UserError(
            f"optimizer.name={name}: counts its global_step to {counted} in one update; end its construct with "
            "self.assignadd(self.global_step, self.global_step_increase_tensor)"
        )


def norms_over_one_value(network: Network, inputs: Tree) -> list[str]:
    """Return the names of the model's BatchNorm layers that see a single value a channel in a training pass of
    ``inputs``, arrays as a batch has them.

    Their variance is that of one number, so what they write into their moving statistics is not a number. The model is
    gone through once in evaluation mode; what stands in the arrays does not matter.
    """
    found: list[str] = []

    def note(name: str, _cell: nn.Cell, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].size == inputs[0].shape[1]:
            found.append(name)

    cells = network.model.cells_and_names()
    norms = [(name, cell) for name, cell in cells if isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d))]
    handles = [cell.register_forward_pre_hook(partial(note, name)) for name, cell in norms]
    with uncompiled([]):
        network.set_train(False)
        network(inputs_as_tensors(inputs))
        network.set_train(True)
    for handle in handles:
        handle.remove()
    return found


@contextmanager
def uncompiled(parameters: Sequence[Parameter]) -> Iterator[None]:
    """Inside, cells are run as they are; afterwards ``parameters`` have their values again."""
    values = [parameter.asnumpy().copy() for parameter in parameters]
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)
        for parameter, value in zip(parameters, values, strict=True):
            parameter.set_data(Tensor(value))
