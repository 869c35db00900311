"""A training from its configuration to its last evaluation: each part is handed what it needs, and reads no
configuration itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from schedules import Schedule
from schedules.durations import Clock
from train.checkpoint.resume import choose_start, prepare, restore
from train.checkpoint.saved import Checkpoint, Description, Writer
from train.checkpoint.state import shared_parameters
from train.data.loader import TrainLoader
from train.hooks import Hook, RunState
from train.hooks.base import make_hooks as plugged_hooks
from train.hooks.base import named
from train.hooks.checkpoints import Checkpoints
from train.hooks.guard import Guard
from train.hooks.progress import Progress
from train.hooks.replicas import ReplicaCheck
from train.hooks.runstate import Ending
from train.hooks.scalars import MetricsFile, RankFigures, TrainScalars
from train.hooks.snapshots import SnapshotHook
from train.hooks.watchdog import Watchdog
from train.recipe.read import check_steps
from train.recipe.sections import RunConfig, leaves
from train.run.loop import train
from train.run.opening import load_initial_weights, open_all
from train.run.task import Task
from train.run.trial import try_optimizer
from train.rundir.folder import CHECKPOINTS, RunFolder
from train.runtime import device, distributed, packages
from train.runtime.errors import Stopped, UserError
from train.runtime.keys import in_updates, match_names
from train.runtime.signals import StopRequest
from train.step.evaluate import replaced
from train.step.feeder import Feeder, Mixing
from train.step.network import Network
from train.step.optimizer import group_rates, make_optimizer
from train.step.train_step import TrainStep
from train.step.watching import Watch


@dataclass
class Job:
    """What a training is put together from."""

    config: RunConfig
    """With every duration counted in updates."""
    folder: RunFolder
    start: Checkpoint | None
    """None: update 0."""
    continues: bool
    """Whether it goes on in the folder that ``start`` was saved in."""
    task: Task
    loader: TrainLoader
    schedule: Schedule
    description: Description
    """Of its state 0: what its checkpoints say that it is."""


def run_training(config: RunConfig) -> dict[str, float]:
    """Train and evaluate as ``config`` says, from the start or from a checkpoint; return the last evaluation's figures.

    Collective: every rank of the job calls it with the same configuration.

    Raises:
        UserError: for what the user can change, and when the run cannot go on; its ``exit_code`` says which.
    """
    watchdog = Watchdog(config.watchdog.timeout)
    with watchdog.watching():
        # ---- what is trained, the update, and what watches it
        asked_to_stop = StopRequest()
        job = open_job(config)
        step = make_step(job.config, job.task.network, job.schedule.lr)
        distributed.together(lambda: try_optimizer(step.optimizer, config.optimizer.name))
        run = as_hooks_see_it(job, step, asked_to_stop)
        hooks = make_hooks(job, step, watchdog)

        # ---- from the start, or from where a checkpoint was saved
        if job.start:
            restore_hooks(hooks, continue_from(job.start, run, step, job.description))
        prepare(job.folder, job.description, job.schedule, continued_at=run.step if run.continues else None)

        # ---- the training
        evaluation = partial(score_with_average, job.task, step, run)
        every = job.config.evaluate.every
        figures = train(run, make_feeder(config, step), job.loader, evaluation, hooks, evaluate_every=every)
        distributed.barrier()  # every rank's snapshots are written before rank 0 compares them
        job.folder.check_in_place()  # it may have been moved since the last checkpoint
        if run.ending is not None and not run.ending.complete:
            raise Stopped(run.step, distributed.gather_json(asked_to_stop.number))
        return figures


def open_job(config: RunConfig) -> Job:
    """Open what is trained, and find where it starts. Collective."""
    resolved = config.model_dump()
    alike = leaves(resolved, lambda key: not key.may_differ_between_ranks)
    distributed.require_same(alike | packages.versions() | packages.sources(config.modules))
    folder = RunFolder(config.run_dir)
    start, continues = choose_start(config.resume, folder)

    task, loader, schedule = open_all(config)
    for note in schedule.notes if distributed.rank() == 0 else ():
        print(f"note: {note}", flush=True)
    config = in_updates(config, Clock(loader.steps_per_epoch, total=schedule.total_steps))
    for section in ("snapshots", "profile"):
        check_steps(section, getattr(config, section).steps, schedule.total_steps)
    if config.model.init_from.path and start is None:
        load_initial_weights(task.model, config.model.init_from, task.card)
    distributed.broadcast_parameters(list(task.model.get_parameters()))  # all start from rank 0's weights

    world = {"world_size": str(distributed.world_size()), "schedule_fingerprint": schedule.fingerprint}
    description = Description(
        step=0,
        epoch=0,
        position=0,
        steps_per_epoch=loader.steps_per_epoch,
        total_steps=schedule.total_steps,
        evaluation_pending=False,
        world_size=distributed.world_size(),
        global_batch=config.data.global_batch,
        schedule_fingerprint=schedule.fingerprint,
        data={part: reader.source.fingerprint() for part, reader in task.readers._asdict().items()},
        hooks={},
        config=resolved,
        versions=packages.versions() | device.in_the_last_bits() | world,
    )
    return Job(config, folder, start, continues, task, loader, schedule, description)


def make_step(config: RunConfig, network: Network, lr: np.ndarray) -> TrainStep:
    """Return the step that is compiled at its first call, with ``lr`` (float32, (T,)) as its learning rates."""
    optimizer = make_optimizer(network.model, lr, **dict(config.optimizer))
    trained = [p.name for p in network.model.trainable_params()]
    return TrainStep(
        network,
        optimizer,
        global_batch=config.data.global_batch,
        world_size=distributed.world_size(),
        rank=distributed.rank(),
        options=config.step,
        skips=config.guard.mode == "skip",
        watch=Watch(
            recorded=match_names(config.snapshots.layers, trained, "snapshots.layers"),
            logged=match_names(config.log.layers, trained, "log.layers"),
            keeps_gradients=bool(config.snapshots.steps),
            counts_correct="top1" in config.evaluate.names,
            rates=group_rates(optimizer, config.optimizer.groups),
        ),
    )


def make_feeder(config: RunConfig, step: TrainStep) -> Feeder:
    """Return what hands this rank's batches to ``step``."""
    mixing = Mixing(config.step.mixup, config.step.cutmix)
    return Feeder(step, accumulate=config.step.accumulate, mixing=mixing, seed=config.seed)


