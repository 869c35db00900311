"""What watches a run: small classes, each one thing, called by the loop at the moments of :class:`Hook`."""

from train.hooks.base import Hook
from train.hooks.early_stopping import EarlyStopping as EarlyStopping
from train.hooks.runstate import RunState, Scalars

__all__ = ["Hook", "RunState", "Scalars"]
