"""A run with the extras of the step on: each of them reaches it, and one that was cut goes on bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.faults.runs import SETTINGS, metrics, require_equal, run, steps_saved
from tests.jobs import DIGITS
from tests.train.step.reference import softmax_loss
from train.recipe.read import load_config
from train.run.opening import make_loader
from train.run.task import open_task
from train.step.feeder import Mixing

pytestmark = [pytest.mark.msrun, pytest.mark.usefixtures("on_cpu")]

MIXUP, SMOOTHING, PARTS, CLIP = 0.4, 0.1, 2, 0.5
EXTRAS = [f"step.mixup={MIXUP}", f"step.label_smoothing={SMOOTHING}", f"step.accumulate={PARTS}"]
EXTRAS += ["step.precision=fp16", "step.loss_scale=1024", "step.loss_scale_window=5"]
EXTRAS += [f"step.clip_norm={CLIP}", "step.ema=0.9"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extras")
    run(folder, "whole", *EXTRAS).check()
    return folder / "whole"


def test_a_cut_run_goes_on_bit_for_bit(undisturbed: Path) -> None:
    folder = undisturbed.parent
    done = run(folder, "cut", *EXTRAS, "checkpoint.every=3", faults="kill:7:0")
    assert done.code == -signal.SIGKILL and steps_saved(folder / "cut") == [4, 6]
    run(folder, "cut", *EXTRAS, "resume=auto").check()
    require_equal(folder / "cut", undisturbed)
    state = load_file(folder / "cut" / "checkpoints" / "step-00000012" / "optimizer.safetensors")
    scale, since = (state[f"train_step.{name}"] for name in ("loss_scale", "updates_since_scaling"))
    assert (scale, since) == (4096, 2), "doubled before and after the cut"


def first_loss(precision: str) -> float:
    """Return the loss of update 0, from the network's logits on and for the images mixed here."""
    config = load_config(DIGITS, [*SETTINGS, *EXTRAS, f"step.precision={precision}"])
    task = open_task(config)
    network = task.network.set_train()
    batch = next(make_loader(config, task).batches(0, 1))
    own = Mixing(mixup=MIXUP).lam(*batch.images.shape[2:], seed=config.seed, step=0)
    losses = []
    for images, labels in zip(np.split(batch.images, PARTS), np.split(batch.labels, PARTS), strict=True):
        logits = network(ms.Tensor(own * images + (1 - own) * images[::-1])).asnumpy().astype(np.float64)
        hot = np.eye(10)[labels] * (1 - SMOOTHING) + SMOOTHING / 10
        losses.append(softmax_loss(logits, own.mean() * hot + (1 - own.mean()) * hot[::-1]))
    return float(np.mean(losses))


def test_the_first_update_is_the_one_computed_by_hand(undisturbed: Path) -> None:
    first, half, single = metrics(undisturbed)[0], first_loss("fp16"), first_loss("fp32")
    assert first["train/loss"] == pytest.approx(half, rel=1e-4)
    assert abs(first["train/loss"] - half) < 0.2 * abs(first["train/loss"] - single), "computed in half precision"
    assert first["update/fc.weight/velocity_l2"] < CLIP < first["train/grad_norm"]
