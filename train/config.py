"""One typed description of a run: the dataclass-like sections below ← a YAML recipe ← ``key=value`` arguments.

Every key has a type, a range and a line of description (``python -m train --help`` prints them). Unknown keys, wrong
types and values out of range raise :class:`train.errors.UserError` with one line that names the key. Imports no
MindSpore.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

import models
import schedules
from train import plugins
from train.data.augment import build_augmentations
from train.errors import UserError, near_matches
from train.every import Every
from train.recipe import apply_override, read_recipe

CONFIG_FILE = "config.yaml"

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

Augmentations = list[str | dict[str, dict[str, Any]]]

OF_FILES = ("cifar10", "image_folder", "mindrecord")
WITHOUT_FILES = ("digits", "synthetic")


class Section(BaseModel):
    """A frozen group of keys; strict, so that "ten" or 1.5 never becomes a whole number silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(Section):
    name: str = Field("resnet20", description="a name of python -m models, or your own function as module:name")
    init_from: str = Field("", description="weights to start from: safetensors of torchvision, timm or a run")
    options: dict[str, Any] = Field({}, description="passed to models.create_model, e.g. {shortcut: B}")


class DataConfig(Section):
    source: str = Field("digits", description=f"{', '.join((*OF_FILES, *WITHOUT_FILES))}, or yours as module:function")
    root: str = Field("", validate_default=True, description="folder of the data set, for sources that read files")
    hold_out_per_class: Count = Field(0, description="hold out the last examples of each class where there is no val")
    image_size: PositiveInt = Field(16, description="height and width of the images given to the model, in pixels")
    eval_resize: Count = Field(0, description="shorter side before evaluation's centre crop; 0: image_size")
    augment: Augmentations = Field([], description="in this order: train/data/README.md")
    mean: list[float] = Field([], description="of each channel, values in [0, 1]; empty: the source's own")
    std: list[Positive] = Field([], description="as mean")
    global_batch: PositiveInt = Field(128, description="images of one update, summed over all ranks")
    eval_batch: PositiveInt = Field(120, description="images of one evaluation step on each rank")
    on_bad_image: Literal["fail", "skip"] = Field("fail", description="what a file that cannot be decoded does")
    bad_image_limit: Count = Field(100, description="files that each rank may skip")
    workers: Count = Field(0, description="threads that read images on each rank; 0: as many as it has cores")
    synthetic_examples: PositiveInt = Field(12_800, description="training images of source synthetic")
    synthetic_classes: PositiveInt = Field(1000, description="classes of source synthetic")

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if source not in (*OF_FILES, *WITHOUT_FILES) and not plugins.is_reference(source):
            raise ValueError(near_matches(source, (*OF_FILES, *WITHOUT_FILES)))
        return source

    @field_validator("root", "hold_out_per_class")
    @classmethod
    def _for_sources_of_files(cls, value: str | int, info: ValidationInfo) -> str | int:
        source = info.data.get("source")
        if source in WITHOUT_FILES and value:
            raise ValueError(f"data.source={source} reads no files; leave this key out")
        if source in OF_FILES and value == "":
            raise ValueError(f"data.source={source} needs the folder that holds its files")
        return value

    @field_validator("eval_resize")
    @classmethod
    def _large_enough_to_cut(cls, side: int, info: ValidationInfo) -> int:
        image_size = info.data.get("image_size", 0)
        if 0 < side < image_size:
            raise ValueError(f"a centre of data.image_size={image_size} cannot be cut out of less; give more, or 0")
        return side

    @field_validator("augment")
    @classmethod
    def _known_augmentations(cls, augment: Augmentations) -> Augmentations:
        build_augmentations(augment)
        return augment


class OptimizerConfig(Section):
    momentum: float = Field(0.9, ge=0, lt=1, description="v_t = momentum * v_(t-1) + g_t")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty, added to the gradient by the optimizer")
    decay_norm_and_bias: bool = Field(False, description="also decay BatchNorm's gamma and beta, and biases")


class StepConfig(Section):
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    mixup: float = Field(0.0, ge=0, description="alpha of mixup's Beta distribution; 0: off")
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix's Beta distribution; 0: off")
    accumulate: PositiveInt = Field(1, description="parts into which each rank's batch is cut, to save memory")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the reduced gradient; 0: no clipping")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the moving average of weights, e.g. 0.999; 0: off")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of convolutions and products")
    loss_scale: float = Field(1.0, ge=1, description="first factor on the loss, against float16's underflow")
    loss_scale_window: Count = Field(0, description="good updates before the factor doubles; 0: it is constant")


class SnapshotConfig(Section):
    layers: list[str] = Field(["fc.weight"], description="parameters to watch: names or globs")
    steps: list[Count] = Field(
        [5, 60], description="updates t whose W_start, v, lr and W_new are recorded on every rank"
    )


class EvaluateConfig(Section):
    every: Every = Field(0, description='updates, "1 epochs" or "5%" between evaluations; 0: only at the end')


class LogConfig(Section):
    every: PositiveInt = Field(1, description="updates between logged points")
    ranks_every: PositiveInt = Field(10, description="updates between points of each rank's own loss and times")
    tensorboard: bool = Field(True, description="write TensorBoard events")


class CheckpointConfig(Section):
    every: Every = Field(0, description='updates, "1 epochs" or "5%" between checkpoints; 0: when it ends or stops')
    keep: int = Field(2, ge=2, description="newest checkpoints that are kept, besides the best")
    background: bool = Field(False, description="write them while training goes on, one at a time")


