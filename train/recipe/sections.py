"""One typed description of a run: the dataclass-like sections below ← a YAML recipe ← ``key=value`` arguments.

Every key has a type, a range and a line of description (``python -m train --help`` prints them). Unknown keys, wrong
types and values out of range raise :class:`train.runtime.errors.UserError` with one line that names the key. Imports no
MindSpore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from train.data.options import DataConfig
from train.runtime.device import Device
from train.runtime.errors import near_matches
from train.runtime.keys import (
    MAY_CHANGE,
    MAY_DIFFER,
    UNCOMPARED,
    Count,
    Every,
    Place,
    References,
    Section,
    Steps,
    Traits,
    check_references,
    is_reference,
    split_reference,
    traits,
)
from train.step.options import MEASURED, OptimizerOptions, StepOptions

ONE_VALUE = {"device": "target", "model.init_from": "path"}
"""Sections for which one value may stand: that of the key most people want, as in ``device: cpu``."""


def unfold(tree: dict[str, Any]) -> dict[str, Any]:
    """Return ``tree`` with the sections written out for which it has one value."""
    for section, key in ONE_VALUE.items():
        name, _, rest = section.partition(".")
        value = tree.get(name)
        if rest and isinstance(value, dict) and isinstance(value.get(rest), str):
            tree = {**tree, name: {**value, rest: {key: value[rest]}}}
        elif not rest and isinstance(value, str):
            tree = {**tree, name: {key: value}}
    return tree


class DeviceConfig(Section):
    target: Device = Field("auto", description="auto: Ascend where one is visible, else the CPU")
    deterministic: bool = Field(True, description="Ascend: equal inputs give equal bits, at some cost in speed")
    jit_level: Literal["O0", "O1"] = Field("O0", description="Ascend: O1 fuses operators into fewer kernels")


class InitFrom(Section):
    """Arguments of :func:`models.weights.load_weights`; a path alone may stand for the section."""

    path: Place = Field("", description="weights to start from: safetensors of torchvision, timm or a run, or a .ckpt")
    drop: list[str] = Field([], description="names of the file to skip, as globs, e.g. [fc.*]: initialised at random")
    rename: dict[str, str] = Field({}, description="prefixes of names and their replacements, e.g. {classifier.: fc.}")
    strict: bool = Field(True, description="false: names that are missing or unexpected in the file are no error")
    grey_stem: Literal["", "sum"] = Field("", description="sum: a first convolution for RGB is summed for grey images")

    @model_validator(mode="after")
    def _says_how_to_read_a_file(self) -> InitFrom:
        if not self.path and self != InitFrom.model_construct():
            raise ValueError("path is missing; give the file that the other keys are about")
        return self


class ModelConfig(Section):
    name: str = Field("resnet20", description="a name of python -m models, or your own function as module:name")
    init_from: InitFrom = InitFrom()
    options: dict[str, Any] = Field({}, description="passed to models.create_model, e.g. {shortcut: B}")


def _check_ranks(value: object) -> object:
    numbers = isinstance(value, list) and value and all(type(rank) is int and rank >= 0 for rank in value)
    if value not in ("auto", "all", "first") and not numbers:
        raise ValueError("must be auto, all, first, or a list of ranks, as [0, 8]")
    return value


Ranks = Annotated[Any, BeforeValidator(_check_ranks)]


class SnapshotConfig(Section):
    layers: list[str] = Field([], description="parameters whose updates are recorded: names or globs")
    steps: Steps = Field([], description="updates t whose W_start, v, lr and W_new every rank records")
    ranks: Ranks = Field(
        "auto",
        description="ranks that write them: all, first or numbers, as [0, 8]; of the others only hashes are compared; "
        "auto: all up to 64 ranks, else the first",
    )

    @model_validator(mode="after")
    def name_layers(self) -> SnapshotConfig:
        if self.steps and not self.layers:
            raise ValueError('there is no layer to record at these steps; name some, e.g. layers: ["*weight"]')
        return self


class EvaluateConfig(Section):
    every: Every = Field(0, description='updates, "1 epochs" or "5%" between evaluations; 0: only at the end')
    metrics: References = Field(
        list(MEASURED), min_length=1, description=f"some of {', '.join(MEASURED)}, or yours as module:Class"
    )
    best: str = Field("", description="metric that decides which state is best; empty: top1, or the first of metrics")
    best_is: Literal["", "max", "min"] = Field("", description="empty: max, of loss min")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: References) -> References:
        return check_references(metrics, MEASURED)

    @model_validator(mode="after")
    def _best_is_measured(self) -> EvaluateConfig:
        if self.best and self.best.removeprefix("ema_").partition("/")[0] not in self.names:
            raise ValueError(f"best={self.best!r}: is not among the metrics; {near_matches(self.best, self.names)}")
        return self

    @property
    def names(self) -> list[str]:
        """Of the metrics, as they are logged."""
        return [split_reference(metric)[0].rpartition(":")[2] for metric in self.metrics]

    @property
    def deciding(self) -> str:
        """The metric that decides which state is best."""
        return self.best or ("top1" if "top1" in self.names else self.names[0])

    @property
    def smaller_is_better(self) -> bool:
        return self.best_is == "min" or (not self.best_is and self.deciding in ("loss", "ema_loss"))


class LogConfig(Section):
    every: Every = Field(1, description='updates, "1 epochs" or "5%" between logged points; 0: none')
    ranks_every: Every = Field(10, description="the same for each rank's own loss and times")
    layers: list[str] = Field([], description='parameters whose gradient norm is logged: names or globs, ["*"] for all')
    tensorboard: bool = Field(True, description="write TensorBoard events")
    language: Literal["en", "zh"] = Field(
        "en", description="of the comparison's report and of the lines on the console"
    )


class CheckpointConfig(Section):
    every: Every = Field(0, description='updates, "1 epochs" or "5%" between checkpoints; 0: when it ends or stops')
    keep: Annotated[Count, Field(ge=2)] = Field(2, description="newest checkpoints that are kept, besides the best")
    background: bool = Field(False, description="write them while training goes on, one at a time")


class GuardConfig(Section):
    mode: Literal["skip", "stop"] = Field("skip", description="what happens at the first update that is not finite")
    stop_after: Count = Field(10, description="updates skipped in a row as not finite that end the run; 0: never")


class ProfileConfig(Section):
    steps: list[Count] = Field([], description="first and last update of which a trace is written; empty: none")
    ranks: Ranks = Field("first", description="ranks that write it, as snapshots.ranks")

    @field_validator("steps", mode="before")
    @classmethod
    def _first_and_last(cls, steps: Any) -> Any:
        if steps and not (type(steps) is list and [*map(type, steps)] == [int] * 2 and 0 <= steps[1] - steps[0] < 100):
            raise ValueError("give the first and the last update, at most 100 in all, as [20, 30]")
        return steps


class ReplicasConfig(Section):
    every: Every = Field(100, description="as above, between comparisons of the ranks; 0: only with checkpoints")


class WatchdogConfig(Section):
    timeout: float = Field(1800.0, ge=0, description="seconds without progress that end a rank; 0: never")


class RunConfig(Section):
    """The whole run. ``schedule`` is handed to :func:`schedules.build`, which owns and checks its keys."""

    name: Annotated[str, UNCOMPARED] = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder inside runs_dir"
    )
    runs_dir: Annotated[Place, replace(MAY_DIFFER, compared=False)] = Field(
        "runs", min_length=1, description="where run folders are made, relative to the working directory"
    )
    seed: Count = Field(1, description="initial weights, and the order of the examples")
    device: Annotated[DeviceConfig, Traits(compared=False)] = DeviceConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    schedule: dict[str, Any] = Field(
        description="the learning rate at every step; its keys: python -m schedules --help"
    )
    optimizer: OptimizerOptions = OptimizerOptions()
    step: StepOptions = StepOptions()
    snapshots: Annotated[SnapshotConfig, MAY_CHANGE] = SnapshotConfig()
    evaluate: Annotated[EvaluateConfig, MAY_CHANGE] = EvaluateConfig()
    log: Annotated[LogConfig, UNCOMPARED] = LogConfig()
    hooks: References = Field(
        [], description="more hooks: module:Class or {module:Class: options}; mindspore.train:LossMonitor works too"
    )
    imports: list[str] = Field([], description="modules to import first, e.g. one that registers a schedule kind")
    checkpoint: Annotated[CheckpointConfig, UNCOMPARED] = CheckpointConfig()
    guard: Annotated[GuardConfig, MAY_CHANGE] = GuardConfig()
    replicas: Annotated[ReplicasConfig, UNCOMPARED] = ReplicasConfig()
    watchdog: Annotated[WatchdogConfig, UNCOMPARED] = WatchdogConfig()
    profile: Annotated[ProfileConfig, UNCOMPARED] = ProfileConfig()
    resume: Annotated[Place, UNCOMPARED] = Field(
        "never", min_length=1, description="auto: go on if the folder holds a run; or a checkpoint"
    )
    resume_changes: Annotated[list[str], UNCOMPARED] = Field(
        [], description="keys allowed to differ from the checkpoint's, e.g. [schedule]"
    )

    @field_validator("hooks")
    @classmethod
    def _references(cls, hooks: References) -> References:
        return check_references(hooks)

    @model_validator(mode="before")
    @classmethod
    def _one_value_for_a_section(cls, tree: object) -> object:
        return unfold(tree) if isinstance(tree, dict) else tree

    @model_validator(mode="after")
    def _best_average_is_kept(self) -> RunConfig:
        if self.evaluate.best.startswith("ema_") and not self.step.ema:
            raise ValueError(
                f"evaluate.best={self.evaluate.best}: there is no average of weights; set step.ema above 0"
            )
        return self

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

    @property
    def modules(self) -> set[str]:
        """The modules of the user's own that it names."""
        named = [self.model.name, self.data.source, self.step.loss, self.optimizer.name]
        named += [split_reference(entry)[0] for entry in (*self.hooks, *self.evaluate.metrics)]
        return {name.partition(":")[0] for name in named if is_reference(name)} | set(self.imports)


def keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterable[tuple[str, FieldInfo]]:
    """Yield the dotted name of each key with its field, in the order of the sections."""
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{key}.")
        else:
            yield prefix + key, field


def default_words(field: FieldInfo) -> str:
    """Return the default as a recipe would have it."""
    if field.is_required():
        return "required"
    return yaml.safe_dump(field.default, default_flow_style=True).split("\n")[0]


def choices(field: FieldInfo) -> list[str]:
    """Return all that may stand there, for a key that takes one of a few words."""
    return [choice or '""' for choice in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []


CHINESE = Path(__file__).with_name("keys.zh.yaml")


def describe_keys(locale: str = "") -> list[str]:
    """Return one line for each key: its dotted name, default, description and choices; in Chinese for ``zh_CN…``."""
    chinese = yaml.safe_load(CHINESE.read_text(encoding="utf-8")) if locale.startswith("zh") else {}
    lines = []
    for key, field in keys():
        allowed = f" ({', '.join(choices(field))})" if choices(field) else ""
        lines.append(f"  {key:32} {default_words(field):18} {chinese.get(key, field.description)}{allowed}")
    return lines


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the leaves of a resolved configuration with their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def with_defaults(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a saved configuration with the keys that were added to this version since."""
    try:
        return RunConfig.model_validate(tree).model_dump()
    except ValueError:
        return tree


def leaves(tree: Mapping[str, Any], wanted: Callable[[Traits], bool]) -> dict[str, Any]:
    """Return, by dotted key, those values of a resolved configuration whose keys' traits are ``wanted``."""
    return {key: value for key, value in flat(tree) if wanted(traits(RunConfig, key))}
