"""Weights from a file: those that a run starts from, and those that it leaves, with the network they belong to."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import mindspore as ms

from models.weights import list_names, load_weights
from train.checkpoint.card import ModelCard, read_card
from train.checkpoint.saved import load_model, newest_model
from train.checkpoint.state import AVERAGE_FILE, MODEL_FILE
from train.recipe.sections import InitFrom
from train.run.evaluator import make_network
from train.rundir.folder import refuse_modules
from train.runtime import device, distributed
from train.runtime.errors import UserError, refused
from train.step.network import Network


def load_initial_weights(model: ms.nn.Cell, options: InitFrom, card: ModelCard) -> None:
    """Give rank 0's model, whose weights all ranks will start from, those of a file; say what it does not hold.

    Args:
        card: describes ``model``; a file of a run must have a head for the same classes, or its head is left out.
    """

    def load() -> None:
        try:
            kept = load_weights(model, tell=partial(print, flush=True), **options.model_dump())
        except OSError as error:
            raise refused(error, f"model.init_from.path={options.path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"model.init_from.{error}") from None
        fresh = [model.parameters_dict().get(name) for name in kept]
        own_head = any(one is not None and one.ndim > 1 and one.shape[0] == card.num_classes for one in fresh)
        if (theirs := read_card(Path(options.path))) and not own_head:
            remedy = "model.init_from.drop=[fc.*] draws the last layer freshly"
            theirs.refuse_other_classes(card.class_names, f"model.init_from.path={options.path}", remedy)
        words = f"; freshly drawn: {list_names(kept)}" if kept else ""
        print(f"initial weights from {options.path}{words}", flush=True)

    distributed.on_first_rank(load)


def find_model(path: Path, *, averaged: bool = False) -> Path:
    """Return ``path`` if it is a file, and of a run folder its newest saved model; or the average of its weights.

    Raises:
        UserError: when there is none, or it is damaged.
    """
    if not path.is_file():
        return newest_model(path, averaged=averaged)
    if averaged and path.name != AVERAGE_FILE:
        beside = path.with_name(AVERAGE_FILE)
        if path.name != MODEL_FILE or not beside.is_file():
            raise UserError(
                f"{path}: --ema needs the folder of a run, or a {MODEL_FILE} that has {AVERAGE_FILE} beside it"
            )
        return beside
    return path


def open_model(path: Path, *, trust_code: bool) -> tuple[ModelCard, Network]:
    """Return the network of a saved model, from its file alone, ready to evaluate.

    Raises:
        UserError: when the file is no model of a run, or it names a module and its code is not trusted.
    """
    card = read_card(path)
    if card is None:
        raise UserError(
            f"{path}: does not say what model it is of; a run writes one that does, checkpoints/*/{path.name}"
        )
    refuse_modules({"model": {"name": card.name, "options": card.options}}, path, trust_code=trust_code)
    if card.precision == "bf16" and device.resolve() == "cpu":  # which has no kernels for it
        card = card.model_copy(update={"precision": "fp32"})
    network = make_network(card, "auto")
    load_model(network.model, path)
    network.set_train(False)
    return card, network
