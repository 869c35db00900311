"""Put a run together from its configuration: each part is handed what it needs and reads no configuration itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from models.weights import list_names
from schedules import Schedule
from schedules.durations import Clock
from train.checkpoint import TrainingState, Writer
from train.checkpoint.card import ModelCard
from train.checkpoint.resume import NEVER, Identity, choose_start, prepare, resume_from
from train.checkpoint.versions import sources, versions
from train.data.example import Field, form
from train.data.loader import TrainLoader
from train.data.reader import Reader
from train.hooks import Hook, RunState
from train.hooks.base import named
from train.hooks.callbacks import make_hooks as plugged_hooks
from train.hooks.checkpoints import Checkpoints
from train.hooks.guard import Guard
from train.hooks.progress import Progress
from train.hooks.replicas import ReplicaCheck
from train.hooks.scalars import MetricsFile, RankFigures, TrainScalars
from train.hooks.snapshots import SnapshotHook, match_layers
from train.hooks.watchdog import Watchdog
from train.recipe.read import check_steps, read_schedule
from train.recipe.sections import RunConfig, leaves
from train.run.evaluator import Evaluator, open_evaluator
from train.run.loop import train
from train.run.trained import load_initial_weights
from train.run.trial import try_optimizer, try_parts
from train.rundir.folder import CHECKPOINTS, RunFolder
from train.runtime import device, distributed, graphs, packages
from train.runtime.errors import Stopped, UserError
from train.runtime.keys import in_updates, match_names
from train.runtime.signals import StopRequest
from train.step.evaluate import replaced
from train.step.network import Network, norms_over_one_value
from train.step.optimizer import group_rates, make_optimizer
from train.step.train_step import TrainStep
from train.step.update import Mixing, Update
from train.step.watching import Watch


def run_training(config: RunConfig) -> dict[str, float]:
    """Train and evaluate as ``config`` says, from the start or from a checkpoint; return the last evaluation's figures.

    Collective: every rank of the job calls it with the same configuration.

    Raises:
        UserError: for what the user can change, and when the run cannot go on; its ``exit_code`` says which.
    """
    watchdog = Watchdog(config.watchdog.timeout)
    with watchdog.watching():
        return build_and_train(config, watchdog)


def build_and_train(config: RunConfig, watchdog: Watchdog) -> dict[str, float]:
    """Do what :func:`run_training` says, under its watchdog."""
    stop_request = StopRequest()
    keys = leaves(config.model_dump(), lambda key: not key.may_differ_between_ranks)
    distributed.require_same(keys | packages.versions() | sources(config.modules))
    folder = RunFolder(config)
    start = choose_start(config, folder)

    # ---- data, model, schedule: the same on every rank, or the run ends here
    evaluator, loader, schedule = open_training(config)
    for note in schedule.notes if distributed.rank() == 0 else ():
        print(f"note: {note}", flush=True)
    clock = Clock(loader.steps_per_epoch, total=schedule.total_steps)
    in_steps = in_updates(config, clock)  # the same configuration with every duration counted in updates
    check_steps(in_steps.snapshots.steps, schedule.total_steps)
    if config.model.init_from.path and start.saved is None:
        load_initial_weights(evaluator.model, config.model.init_from, evaluator.card)
    recorded = match_layers(config.snapshots.layers, [p.name for p in evaluator.model.trainable_params()])
    identity = Identity(config, evaluator.readers, loader.steps_per_epoch, versions(schedule))

    # ---- the update, and what it changes; all ranks start from rank 0's weights
    distributed.broadcast_parameters(list(evaluator.model.get_parameters()))
    step = make_step(config, evaluator.network, schedule.lr, recorded)
    distributed.together(lambda: try_optimizer(step.optimizer, config.optimizer.name))
    update = make_update(config, step)
    state = TrainingState(step, evaluator.model)
    run = RunState(
        run_dir=config.run_dir,
        config=config,
        model=evaluator.model,
        network=evaluator.network,
        eval_loader=evaluator.eval_loader,
        optimizer=step.optimizer,
        schedule=schedule,
        global_batch=config.data.global_batch,
        steps_per_epoch=loader.steps_per_epoch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        gradients=dict(zip(recorded, step.recorder.gradients, strict=False)),
    )
    hooks = make_hooks(in_steps, recorded, watchdog, folder, state, identity, evaluator.card)
    imported = distributed.gather_json(graphs.source_digest())  # all that a graph is made of is imported by now
    wanted = device.keeps_graphs(resumed=config.resume != NEVER)
    place = graphs.place_of_graphs([*identity.compiled_in(), imported], wanted=wanted)

    # ---- from the start, or where a checkpoint was saved
    hook_states = resume_from(start, run, state, identity)
    restore_hooks(hooks, hook_states)
    prepare(folder, schedule, identity.versions, continued_at=run.step if start.continues else None)

    def evaluation(before_batch: Callable[[], None], asked_to_stop: Callable[[], bool]) -> dict[str, float]:
        run.sums = {}
        figures = evaluator.score(before_batch, asked_to_stop, run.sums)
        if step.averages:
            with replaced(step.average.parameters, [average.asnumpy() for average in step.average.averages]):
                averaged = evaluator.score(before_batch, asked_to_stop)
            figures |= {f"ema_{name}": value for name, value in averaged.items()}
        return figures

    # ---- the training
    figures = train(
        run,
        graphs.with_kept_graphs(update, place),
        loader,
        evaluation,
        hooks,
        evaluate_every=in_steps.evaluate.every,
        asked_to_stop=stop_request,
    )
    distributed.barrier()  # every rank's snapshots are written before rank 0 compares them
    folder.check_in_place()  # it may have been moved since the last checkpoint
    if run.ending is not None and not run.ending.complete:
        raise Stopped(run.step, distributed.gather_json(stop_request.number))
    return figures


def restore_hooks(hooks: list[Hook], states: dict[str, Any]) -> None:
    """Give each hook what it remembered when the state was saved; one that was not there then starts anew."""
    for name, hook in named(hooks).items():
        if name in states:
            try:
                hook.restore(states[name])
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"resume: {name} cannot take back the state it was saved with ({error!r})") from None


def open_training(config: RunConfig) -> tuple[Evaluator, TrainLoader, Schedule]:
    """Open the data, build the model and the schedule; where ranks differ in one of them, the job ends. Collective."""
    evaluator = open_evaluator(config)
    loader = distributed.together(lambda: make_loader(config, evaluator))
    distributed.together(lambda: refuse_single_values(config, evaluator, loader))
    distributed.together(lambda: try_parts(config, evaluator))
    schedule = distributed.together(lambda: read_schedule(config, loader.steps_per_epoch))
    distributed.require_same({"the learning-rate schedule": schedule.fingerprint})
    return evaluator, loader, schedule


def make_loader(config: RunConfig, evaluator: Evaluator) -> TrainLoader:
    """Return this rank's training batches."""
    loader = TrainLoader(
        evaluator.readers.train,
        global_batch=config.data.global_batch,
        seed=config.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=evaluator.eval_loader.workers,
    )
    if loader.local_batch < config.step.accumulate:
        raise UserError(
            f"step.accumulate={config.step.accumulate}: a rank's batch of {loader.local_batch} images "
            "cannot be cut into so many micro-batches; lower it or raise data.global_batch"
        )
    mixes = config.step.mixup > 0 or config.step.cutmix > 0
    if mixes and loader.local_batch // config.step.accumulate < 2:
        raise UserError(
            f"step.accumulate={config.step.accumulate}: a rank's batch of {loader.local_batch} images leaves one for a "
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


def refuse_single_values(config: RunConfig, evaluator: Evaluator, loader: TrainLoader) -> None:
    """Refuse a batch of which BatchNorm would see one value a channel: its variance is not a number."""
    images = loader.local_batch // config.step.accumulate
    if images > 1:
        return
    inputs = evaluator.readers.train.blank_inputs(images)
    if names := norms_over_one_value(evaluator.network, inputs):
        raise UserError(
            f"data.global_batch={config.data.global_batch}: BatchNorm {list_names(names)} would see one value a "
            f"channel in a micro-batch of one example; raise it, make images larger with "
            "data.image_size, or lower step.accumulate"
        )


def make_step(config: RunConfig, network: Network, lr: np.ndarray, recorded: list[str]) -> TrainStep:
    """Return the update that is compiled at its first call, with ``lr`` (float32, (T,)) as its learning rates."""
    optimizer = make_optimizer(network.model, lr, **dict(config.optimizer))
    return TrainStep(
        network,
        optimizer,
        global_batch=config.data.global_batch,
        world_size=distributed.world_size(),
        rank=distributed.rank(),
        options=config.step,
        skips=config.guard.mode == "skip",
        watch=Watch(
            recorded=recorded,
            logged=match_names(config.log.layers, [p.name for p in network.model.trainable_params()], "log.layers"),
            keeps_gradients=bool(config.snapshots.steps),
            counts_correct="top1" in config.evaluate.names,
            rates=group_rates(optimizer, config.optimizer.groups),
        ),
    )


def make_update(config: RunConfig, step: TrainStep) -> Update:
    """Return what feeds ``step`` this rank's batches."""
    mixing = Mixing(config.step.mixup, config.step.cutmix)
    return Update(step, accumulate=config.step.accumulate, mixing=mixing, seed=config.seed)


def make_hooks(
    config: RunConfig,
    recorded: list[str],
    watchdog: Watchdog,
    folder: RunFolder,
    state: TrainingState,
    identity: Identity,
    card: ModelCard,
) -> list[Hook]:
    """Return the hooks in the order they are called: those that measure, those that write, those that keep it safe.

    Args:
        config: with every duration in updates.
    """
    snapshots = SnapshotHook(recorded, config.snapshots.steps, config.snapshots.ranks, folder)
    options = config.checkpoint
    writer = Writer(config.run_dir / CHECKPOINTS, keep=options.keep, background=options.background, card=card)
    shown: list[Hook] = []
    if config.log.tensorboard and distributed.rank() == 0:  # who alone writes, and so imports what that takes
        from train.hooks.tensorboard import TensorBoard

        shown = [TensorBoard(snapshots, config.evaluate.names)]
    hooks: list[Hook] = [
        watchdog,
        snapshots,
        TrainScalars(config.log.every),
        RankFigures(config.log.ranks_every),
        Guard(config.guard.stop_after, config.guard.mode),
        MetricsFile(),
        *shown,
        *plugged_hooks(config.hooks),
        Progress(config.log.language),
        ReplicaCheck(state.shared, config.replicas.every),
    ]
    checkpoints = Checkpoints(
        folder,
        state,
        identity.describe,
        writer,
        every=options.every,
        metric=config.evaluate.deciding,
        smaller_is_better=config.evaluate.smaller_is_better,
        others=hooks,
    )
    return [*hooks, checkpoints]
