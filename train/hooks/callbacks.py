"""Use a ``mindspore.train.Callback`` as a hook."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor
from mindspore.train import Callback, RunContext

from train.hooks.base import Hook
from train.hooks.runstate import RunState


class _Arguments(dict[str, Any]):
    """Callbacks read their arguments as items and as attributes."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None


class CallbackHook(Hook):
    """Call a MindSpore callback at its own moments.

    Of an evaluation it hears in its own ``on_eval_begin``, ``on_eval_step_begin`` and ``on_eval_end`` only: those that
    it inherits would call ``begin``, ``step_begin`` and ``end``, which are for training, too.

    Its ``run_context.original_args()`` holds ``cur_step_num`` (from 1), ``cur_epoch_num`` (from 1), ``batch_num``
    (updates an epoch), ``epoch_num``, ``net_outputs`` (the update's mean loss over all ranks), ``network``,
    ``optimizer``, ``device_number``, ``metrics`` (after an evaluation), ``mode`` and ``dataset_sink_mode`` (False).
    ``run_context.request_stop()`` ends the run: :meth:`train.hooks.RunState.request_stop`.
    """

    def __init__(self, callback: Callback):
        self.callback = callback
        self.arguments = _Arguments()
        self.context = RunContext(self.arguments)

    def saved_as(self) -> str:
        return type(self.callback).__name__

    def on_train_begin(self, run: RunState) -> None:
        epochs = -(-run.total_steps // run.steps_per_epoch)
        self.arguments.update(
            mode="train",
            dataset_sink_mode=False,
            network=run.model,
            optimizer=run.optimizer,
            device_number=run.world_size,
            batch_num=run.steps_per_epoch,
            epoch_num=epochs,
            cur_step_num=run.step,
            cur_epoch_num=run.step // run.steps_per_epoch + 1,
        )
        self.callback.on_train_begin(self.context)

    def on_train_step_begin(self, run: RunState) -> None:
        self.arguments.update(cur_step_num=run.step + 1, cur_epoch_num=run.step // run.steps_per_epoch + 1)
        if run.step % run.steps_per_epoch == 0 or not self._in_epoch:
            self.callback.on_train_epoch_begin(self.context)
            self._in_epoch = True
        self.callback.on_train_step_begin(self.context)

    def on_train_step_end(self, run: RunState) -> None:
        if run.result is not None:
            self.arguments["net_outputs"] = Tensor(run.result.loss)
        self.callback.on_train_step_end(self.context)
        if (run.step + 1) % run.steps_per_epoch == 0:
            self._end_epoch()
        self._pass_on_request(run)

    def on_eval_begin(self, run: RunState) -> None:
        self._tell_of_evaluation("on_eval_begin")

    def on_eval_step_begin(self, run: RunState) -> None:
        self._tell_of_evaluation("on_eval_step_begin")

    def on_eval_end(self, run: RunState) -> None:
        self.arguments["metrics"] = {key: value for key, value in run.scalars.items() if key.startswith("val/")}
        self._tell_of_evaluation("on_eval_end")
        self._pass_on_request(run)

    def on_train_end(self, run: RunState) -> None:
        if self._in_epoch:
            self._end_epoch()
        self.callback.on_train_end(self.context)

    _in_epoch = False

    def _tell_of_evaluation(self, moment: str) -> None:
        method = getattr(self.callback, moment)
        if getattr(method, "__func__", None) is not getattr(Callback, moment):
            method(self.context)

    def _pass_on_request(self, run: RunState) -> None:
        if self.context.get_stop_requested() and run.stop_reason is None:
            run.request_stop(f"{type(self.callback).__name__} asked for it")

    def _end_epoch(self) -> None:
        self._in_epoch = False
        self.callback.on_train_epoch_end(self.context)
