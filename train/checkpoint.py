"""Save a trained model: ``checkpoints/step-00000100/model.safetensors``."""

from __future__ import annotations

import os
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from train.errors import UserError

FOLDER = "checkpoints"
MODEL_FILE = "model.safetensors"


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / FOLDER / f"step-{step:08d}"


def save_model(model: nn.Cell, folder: Path) -> Path:
    """Write all parameters of ``model`` to ``folder``, whole or not at all; return the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {p.name: np.ascontiguousarray(p.asnumpy()) for p in model.get_parameters()}
    partial = folder / (MODEL_FILE + ".partial")
    save_file(arrays, partial)
    os.replace(partial, folder / MODEL_FILE)
    return folder / MODEL_FILE


def newest_model(run_dir: Path) -> Path:
    """Return the saved model of the highest step.

    Raises:
        UserError: when the run has saved none.
    """
    saved = sorted((run_dir / FOLDER).glob(f"step-*/{MODEL_FILE}"))
    if not saved:
        raise UserError(f"{run_dir}: no saved model in {FOLDER}/")
    return saved[-1]


def load_model(model: nn.Cell, path: Path) -> None:
    """Give ``model`` the values saved by :func:`save_model`.

    Raises:
        UserError: when the file is missing or damaged, or its names and shapes are not the model's.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    parameters = model.parameters_dict()
    wrong = sorted(set(arrays) ^ set(parameters))
    wrong += [name for name in set(arrays) & set(parameters) if arrays[name].shape != parameters[name].shape]
    if wrong:
        raise UserError(f"{path}: does not fit the model at {', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}")
    for name, parameter in parameters.items():
        parameter.set_data(ms.Tensor(arrays[name]))
