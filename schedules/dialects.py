"""The conventions of the scripts people come from.

A dialect is data: for each kind that the script has, the options it fixes, and its own formula where ours cannot
express it. README.md says where each formula was published.
"""

from __future__ import annotations

import math

import numpy as np

from schedules import curves
from schedules.curves import Floats, Segment
from schedules.kinds import Mode, Plan
from schedules.more_kinds import stages
from schedules.options import Rate


def timm_cosine(plan: Plan, *, lr_end: Rate = 0.0) -> list[Segment]:
    """timm's CosineLRScheduler with its default warmup_prefix=False: the cosine runs from step 0, hidden behind
    the warm-up, so that lr falls short of lr_max where the two meet."""
    return [plan.decay(curves.cosine, plan.lr_max, lr_end, plan.steps, elapsed=plan.warmup)]


def zoo_resnet_cosine(plan: Plan) -> list[Segment]:
    """lr_max · ((T−t)/D · (1 + cos(0.94 π t/D))/2 + 10⁻⁵) with D = T − W and t counted from step 0."""
    d, total = plan.steps, plan.warmup + plan.steps

    def curve(i: Floats) -> Floats:
        t = i + plan.warmup
        return plan.lr_max * ((total - t) / d * np.cos(0.47 * np.pi * t / d) ** 2 + 1e-5)

    return [Segment("decay", d, curve)]


def zoo_resnet_stages(plan: Plan) -> list[Segment]:
    """A tenth at 30%, 60% and 80% of the whole."""
    total = plan.warmup + plan.steps
    milestones = [math.ceil(0.3 * total), math.ceil(0.6 * total), math.ceil(0.8 * total)]
    bounds = [max(plan.warmup, bound) for bound in (0, *milestones, total)]
    return [segment for segment in stages(plan.lr_max, 0.1, bounds) if segment.steps]


_COMMON = {"warmup_shape": "linear", "warmup_count_from": 0, "reach_end": False}
_ZOO = {**_COMMON, "update": "step", "cooldown": 0}
_ZOO_COSINE = {**_ZOO, "warmup_count_from": 1}

ZOO_MOBILENETV2 = {"cosine": Mode(_ZOO)}
ZOO_RESNET = {
    "cosine": Mode(_ZOO_COSINE, ignored=("lr_end",), build=zoo_resnet_cosine),
    "linear": Mode(_ZOO),
    "polynomial": Mode({**_ZOO, "power": 2.0}, ignored=("lr_end",)),
    "multistep": Mode(_ZOO, ignored=("lr_end",), build=zoo_resnet_stages),
}
MINDCV = {"cosine": Mode(_COMMON)}
TORCH = {"cosine": Mode({**_COMMON, "cooldown": 0})}
TIMM = {"cosine": Mode(_COMMON, build=timm_cosine)}
