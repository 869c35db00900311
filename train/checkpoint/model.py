"""The trained model of a run, for whoever only wants to use it: ``checkpoints/step-00000100/model.safetensors``, and
``ema.safetensors`` beside it for the moving average of its weights."""

from __future__ import annotations

from pathlib import Path

from mindspore import nn

from models.weights import load_weights
from train.checkpoint.folder import list_steps, read
from train.checkpoint.state import AVERAGE_FILE, MODEL_FILE
from train.errors import UserError

FOLDER = "checkpoints"


def newest_model(run_dir: Path, *, averaged: bool = False) -> Path:
    """Return the saved model of the highest step, or with ``averaged`` its moving average of weights.

    Raises:
        UserError: when the run has saved none, or it is damaged.
    """
    name = AVERAGE_FILE if averaged else MODEL_FILE
    for _, folder in list_steps(run_dir / FOLDER):
        if name not in read(folder):
            raise UserError(f"{folder}: holds no {name}; a run saves one with step.ema above 0")
        return folder / name
    raise UserError(f"{run_dir}: no saved model in {FOLDER}/")


def load_model(model: nn.Cell, path: Path) -> None:
    """Give ``model`` the values of a checkpoint's model file.

    Raises:
        UserError: when the file is missing or damaged, or its names and shapes are not the model's.
    """
    try:
        kept = load_weights(model, path)
    except ValueError as error:
        raise UserError(str(error)) from None
    if kept:  # for another task a reason to draw them freshly, here the wrong file
        raise UserError(f"{path}: does not fit the model at {', '.join(kept)}")
