"""The sections ``step`` and ``optimizer`` of a recipe: what an update computes. Imports no MindSpore."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from train.runtime.errors import near_matches
from train.runtime.keys import Count, Positive, PositiveInt, Section, is_reference

OPTIMIZERS = {
    "momentum": "train.step.update_rules:Momentum",
    "nesterov": "train.step.more_rules:nesterov",
    "sgd": "train.step.update_rules:sgd",
    "adam": "train.step.more_rules:adam",
    "adamw": "train.step.more_rules:AdamW",
    "lamb": "train.step.more_rules:Lamb",
    "lars": "train.step.more_rules:Lars",
}
"""What makes each, imported when a recipe names it; what it takes beside parameters, learning rate and momentum are its
options."""
WITH_MOMENTUM = ("momentum", "nesterov", "lars")
MOMENTUM = 0.9
MEASURED = ("loss", "top1", "top5")
"""Metrics that the evaluation's graph counts itself."""


class ParameterGroup(Section):
    """Some of the model's parameters, trained otherwise than the rest."""

    params: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        min_length=1, description="names or globs, as in snapshots.layers"
    )
    lr_scale: Positive = Field(1.0, description="times the schedule")
    weight_decay: float | None = Field(None, ge=0, description="instead of optimizer.weight_decay")
    frozen: bool = Field(False, description="not trained at all")

    @model_validator(mode="after")
    def _frozen_has_no_rate(self) -> ParameterGroup:
        if self.frozen and (self.lr_scale != 1.0 or self.weight_decay is not None):
            raise ValueError("what is frozen has neither lr_scale nor weight_decay; leave these out")
        return self

    @property
    def title(self) -> str:
        """What it is called in the logs."""
        return ",".join(self.params)


class OptimizerOptions(Section):
    name: str = Field("momentum", description=f"{', '.join(OPTIMIZERS)}, or yours as module:function")
    options: dict[str, Any] = Field({}, description="passed to it, e.g. {beta2: 0.99} for adam")
    groups: list[ParameterGroup] = Field([], description="[{params: globs, lr_scale, weight_decay, frozen}, ...]")
    momentum: float = Field(MOMENTUM, ge=0, lt=1, description="v_t = momentum * v_(t-1) + g_t")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty, added to the gradient; adamw, lamb: to the step")
    decay_norm_and_bias: bool = Field(False, description="also decay BatchNorm's gamma and beta, and biases")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in OPTIMIZERS and not is_reference(name):
            raise ValueError(f"{near_matches(name, OPTIMIZERS)} Your own is written as module:function")
        return name

    @model_validator(mode="after")
    def _momentum_is_used(self) -> OptimizerOptions:
        if self.name not in WITH_MOMENTUM and self.momentum != MOMENTUM:
            raise ValueError(f"momentum={self.momentum}: {self.name} does not take it; use options")
        if self.name == "nesterov" and not self.momentum:
            raise ValueError("momentum=0.0: nesterov needs more; use name=sgd without momentum")
        return self


class StepOptions(Section):
    """Training extras; a zero (or one) leaves each off, and then nothing of it is in the graph."""

    loss: str = Field("cross_entropy", description="or yours as module:name; see train/step/loss.py")
    loss_options: dict[str, Any] = Field({}, description="passed to it, e.g. {gamma: 2.0}")
    # Szegedy et al. 2016, arXiv:1512.00567
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="fraction of the target spread over all classes")
    # Zhang et al. 2018, arXiv:1710.09412
    mixup: float = Field(0.0, ge=0, description="alpha of mixup's Beta distribution; 0: off")
    # Yun et al. 2019, arXiv:1905.04899
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix's Beta distribution; 0: off")
    # Their gradients are summed before the one update.
    accumulate: PositiveInt = Field(1, description="parts into which each rank's batch is cut, to save memory")
    # Pascanu et al. 2013, arXiv:1211.5063
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the reduced gradient; 0: no clipping")
    # Of weights and moving statistics; at first min(ema, (1+t)/(10+t)), so that the initial weights are soon forgotten.
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the moving average of weights, e.g. 0.999; 0: off")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of convolutions and products")
    # See train.runtime.device.set_precision; bf16 has no choice.
    batch_norm: Literal["mixed", "fp32"] = Field("mixed", description="with fp16: input of BatchNorm; mixed: float16")
    # Micikevicius et al. 2018, arXiv:1710.03740; see train.step.gradients.LossScale
    loss_scale: float = Field(1.0, ge=1, description="first factor on the loss, against float16's underflow")
    loss_scale_window: Count = Field(0, description="good updates before the factor doubles; 0: it is constant")

    @model_validator(mode="after")
    def _loss_is_known(self) -> StepOptions:
        own = is_reference(self.loss)
        if not own and self.loss != "cross_entropy":
            raise ValueError(f"loss={self.loss!r}: cross_entropy, or your own as module:name")
        if not own and self.loss_options:
            raise ValueError(f"loss_options={self.loss_options}: cross_entropy takes none")
        if own and self.label_smoothing:
            raise ValueError(f"label_smoothing={self.label_smoothing}: is for cross_entropy; handle it in your loss")
        return self