class GuardConfig(Section):
    stop_after: Count = Field(10, description="updates in a row, all skipped as not finite, that end it; 0: never")


class ReplicasConfig(Section):
    every: Count = Field(100, description="updates between comparisons of the ranks; 0: only with checkpoints")


class WatchdogConfig(Section):
    timeout: float = Field(1800.0, ge=0, description="seconds without progress that end a rank; 0: never")


class RunConfig(Section):
    """The whole run. ``schedule`` is handed to :func:`schedules.build`, which owns and checks its keys."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder inside runs_dir")
    runs_dir: str = Field(
        "runs", min_length=1, description="where run folders are made, relative to the working directory"
    )
    seed: Count = Field(1, le=2**31 - 1, description="initial weights, and the order of the examples")
    device: Literal["auto", "cpu", "ascend"] = Field(
        "auto", description="auto: Ascend where one is visible, else the CPU"
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    schedule: dict[str, Any] = Field(
        description="the learning rate at every step; its keys: python -m schedules --help"
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    step: StepConfig = StepConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    log: LogConfig = LogConfig()
    hooks: list[str] = Field([], description="more hooks, as module:Class; mindspore.train:LossMonitor works too")
    imports: list[str] = Field([], description="modules to import first, e.g. one that registers a schedule kind")
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    replicas: ReplicasConfig = ReplicasConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    resume: str = Field("never", min_length=1, description="auto: go on if the folder holds a run; or a checkpoint")
    resume_changes: list[str] = Field([], description="keys allowed to differ from the checkpoint's, e.g. [schedule]")

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.name


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read the recipe at ``path``, apply ``key=value`` overrides and check everything that needs no data.

    Raises:
        UserError: for a missing or unreadable file, bad YAML, an unknown key, a wrong type or a value out of range.
    """
    tree = read_recipe(Path(path))
    for argument in overrides:
        apply_override(tree, argument)
    config = _validate(path, tree)
    _check_words(path, config)
    plugins.import_modules(config.imports)
    _check_model(path, config.model)
    _check_schedule(path, config)
    return config


def load_run_config(run_dir: Path) -> RunConfig:
    """Read back the configuration that a run left in its folder."""
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{run_dir}: no run folder, it has no {CONFIG_FILE}")
    tree = read_recipe(path)
    tree.pop("versions", None)
    return _validate(path, tree)


def to_yaml(config: RunConfig, **extra: object) -> str:
    """Return the resolved configuration as YAML that :func:`load_config` reads back (without ``extra``)."""
    return yaml.safe_dump({**config.model_dump(), **extra}, sort_keys=False, allow_unicode=True)


def describe_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Return one line for each key: its dotted name, default and description."""
    lines = []
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += describe_keys(field.annotation, f"{prefix}{key}.")
        else:
            default = (
                "required"
                if field.is_required()
                else yaml.safe_dump(field.default, default_flow_style=True).split("\n")[0]
            )
            lines.append(f"  {prefix + key:32} {default:18} {field.description}")
    return lines


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the leaves of a resolved configuration with their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read_schedule(config: RunConfig, steps_per_epoch: int | None) -> schedules.Schedule:
    """Build the run's schedule; a value that does not fit becomes a :class:`UserError` naming ``schedule``."""
    try:
        return schedules.build(config.schedule, steps_per_epoch=steps_per_epoch, global_batch=config.data.global_batch)
    except ValueError as error:
        raise UserError(str(error)) from None


def _validate(path: str | Path, tree: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {_describe(error)}") from None


def _describe(error: ValidationError) -> str:
    """Say the first problem in one line; pydantic's own words follow the key and its value."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}: {near_matches(str(problem['loc'][-1]), _keys_beside(problem['loc']))}{more}"
    if problem["type"] == "missing":
        return f"key {key} is missing{more}"
    words = problem["msg"].removeprefix("Value error, ")
    return f"{key}={problem['input']!r}: {words[0].lower()}{words[1:]}{more}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    section: Any = RunConfig
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def _check_words(path: str | Path, config: RunConfig) -> None:
    """Refuse what can be no name of a file or module on any system, wherever a path or a name is asked for."""
    for key, value in flat(config.model_dump()):
        if isinstance(value, str) and ("\0" in value or max(len(os.fsencode(part)) for part in value.split("/")) > 255):
            raise UserError(f"{path}: {key}={value!r}: no name holds a NUL, or more than 255 bytes between slashes")


def _check_model(path: str | Path, options: ModelConfig) -> None:
    if plugins.is_reference(options.name):
        return
    try:
        models.resolve(options.name, num_classes=10, in_channels=3, **options.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: model: {error}") from None


def _check_schedule(path: str | Path, config: RunConfig) -> None:
    """Refuse a bad schedule before anything starts, unless it counts in epochs, whose length only the data knows."""
    needs_data = any("epoch" in str(value) for _, value in flat(config.schedule))
    if needs_data and "steps_per_epoch" not in config.schedule:
        return
    try:
        schedule = read_schedule(config, None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    check_steps(config, schedule.total_steps)


def check_steps(config: RunConfig, total_steps: int) -> None:
    """Refuse snapshot steps that the run never reaches."""
    late = [step for step in config.snapshots.steps if step >= total_steps]
    if late:
        raise UserError(
            f"snapshots.steps={config.snapshots.steps}: the run makes updates 0 to {total_steps - 1}; "
            f"leave out {late[0]}"
        )
