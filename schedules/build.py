"""From a `schedule:` section to a Schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from schedules.durations import to_steps
from schedules.schedule import Phase, Schedule

KEYS = ("kind", "lr_init", "lr_max", "lr_end", "warmup", "total", "steps_per_epoch", "lr_per_256")


def warmup_cosine(
    lr_init: float, lr_max: float, lr_end: float, warmup: int, total: int
) -> NDArray[np.float32]:
    lr = np.empty(total, dtype=np.float32)
    i = np.arange(warmup, dtype=np.float64)
    lr[:warmup] = lr_init + (lr_max - lr_init) * i / max(warmup, 1)
    i = np.arange(total - warmup, dtype=np.float64)
    lr[warmup:] = lr_end + (lr_max - lr_end) * (1 + np.cos(math.pi * i / (total - warmup))) / 2
    return lr


def build(
    config: Mapping[str, object], *, steps_per_epoch: int | None = None, global_batch: int | None = None
) -> Schedule:
    for key in config:
        if key not in KEYS:
            raise ValueError(f"schedule.{key}: unknown key; known are {', '.join(KEYS)}")
    if config.get("kind", "cosine") != "cosine":
        raise ValueError(f"schedule.kind = {config['kind']!r}: unknown; known is cosine")
    spe = steps_per_epoch or config.get("steps_per_epoch")
    total = to_steps("total", config["total"], steps_per_epoch=spe, total=None)
    warmup = to_steps("warmup", config.get("warmup", 0), steps_per_epoch=spe, total=total)
    if warmup >= total:
        raise ValueError(f"schedule.warmup = {warmup} steps: must be shorter than total = {total} steps")
    rates = {}
    if "lr_per_256" in config:
        if global_batch is None:
            raise ValueError("schedule.lr_per_256 needs data.global_batch")
        config = {**config, "lr_max": float(config["lr_per_256"]) * global_batch / 256}  # type: ignore[arg-type]
    for key in ("lr_init", "lr_max", "lr_end"):
        rates[key] = float(config.get(key, 0.0))  # type: ignore[arg-type]
        if not 0 <= rates[key] < math.inf:
            raise ValueError(f"schedule.{key} = {config[key]!r}: must be a finite number ≥ 0")
    lr = warmup_cosine(*rates.values(), warmup, total)
    phases = [
        Phase("warm-up", 0, warmup),
        Phase("peak", warmup, warmup + 1),
        Phase("decay", warmup + 1, total),
    ]
    return Schedule(lr, tuple(phase for phase in phases if phase.start < phase.stop))
