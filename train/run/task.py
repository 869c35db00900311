"""A model with fresh weights, its data set, and what evaluates it: for a training, a score, or a look at both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import mindspore as ms
import numpy as np

import models
from train.checkpoint.card import ModelCard
from train.data import Readers, open_readers
from train.data.example import Field, form
from train.data.loader import EvalLoader, reading_threads
from train.data.reader import Reader
from train.recipe.sections import RunConfig
from train.runtime import device, distributed
from train.runtime.errors import UserError
from train.runtime.keys import is_reference, load_part
from train.step.evaluate import EvalStep, evaluate, mean_statistics, never, nothing
from train.step.loss import make_loss
from train.step.metrics import make_metrics
from train.step.network import Network, refuse_cells
from train.step.optimizer import freeze
from train.step.options import MEASURED, ParameterGroup


@dataclass
class Task:
    """A model, its data, and what evaluates the one on the other: all that a finished run needs to be scored again."""

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


def open_task(config: RunConfig) -> Task:
    """Open the data and build the model, with initial weights that are a function of ``config.seed``."""
    readers = distributed.together(lambda: open_readers(config.data))
    source = readers.train.source
    distributed.require_same(facts_of(readers))
    refuse_other_targets(config, readers.train)
    card = ModelCard.describe(config.model, config.data, config.step, source, readers.train.example)
    network = make_network(card, config.device.target, config.seed, config.optimizer.groups)
    of_model = [f"{p.name} {p.shape}" for p in network.get_parameters()]
    distributed.require_same({"the model": [len(of_model), sha256(" ".join(of_model).encode()).hexdigest()[:16]]})
    eval_loader = EvalLoader(
        readers.validation,
        batch=config.data.eval_batch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=reading_threads(config.data.workers),
    )
    eval_step = make_eval_step(config, network, source.num_classes)
    return Task(card, network.model, network, readers, eval_step, eval_loader)


def make_network(
    card: ModelCard, target: device.Device, seed: int = 1, groups: Sequence[ParameterGroup] = ()
) -> Network:
    """Return the network that ``card`` describes, the same for training, scoring and export, with fresh weights.

    Args:
        groups: of the optimizer, of which some may be frozen.
    """
    ms.set_seed(seed)
    model = make_model(card.name, card.options, num_classes=card.num_classes, in_channels=card.channels)
    refuse_cells(model)
    freeze(model, groups)
    device.set_precision(model, card.precision, target, card.batch_norm)
    return Network(model, card.mean, card.std, [one.name for one in card.inputs if one.name])


def make_model(name: str, options: dict[str, Any], **sizes: int) -> ms.nn.Cell:
    """Build one of our models by name, or call the user's own function ("module:name") with the same arguments."""
    if is_reference(name):
        given = {**sizes, **options}
        made = load_part(name, given, "model.name")(**given)
        if not isinstance(made, ms.nn.Cell):
            raise UserError(f"model.name={name}: returns a {type(made).__name__}; return a mindspore.nn.Cell")
        return made
    try:
        return models.create_model(name, **sizes, **options)
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def facts_of(readers: Readers) -> dict[str, Any]:
    """Return by name what all ranks have to find alike in a data set: which examples, and what they look like."""
    facts: dict[str, Any] = {}
    for part, reader in readers._asdict().items():
        source = reader.source
        facts[f"the list of {part} examples"] = source.fingerprint()
        facts[f"the number of {part} examples"] = len(source)
        facts[f"what the {part} examples look like"] = str(reader.example)
        statistics = [[float(value) for value in values] for values in (source.mean, source.std)]
        facts[f"mean and standard deviation of the {part} examples"] = statistics
        facts[f"the classes of the {part} examples"] = [source.num_classes, *map(str, source.class_names)]
    return facts


def refuse_other_targets(config: RunConfig, reader: Reader) -> None:
    """Refuse to take targets for classes that are none, not being whole numbers, one for each example, or one alone."""
    target = reader.example.targets
    labels = getattr(reader.source, "labels", None)
    if isinstance(target, Field) and target.is_class:
        if config.step.loss == "cross_entropy" and labels is not None and labels.min() == labels.max():
            raise UserError(
                f"data.source={config.data.source}: all {len(labels)} training examples are of one class, number "
                f"{labels[0]}, from which nothing can be learned; give examples of two classes, or a loss of your own"
            )
        return
    if config.step.loss == "cross_entropy":
        raise UserError(f"step.loss=cross_entropy: the targets are {form(target)}, no classes; give a loss of your own")
    of_classes = [name for name in config.evaluate.names if name in ("top1", "top5")]
    if of_classes:
        raise UserError(
            f"evaluate.metrics: {of_classes[0]} counts classes, and the targets are {form(target)}; leave it out, or "
            "give metrics of your own"
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
