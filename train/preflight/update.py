"""Two updates of the recipe, as training makes them: a device on which small checks pass may still crawl or fail here.

On Ascend a wrong driver, an operator without a kernel for the AI cores or one that is compiled slowly show only now.
"""

from __future__ import annotations

import time

import numpy as np

from train.preflight.machine import first_line
from train.recipe.sections import RunConfig
from train.run.job import make_feeder, make_step
from train.run.opening import open_all
from train.runtime import distributed
from train.runtime.errors import RunError, UserError


def time_updates(config: RunConfig) -> str:
    """Make the recipe's first update, which is compiled for it, and the second, with its own data and fresh weights.

    Collective.

    Raises:
        UserError: of whatever fails, with its first line; where that is on one rank only, the others wait in vain.
    """
    try:
        images, seconds = _make_two(config)
    except RunError:
        raise
    except Exception as error:  # whatever MindSpore, CANN or the user's own model raise is what we are here to see
        raise UserError(
            f"failed ({type(error).__name__}: {first_line(error)}); check model, precision and device"
        ) from None
    return f"{images} images a rank: the first {seconds[0]:.1f} s (it compiles), the second {1000 * seconds[1]:.0f} ms"


def _make_two(config: RunConfig) -> tuple[int, list[float]]:
    task, loader, schedule = open_all(config)
    distributed.broadcast_parameters(list(task.model.get_parameters()))
    rates = np.resize(schedule.lr, max(2, len(schedule.lr)))  # a recipe may be one update long
    update = make_feeder(config, make_step(config, task.network, rates))
    seconds = []
    for number, batch in enumerate(loader.batches(0, 2)):
        began = time.perf_counter()
        assert update(batch, number).result
        seconds.append(time.perf_counter() - began)
    return loader.local_batch, seconds
