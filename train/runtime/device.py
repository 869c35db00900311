"""The only file that branches on CPU or Ascend.

Call :func:`set_environment_defaults` before the first ``import mindspore`` of the process, then :func:`configure`.
Nothing here overrides a variable that the user has set, except the one that keeps compiled graphs.

What is set on Ascend follows the MindSpore documentation (``mindspore.set_device``, "msrun launching"); it has not been
run on Ascend hardware yet.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from typing import TYPE_CHECKING, Literal

from train.runtime import cores
from train.runtime.errors import UserError

if TYPE_CHECKING:
    from mindspore import nn

Device = Literal["auto", "cpu", "ascend"]
# Of CANN's own Python packages those that MindSpore imports: the operators' compiler and the exchanges between ranks.
CANN_PACKAGES = ("te", "hccl")


def resolve(device: Device = "auto") -> Literal["cpu", "ascend"]:
    """Return the device that ``auto`` means here: Ascend where its driver shows a card, else the CPU."""
    if device != "auto":
        return device
    return "ascend" if os.path.exists("/dev/davinci_manager") else "cpu"


_NUMBERS = dict.fromkeys(("RANK_ID", "DEVICE_ID", "MS_WORKER_NUM", "MS_SCHED_PORT", "LAUNCH_RANKS"), r"\d+")
_NUMBERS |= {"MS_NODE_TIMEOUT": r"\d+", "MS_TOPO_TIMEOUT": r"\d+", "GLOG_v": "[0-4]"}
"""Variables that we or the framework take for numbers, and what they look like: else it ends with a traceback."""
_ON_A_CPU = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MS_RETRY_INTERVAL_LOWER": "0", "MS_RETRY_INTERVAL_UPPER": "1"}


def set_environment_defaults(device: Device = "auto") -> None:
    """Set the variables that the framework reads while it loads; must run before ``import mindspore``.

    - ``GLOG_v=3``: the framework's warnings (dozens of lines for each rank at start) stay out; errors stay in.
    - ``ONEDNN_MAX_CPU_ISA=AVX2``, CPU only: on AVX-512 hosts the bundled oneDNN otherwise falls back to a reference
      convolution, about 20 times slower for a ResNet-20 step.
    - ``MS_RETRY_INTERVAL_LOWER=0``, ``…_UPPER=1``, CPU only: seconds between a rank's messages to the scheduler, from
      which it also learns that all are there. MindSpore's 3 to 5 spare the scheduler of many ranks and hold up a start.
    - CPU only: this rank's part of the cores (:mod:`train.runtime.cores`).

    Raises:
        UserError: where the user has set one to what is no number and has to be.
    """
    for name, form in _NUMBERS.items():
        if not re.fullmatch(form, value := os.environ.get(name, "0")):
            allowed = "0 to 4" if name == "GLOG_v" else "a whole number"
            raise UserError(f"variable {name}={value!r}: must be {allowed}; change it, or unset it")
    os.environ.setdefault("GLOG_v", "3")
    warnings.filterwarnings("ignore", r"getName\(\) is deprecated")  # MindSpore's own code, at the end of each process
    # MindSpore's cache of compiled graphs notices no changed constant: another weight decay would change nothing.
    asked = os.environ.pop("MS_COMPILER_CACHE_ENABLE", "0") != "0"
    if asked and os.environ.get("RANK_ID", "0") == "0" and os.environ.get("MS_ROLE") != "MS_SCHED":
        print("note: MS_COMPILER_CACHE_ENABLE is ignored: it would hide changed keys of the recipe", file=sys.stderr)
    if resolve(device) == "cpu":
        for name, value in _ON_A_CPU.items():
            os.environ.setdefault(name, value)
        cores.take_part()


def set_precision(
    model: nn.Cell,
    precision: Literal["fp32", "fp16", "bf16"],
    device: Device = "auto",
    batch_norm: Literal["mixed", "fp32"] = "mixed",
) -> None:
    """Let ``model`` compute in a shorter format, in place; all weights themselves stay in float32.

    With ``batch_norm`` "mixed", BatchNorm takes float16 in and puts it out, with float32 parameters, sums and
    statistics, which saves two casts a layer each way. With "fp32" its input is cast up to float32: level O2 of
    ``mindspore.amp.auto_mixed_precision``. It takes no bfloat16, so that bf16 is always level O2.

    Raises:
        UserError: for bf16 on a CPU, whose kernels know float32 and float16 only.
    """
    if precision == "fp32":
        return
    import mindspore as ms
    from mindspore import nn

    if precision == "bf16" and resolve(device) == "cpu":
        raise UserError("step.precision='bf16': MindSpore has no bfloat16 kernels for a CPU; use fp32 or fp16 there")
    dtype = {"fp16": ms.float16, "bf16": ms.bfloat16}[precision]
    if batch_norm == "fp32" or precision == "bf16":
        ms.amp.auto_mixed_precision(model, "O2", dtype=dtype)
        return
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Conv1dTranspose, nn.Conv2dTranspose, nn.Conv3dTranspose)
    for _, cell in model.cells_and_names():
        if isinstance(cell, (*convolutions, nn.Dense)):
            cell.to_float(dtype)


def configure(target: Device = "auto", *, deterministic: bool = True, jit_level: Literal["O0", "O1"] = "O0") -> None:
    """Set environment defaults, graph mode and the device of this process; must run before it joins the others.

    Args:
        deterministic: Ascend: equal inputs give equal bits, in exchanges too (MindSpore sets ``HCCL_DETERMINISTIC``).
        jit_level: Ascend: O1 lets MindSpore fuse operators into fewer kernels.

    Raises:
        UserError: when Ascend is asked for and this MindSpore or machine has none.
    """
    set_environment_defaults(target)
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)
    ascend = resolve(target) == "ascend"
    try:
        ms.set_device("Ascend" if ascend else "CPU")
        if ascend:
            _configure_ascend(deterministic, jit_level)
    except (RuntimeError, ValueError) as error:
        if not ascend:
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"device={target}: no usable Ascend device ({reason}); use device=cpu or install CANN"
        ) from None


def in_the_last_bits() -> dict[str, str]:
    """Return what of this process reaches the last bits of the weights: a CPU's kernels cut their sums by the number of
    cores that they see."""
    import mindspore as ms

    return {"cores of a rank": str(cores.seen())} if ms.get_context("device_target") == "CPU" else {}


def _configure_ascend(deterministic: bool, jit_level: str) -> None:
    import mindspore as ms

    ms.set_context(jit_config={"jit_level": jit_level})
    ms.set_deterministic(deterministic)
    # MindSpore takes 18% of the cores it sees for the threads that hand out kernels, and a graph with a branch needs
    # two: with fewer than 12 cores it does not compile ("Can not build a sub graph which contains ConditionSwitch").
    if min(os.cpu_count() or 1, cores.seen()) < 12:
        ms.runtime.dispatch_threads_num(2)


def require_cann_packages(device: Device = "auto") -> None:
    """Check on Ascend that CANN's Python packages can be imported, for which they need packages of others.

    Raises:
        UserError: names the package and what is missing.
    """
    if resolve(device) == "cpu":
        return
    for name in CANN_PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # MindSpore's own check expects anything there, too
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise UserError(
                f"CANN's Python package {name} cannot be imported ({reason}); source CANN's set_env.sh and install "
                "what CANN needs of Python (launch/ASCEND.md) into this environment"
            ) from None
