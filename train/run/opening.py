"""Open what a run trains: data, model, batches and schedule, the same on every rank, or the job ends here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mindspore import nn

from models.weights import head_of, list_names, load_weights
from schedules import Schedule
from train.checkpoint.card import ModelCard, read_card
from train.checkpoint.saved import find_model
from train.data.example import Field, form
from train.data.loader import TrainLoader
from train.data.reader import Reader
from train.recipe.read import read_schedule
from train.recipe.sections import InitFrom, RunConfig
from train.run.task import Task, open_task
from train.run.trial import norms_over_one_value, try_parts
from train.runtime import distributed
from train.runtime.errors import UserError, refused


def open_all(config: RunConfig) -> tuple[Task, TrainLoader, Schedule]:
    """Open and check everything that ``config`` names: what a run trains, and what evaluates it. Collective.

    Raises:
        UserError: on every rank, for what the user can change.
    """
    task = open_task(config)
    loader = distributed.together(lambda: make_loader(config, task))
    distributed.together(lambda: refuse_single_values(config, task, loader))
    distributed.together(lambda: try_parts(config, task))
    schedule = distributed.together(lambda: read_schedule(config, loader.steps_per_epoch))
    distributed.require_same({"the learning-rate schedule": schedule.fingerprint})
    return task, loader, schedule


def make_loader(config: RunConfig, task: Task) -> TrainLoader:
    """Return this rank's training batches."""
    loader = TrainLoader(
        task.readers.train,
        global_batch=config.data.global_batch,
        seed=config.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=task.eval_loader.workers,
    )
    part = f"a rank's batch of {loader.local_batch} examples ({distributed.world_size()} ranks)"
    if loader.local_batch < config.step.accumulate:
        raise UserError(
            f"step.accumulate={config.step.accumulate}: {part} "
            "cannot be cut into so many micro-batches; lower it or raise data.global_batch"
        )
    mixes = config.step.mixup > 0 or config.step.cutmix > 0
    if mixes and loader.local_batch // config.step.accumulate < 2:
        raise UserError(
            f"step.accumulate={config.step.accumulate}: {part} leaves one for a "
            "micro-batch, with which step.mixup and step.cutmix have nothing to mix; lower it, or raise "
            "data.global_batch"
        )
    if mixes:
        refuse_mixing(config, loader.reader)
    return loader


def refuse_mixing(config: RunConfig, reader: Reader) -> None:
    """Refuse mixup and cutmix of what has no mean, and cutmix of targets that lie over the image."""
    key = "step.mixup" if config.step.mixup else "step.cutmix"
    inputs = reader.example.inputs
    if not isinstance(inputs, Field):
        raise UserError(f"{key}: mixes one input, these examples have {form(inputs)}; leave it out")
    if not reader.images and inputs.dtype.kind != "f":
        raise UserError(f"{key}: would mix {inputs}, numbers of which no mean can be taken; leave it out")
    if config.step.cutmix and reader.maps:
        raise UserError("step.cutmix: would weigh whole targets that lie over the image; leave it out, or use mixup")


def refuse_single_values(config: RunConfig, task: Task, loader: TrainLoader) -> None:
    """Refuse a batch of which BatchNorm would see one value a channel: its variance is not a number."""
    images = loader.local_batch // config.step.accumulate
    if images > 1:
        return
    inputs = task.readers.train.blank_inputs(images)
    if names := norms_over_one_value(task.network, inputs):
        raise UserError(
            f"data.global_batch={config.data.global_batch}: BatchNorm {list_names(names)} would see one value a "
            f"channel in a micro-batch of one example; raise it, make images larger with "
            "data.image_size, or lower step.accumulate"
        )


def load_initial_weights(model: nn.Cell, options: InitFrom, card: ModelCard) -> None:
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
