"""Our update on the trainings of ``training_cases.py``: in the tests' process, and on each rank of
``python -m tests.train.step.torch_parity NAME``, which prints what :func:`train` returns.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from train.runtime import device

device.configure("cpu")

import numpy as np  # noqa: E402
from mindspore import Tensor  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from models import create_model  # noqa: E402
from models.weights import export_weights, load_weights  # noqa: E402
from tests.models.reference import random_weights  # noqa: E402
from tests.train.step.training_cases import (  # noqa: E402
    BATCH,
    MODELS,
    MOMENTUM,
    SMOOTHING,
    TRAININGS,
    Training,
    batches,
)
from train.runtime import distributed  # noqa: E402
from train.step.network import Network  # noqa: E402
from train.step.optimizer import make_optimizer  # noqa: E402
from train.step.options import StepOptions  # noqa: E402
from train.step.train_step import TrainStep  # noqa: E402


def train(training: Training, weight_decay: float | None = None) -> dict[str, list[float]]:
    """Return loss and gradient norm of each update, as the step reports them."""
    case = MODELS[training.model]
    model = create_model(training.model, **case.options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        export_weights(model, path)
        shapes = {name: value.shape for name, value in load_file(path).items()}
        save_file(random_weights(shapes), path)
        load_weights(model, path)
    decay = training.weight_decay if weight_decay is None else weight_decay
    options = {"name": training.optimizer, "momentum": MOMENTUM, "weight_decay": decay, "decay_norm_and_bias": False}
    optimizer = make_optimizer(model, training.lr, **options)
    world = {"world_size": distributed.world_size(), "rank": distributed.rank()}
    extras = StepOptions(label_smoothing=SMOOTHING)
    step = TrainStep(Network(model, (), ()), optimizer, global_batch=BATCH, options=extras, **world)
    go_on = Tensor(np.zeros(1, np.float32))
    losses, norms = [], []
    for images, labels in batches(case):
        mine = np.array_split(np.arange(BATCH), distributed.world_size())[distributed.rank()]
        result = step.report.read(step(Tensor(images[mine]), Tensor(labels[mine]), go_on))
        losses.append(float(result.loss))
        norms.append(float(result.grad_norm))
    return {"loss": losses, "grad_norm": norms}


if __name__ == "__main__":
    distributed.init()
    print(json.dumps(train(next(one for one in TRAININGS if one.name == sys.argv[1]))))
