"""A saved model as a function: what ``train.predict`` and ``train.export`` are made of, and for code of your own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import models
from train.checkpoint.card import ModelCard, read_card
from train.checkpoint.saved import find_model, load_model
from train.data.example import leaves, map_leaves
from train.run.task import make_network
from train.rundir.trust import refuse_modules
from train.runtime import device
from train.runtime.errors import DivergedError, UserError
from train.runtime.keys import is_reference
from train.step.network import Network, inputs_as_tensors


def open_model(path: Path, *, trust_code: bool, batch_norm: str = "") -> tuple[ModelCard, Network]:
    """Return the network of a saved model, from its file alone, ready to evaluate.

    Args:
        batch_norm: instead of the card's.

    Raises:
        UserError: when the file is no model of a run, or it names a module and its code is not trusted.
    """
    card = read_card(path)
    if card is None:
        raise UserError(f"{path}: does not describe its model; give a file that a run wrote, checkpoints/*/{path.name}")
    refuse_modules({"model": {"name": card.name, "options": card.options}}, path, trust_code=trust_code)
    _refuse_larger_than(path, card)
    if card.precision == "bf16" and device.resolve() == "cpu":  # which has no kernels for it
        card = card.model_copy(update={"precision": "fp32"})
    network = make_network(card.model_copy(update={"batch_norm": batch_norm or card.batch_norm}), "auto")
    load_model(network.model, path)
    network.set_train(False)
    return card, network


def _refuse_larger_than(path: Path, card: ModelCard) -> None:
    """Refuse a description of more than the file can hold, before memory is asked for."""
    size, least = path.stat().st_size, card.num_classes
    if not is_reference(card.name):
        try:
            least += models.resolve(
                card.name, num_classes=card.num_classes, in_channels=card.channels, **card.options
            ).least_weights
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: its description of the model is not readable ({error})") from None
    if least > size:
        raise UserError(f"{path}: it describes a model of at least {least} numbers, but has {size} bytes")


class Trained:
    """A trained model that can be asked: ``Trained(card, network)(arrays)`` returns what it makes of them.

    .. code-block:: python

        model = open_trained("runs/digits")                       # or a file of weights
        logits = model(np.zeros((1, 1, 16, 16), np.uint8))        # float32 (1, 10)
        model.card.class_names, model.card.inputs                 # what comes out, and what goes in
    """

    def __init__(self, card: ModelCard, cell: Callable[..., Any]):
        self.card = card
        self.cell = cell

    def __call__(self, *inputs: np.ndarray) -> Any:
        """Return the outputs, float32 arrays of which the first axis counts examples: one, or a tuple of several.

        Args:
            inputs: in the order of ``card.inputs``, each with an axis of examples first; images uint8 (N, C, H, W).

        Raises:
            DivergedError: when an output is not finite.
        """
        outputs = self.cell(inputs_as_tensors(inputs[0] if len(inputs) == 1 else inputs))
        arrays = map_leaves(lambda tensor: tensor.asnumpy(), outputs)
        if not all(np.isfinite(array).all() for array in leaves(arrays)):
            raise DivergedError("the model gives numbers that are not finite")
        return arrays


def open_trained(path: str | Path, *, averaged: bool = False, best: bool = False, trust_code: bool = False) -> Trained:
    """Return the saved model of a run, of a checkpoint or of a file, ready to be asked.

    Raises:
        UserError: see :func:`train.checkpoint.saved.find_model` and :func:`open_model`.
    """
    device.configure()
    return Trained(*open_model(find_model(Path(path), averaged=averaged, best=best), trust_code=trust_code))
