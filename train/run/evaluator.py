"""A model with fresh weights, its data set, and what evaluates it: for a training, a score, or a look at both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np

import models
from train.checkpoint.card import ModelCard
from train.data import Readers, open_readers
from train.data.loader import EvalLoader, reading_threads
from train.data.source import Targets, are_classes
from train.recipe.sections import RunConfig
from train.runtime import device, distributed
from train.runtime.errors import UserError
from train.runtime.keys import is_reference, load_reference
from train.step.evaluate import EvalStep, evaluate, mean_statistics, never, nothing
from train.step.loss import make_loss
from train.step.metrics import make_metrics
from train.step.network import Network, refuse_dropout
from train.step.optimizer import freeze
from train.step.options import MEASURED, ParameterGroup


@dataclass
class Evaluator:
    """The model and what evaluates it: all that a finished run needs to be scored again."""

    card: ModelCard
    model: ms.nn.Cell
    network: Network
    readers: Readers
    eval_step: EvalStep
    eval_loader: EvalLoader

    def score(
        self,
        before_batch: Callable[[], None] = nothing,
        asked_to_stop: Callable[[], bool] = never,
        sums: dict[str, np.ndarray] | None = None,
    ) -> dict[str, float]:
        """Return the exact metrics of the present weights, with the ranks' mean moving statistics.

        Args:
            sums: see :func:`train.step.evaluate.evaluate`.

        Raises:
            EvaluationStopped: once any rank was asked to stop.
        """
        with mean_statistics(self.model):
            return evaluate(self.eval_step, self.eval_loader, before_batch, asked_to_stop, sums)


def open_evaluator(config: RunConfig) -> Evaluator:
    """Open the data and build the model, with initial weights that are a function of ``config.seed``."""
    readers = distributed.together(lambda: open_readers(config.data))
    source = readers.train.source
    refuse_other_targets(config, source.labels)
    card = ModelCard.describe(config.model, config.data, config.step, source)
    network = make_network(card, config.device.target, config.seed, config.optimizer.groups)
    eval_loader = EvalLoader(
        readers.validation,
        batch=config.data.eval_batch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=reading_threads(config.data.workers),
    )
    eval_step = make_eval_step(config, network, source.num_classes)
    return Evaluator(card, network.model, network, readers, eval_step, eval_loader)


def make_network(
    card: ModelCard, target: device.Device, seed: int = 1, groups: Sequence[ParameterGroup] = ()
) -> Network:
    """Return the network that ``card`` describes, the same for training, scoring and export, with fresh weights.

    Args:
        groups: of the optimizer, of which some may be frozen.
    """
    ms.set_seed(seed)
    model = make_model(card.name, card.options, num_classes=card.num_classes, in_channels=card.channels)
    refuse_dropout(model)
    freeze(model, groups)
    device.set_precision(model, card.precision, target, card.batch_norm)
    return Network(model, card.mean, card.std)


def make_model(name: str, options: dict[str, Any], **sizes: int) -> ms.nn.Cell:
    """Build one of our models by name, or call the reader's own function ("module:name") with the same arguments."""
    if is_reference(name):
        return load_reference(name, "model.name")(**sizes, **options)
    try:
        return models.create_model(name, **sizes, **options)
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def refuse_other_targets(config: RunConfig, targets: Targets) -> None:
    """Refuse to take targets for classes that are none, not being whole numbers, one for each example, or one alone."""
    if are_classes(targets):
        if config.step.loss == "cross_entropy" and targets.min() == targets.max():
            raise UserError(
                f"data.source={config.data.source}: all {len(targets)} training examples are of one class, number "
                f"{targets[0]}, from which nothing can be learned; give examples of two classes, or a loss of your own"
            )
        return
    kind = f"{targets.dtype}{list(targets.shape)}" if isinstance(targets, np.ndarray) else type(targets).__name__
    if config.step.loss == "cross_entropy":
        raise UserError(f"step.loss=cross_entropy: the targets are {kind}, no classes; give a loss of your own")
    of_classes = [name for name in config.evaluate.names if name in ("top1", "top5")]
    if of_classes:
        raise UserError(
            f"evaluate.metrics: {of_classes[0]} counts classes, and the targets are {kind}; leave it out, or give "
            "metrics of your own"
        )


def make_eval_step(config: RunConfig, network: Network, num_classes: int) -> EvalStep:
    """Return what counts the metrics of one batch; it is compiled at its first call."""
    return EvalStep(
        network,
        num_classes,
        measured=[name for name in config.evaluate.names if name in MEASURED],
        loss=make_loss(config.step.loss, config.step.loss_options),
        metrics=make_metrics(config.evaluate.metrics),
    )
