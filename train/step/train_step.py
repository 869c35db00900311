"""One update as one compiled graph.

Forward, backward, all-reduced mean gradient, guard, and an optimizer that holds the whole schedule as its learning-rate
tensor, so that the kernel itself picks ``lr[t]`` by its own ``global_step``. With momentum, the default:

    v_t = momentum * v_(t-1) + g_t        W_(t+1) = W_t - lr_t * v_t

``g_t`` is the mean gradient over the global batch (plus weight decay): each rank weighs its own mean by its fraction of
the global batch, and the ranks' parts are summed. That is the mean of the ranks' gradients where all have the same
number of images, and still exact where the global batch does not divide evenly. The extras of :class:`StepOptions` that
are off leave nothing in the graph.

One rule decides how all compiled code is written: what is done to each parameter is done by ``each``
(:mod:`train.step.reduction`), never in a loop.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from train.step.gradients import Accumulate, Differentiate
from train.step.network import moving_statistics
from train.step.optimizer import decays_beforehand, hyper_parameters, velocities
from train.step.options import StepOptions
from train.step.parameters import step_parameter
from train.step.reduction import Buckets, Reducer, each, norm, times
from train.step.report import Report
from train.step.watching import Average, Recorder, Watch


class TrainStep(nn.Cell):
    """``step(images, targets, stop, lam)``: one update; returns the vector that ``report`` reads.

    Args:
        network: uint8 images to logits, or whatever the loss takes.
        optimizer: as made by :func:`train.step.optimizer.make_optimizer`.
        global_batch: images of all ranks.
        world_size: number of ranks.
        rank: this process's number.
        options: training extras.
        watch: what is measured besides.
        skips: leave out an update that is not finite. False: apply it nevertheless and say so in the result, for a
            caller who then ends the run; without the branch, the device need not wait for the host within an update.

    ``stop`` is a float32 tensor (1,), 1 where this rank was asked to end the run; its sum travels with the gradients,
    so that all ranks stop after the same update without an extra collective. ``lam``: see :mod:`train.step.feeder`.

    A gradient that is not finite on any rank skips the update on all ranks: the norm of the reduced gradient tells
    every rank at once, so no further exchange is needed. The forward pass has by then written BatchNorm's moving
    statistics, so these are put back from a copy; the update still uses up its t.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Optimizer,
        *,
        global_batch: int,
        world_size: int,
        rank: int = 0,
        options: StepOptions | None = None,
        watch: Watch | None = None,
        skips: bool = True,
    ):
        super().__init__(auto_prefix=False)
        options, watch = options or StepOptions(), watch or Watch()
        parameters, statistics = optimizer.parameters, moving_statistics(network)
        self.optimizer = optimizer
        self.differentiate = Differentiate(network, parameters, global_batch, options, watch.counts_correct)
        self.scaling = self.differentiate.loss_scale
        loss = self.differentiate.loss
        self.weighed = bool(loss.mean_over)
        self.weight_place = 2 + loss.figures.index(loss.mean_over) if self.weighed else 0
        self.accumulates = options.accumulate > 1
        if self.accumulates:
            self.accumulate = Accumulate(self.differentiate, parameters)
        self.buckets = Buckets(parameters, decays=decays_beforehand(optimizer))
        self.reducer = Reducer(world_size, rank, self.buckets.sizes)
        self.clip_norm = options.clip_norm
        self.averages = options.ema > 0
        if self.averages:
            self.average = Average(options.ema, [*parameters, *statistics])
        self.skips = skips
        self.statistics = ParameterTuple(statistics if skips else [])
        self.statistics_buckets = Buckets(self.statistics)
        self.statistics_copy = ParameterTuple(
            [step_parameter(values, f"statistics_copy.{i}") for i, values in enumerate(self.joined_statistics())]
        )
        self.recorder = Recorder(optimizer, watch)
        self.report = Report(
            watch,
            global_batch=global_batch,
            world_size=world_size,
            with_velocity=bool(velocities(optimizer)),
            figures=loss.figures,
            mean_over=loss.mean_over,
        )

    def construct(self, images, targets, stop, lam=None):
        # ---- differentiate, accumulate
        gradients, tally = self.differentiate(images, targets, lam)
        if self.accumulates:
            gradients, tally = self.accumulate.take(gradients, tally)

        # ---- reduce: from `join` to `split` the gradients are a few flat buffers, one for each message; `sums` are
        # ---- over all ranks the tally (loss, correct answers, figures of the loss), who stops, and who is not finite
        buffers, sums = self.reducer(self.buckets.join(gradients), tally, stop)

        # ---- unscale, weigh
        if self.scaling.used:
            buffers = each(ops.partial(times, 1.0 / self.scaling.factor), buffers)
        if self.weighed:  # so far the gradients were divided by the number of examples
            buffers = each(ops.partial(times, 1.0 / sums[self.weight_place]), buffers)

        # ---- judge: after the reduction every rank holds the same norm, so all ranks take the same branch
        grad_norm = norm(buffers)
        finite = ops.isfinite(grad_norm + sums[0])  # sums[0] is the loss

        # ---- record what the optimizer is about to overwrite: it counts its step up and writes into the weights
        rates = self.recorder.rates(self.optimizer.get_lr())
        layer_gradients = self.recorder.squares_of(self.buckets.split(buffers))
        before = self.recorder.before()

        # ---- clip, apply and average; or skip: what is `self.…` is decided when it is compiled, `finite` on the device
        if not self.skips:
            self.apply_update(buffers, grad_norm)
        elif finite:
            self.apply_update(buffers, grad_norm)
            each(ops.Assign(), self.statistics_copy, self.statistics_buckets.join(self.statistics))
        else:
            # The schedule goes on: a skipped update has used up its t. The statistics have seen the bad batch.
            ops.AssignAdd()(self.optimizer.global_step, Tensor([1], ms.int32))
            each(ops.Assign(), self.statistics, self.statistics_buckets.split(self.statistics_copy))

        # ---- adapt the loss scale, of which a batch whose weights (`mean_over`) sum to 0 says nothing; report
        settled = ops.logical_or(finite, sums[self.weight_place] == 0) if self.weighed else finite
        scale_lowered = self.scaling(settled)
        return self.report(
            {
                "grad_norm": grad_norm,
                "applied": finite.astype(ms.float32),
                "scale_lowered": scale_lowered,
                "own_loss": tally[0],
                "rates": rates,
                "layer_gradients": layer_gradients,
                "update_norms": self.recorder.squares_after(before),
                "sums": sums,
            }
        )

    def apply_update(self, buffers, grad_norm):
        """Clip, and hand the gradients to the optimizer."""
        if self.clip_norm:
            buffers = each(ops.partial(times, ops.minimum(1.0, self.clip_norm / grad_norm)), buffers)
        gradients = self.buckets.split(buffers)
        self.recorder.keep(gradients)
        if self.buckets.decays:
            buffers = self.buckets.decayed(buffers, self.optimizer.parameters)
            self.optimizer(self.buckets.split(buffers), True)  # the decay is in them already
        else:
            self.optimizer(gradients)
        if self.averages:
            self.average(self.optimizer.global_step)

    def scratch(self) -> list[Parameter]:
        """Return the parameters that hold nothing between updates, or what the configuration says: never saved."""
        sums = [*self.accumulate.sums, self.accumulate.tally] if self.accumulates else []
        return [*self.statistics_copy, *sums, *self.recorder.gradients, *hyper_parameters(self.optimizer)]

    def refresh_copies(self) -> None:
        """Bring the copies of the moving statistics to what these are now, after a state was restored."""
        for copy, values in zip(self.statistics_copy, self.joined_statistics(), strict=True):
            copy.set_data(Tensor(values))

    def joined_statistics(self) -> list[np.ndarray]:
        values = [statistic.asnumpy().reshape(-1) for statistic in self.statistics]
        return [np.concatenate(values[start:stop]) for start, stop in self.statistics_buckets.ranges]
