"""Weights from a file: those that a run starts from, and those that it leaves, with the network they belong to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

import models
from models.weights import head_of, list_names, load_weights
from train.checkpoint.card import ModelCard, read_card
from train.checkpoint.disk import BEST, SUMS_FILE
from train.checkpoint.saved import load_model, model_in, newest_model
from train.checkpoint.state import AVERAGE_FILE, MODEL_FILE
from train.data.example import leaves, map_leaves
from train.recipe.sections import InitFrom
from train.run.task import make_network
from train.rundir.folder import CHECKPOINTS, refuse_modules
from train.runtime import device, distributed
from train.runtime.errors import DivergedError, UserError, refused
from train.runtime.keys import is_reference
from train.step.network import Network, inputs_as_tensors


def load_initial_weights(model: ms.nn.Cell, options: InitFrom, card: ModelCard) -> None:
    """Give rank 0's model, whose weights all ranks will start from, those of a file, or of the newest state in
    a folder; say what it does not hold.

    Args:
        card: describes ``model``; a file of a run must have a head for the same classes, or its head is left out.
    """

    def load() -> None:
        given = Path(options.path)
        path = find_model(given) if given.is_dir() else given
        try:
            kept = load_weights(model, tell=partial(print, flush=True), **{**options.model_dump(), "path": str(path)})
        except OSError as error:
            raise refused(error, f"model.init_from.path={options.path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"model.init_from.{error}") from None
        fresh = [model.parameters_dict().get(name) for name in kept]
        own_head = any(one is not None and one.ndim > 1 and one.shape[0] == card.num_classes for one in fresh)
        if (theirs := read_card(path)) and not own_head:
            head = next(iter(head_of(model)), "fc.").rpartition(".")[0]
            remedy = f"model.init_from.drop=[{head}.*] draws the last layer freshly"
            theirs.refuse_other_classes(card.class_names, f"model.init_from.path={options.path}", remedy)
        words = f"; initialised at random: {list_names(kept)}" if kept else ""
        print(f"initial weights from {path}{words}", flush=True)

    distributed.on_first_rank(load)


def find_model(path: Path, *, averaged: bool = False, best: bool = False) -> Path:
    """Return ``path`` if it is a file, the model of a checkpoint's folder, and of a run's its newest.

    Args:
        averaged: the moving average of its weights instead.
        best: of a run the best of its saved states instead.

    Raises:
        UserError: when there is none, or it is damaged.
    """
    if not path.is_file():
        folder = path / CHECKPOINTS / BEST if best else path
        if (folder / SUMS_FILE).is_file():
            return model_in(folder.resolve(), averaged=averaged)  # latest and best are links
        if best:
            raise UserError(f"{path}: no best state in {CHECKPOINTS}/; a run keeps one with checkpoint.every above 0")
        return newest_model(path, averaged=averaged)
    if best:
        raise UserError(f"{path}: --best needs the folder of a run")
    if averaged and path.name != AVERAGE_FILE:
        beside = path.with_name(AVERAGE_FILE)
        if path.name != MODEL_FILE or not beside.is_file():
            raise UserError(
                f"{path}: --ema needs the folder of a run, or a {MODEL_FILE} that has {AVERAGE_FILE} beside it"
            )
        return beside
    return path


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
    card = card.model_copy(update={"precision": device.nearest_precision(card.precision)})
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
        model.card.class_names, model.card.arrays                 # what comes out, and what goes in
    """

    def __init__(self, card: ModelCard, cell: Callable[..., Any]):
        self.card = card
        self.cell = cell

    def __call__(self, *inputs: np.ndarray) -> Any:
        """Return the outputs, float32 arrays of which the first axis counts examples: one, or a tuple of several.

        Args:
            inputs: in the order of ``card.arrays``, each with an axis of examples first; images uint8 (N, C, H, W).

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
        UserError: see :func:`find_model` and :func:`open_model`.
    """
    device.configure()
    return Trained(*open_model(find_model(Path(path), averaged=averaged, best=best), trust_code=trust_code))
