"""What an update reports: packed into one vector in the graph, unpacked on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from mindspore import Tensor, nn, ops

from train.step.watching import Watch


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
    top1: float | None
    """Fraction of the global batch classified correctly, before the update; None where that is not measured."""
    grad_norm: float
    """L2 norm of the reduced mean gradient, before clipping and without weight decay."""
    lr: float
    """The learning rate that the optimizer read from its own tensor for this update."""
    applied: bool
    """False when the loss or the gradient was not finite on any rank: all skip the update, but for guard.mode=stop."""
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
    figures: Mapping[str, float] = MappingProxyType({})
    """Of a user's loss, by name: means over the global batch."""
    layer_gradients: Mapping[str, float] = MappingProxyType({})
    """L2 norm of each logged layer's part of the gradient whose norm is ``grad_norm``."""


class Report(nn.Cell):
    """``report(fields)``, in the graph, packs a dict of the tensors named in ``sizes`` into one float32 vector;
    :meth:`read`, on the host, makes a :class:`StepResult` of it. A new figure is a field there, stands in ``sizes`` and
    :meth:`read`, and is measured in :class:`train.step.train_step.TrainStep`."""

    def __init__(
        self,
        watch: Watch,
        *,
        global_batch: int,
        world_size: int,
        with_velocity: bool,
        figures: Sequence[str] = (),
        mean_over: str = "",
    ):
        super().__init__(auto_prefix=False)
        _, *self.groups = watch.rates
        self.figures, self.mean_over = tuple(figures), mean_over
        self.correct_of = global_batch if watch.counts_correct else None
        self.logged, self.recorded = tuple(watch.logged), tuple(watch.recorded)
        self.norms = 3 if with_velocity else 2
        self.sizes = dict.fromkeys(("grad_norm", "applied", "scale_lowered", "own_loss"), 1) | {
            "rates": len(watch.rates),
            "layer_gradients": len(self.logged),
            "update_norms": len(self.recorded) * self.norms,
            "sums": 2 + len(self.figures) + 1 + (world_size if world_size > 1 else 0),  # see Reducer
        }
        self.names = tuple(name for name, size in self.sizes.items() if size)

    def construct(self, fields):
        parts: tuple = ()
        for name in self.names:
            # Of several layers or rates it is a tuple of tensors (n,); numbers may be tensors without axes.
            parts += fields[name] if isinstance(fields[name], tuple) else (fields[name].reshape(-1),)
        return ops.concat(parts)

    def read(self, vector: Tensor) -> StepResult:
        """Fetch the vector from the device, which waits until the update is done."""
        pieces = np.split(vector.asnumpy(), np.cumsum(list(self.sizes.values()))[:-1])
        found = dict(zip(self.sizes, pieces, strict=True))
        loss, correct, *more = found["sums"].tolist()
        stop, *bad = more[len(self.figures) :]
        lr, *group_lr = found["rates"].tolist()
        figures = dict(zip(self.figures, more, strict=False))
        weight = (figures[self.mean_over] or np.nan) if self.mean_over else 1.0  # no mean over nothing
        norms = np.sqrt(found["update_norms"]).reshape(self.norms, -1).T.tolist()
        applied = bool(found["applied"] > 0)
        return StepResult(
            loss=np.divide(loss, weight).item(),
            top1=correct / self.correct_of if self.correct_of else None,
            grad_norm=found["grad_norm"].item(),
            lr=lr,
            applied=applied,
            own_loss=np.divide(found["own_loss"].item(), weight).item(),
            stop=stop > 0,
            bad_ranks=tuple(np.flatnonzero(bad or [not applied]).tolist()),  # one rank's gradient is the reduced one
            scale_lowered=bool(found["scale_lowered"] > 0),
            figures=figures,
            group_lr=dict(zip(self.groups, group_lr, strict=True)),
            layer_gradients=dict(zip(self.logged, np.sqrt(found["layer_gradients"]).tolist(), strict=True)),
            update_norms={name: UpdateNorms(*row) for name, row in zip(self.recorded, norms, strict=True)},
        )


class Reported:
    """What an update that was handed to the device will have reported."""

    def __init__(self, report: Report, vector: Tensor):
        self._report = report
        self._vector = vector

    @cached_property
    def result(self) -> StepResult:
        """Read from the device when it is first asked for, which waits until the update is done."""
        return self._report.read(self._vector)
