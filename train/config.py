"""One typed description of a run: the dataclass-like sections below ← a YAML recipe ← ``key=value`` arguments.

Every key has a type, a range and a line of description (``python -m train --help`` prints them). Unknown keys, wrong
types and values out of range raise :class:`train.errors.UserError` with one line that names the key. Imports no
MindSpore.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

import models
import schedules
from schedules.durations import Clock
from train.data.options import DataConfig
from train.device import Device
from train.errors import UserError, near_matches
from train.keys import (
    FREE,
    UNCOMPARED,
    Count,
    Every,
    References,
    Section,
    Steps,
    Traits,
    check_references,
    import_modules,
    in_updates,
    in_words,
    is_reference,
    split_reference,
)
from train.recipe import apply_override, read_recipe, to_text
from train.step.options import MEASURED, OptimizerOptions, StepOptions


class DeviceConfig(Section):
    target: Device = Field("auto", description="auto: Ascend where one is visible, else the CPU")
    deterministic: bool = Field(True, description="Ascend: equal inputs give equal bits, at some cost in speed")
    jit_level: Literal["O0", "O1"] = Field("O0", description="Ascend: O1 fuses operators into fewer kernels")


class ModelConfig(Section):
    name: str = Field("resnet20", description="a name of python -m models, or your own function as module:name")
    init_from: str = Field("", description="weights to start from: safetensors of torchvision, timm or a run")
    options: dict[str, Any] = Field({}, description="passed to models.create_model, e.g. {shortcut: B}")


class SnapshotConfig(Section):
    # The step measures the norms of these layers' updates.
    layers: Annotated[list[str], Traits(free=True)] = Field(
        [], description="parameters whose updates are recorded: names or globs"
    )
    # With steps, the step also keeps what the optimizer is handed.
    steps: Annotated[Steps, Traits(free=True)] = Field(
        [], description="updates t whose W_start, v, lr and W_new every rank records"
    )

    @model_validator(mode="after")
    def name_layers(self) -> SnapshotConfig:
        if self.steps and not self.layers:
            raise ValueError('there is no layer to record at these steps; name some, e.g. layers: ["*weight"]')
        return self


class EvaluateConfig(Section):
    every: Every = Field(0, description='updates, "1 epochs" or "5%" between evaluations; 0: only at the end')
    # With top1 the step counts correct answers, too.
    metrics: Annotated[References, Traits(free=True)] = Field(
        list(MEASURED), min_length=1, description=f"some of {', '.join(MEASURED)}, or yours as module:Class"
    )
    best: str = Field("", description="metric that says which state is best; empty: top1, or the first of metrics")
    best_is: Literal["", "max", "min"] = Field("", description="empty: max, of loss min")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: References) -> References:
        return check_references(metrics, MEASURED)

    @model_validator(mode="after")
    def _best_is_measured(self) -> EvaluateConfig:
        if self.best and self.best.partition("/")[0] not in self.names:
            raise ValueError(f"best={self.best!r}: is not among the metrics; {near_matches(self.best, self.names)}")
        return self

    @property
    def names(self) -> list[str]:
        """Of the metrics, as they are logged."""
        return [split_reference(metric)[0].rpartition(":")[2] for metric in self.metrics]

    @property
    def deciding(self) -> str:
        """The metric that says which state is best."""
        return self.best or ("top1" if "top1" in self.names else self.names[0])

    @property
    def smaller_is_better(self) -> bool:
        return self.best_is == "min" or (not self.best_is and self.deciding == "loss")


class LogConfig(Section):
    every: Every = Field(1, description='updates, "1 epochs" or "5%" between logged points; 0: none')
    ranks_every: Every = Field(10, description="the same for each rank's own loss and times")
    # The step measures the norms of these layers' gradients.
    layers: Annotated[list[str], Traits(free=True, compared=False)] = Field(
        [], description='parameters whose gradient norm is logged: names or globs, ["*"] for all'
    )
    tensorboard: bool = Field(True, description="write TensorBoard events")
    language: Literal["en", "zh"] = Field("en", description="of the comparison's report: English or Chinese")


class CheckpointConfig(Section):
    every: Every = Field(0, description='updates, "1 epochs" or "5%" between checkpoints; 0: when it ends or stops')
    keep: Annotated[Count, Field(ge=2)] = Field(2, description="newest checkpoints that are kept, besides the best")
    background: bool = Field(False, description="write them while training goes on, one at a time")


class GuardConfig(Section):
    mode: Literal["skip", "stop"] = Field("skip", description="what the first update that is not finite does")
    stop_after: Count = Field(10, description="updates in a row, all skipped as not finite, that end it; 0: never")


class ReplicasConfig(Section):
    every: Every = Field(100, description="as above, between comparisons of the ranks; 0: only with checkpoints")


class WatchdogConfig(Section):
    timeout: float = Field(1800.0, ge=0, description="seconds without progress that end a rank; 0: never")


class RunConfig(Section):
    """The whole run. ``schedule`` is handed to :func:`schedules.build`, which owns and checks its keys."""

    name: Annotated[str, UNCOMPARED] = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder inside runs_dir"
    )
    runs_dir: Annotated[str, Traits(free=True, local=True, compared=False, compiled=False)] = Field(
        "runs", min_length=1, description="where run folders are made, relative to the working directory"
    )
    seed: Annotated[Count, Traits(compiled=False)] = Field(
        1, le=2**31 - 1, description="initial weights, and the order of the examples"
    )
    device: Annotated[DeviceConfig, Traits(compared=False)] = DeviceConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    schedule: dict[str, Any] = Field(
        description="the learning rate at every step; its keys: python -m schedules --help"
    )
    optimizer: OptimizerOptions = OptimizerOptions()
    step: StepOptions = StepOptions()
    snapshots: Annotated[SnapshotConfig, FREE] = SnapshotConfig()
    evaluate: Annotated[EvaluateConfig, FREE] = EvaluateConfig()
    log: Annotated[LogConfig, UNCOMPARED] = LogConfig()
    hooks: References = Field(
        [], description="more hooks: module:Class or {module:Class: options}; mindspore.train:LossMonitor works too"
    )
    imports: list[str] = Field([], description="modules to import first, e.g. one that registers a schedule kind")
    checkpoint: Annotated[CheckpointConfig, UNCOMPARED] = CheckpointConfig()
    guard: Annotated[GuardConfig, Traits(free=True)] = GuardConfig()  # its mode is compiled
    replicas: Annotated[ReplicasConfig, UNCOMPARED] = ReplicasConfig()
    watchdog: Annotated[WatchdogConfig, UNCOMPARED] = WatchdogConfig()
    resume: Annotated[str, UNCOMPARED] = Field(
        "never", min_length=1, description="auto: go on if the folder holds a run; or a checkpoint"
    )
    resume_changes: Annotated[list[str], UNCOMPARED] = Field(
        [], description="keys allowed to differ from the checkpoint's, e.g. [schedule]"
    )

    @field_validator("hooks")
    @classmethod
    def _references(cls, hooks: References) -> References:
        return check_references(hooks)

    @field_validator("device", mode="before")
    @classmethod
    def _target_alone(cls, value: object) -> object:
        return {"target": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _dynamic_scale_skips(self) -> RunConfig:
        if self.guard.mode == "stop" and self.step.loss_scale_window:
            raise ValueError(
                f"guard.mode=stop would end the run at the first overflow by which step.loss_scale_window="
                f"{self.step.loss_scale_window} looks for its factor; give guard.mode=skip or step.loss_scale_window=0"
            )
        return self

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.name


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read the recipe at ``path``, apply ``key=value`` overrides and check everything that needs no data.

    Raises:
        UserError: for a missing or unreadable file, bad YAML, an unknown key, a wrong type or a value out of range.
    """
    tree = read_recipe(Path(path))
    if isinstance(tree.get("device"), str):
        tree["device"] = {"target": tree["device"]}
    for argument in overrides:
        # "device=cpu" is short for the key that most people want, and leaves the other keys of the section alone.
        apply_override(tree, re.sub("^device=(?!{)", "device.target=", argument), _is_text)
    config = parse_config(path, tree)
    _check_words(path, config)
    import_modules(config.imports)
    _check_model(path, config.model)
    _check_schedule(path, config)
    return config


def to_yaml(config: RunConfig, **extra: object) -> str:
    """Return the resolved configuration as YAML that :func:`load_config` reads back (without ``extra``)."""
    return to_text({**config.model_dump(), **extra})


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


def parse_config(path: str | Path, tree: dict[str, Any]) -> RunConfig:
    """Check the tree of a recipe; ``path`` is named in errors. A section left empty has its defaults."""
    given = {key: value for key, value in tree.items() if value is not None or not _is_section(_kind(key))}
    try:
        return RunConfig.model_validate(given)
    except ValidationError as error:
        raise UserError(f"{path}: {_describe(error)}") from None


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _kind(key: str) -> Any:
    """Return the type of the dotted ``key``; None where there is no such key."""
    kind: Any = RunConfig
    for part in key.split("."):
        field = kind.model_fields.get(part) if _is_section(kind) else None
        if field is None:
            return None
        kind = field.annotation
    return kind


def _is_text(key: str) -> bool:
    kind = _kind(key)
    return kind is str or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))


def _describe(error: ValidationError) -> str:
    """Say the first problem in one line."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}: {near_matches(str(problem['loc'][-1]), _keys_beside(problem['loc']))}{more}"
    if problem["type"] == "missing":
        return f"key {key} is missing{more}"
    words = in_words(problem)
    if not key:  # about several keys, which the words name
        return f"{words}{more}"
    if isinstance(problem["input"], Mapping):  # about several keys of one section
        return f"{key}: {words}{more}"
    return f"{key}={problem['input']!r}: {words[0].lower()}{words[1:]}{more}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    section: Any = RunConfig
    for part in location[:-1]:
        if isinstance(part, str):  # else a place in a list of sections
            found = section.model_fields[part].annotation
            section = next((one for one in get_args(found) if hasattr(one, "model_fields")), found)
    return list(section.model_fields)


def _check_words(path: str | Path, config: RunConfig) -> None:
    """Refuse what can be no name of a file or module on any system, wherever a path or a name is asked for."""
    for key, value in flat(config.model_dump()):
        if isinstance(value, str) and ("\0" in value or max(len(os.fsencode(part)) for part in value.split("/")) > 255):
            raise UserError(f"{path}: {key}={value!r}: no name holds a NUL, or more than 255 bytes between slashes")


def _check_model(path: str | Path, options: ModelConfig) -> None:
    if is_reference(options.name):
        return
    try:
        models.resolve(options.name, num_classes=10, in_channels=3, **options.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: model: {error}") from None


def _check_schedule(path: str | Path, config: RunConfig) -> None:
    """Refuse a bad schedule before anything starts, unless it counts in epochs, whose length only the data knows."""
    if _counts_in_epochs(config.schedule) and "steps_per_epoch" not in config.schedule:
        return
    try:
        schedule = read_schedule(config, None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not _counts_in_epochs({"steps": config.snapshots.steps}):
        clock = Clock(None, total=schedule.total_steps)
        check_steps(in_updates(config.snapshots, clock, "snapshots.").steps, schedule.total_steps)


def _counts_in_epochs(tree: Mapping[str, Any]) -> bool:
    """Whether a value in ``tree`` is a duration in epochs."""
    values = [one for _, value in flat(tree) for one in (value if isinstance(value, list) else [value])]
    return any(isinstance(value, str) and re.fullmatch(r".*\bepochs?\s*", value) for value in values)


def check_steps(steps: Iterable[int], total_steps: int) -> None:
    """Refuse snapshot steps that the run never reaches."""
    late = [step for step in steps if step >= total_steps]
    if late:
        raise UserError(
            f"snapshots.steps={list(steps)}: the run makes updates 0 to {total_steps - 1}; leave out {late[0]}"
        )
