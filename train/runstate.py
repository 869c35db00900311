"""A run as its hooks see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindspore import Parameter, nn

    from schedules import Schedule
    from train.data.loader import Batch
    from train.step.train_step import StepResult

Scalars = dict[str, float]


@dataclass
class RunState:
    """A run as its hooks see it.

    Inside ``on_train_step_begin`` the weights are state ``step``; inside ``on_train_step_end`` they are state
    ``step + 1``, and ``result`` and ``batch`` are those of update ``step``. Inside ``on_eval_end`` and ``on_train_end``
    ``step`` counts the completed updates: the state that was evaluated.
    """

    run_dir: Path
    model: nn.Cell
    optimizer: nn.Momentum
    schedule: Schedule
    global_batch: int
    steps_per_epoch: int
    rank: int = 0
    world_size: int = 1
    step: int = 0
    result: StepResult | None = None
    batch: Batch | None = None
    resumed: bool = False
    """Whether the run started from a checkpoint."""
    continues: bool = False
    """Whether it goes on in a folder that an earlier process wrote to."""
    stopping: bool = False
    """True on all ranks once any was asked to stop: state ``step`` is the last."""
    evaluation_pending: bool = False
    """Whether state ``step`` is still to be evaluated."""
    step_seconds: float = 0.0
    """Wall time of the update, without waiting for data."""
    data_seconds: float = 0.0
    """Wall time of waiting for the batch."""
    scalars: Scalars = field(default_factory=dict)
    """What to log at x = ``step``; emptied by the loop once the hooks have written it."""

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps

    @property
    def velocities(self) -> dict[str, Parameter]:
        """The optimizer's velocity of each trainable parameter, by the parameter's name."""
        return {
            parameter.name: velocity
            for parameter, velocity in zip(self.optimizer.parameters, self.optimizer.moments, strict=True)
        }
