"""The section ``step`` of a recipe: what an update computes. Imports no MindSpore."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from train.keys import Count, PositiveInt, Section


class StepOptions(Section):
    """Training extras; a zero (or one) leaves each off, and then nothing of it is in the graph."""

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
    # See train.device.set_precision; bf16 has no choice.
    batch_norm: Literal["fp32", "mixed"] = Field("fp32", description="with fp16: input of BatchNorm; mixed: float16")
    # Micikevicius et al. 2018, arXiv:1710.03740; see train.step.reduction.LossScale
    loss_scale: float = Field(1.0, ge=1, description="first factor on the loss, against float16's underflow")
    loss_scale_window: Count = Field(0, description="good updates before the factor doubles; 0: it is constant")
