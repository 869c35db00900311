"""``python -m tests.train.step.torch_training``, where PyTorch is installed, writes ``torch_training.json``: losses and
gradient norms of the trainings of ``training_cases.py``, made with PyTorch's own optimizers and loss.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch.nn import functional

from tests.models.torch_resnet import torch_model
from tests.train.step.training_cases import MODELS, MOMENTUM, RECORDED, SMOOTHING, TRAININGS, Training, batches


def optimizer_of(training: Training, model: torch.nn.Module) -> torch.optim.Optimizer:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=1.0)
    return torch.optim.SGD(groups, lr=1.0, momentum=MOMENTUM, nesterov=training.optimizer == "nesterov")


def train(training: Training, dtype: torch.dtype) -> dict[str, list[float]]:
    """Return loss and gradient norm of each update; of several ranks as DistributedDataParallel makes it: each has a
    part of the batch and its own BatchNorm, and gradients are averaged."""
    case = MODELS[training.model]
    model = torch_model(case).to(dtype).train()
    optimizer = optimizer_of(training, model)
    losses, norms = [], []
    for (images, labels), lr in zip(batches(case), training.lr, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        optimizer.zero_grad()
        total = 0.0
        for part in np.array_split(np.arange(len(labels)), training.ranks):
            logits = model(torch.from_numpy(images[part]).to(dtype))
            loss = functional.cross_entropy(logits, torch.from_numpy(labels[part]).long(), label_smoothing=SMOOTHING)
            (loss / training.ranks).backward()
            total += loss.item() / training.ranks
        losses.append(total)
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        optimizer.step()
    return {"loss": losses, "grad_norm": norms}


def main() -> None:
    """In float32, and in float64 to know what rounding alone makes of it."""
    torch.set_num_threads(1)
    found = {
        training.name: {"float32": train(training, torch.float32), "float64": train(training, torch.float64)}
        for training in TRAININGS
    }
    RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
