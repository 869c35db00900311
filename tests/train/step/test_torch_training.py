"""The same training as PyTorch's: loss and gradient norm of ten updates, against recorded numbers.

Two float32 programs that round differently drift apart, the faster the more ReLUs have an input near zero. So ours is
held to what PyTorch computes in float64, and may be as far from it as PyTorch's own float32 is, times a margin.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.jobs import msrun
from tests.train.step.torch_parity import train
from tests.train.step.training_cases import RECORDED, TRAININGS, Training

pytestmark = pytest.mark.usefixtures("on_cpu")
MARGIN, LEAST = 20, 1e-6
IN_CI = ("resnet20, momentum, 1 rank", "resnet20, adamw, 1 rank")


def apart(ours: dict[str, list[float]], training: Training, figure: str) -> np.ndarray:
    """Return, update by update, how far ``ours`` is from PyTorch's float64, in units of what is allowed."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[training.name]
    single, double = (np.asarray(recorded[kind][figure]) for kind in ("float32", "float64"))
    rounding = np.maximum.accumulate(abs(single - double) / double)  # what has drifted apart stays so
    return abs(np.asarray(ours[figure]) - double) / double / (MARGIN * rounding + LEAST)


@pytest.mark.parametrize(
    "training",
    [
        pytest.param(one, id=one.name, marks=[] if one.name in IN_CI else pytest.mark.slow)
        for one in TRAININGS
        if one.ranks == 1
    ],
)
def test_ten_updates_are_pytorchs(training: Training) -> None:
    ours = train(training)
    for figure in ("loss", "grad_norm"):
        assert (found := apart(ours, training, figure)).max() < 1, found


@pytest.mark.slow
def test_another_weight_decay_would_be_seen() -> None:
    training = TRAININGS[0]
    assert apart(train(training, weight_decay=0.9 * training.weight_decay), training, "loss").max() > 1


@pytest.mark.slow
@pytest.mark.msrun
def test_two_ranks_are_distributed_data_parallel(tmp_path: Path) -> None:
    training = TRAININGS[-1]
    done = msrun(2, ["-m", "tests.train.step.torch_parity", training.name], tmp_path).check()
    for log in done.logs:
        ours = json.loads(log.strip().splitlines()[-1])
        for figure in ("loss", "grad_norm"):
            assert (found := apart(ours, training, figure)).max() < 1, found
