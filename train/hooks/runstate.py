"""A run as its hooks see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from train.runtime.errors import UserError

if TYPE_CHECKING:
    from mindspore import Parameter, nn

    from schedules import Schedule
    from train.data.loader import Batch, EvalLoader
    from train.step.report import Reported, StepResult

Scalars = dict[str, float]


class Medium(NamedTuple):
    """Something to show that is no scalar."""

    kind: Literal["image", "text", "histogram"]
    tag: str
    content: Any


def as_array(value: Any) -> np.ndarray:
    """Return a number, array or tensor as a NumPy array."""
    return np.asarray(value.asnumpy() if hasattr(value, "asnumpy") else value)


class Ending(NamedTuple):
    """Why a run ends with the present state, the same on all ranks."""

    by: Literal["schedule", "hook", "signal"]
    reason: str = ""
    """What the hook said."""

    @property
    def complete(self) -> bool:
        """Whether nothing more is to be trained: the state is evaluated, saved and compared. What a signal stops is
        saved, to be resumed."""
        return self.by != "signal"


@dataclass(kw_only=True)
class UpdateRecord:
    """What belongs to one update, or to the state that ``step`` counts.

    :meth:`RunState.set_aside` copies these fields, until the update's result is read.
    """

    step: int = 0
    batch: Batch | None = None
    """This rank's examples."""
    reported: Reported | None = None
    scalars: Scalars = field(default_factory=dict)
    """What to log at x = ``step``: numbers, of NumPy or in a tensor too; emptied by the loop once they are written."""
    media: list[Medium] = field(default_factory=list)
    """The same for what only TensorBoard shows."""
    began: float = 0.0
    """The clock when it was handed over, ``time.perf_counter``."""
    data_seconds: float = 0.0
    """Wall time of waiting for the batch."""
    step_seconds: float = 0.0
    """Wall time from handing it over until the next batch is asked for, or its result is there; 0 before that."""

    @property
    def result(self) -> StepResult | None:
        """What the update reports. In ``on_result`` it is there; before, asking for it waits for the device."""
        return self.reported.result if self.reported else None


@dataclass
class RunState(UpdateRecord):
    """A run as its hooks see it.

    Inside ``on_train_step_begin`` the weights are state ``step``; inside ``on_train_step_end`` they are state
    ``step + 1``, and ``result`` and ``batch`` are those of update ``step``. So they are inside ``on_result``, where the
    weights may already be those of the next state. Everywhere else ``step`` counts the completed updates: the
    state that is evaluated, saved or the last.
    """

    run_dir: Path
    model: nn.Cell
    """What is trained, without the normalisation of its input."""
    optimizer: nn.Optimizer
    schedule: Schedule
    global_batch: int
    steps_per_epoch: int
    config: Any = None
    """The whole configuration, for hooks of a user's own: ``run.config.data.global_batch``."""
    network: nn.Cell | None = None
    """The model with the normalisation of its input: what the data gives, in."""
    eval_loader: EvalLoader | None = None
    """This rank's part of the validation examples."""
    rank: int = 0
    world_size: int = 1
    gradients: Mapping[str, Parameter] = field(default_factory=dict)
    """Of each recorded layer in the update just made: the reduced and clipped gradient, without weight decay."""
    resumed: bool = False
    """Whether the run started from a checkpoint."""
    continues: bool = False
    """Whether it goes on in a folder that an earlier process wrote to."""
    ending: Ending | None = None
    """Why state ``step`` is the last; None: it is not."""
    evaluation_pending: bool = False
    """Whether state ``step`` is still to be evaluated."""
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the last evaluation, the sum over all examples of each of the user's metrics, by its name."""
    asked_to_stop: Callable[[], bool] = lambda: False
    """Whether a signal has asked this rank's process to stop; all ranks learn of it by ``result.stop``."""
    stop_reason: str | None = None
    """What :meth:`request_stop` was told on this rank."""

    def request_stop(self, reason: str) -> None:
        """End the run as if its schedule did: it is evaluated, saved and compared, and its exit code is 0.

        One rank is enough. Of a request after an evaluation all ranks learn at once. Any other travels with the next
        update that is handed over, u, whose result is read once update u+1 has been handed over: u+1 is the last one
        then, or u, where state u+1 is evaluated or saved and the result is read at once. In ``on_train_step_end`` of
        update t, u is t+1; in ``on_result`` it is t+2, since t+1 is under way.
        """
        self.stop_reason = reason

    def set_aside(self) -> UpdateRecord:
        """Return what belongs to update ``step``, whose result is still to come; what is logged from now on is new."""
        update = UpdateRecord(**{f.name: getattr(self, f.name) for f in fields(UpdateRecord)})
        self.scalars, self.media = {}, []
        return update

    @contextmanager
    def back_in(self, update: UpdateRecord) -> Iterator[None]:
        """Inside, this is the run as it was in ``update``; what else a hook sets, as ``stop_reason``, stays."""
        now = dict(vars(self))
        vars(self).update(vars(update))
        try:
            yield
        finally:
            vars(self).update({f.name: now[f.name] for f in fields(UpdateRecord)})

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

    def make_numbers(self) -> None:
        """Make plain numbers of ``scalars``.

        Raises:
            UserError: for what is none; names the tag.
        """
        for tag, value in self.scalars.items():
            if tag == "step":  # says when, in each line of metrics.jsonl
                raise UserError("hooks: scalars['step']: this name is taken; give another, as my/step")
            array = as_array(value)
            if array.size != 1 or array.dtype.kind not in "biuf":
                raise UserError(f"hooks: scalars[{tag!r}] is {str(value)[:60]!r}, not one number")
            self.scalars[tag] = array.item()

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps
