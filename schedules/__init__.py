"""Learning-rate schedules as whole float32 arrays: exact, tested, usable without MindSpore."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedules.build import build
from schedules.schedule import Phase, Schedule

__all__ = ["Phase", "Schedule", "build", "get_lr"]


def get_lr(
    *,
    lr_init: float,
    lr_max: float,
    lr_end: float,
    warmup_steps: int | None = None,
    total_steps: int | None = None,
    warmup_epochs: int | None = None,
    total_epochs: int | None = None,
    steps_per_epoch: int | None = None,
) -> NDArray[np.float32]:
    """Linear warm-up, then cosine: float32 array of shape (total_steps,)."""
    by_steps = warmup_steps is not None and total_steps is not None
    if by_steps:
        durations: dict[str, object] = {"warmup": warmup_steps, "total": total_steps}
    else:
        durations = {"warmup": f"{warmup_epochs} epochs", "total": f"{total_epochs} epochs"}
    config = {"kind": "cosine", "lr_init": lr_init, "lr_max": lr_max, "lr_end": lr_end, **durations}
    return build(config, steps_per_epoch=steps_per_epoch).lr
