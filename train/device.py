"""The only file that branches on CPU or Ascend.

Call :func:`set_environment_defaults` before the first ``import mindspore`` of the process, then :func:`configure`.
Nothing here overrides a variable that the user has set.

What is set on Ascend follows the MindSpore documentation (``mindspore.set_device``, "msrun launching"); it has not been
run on Ascend hardware yet.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from train.errors import UserError

if TYPE_CHECKING:
    from mindspore import nn

Device = Literal["auto", "cpu", "ascend"]


def resolve(device: Device = "auto") -> Literal["cpu", "ascend"]:
    """Return the device that ``auto`` means here: Ascend where its driver shows a card, else the CPU."""
    if device != "auto":
        return device
    return "ascend" if os.path.exists("/dev/davinci_manager") else "cpu"


def set_environment_defaults(device: Device = "auto") -> None:
    """Set the variables that the framework reads while it loads; must run before ``import mindspore``.

    - ``GLOG_v=3``: the framework's warnings (dozens of lines for each rank at start) stay out; errors stay in.
    - ``ONEDNN_MAX_CPU_ISA=AVX2``, CPU only: on AVX-512 hosts the bundled oneDNN otherwise falls back to a reference
      convolution, about 20 times slower for a ResNet-20 step.
    """
    os.environ.setdefault("GLOG_v", "3")
    if resolve(device) == "cpu":
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def set_precision(model: nn.Cell, precision: Literal["fp32", "fp16", "bf16"], device: Device = "auto") -> None:
    """Let ``model`` compute in a shorter format, in place; BatchNorm and the weights themselves stay in float32.

    This is level O2 of ``mindspore.amp.auto_mixed_precision``.

    Raises:
        UserError: for bf16 on a CPU, whose kernels know float32 and float16 only.
    """
    if precision == "fp32":
        return
    import mindspore as ms

    if precision == "bf16" and resolve(device) == "cpu":
        raise UserError("step.precision='bf16': MindSpore has no bfloat16 kernels for a CPU; use fp32 or fp16 there")
    dtype = {"fp16": ms.float16, "bf16": ms.bfloat16}[precision]
    ms.amp.auto_mixed_precision(model, "O2", dtype=dtype)


def separate_compile_cache(folder: Path, compiled_in: object) -> None:
    """Keep the compiled graphs of each configuration apart, if the user wants them kept but does not say where.

    MindSpore's cache (``MS_COMPILER_CACHE_ENABLE=1``) numbers the graphs of a process as they come and does not notice
    changed constants: with one place for all, a run with another weight decay would go on with the old one, and one
    that begins with an evaluation would take the training step for it. Must run before the first graph is compiled.

    Args:
        folder: where the graphs of all configurations go, unless the user has set ``MS_COMPILER_CACHE_PATH``.
        compiled_in: a JSON-able value that differs wherever a graph, or the order of the graphs, may differ.
    """
    if os.environ.get("MS_COMPILER_CACHE_ENABLE") == "1":
        digest = hashlib.sha256(json.dumps(compiled_in, sort_keys=True).encode()).hexdigest()[:16]
        os.environ.setdefault("MS_COMPILER_CACHE_PATH", str(folder.resolve() / digest))


def configure(device: Device = "auto") -> None:
    """Set environment defaults, graph mode and the device of this process.

    Raises:
        UserError: when Ascend is asked for and this MindSpore or machine has none.
    """
    set_environment_defaults(device)
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)
    target = {"cpu": "CPU", "ascend": "Ascend"}[resolve(device)]
    try:
        ms.set_device(target)
    except (RuntimeError, ValueError) as error:
        if target == "CPU":
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"device={device}: no usable Ascend device ({reason}); use device=cpu or install CANN"
        ) from None
