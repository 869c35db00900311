"""Feed the compiled step: a batch cut into parts, and mixup's or cutmix's map, drawn outside the graph.

Mixup and cutmix are one mechanism. Of the n images that go through the network together (a rank's batch, or a part of
it where ``step.accumulate`` cuts it), image i is mixed with image n-1-i by a map of mixing weights lam,
x' = lam·x + (1-lam)·x_partner, and the loss weighs the two labels by the mean of lam. Mixup has one weight everywhere
(Zhang et al. 2018, arXiv:1710.09412); cutmix has 0 in a box and 1 elsewhere (Yun et al. 2019, arXiv:1905.04899).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor

from train.data.example import Tree, map_leaves
from train.data.loader import Batch
from train.runtime.errors import UserError
from train.step.loss import SHAPE
from train.step.network import as_tensors, inputs_as_tensors
from train.step.report import Reported
from train.step.train_step import TrainStep


@dataclass(frozen=True)
class Mixing:
    """Alphas of the Beta distributions, 0 for off; where both are on, each batch takes one of the two, evenly."""

    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def enabled(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def lam(self, height: int, width: int, *, seed: int, step: int) -> np.ndarray:
        """Return the mixing weights of update ``step``, float32 (height, width): a function of (seed, step) alone."""
        rng = np.random.default_rng([seed, step, 0x6D6978])
        take_cutmix = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if take_cutmix else self.mixup
        weight = rng.beta(alpha, alpha)
        return _box(rng, height, width, weight) if take_cutmix else np.full((height, width), weight, np.float32)


def _box(rng: np.random.Generator, height: int, width: int, weight: float) -> np.ndarray:
    """Ones, with zeros in a box of about (1 - weight) of the area round a uniformly drawn centre, cut at the border."""
    rows, columns = (_side(rng, size, np.sqrt(1.0 - weight)) for size in (height, width))
    lam = np.ones((height, width), np.float32)
    lam[rows, columns] = 0
    return lam


def _side(rng: np.random.Generator, size: int, fraction: float) -> slice:
    centre, half = rng.uniform(0, size), fraction * size / 2
    return slice(max(round(centre - half), 0), min(round(centre + half), size))


class Feeder:
    """``feed(batch, t, stop)``: hand one rank's batch to the compiled step, cut into parts and mixed as wanted.

    It hands the update to the device and does not wait for it; its result is read when it is asked for.
    """

    def __init__(self, step: TrainStep, *, accumulate: int = 1, mixing: Mixing | None = None, seed: int = 0):
        self.step = step
        self.parts = accumulate
        self.mixing = mixing or Mixing()
        self.seed = seed

    def __call__(self, batch: Batch, t: int, stop: bool = False) -> Reported:
        extra: tuple[Tensor, ...] = ()
        if self.mixing.enabled:
            *_, height, width = (1, 1, *np.shape(batch.inputs)[1:])  # arrays of fewer axes are mixed as a whole
            lam = self.mixing.lam(height, width, seed=self.seed, step=t)
            extra = (Tensor(lam if np.ndim(batch.inputs) > 1 else lam[0]),)
        images, targets = self._split(batch.inputs), self._split(batch.targets)
        asked = Tensor(np.full(1, stop, np.float32))
        try:
            for part in range(self.parts - 1):
                self.step.accumulate(inputs_as_tensors(images[part]), as_tensors(targets[part]), *extra)
            vector = self.step(inputs_as_tensors(images[-1]), as_tensors(targets[-1]), asked, *extra)
        except ValueError as error:  # raised while it is compiled, with MindSpore's own lines around it
            if SHAPE not in str(error):
                raise
            raise UserError(SHAPE) from None
        return Reported(self.step.report, vector)

    def _split(self, tree: Tree) -> list[Tree]:
        """Return the inputs or targets of each part."""
        cut = map_leaves(lambda leaf: np.array_split(leaf, self.parts), tree)
        return [map_leaves(operator.itemgetter(part), cut) for part in range(self.parts)]
