"""Damage as soon as the ranks have met, before they exchange anything: ``imports=[tests.faults.at_start]``.

``FAULTS=unplug:-1:1`` as in :mod:`tests.faults.inject`, for step -1; once for each process.
"""

from __future__ import annotations

from train.runtime import distributed

_init = distributed.init


def init_and_damage() -> None:
    from tests.faults import inject  # not before: it loads MindSpore, whose environment is not set yet

    _init()
    for what, step, rank in inject.faults():
        if (step, rank) == (-1, distributed.rank()):
            inject.BEFORE_UPDATE[what](None)


distributed.init = init_and_damage
