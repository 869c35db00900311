"""Put a run together from its configuration: each part is handed what it needs and reads no configuration itself."""

from __future__ import annotations

import platform
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import mindspore as ms

import models
from schedules import Schedule
from train import checkpoint, device, distributed, plugins
from train.config import CONFIG_FILE, ModelConfig, RunConfig, check_steps, read_schedule, to_yaml
from train.data import Readers, open_readers, statistics
from train.data.cores import reading_threads
from train.data.loader import EvalLoader, TrainLoader
from train.errors import UserError
from train.evaluate import EvalStep, evaluate, mean_statistics, replaced
from train.hooks import Hook, RunState
from train.hooks.callbacks import make_hooks as plugged_hooks
from train.hooks.progress import Progress
from train.hooks.scalars import MetricsFile, TensorBoard, TrainScalars
from train.hooks.snapshots import SnapshotHook, match_layers
from train.loop import train
from train.mixing import Mixing
from train.network import Network
from train.optimizer import make_optimizer
from train.step import StepOptions, TrainStep, Update

SCHEDULE_FILE = "schedule.npz"
STEP_OPTIONS = {field.name for field in fields(StepOptions)}
PACKAGES = ("mindspore", "numpy", "pyyaml", "tensorboardX")


@dataclass
class Parts:
    """The model and what evaluates it: all that a finished run needs to be scored again."""

    model: ms.nn.Cell
    network: Network
    readers: Readers
    eval_step: EvalStep
    eval_loader: EvalLoader

    def score(self) -> dict[str, float]:
        """Return the exact metrics of the present weights, with the ranks' mean moving statistics."""
        with mean_statistics(self.model):
            return evaluate(self.eval_step, self.eval_loader)


def build_parts(config: RunConfig) -> Parts:
    """Open the data and build the model, with initial weights that are a function of ``config.seed``."""
    readers = open_readers(config.data)
    source = readers.train.source
    ms.set_seed(config.seed)
    model = make_model(config.model, num_classes=source.num_classes, in_channels=source.channels)
    device.set_precision(model, config.step.precision, config.device)
    network = Network(model, *statistics(config.data, source))
    eval_loader = EvalLoader(
        readers.held_out,
        batch=config.data.eval_batch,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=reading_threads(config.data.workers),
    )
    return Parts(model, network, readers, EvalStep(network, source.num_classes), eval_loader)


def make_model(options: ModelConfig, **sizes: int) -> ms.nn.Cell:
    """Build one of our models by name, or call the reader's own function ("module:name") with the same arguments."""
    if plugins.is_reference(options.name):
        return plugins.load(options.name, "model.name")(**sizes, **options.options)
    try:
        return models.create_model(options.name, **sizes, **options.options)
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def run_training(config: RunConfig) -> dict[str, float]:
    """Train and evaluate as ``config`` says; return the last evaluation's figures.

    Collective: every rank of the job calls it with the same configuration.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    parts = build_parts(config)
    loader = TrainLoader(
        parts.readers.train,
        global_batch=config.data.global_batch,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        workers=parts.eval_loader.workers,
    )
    if loader.local_batch < config.step.accumulate:
        raise UserError(
            f"step.accumulate={config.step.accumulate}: a rank's batch of {loader.local_batch} images "
            "cannot be cut into so many parts; lower it or raise data.global_batch"
        )
    schedule = read_schedule(config, loader.steps_per_epoch)
    check_steps(config, schedule.total_steps)
    distributed.require_same("the learning-rate schedule", schedule.fingerprint)
    distributed.broadcast_parameters(list(parts.model.get_parameters()))

    watched = match_layers(config.snapshots.layers, [p.name for p in parts.model.trainable_params()])
    optimizer = make_optimizer(parts.model, schedule.lr, **config.optimizer.model_dump())
    step = TrainStep(
        parts.network,
        optimizer,
        global_batch=config.data.global_batch,
        world_size=world_size,
        rank=rank,
        options=StepOptions(**config.step.model_dump(include=STEP_OPTIONS)),
        watched=watched,
    )
    update = Update(
        step,
        accumulate=config.step.accumulate,
        mixing=Mixing(config.step.mixup, config.step.cutmix),
        seed=config.seed,
    )
    run = RunState(
        run_dir=config.run_dir,
        model=parts.model,
        optimizer=optimizer,
        schedule=schedule,
        global_batch=config.data.global_batch,
        seed=config.seed,
        steps_per_epoch=loader.steps_per_epoch,
        rank=rank,
        world_size=world_size,
    )
    hooks = make_hooks(config, watched)
    make_run_folder(config, schedule)
    figures: dict[str, float] = {}

    def evaluation() -> dict[str, float]:
        figures.update(parts.score())
        if step.ema_decay:
            with replaced(step.averaged, [average.asnumpy() for average in step.ema]):
                figures.update({f"ema_{name}": value for name, value in parts.score().items()})
        return figures

    train(run, update, loader, evaluation, hooks, evaluate_every=config.evaluate.every)
    with mean_statistics(parts.model):
        if rank == 0:
            checkpoint.save_model(parts.model, checkpoint.step_folder(run.run_dir, run.step))
    distributed.barrier()  # every rank's snapshots are written before rank 0 compares them
    return figures


def make_hooks(config: RunConfig, watched: list[str]) -> list[Hook]:
    """Return the hooks in the order they are called: first those that measure, then those that write."""
    hooks: list[Hook] = [
        SnapshotHook(watched, config.snapshots.steps),
        TrainScalars(config.log.every),
        MetricsFile(),
    ]
    if config.log.tensorboard:
        hooks.append(TensorBoard())
    return [*hooks, *plugged_hooks(config.hooks), Progress()]


def make_run_folder(config: RunConfig, schedule: Schedule) -> None:
    """Make ``runs/<name>/`` on rank 0 and write what the run is: the resolved configuration and its schedule.

    Raises:
        UserError: when the folder already holds a run, or cannot be written.
    """
    if distributed.rank() == 0:
        run_dir = config.run_dir
        refuse_used_folder(run_dir)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            schedule.save(run_dir / SCHEDULE_FILE)
            (run_dir / CONFIG_FILE).write_text(to_yaml(config, versions=versions(schedule)), encoding="utf-8")
        except OSError as error:
            raise UserError(f"runs_dir={config.runs_dir}: cannot write {run_dir}: {error.strerror}") from None
    distributed.barrier()


def refuse_used_folder(run_dir: Path) -> None:
    if (run_dir / CONFIG_FILE).exists():
        raise UserError(f"{run_dir} already holds a run; choose another with name=…, or move that folder away")


def versions(schedule: Schedule) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "world_size": str(distributed.world_size()),
        "schedule_fingerprint": schedule.fingerprint,
    }
