"""Runs that several files of tests look at."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.jobs import RECORDED, alone, msrun, train_task

LOGGED = [*RECORDED, "evaluate.every=4", "log.ranks_every=3"]


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run ``two`` of two ranks, the run ``one`` of one rank and half the learning rate.

    Whichever of pytest-xdist's workers comes first makes them; each has a copy.
    """
    folder = tmp_path_factory.mktemp("runs")
    shared = folder.parent if os.environ.get("PYTEST_XDIST_WORKER") is None else folder.parent.parent
    with open(shared / "runs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made := shared / "runs-made").exists():
            make_runs(folder, tmp_path_factory.mktemp("logs"))
            folder.rename(made)
    return Path(shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True))


def make_runs(folder: Path, logs: Path) -> None:
    msrun(2, train_task(folder, "two", *LOGGED, "data.augment=[flip]"), logs).check()
    alone(train_task(folder, "one", *LOGGED, "schedule.lr_max=0.05"), logs).check()
