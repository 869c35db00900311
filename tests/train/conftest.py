"""Runs that several files of tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import RECORDED, alone, msrun, train_task

LOGGED = [*RECORDED, "evaluate.every=4", "log.ranks_every=3"]


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run ``two`` of two ranks, the run ``one`` of one rank and half the learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    logs = tmp_path_factory.mktemp("logs")
    msrun(2, train_task(folder, "two", *LOGGED, "data.augment=[flip]"), logs).check()
    alone(train_task(folder, "one", *LOGGED, "schedule.lr_max=0.05"), logs).check()
    return folder
