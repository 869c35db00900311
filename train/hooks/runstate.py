"""A run as its hooks see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from train.runtime.errors import UserError

if TYPE_CHECKING:
    from mindspore import Parameter, nn

    from schedules import Schedule
    from train.data.loader import Batch, EvalLoader
    from train.recipe.sections import RunConfig
    from train.step.result import StepResult

Scalars = dict[str, float]


class Medium(NamedTuple):
    """Something to show that is no scalar."""

    kind: Literal["image", "text", "histogram"]
    tag: str
    content: Any


def as_array(value: Any) -> np.ndarray:
    """Return a number, array or tensor as a NumPy array."""
    return np.asarray(value.asnumpy() if hasattr(value, "asnumpy") else value)


@dataclass
class RunState:
    """A run as its hooks see it.

    Inside ``on_train_step_begin`` the weights are state ``step``; inside ``on_train_step_end`` they are state
    ``step + 1``, and ``result`` and ``batch`` are those of update ``step``. Inside ``on_eval_end`` and ``on_train_end``
    ``step`` counts the completed updates: the state that was evaluated.
    """

    run_dir: Path
    model: nn.Cell
    """What is trained, without the normalisation of its input."""
    optimizer: nn.Optimizer
    schedule: Schedule
    global_batch: int
    steps_per_epoch: int
    config: RunConfig | None = None
    network: nn.Cell | None = None
    """The model with the normalisation of its input: what the data gives, in."""
    eval_loader: EvalLoader | None = None
    """This rank's part of the validation examples."""
    rank: int = 0
    world_size: int = 1
    step: int = 0
    result: StepResult | None = None
    batch: Batch | None = None
    gradients: Mapping[str, Parameter] = field(default_factory=dict)
    """What the optimizer was handed for each recorded layer, in the update just made."""
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
    """What to log at x = ``step``: numbers, of NumPy or in a tensor too; emptied by the loop once they are written."""
    media: list[Medium] = field(default_factory=list)
    """The same for what only TensorBoard shows."""
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the last evaluation, the sum over all examples of each of the reader's metrics, by its name."""
    stop_reason: str | None = None
    """What :meth:`request_stop` was told on this rank."""
    ended: str | None = None
    """Why the run ends before its schedule does, the same on all ranks; None: it does not, or a signal stops it."""

    def request_stop(self, reason: str) -> None:
        """End the run as if its schedule did: it is evaluated, saved and compared, and its exit code is 0.

        One rank is enough. Of a request after an evaluation all ranks learn at once, of one after update t with the
        next update, whose state is then the last.
        """
        self.stop_reason = reason

    def log_image(self, tag: str, pixels: np.ndarray) -> None:
        """Show an image at x = ``step``: uint8 (height, width) or (height, width, 3)."""
        if getattr(pixels, "dtype", None) != np.uint8 or not (
            pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        ):
            kind = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {getattr(pixels, 'shape', '')}"
            raise UserError(f"log_image({tag!r}): uint8 (height, width) or (height, width, 3), not {kind}")
        self.media.append(Medium("image", tag, pixels))

    def log_text(self, tag: str, markdown: str) -> None:
        """Show a text at x = ``step``."""
        self.media.append(Medium("text", tag, str(markdown)))

    def log_histogram(self, tag: str, values: object) -> None:
        """Show how the numbers of an array or tensor are distributed at x = ``step``."""
        self.media.append(Medium("histogram", tag, as_array(values)))

    def settle_scalars(self) -> None:
        """Make plain numbers of ``scalars``.

        Raises:
            UserError: for what is none; names the tag.
        """
        for tag, value in self.scalars.items():
            array = as_array(value)
            if array.size != 1 or array.dtype.kind not in "biuf":
                raise UserError(f"hooks: scalars[{tag!r}] is {str(value)[:60]!r}, not one number")
            self.scalars[tag] = array.item()

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps
