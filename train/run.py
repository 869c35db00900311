"""Put a run together from its configuration: each part is handed what it needs and reads no configuration itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms

import models
from models.weights import load_weights
from schedules import Schedule
from schedules.durations import Clock
from train import device, distributed
from train.checkpoint import Description, TrainingState, Writer, resume
from train.config import ModelConfig, RunConfig, check_steps, read_schedule
from train.data import Readers, open_readers, statistics
from train.data.loader import EvalLoader, TrainLoader, reading_threads
from train.errors import Stopped, UserError
from train.hooks import Hook, RunState
from train.hooks.callbacks import make_hooks as plugged_hooks
from train.hooks.checkpoints import Checkpoints
from train.hooks.guard import Guard
from train.hooks.progress import Progress
from train.hooks.replicas import ReplicaCheck
from train.hooks.scalars import MetricsFile, RankFigures, TrainScalars
from train.hooks.snapshots import SnapshotHook, match_layers
from train.hooks.tensorboard import TensorBoard
from train.hooks.watchdog import Watchdog
from train.keys import in_updates, is_reference, load_reference
from train.loop import before_each_batch, train
from train.rundir.folder import CHECKPOINTS, RunFolder
from train.signals import StopRequest
from train.step.evaluate import EvalStep, EvaluationStopped, evaluate, mean_statistics, never, replaced
from train.step.network import Network, make_optimizer
from train.step.train_step import TrainStep
from train.step.update import Mixing, Update

COMPILED_GRAPHS = ".compiled-graphs"  # in runs_dir; no run's name begins with a dot


@dataclass
class Parts:
    """The model and what evaluates it: all that a finished run needs to be scored again."""

    model: ms.nn.Cell
    network: Network
    readers: Readers
    eval_step: EvalStep
    eval_loader: EvalLoader

    def score(self, asked_to_stop: Callable[[], bool] = never) -> dict[str, float]:
        """Return the exact metrics of the present weights, with the ranks' mean moving statistics.

        Raises:
            EvaluationStopped: once any rank was asked to stop.
        """
        with mean_statistics(self.model):
            return evaluate(self.eval_step, self.eval_loader, asked_to_stop)


def build_parts(config: RunConfig) -> Parts:
    """Open the data and build the model, with initial weights that are a function of ``config.seed``."""
    readers = distributed.together(lambda: open_readers(config.data))
    source = readers.train.source
    ms.set_seed(config.seed)
    model = make_model(config.model, num_classes=source.num_classes, in_channels=source.channels)
    device.set_precision(model, config.step.precision, config.device)
    network = Network(model, *statistics(config.data, source))
    eval_loader = EvalLoader(
        readers.validation,
        batch=config.data.eval_batch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=reading_threads(config.data.workers),
    )
    return Parts(model, network, readers, EvalStep(network, source.num_classes), eval_loader)


def make_model(options: ModelConfig, **sizes: int) -> ms.nn.Cell:
    """Build one of our models by name, or call the reader's own function ("module:name") with the same arguments."""
    if is_reference(options.name):
        return load_reference(options.name, "model.name")(**sizes, **options.options)
    try:
        return models.create_model(options.name, **sizes, **options.options)
    except ValueError as error:
        raise UserError(f"model: {error}") from None


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
    folder = RunFolder(config)
    start = resume.choose_start(config, folder)
    parts = build_parts(config)
    loader = distributed.together(lambda: make_loader(config, parts))
    schedule = agree_on_schedule(config, parts, loader)
    clock = Clock(loader.steps_per_epoch, total=schedule.total_steps)
    evaluate_every = in_updates("evaluate.every", config.evaluate.every, clock)
    save_every = in_updates("checkpoint.every", config.checkpoint.every, clock)
    if config.model.init_from and start.saved is None:
        load_initial_weights(parts.model, config.model.init_from)
    watched = match_layers(config.snapshots.layers, [p.name for p in parts.model.trainable_params()])
    identity = resume.Identity(config, parts.readers, loader.steps_per_epoch, resume.versions(schedule))
    compiled_in = [*identity.compiled_in(), start.evaluates_first(schedule.total_steps)]
    device.separate_compile_cache(Path(config.runs_dir) / COMPILED_GRAPHS, compiled_in)
    step = make_step(config, parts, schedule, watched)
    update = Update(
        step,
        accumulate=config.step.accumulate,
        mixing=Mixing(config.step.mixup, config.step.cutmix),
        seed=config.seed,
    )
    run = RunState(
        run_dir=config.run_dir,
        model=parts.model,
        optimizer=step.optimizer,
        schedule=schedule,
        global_batch=config.data.global_batch,
        steps_per_epoch=loader.steps_per_epoch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    state = TrainingState(step, parts.model)
    hooks = make_hooks(config, watched, watchdog, state, identity.describe, save_every)
    resume.take_up(start, run, state, identity)
    resume.prepare(folder, schedule, identity.versions, continued_at=run.step if start.continues else None)
    figures: dict[str, float] = {}

    def evaluation(asked_to_stop: Callable[[], bool]) -> dict[str, float]:
        figures.update(parts.score(asked_to_stop))
        if step.ema_decay:
            with replaced(step.averaged, [average.asnumpy() for average in step.ema]):
                figures.update({f"ema_{name}": value for name, value in parts.score(asked_to_stop).items()})
        return figures

    train(
        run,
        update,
        loader,
        evaluation,
        hooks,
        evaluate_every=evaluate_every,
        asked_to_stop=stop_request,
    )
    if not figures and not run.stopping:  # it was complete before
        try:
            evaluation(before_each_batch(run, hooks, stop_request))
        except EvaluationStopped:
            run.stopping = True
    distributed.barrier()  # every rank's snapshots are written before rank 0 compares them
    if run.stopping:
        raise Stopped(run.step, distributed.gather_json(stop_request.number))
    return figures


def load_initial_weights(model: ms.nn.Cell, path: str) -> None:
    """Give rank 0's model, whose weights all ranks will start from, those of ``path``; say what it does not hold."""

    def load() -> list[str]:
        try:
            return load_weights(model, path)
        except (OSError, ValueError) as error:
            raise UserError(f"model.init_from: {error}") from None

    kept = distributed.on_first_rank(load)
    if distributed.rank() == 0:
        words = f"; freshly drawn: {', '.join(kept)}" if kept else ""
        print(f"initial weights from {path}{words}", flush=True)


def make_loader(config: RunConfig, parts: Parts) -> TrainLoader:
    """Return this rank's training batches."""
    loader = TrainLoader(
        parts.readers.train,
        global_batch=config.data.global_batch,
        seed=config.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=parts.eval_loader.workers,
    )
    if loader.local_batch < config.step.accumulate:
        raise UserError(
            f"step.accumulate={config.step.accumulate}: a rank's batch of {loader.local_batch} images "
            "cannot be cut into so many parts; lower it or raise data.global_batch"
        )
    mixes = config.step.mixup > 0 or config.step.cutmix > 0
    if mixes and loader.local_batch // config.step.accumulate < 2:
        raise UserError(
            f"step.accumulate={config.step.accumulate}: a rank's batch of {loader.local_batch} images leaves one for a "
            "part, with which step.mixup and step.cutmix have nothing to mix; lower it or raise data.global_batch"
        )
    return loader


def agree_on_schedule(config: RunConfig, parts: Parts, loader: TrainLoader) -> Schedule:
    """Build the schedule, and end the job where ranks differ in it or in the examples they would train on."""

    def make() -> Schedule:
        schedule = read_schedule(config, loader.steps_per_epoch)
        check_steps(config, schedule.total_steps)
        return schedule

    # The examples first: a schedule in epochs follows from their number.
    for part, reader in parts.readers._asdict().items():
        distributed.require_same(f"the list of {part} examples", reader.source.fingerprint())
    schedule = distributed.together(make)
    distributed.require_same("the learning-rate schedule", schedule.fingerprint)
    return schedule


def make_step(config: RunConfig, parts: Parts, schedule: Schedule, watched: list[str]) -> TrainStep:
    """Return the compiled update; all ranks start from rank 0's weights."""
    distributed.broadcast_parameters(list(parts.model.get_parameters()))
    return TrainStep(
        parts.network,
        make_optimizer(parts.model, schedule.lr, **config.optimizer.model_dump()),
        global_batch=config.data.global_batch,
        world_size=distributed.world_size(),
        rank=distributed.rank(),
        options=config.step,
        watched=watched,
    )


def make_hooks(
    config: RunConfig,
    watched: list[str],
    watchdog: Watchdog,
    state: TrainingState,
    describe: Callable[[RunState], Description],
    save_every: int,
) -> list[Hook]:
    """Return the hooks in the order they are called: those that measure, those that write, those that keep it safe."""
    snapshots = SnapshotHook(watched, config.snapshots.steps)
    logs: list[Hook] = [MetricsFile(), *([TensorBoard(snapshots)] if config.log.tensorboard else [])]
    replicas = ReplicaCheck(state.shared, config.replicas.every)
    options = config.checkpoint
    writer = Writer(config.run_dir / CHECKPOINTS, keep=options.keep, background=options.background)
    return [
        watchdog,
        snapshots,
        TrainScalars(config.log.every),
        RankFigures(config.log.ranks_every),
        Guard(config.guard.stop_after),
        *logs,
        *plugged_hooks(config.hooks),
        Progress(),
        replicas,
        Checkpoints(state, describe, writer, every=save_every, others=[watchdog, replicas, *logs]),
    ]
