"""When a hook is called, and how those that a recipe names are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.hooks.runstate import RunState
from train.runtime.errors import UserError
from train.runtime.keys import References, import_from, load_part, split_reference

ADAPTERS: dict[str, str] = {
    "mindspore.train:Callback": "train.hooks.callbacks:CallbackHook",
}
"""What makes a hook of an object of another class."""


class Hook:
    """Watches a run. Override what you need; the moments that ``mindspore.train.Callback`` has, too, have its names.

    Hooks are called in the order they are given, on every rank. Only rank 0 writes files that ranks share.
    """

    def saved_as(self) -> str:
        """Return the name under which this hook's state is saved."""
        return type(self).__name__

    def on_train_begin(self, run: RunState) -> None:
        """Before the first update."""

    def on_train_step_begin(self, run: RunState) -> None:
        """Before update ``run.step``."""

    def on_train_step_end(self, run: RunState) -> None:
        """After update ``run.step`` was handed to the device: add to ``run.scalars`` what should be logged. To read a
        weight here waits for the device."""

    def on_result(self, run: RunState) -> None:
        """The result of update ``run.step`` is there: add to ``run.scalars`` what should be logged of it. The next
        update may be under way by now, so this is not the place to look at weights."""

    def on_eval_begin(self, run: RunState) -> None:
        """Before an evaluation of state ``run.step``."""

    def on_eval_step_begin(self, run: RunState) -> None:
        """Before each batch of an evaluation of state ``run.step``."""

    def on_eval_end(self, run: RunState) -> None:
        """After an evaluation of state ``run.step``, its figures are in ``run.scalars``. Not where it was stopped."""

    def on_eval_failed(self, run: RunState) -> None:
        """After an evaluation that has no figures for a reason that all ranks know; then the run ends with an error."""

    def on_scalars(self, run: RunState) -> None:
        """After ``on_result`` or ``on_eval_end`` of all hooks: ``run.scalars`` is complete for x = ``run.step``."""

    def wants_state(self, run: RunState) -> bool:
        """Whether ``on_state_complete`` of state ``run.step`` needs all results of the updates before it: a save does.
        The same on all ranks."""
        return False

    def on_state_complete(self, run: RunState) -> None:
        """State ``run.step`` is reached, and evaluated if it is to be. The result of the last update may be missing."""

    def on_save(self, run: RunState) -> None:
        """Before state ``run.step`` is saved: bring to disk what belongs to it."""

    def on_saved(self, run: RunState, path: Path) -> None:
        """After a checkpoint is whole on disk, on rank 0 alone: nothing collective here. With ``checkpoint.background``
        ``run`` may be some updates further. The folder ``path`` stays at least until the next one is written."""

    def on_train_end(self, run: RunState) -> None:
        """After the last update and the last evaluation, or when a signal stops the run; not after an error."""

    def state(self) -> Any:
        """Return what this hook must remember for a resumed run to go on as an uninterrupted one would: a JSON-able
        value, None for nothing. Asked on every rank before a save; what rank 0 returns is given back to all."""
        return None

    def restore(self, state: Any) -> None:
        """Take back what :meth:`state` returned; called on every rank, before ``on_train_begin`` of a resumed run."""


def named(hooks: Sequence[Hook]) -> dict[str, Hook]:
    """Return hooks by the names under which their states are saved: that of the class, a second one with "#2"."""
    found: dict[str, Hook] = {}
    for hook in hooks:
        name, number = hook.saved_as(), 1
        while name in found:
            number += 1
            name = f"{hook.saved_as()}#{number}"
        found[name] = hook
    return found


def make_hooks(references: References) -> list[Hook]:
    """Make the hooks that a recipe names: classes, or functions that return one, which are called with their options.

    Raises:
        UserError: for a reference that cannot be called so, or makes neither a :class:`Hook` nor a callback.
    """
    return [_make_hook(*split_reference(reference)) for reference in references]


def _make_hook(reference: str, options: dict[str, Any]) -> Hook:
    made: Any = load_part(reference, options, "hooks")(**options)
    if isinstance(made, Hook):
        return made
    for kind, adapter in ADAPTERS.items():
        if isinstance(made, import_from(kind)):
            return import_from(adapter)(made)
    raise UserError(f"hooks={reference}: makes a {type(made).__name__}, neither a train.hooks.Hook nor a Callback")