def as_hooks_see_it(job: Job, step: TrainStep, asked_to_stop: Callable[[], bool]) -> RunState:
    """Return the run before its first update."""
    return RunState(
        run_dir=job.config.run_dir,
        config=job.config,
        model=job.task.model,
        network=job.task.network,
        eval_loader=job.task.eval_loader,
        optimizer=step.optimizer,
        schedule=job.schedule,
        global_batch=job.config.data.global_batch,
        steps_per_epoch=job.loader.steps_per_epoch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        continues=job.continues,
        asked_to_stop=asked_to_stop,
        gradients=dict(zip(step.report.recorded, step.recorder.gradients, strict=False)),
    )


def make_hooks(job: Job, step: TrainStep, watchdog: Watchdog) -> list[Hook]:
    """Return the hooks in the order they are called.

    What measures comes before what writes; the guard as well, so that nothing is written of an update that ends the
    run; the checkpoints last, which save what the others remember.
    """
    config = job.config
    snapshots = SnapshotHook(step.report.recorded, config.snapshots.steps, config.snapshots.ranks, job.folder)
    options = config.checkpoint
    writer = Writer(config.run_dir / CHECKPOINTS, keep=options.keep, background=options.background, card=job.task.card)
    profile = [{"train.hooks.profile:Profile": dict(config.profile)}] if config.profile.steps else []
    shown: list[Hook] = []
    if config.log.tensorboard and distributed.rank() == 0:  # who alone writes, and so imports what that takes
        from train.hooks.tensorboard import TensorBoard

        shown = [TensorBoard(snapshots, config.evaluate.names, job.task.card.class_names)]
    hooks: list[Hook] = [
        watchdog,
        snapshots,
        TrainScalars(config.log.every),
        RankFigures(config.log.ranks_every),
        Guard(config.guard.stop_after, config.guard.mode),
        MetricsFile(),
        *shown,
        *plugged_hooks([*profile, *config.hooks]),
        Progress(config.log.language),
        ReplicaCheck(shared_parameters(step), config.replicas.every),
    ]
    checkpoints = Checkpoints(
        job.folder,
        step,
        job.description,
        writer,
        every=options.every,
        metric=config.evaluate.deciding,
        smaller_is_better=config.evaluate.smaller_is_better,
        others=hooks,
    )
    return [*hooks, checkpoints]


def continue_from(start: Checkpoint, run: RunState, step: TrainStep, now: Description) -> dict[str, Any]:
    """Bring ``run`` and ``step`` to where ``start`` was saved, and say what is no longer bit-identical.

    Returns the saved states of hooks, by name.

    Args:
        now: describes state 0 of the run from now on.

    Raises:
        UserError: when the checkpoint is of another run; nothing has been changed then.
    """
    changes = now.config["resume_changes"]
    notes = restore(start, step, now, changes)
    saved = start.description
    run.resumed = True
    run.step, run.evaluation_pending = saved.step, saved.evaluation_pending
    # What a hook has ended is complete, unless it goes on elsewhere or with changes.
    if saved.ended is not None and run.continues and not changes:
        run.ending = Ending("hook", saved.ended)
    finished = (run.step == run.total_steps or run.ending is not None) and not run.evaluation_pending
    if run.rank == 0:
        words = "already finished" if finished else "continuing"
        print(f"{words} at update {run.step} of {run.total_steps} from {start.folder}", flush=True)
        if finished:
            print("only scored again; to train on with its weights: model.init_from=…, name=…", flush=True)
        for note in notes:
            print(f"not bit-identical to an uninterrupted run: {note}", flush=True)
    return saved.hooks


def restore_hooks(hooks: list[Hook], states: dict[str, Any]) -> None:
    """Give each hook what it remembered when the state was saved; one that was not there then starts anew."""
    for name, hook in named(hooks).items():
        if name in states:
            try:
                hook.restore(states[name])
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"resume: {name} cannot take back the state it was saved with ({error!r})") from None


def score_with_average(
    task: Task,
    step: TrainStep,
    run: RunState,
    before_batch: Callable[[], None],
    asked_to_stop: Callable[[], bool],
) -> dict[str, float]:
    """Return the figures of the present weights, and with ``ema_`` before their names those of their average."""
    run.sums = {}
    figures = task.score(before_batch, asked_to_stop, run.sums)
    if step.averages:
        with replaced(step.average.parameters, [average.asnumpy() for average in step.average.averages]):
            averaged = task.score(before_batch, asked_to_stop)
        figures |= {f"ema_{name}": value for name, value in averaged.items()}
    return figures
