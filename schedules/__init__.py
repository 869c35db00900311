"""Learning-rate schedules as whole float32 arrays: small, exact, usable without MindSpore."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import schedules.more_kinds  # noqa: F401, registers its kinds
from schedules.config import DIALECTS, build, compose
from schedules.errors import BadValue
from schedules.kinds import KINDS
from schedules.schedule import Phase, Schedule, fingerprint

__version__ = "0.1.0"
"""Of the whole project; ``models``, which imports nothing of ours, repeats it."""

__all__ = ["DIALECTS", "KINDS", "Phase", "Schedule", "build", "fingerprint", "get_lr"]


def get_lr(
    *,
    lr_init: float,
    lr_max: float,
    lr_end: float,
    warmup_steps: int | None = None,
    total_steps: int | None = None,
    warmup_epochs: float | None = None,
    total_epochs: float | None = None,
    steps_per_epoch: int | None = None,
) -> NDArray[np.float32]:
    """Linear warm-up, then half a cosine, as the model zoo's MobileNetV2 script has it.

    With W warm-up steps and T steps in all,
    lr[i] = lr_init + (lr_max − lr_init) · i/W                               for i < W,
    lr[i] = lr_end + (lr_max − lr_end) · (1 + cos(π (i − W)/(T − W)))/2      for W ≤ i < T.

    Give either `warmup_steps` and `total_steps`, or `warmup_epochs`, `total_epochs` and `steps_per_epoch`.

    Returns:
        float32, shape (total_steps,), computed in float64.

    Raises:
        ValueError: naming the argument, its value and the rule.
    """
    steps, epochs = (warmup_steps, total_steps), (warmup_epochs, total_epochs, steps_per_epoch)
    warmup: object
    total: object
    if None not in steps and epochs == (None, None, None):
        unit, (warmup, total) = "steps", steps
    elif None not in epochs and steps == (None, None):
        unit, (warmup, total) = "epochs", epochs[:2]
    else:
        raise ValueError(
            f"(warmup_steps, total_steps) = {steps}, (warmup_epochs, total_epochs, steps_per_epoch) = {epochs}: "
            "give either all of the first or all of the second"
        )
    config = {"kind": "cosine", "lr_init": lr_init, "lr_max": lr_max, "lr_end": lr_end}
    durations = {"warmup": f"{warmup} {unit}", "total": f"{total} {unit}"}
    try:
        return compose({**config, **durations}, steps_per_epoch)[0]
    except BadValue as error:
        raise error.at(f"{error.key}_{unit}" if error.key in durations else error.key) from None
