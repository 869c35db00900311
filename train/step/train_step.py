"""One update as one compiled graph.

Forward, backward, all-reduced mean gradient, guard, and an optimizer that holds the whole schedule as its learning-rate
tensor, so that the kernel itself picks ``lr[t]`` by its own ``global_step``. With ``nn.Momentum``, the default:

    v_t = momentum * v_(t-1) + g_t        W_(t+1) = W_t - lr_t * v_t

``g_t`` is the mean gradient over the global batch (plus weight decay): each rank weighs its own mean by its fraction of
the global batch, and the ranks' parts are summed. That is the mean of the ranks' gradients where all have the same
number of images, and still exact where the global batch does not divide evenly. The extras of :class:`StepOptions` that
are off leave nothing in the graph.

**One rule decides how all of this room is written: what is done to each parameter is done by** ``ops.Map``. Of a loop
in ``construct`` MindSpore makes three calls within each other a turn, and it compiles no more than 1,000; ResNet-110
has 331 parameters.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from train.step.gradients import Accumulate, Differentiate
from train.step.network import moving_statistics
from train.step.optimizer import hyper_parameters, velocities
from train.step.options import StepOptions
from train.step.own import copies
from train.step.reduction import Reducer, norm, times
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
    so that all ranks stop after the same update without an extra collective. ``lam``: see :mod:`train.step.update`.

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
        self.global_batch = global_batch
        self.differentiate = Differentiate(network, parameters, global_batch, options, watch.counts_correct)
        self.scaling = self.differentiate.loss_scale
        self.accumulates = options.accumulate > 1
        if self.accumulates:
            self.accumulate = Accumulate(self.differentiate, parameters)
        self.reducer = Reducer(parameters, world_size, rank)
        self.clip_norm = options.clip_norm
        self.averages = options.ema > 0
        if self.averages:
            self.average = Average(options.ema, [*parameters, *statistics])
        self.skips = skips
        self.statistics = ParameterTuple(statistics)
        self.kept = copies("kept", statistics if skips else [])
        self.recorder = Recorder(optimizer, watch)
        self.figures = len(self.differentiate.loss.figures)
        with_velocity = bool(velocities(optimizer))
        self.report = Report(watch, world_size, with_velocity, self.differentiate.loss.figures)
        self.rate_place, *rate_places = watch.rates.values()
        self.rate_places = tuple(rate_places)
        self.map = ops.Map()

    def construct(self, images, targets, stop, lam=None):
        # ---- differentiate, accumulate
        gradients, tally = self.differentiate(images, targets, lam)
        if self.accumulates:
            gradients, tally = self.accumulate.take(gradients, tally)

        # ---- reduce: from `join` to `split` the gradients are a few flat buffers, one for each message
        buffers = self.reducer.join(gradients)
        # Whether this rank's own gradient is finite must be seen before the sum, which is finite on no rank then.
        finite = ops.isfinite(norm(buffers) + tally[0])
        buffers, sums = self.reducer(buffers, tally, stop, finite)

        # ---- unscale
        if self.scaling.used:
            buffers = self.map(ops.partial(times, 1.0 / self.scaling.factor), buffers)

        # ---- judge: after the reduction every rank holds the same norm, so all ranks take the same branch
        grad_norm = norm(buffers)
        applied = ops.isfinite(grad_norm + sums[0])

        # ---- record what the optimizer is about to overwrite: it counts its step up and writes into the weights
        lr, group_lr = self.learning_rates()
        layer_gradients = self.recorder.squares_of(self.reducer.split(buffers))
        before = self.recorder.before()

        # ---- clip, apply and average; or skip
        if not self.skips:
            self.apply(buffers, grad_norm)
        elif applied:
            self.apply(buffers, grad_norm)
            self.map(ops.assign, self.kept, self.statistics)
        else:
            # The schedule goes on: a skipped update has used up its t. The statistics have seen the bad batch.
            ops.assign_add(self.optimizer.global_step, Tensor([1], ms.int32))
            self.map(ops.assign, self.statistics, self.kept)

        # ---- report
        return self.report(
            {
                "loss": sums[0],
                "top1": sums[1] / self.global_batch,
                "figures": self.figures_in(sums),
                "grad_norm": grad_norm,
                "lr": lr,
                "applied": applied.astype(ms.float32),
                "scale_lowered": self.scaling(applied),
                "own_loss": tally[0],
                "stop_and_bad_ranks": sums[tally.shape[0] :],
                "group_lr": group_lr,
                "layer_gradients": layer_gradients,
                "update_norms": self.recorder.squares_after(before),
            }
        )

    def figures_in(self, sums):
        """Return the figures of a reader's loss."""
        return sums[2 : 2 + self.figures] if self.figures else ()

    def learning_rates(self):
        """Return the rate of this update, and that of each group with one of its own as a tuple of tensors (1,)."""
        rates = self.optimizer.get_lr()
        if not self.optimizer.is_group_lr:
            return rates, ()
        of_groups: tuple = ()
        for place in self.rate_places:
            of_groups += (rates[place].reshape(1),)
        return rates[self.rate_place], of_groups

    def apply(self, buffers, grad_norm):
        """Clip, and hand the gradients to the optimizer."""
        if self.clip_norm:
            buffers = self.map(ops.partial(times, ops.minimum(1.0, self.clip_norm / grad_norm)), buffers)
        gradients = self.reducer.split(buffers)
        self.recorder.keep(gradients)
        if self.averages:
            decay = self.average.decay_at(self.optimizer.global_step)
            self.optimizer(gradients)
            self.average(decay)
        else:
            self.optimizer(gradients)

    def scratch(self) -> list[Parameter]:
        """Return the parameters that hold nothing between updates, or what the configuration says: never saved."""
        sums = [*self.accumulate.sums, self.accumulate.tally] if self.accumulates else []
        return [*self.kept, *sums, *self.recorder.gradients, *hyper_parameters(self.optimizer)]

    def refresh_copies(self) -> None:
        """Bring the copies of the moving statistics to what these are now, after a state was restored."""
        for copy, statistic in zip(self.kept, self.statistics, strict=False):
            copy.set_data(Tensor(statistic.asnumpy()))
