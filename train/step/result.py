"""What an update reports: a vector of numbers on the device, and what it is read as."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from mindspore import Tensor


class UpdateNorms(NamedTuple):
    """L2 norms of one layer's update."""

    delta: float
    """‖W_start - W_new‖, measured"""
    weight: float
    """‖W_start‖"""
    velocity: float | None = None
    """‖v_t‖ of the velocity the update used; None where the optimizer has no momentum"""


class StepResult(NamedTuple):
    """What an update reports, reduced over all ranks and so the same on every rank, but for ``own_loss``."""

    loss: float
    """Mean training loss over the global batch (with label smoothing and mixing, where they are on)."""
    top1: float
    """Fraction of the global batch classified correctly, before the update."""
    grad_norm: float
    """L2 norm of the reduced mean gradient, before clipping and without weight decay."""
    lr: float
    """The learning rate that the optimizer read from its own tensor for this update."""
    applied: bool
    """False when the loss or the gradient was not finite: the update was skipped on every rank."""
    own_loss: float = 0.0
    """This rank's part of ``loss``: all ranks' parts sum to it."""
    stop: bool = False
    """True when any rank was asked to stop: all ranks learn it at the same update."""
    bad_ranks: tuple[int, ...] = ()
    """Ranks whose own gradient was not finite."""
    scale_lowered: bool = False
    """True when the update was skipped and a dynamic loss scale fell, as it does while it looks for its size."""
    update_norms: Mapping[str, UpdateNorms] = MappingProxyType({})
    """Of each recorded layer, by parameter name."""
    group_lr: Mapping[str, float] = MappingProxyType({})
    """Read as ``lr`` was, for each group of parameters with a rate of its own."""
    layer_gradients: Mapping[str, float] = MappingProxyType({})
    """L2 norm of each logged layer's part of the gradient whose norm is ``grad_norm``."""


class Layout(NamedTuple):
    """What stands where in the vector that a step returns: first ``FIGURES``, then as many numbers as the names here
    ask for, in this order; then how many ranks were asked to stop; then for each rank a 1 if its own gradient was not
    finite."""

    rates: tuple[str, ...] = ()
    """Groups with a learning rate of their own."""
    logged: tuple[str, ...] = ()
    """Layers whose gradient's norm is measured: its square."""
    recorded: tuple[str, ...] = ()
    """Layers whose update's norms are measured: the squares of those of :class:`UpdateNorms`, in its order."""
    with_velocity: bool = True


# The numbers at the head of the vector that a step returns, in the order in which ``construct`` puts them there.
FIGURES = ("loss", "top1", "grad_norm", "lr", "applied", "scale_lowered", "own_loss")


def read_result(values: Tensor, layout: Layout | None = None) -> StepResult:
    """Fetch a step's vector from the device; ``layout`` is the step's own."""
    layout = layout or Layout()
    numbers = iter(values.asnumpy().tolist())
    figures = dict(zip(FIGURES, itertools.islice(numbers, len(FIGURES)), strict=True))
    rates = {name: next(numbers) for name in layout.rates}
    gradients = {name: np.sqrt(next(numbers)).item() for name in layout.logged}
    count = 3 if layout.with_velocity else 2
    norms = {name: UpdateNorms(*np.sqrt(list(itertools.islice(numbers, count))).tolist()) for name in layout.recorded}
    stop, *bad = numbers
    return StepResult(
        **{**figures, "applied": bool(figures["applied"]), "scale_lowered": bool(figures["scale_lowered"])},
        stop=stop > 0,
        bad_ranks=tuple(np.flatnonzero(bad).tolist()),
        update_norms=norms,
        group_lr=rates,
        layer_gradients=gradients,
    )
