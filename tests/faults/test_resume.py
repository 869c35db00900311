"""A run that was cut goes on bit for bit; a run that forgets something does not."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.faults.runs import metrics, require_equal, run, steps_saved

pytestmark = pytest.mark.msrun
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, without any checkpoint but the last: saving must not change a bit either."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, "whole").check()
    assert steps_saved(folder / "whole") == [12]
    return folder / "whole"


@pytest.fixture(scope="module")
def cut(undisturbed: Path) -> Path:
    """Killed before update 5, with the last checkpoint at 3, in the middle of the first epoch of 11 updates."""
    done = run(undisturbed.parent, "cut", "checkpoint.every=25%", faults="kill:5:0")
    assert done.code == KILLED and steps_saved(undisturbed.parent / "cut") == [3, 4]  # 4: the first evaluation
    return undisturbed.parent / "cut"


def test_cut_again_and_again(cut: Path, undisturbed: Path) -> None:
    """In the middle of an epoch, inside an evaluation, at an epoch's end by SIGTERM, in the middle of a save, in
    the last evaluation by SIGTERM."""
    folder = Path(shutil.copytree(cut, cut.with_name("again"), symlinks=True)).parent
    options = ("checkpoint.every=3", "resume=auto", "checkpoint.background=true")
    done = run(folder, "again", *options, faults="kill-in-evaluation:8:0")
    assert done.code == KILLED and steps_saved(folder / "again") == [4, 6]
    done = run(folder, "again", *options, faults="term:9:0")
    assert done.code == 143 and "SIGTERM: state 11 is saved" in done.logs[0]
    assert metrics(folder / "again")[-1]["step"] == 10
    done = run(folder, "again", *options, faults="kill-in-save:12:0")
    assert done.code == KILLED and 12 not in steps_saved(folder / "again")
    done = run(folder, "again", *options, faults="term-in-evaluation:12:0")
    assert done.code == 143 and "SIGTERM: state 12 is saved" in done.logs[0]
    assert metrics(folder / "again")[-1]["step"] == 11, "nothing of the evaluation is reported"
    assert not called_success(folder / "again")
    run(folder, "again", *options).check()
    assert called_success(folder / "again")
    require_equal(folder / "again", undisturbed)


def called_success(run_dir: Path) -> bool:
    """Whether the last process has told TensorBoard's table of runs that all ended well."""
    newest = max(path for path in (run_dir / "tensorboard").iterdir() if path.suffix != ".comparison")
    events = EventAccumulator(str(newest)).Reload()
    return "_hparams_/session_end_info" in events.PluginTagToContent("hparams")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["momentum", "position"])
def test_a_run_that_forgets_is_another(what: str, cut: Path, undisturbed: Path) -> None:
    folder = Path(shutil.copytree(cut, cut.with_name(what), symlinks=True)).parent
    run(folder, what, "checkpoint.every=3", "resume=auto", faults=f"forget-{what}:0:0").check()
    with pytest.raises(AssertionError, match=r"model\.safetensors"):
        require_equal(folder / what, undisturbed)
