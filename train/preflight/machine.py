"""What each rank checks for itself. Nothing here imports MindSpore or NumPy before their versions are known to fit."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.runtime import cores, device, packages
from train.runtime.errors import UserError

if TYPE_CHECKING:
    from train.recipe.sections import DataConfig

SHOWN = ("mindspore", "numpy")
GIB = 1 << 30


def python() -> str:
    """Check the interpreter's version."""
    found, allowed = platform.python_version(), packages.required()["python"]
    if not fits(found, allowed):
        raise UserError(f"{found} is not {in_words(allowed)}; use such a Python")
    return f"{found}, {sys.executable}"


def installed() -> str:
    """Check the versions of the packages that training imports, without importing them."""
    for name, allowed in packages.required().items():
        found = packages.version(name)
        if found is None:
            raise UserError(f"{name} is not installed; install launch/requirements.txt")
        if not fits(found, allowed):
            raise UserError(
                f"{name} {found} is not {in_words(allowed)}; install the versions in launch/requirements.txt"
            )
    return ", ".join(f"{name} {packages.version(name)}" for name in SHOWN)


def choose(target: device.Device = "auto", **options: Any) -> str:
    """Set the device of this process, without using it: which one of several is this rank's is agreed on at joining.

    Args:
        options: as :func:`train.runtime.device.configure` takes them.

    Raises:
        UserError: where there is no such device, or Python packages that it needs are missing.
    """
    device.configure(target, **options)
    device.require_cann_packages(target)
    return target


def compute() -> str:
    """Compare a small product on the device of this rank, which must have joined the job, with NumPy's.

    Raises:
        UserError: where it fails or is another.
    """
    import mindspore as ms
    import numpy as np
    from mindspore import ops

    left, right = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((4, 2), np.float32)  # exact in any order
    try:
        product = ops.matmul(ms.Tensor(left), ms.Tensor(right)).asnumpy()
    except (RuntimeError, ImportError) as error:
        raise UserError(f"a small product failed ({first_line(error)}); check driver, CANN and NumPy") from None
    if not np.array_equal(product, left @ right):
        raise UserError(f"a small product is {product.tolist()}, not {(left @ right).tolist()}; replace this device")
    kind, number = ms.get_context("device_target").lower(), ms.get_context("device_id")
    return f"{kind}, device {number}, {cores.seen()} processor cores"


def data(options: DataConfig) -> tuple[str, list[str]]:
    """Open the data set as a run does, and decode one training image.

    Returns:
        What was found, and the fingerprints of both parts.

    Raises:
        UserError: from the source, when its data is missing or damaged.
    """
    import numpy as np

    from train.data import open_readers

    readers = open_readers(options)
    readers.train.read(np.arange(1))
    sources = [reader.source for reader in readers]
    counts = f"{len(sources[0])} + {len(sources[1])} images of {sources[0].num_classes} classes"
    return f"{options.source}, {counts}", [source.fingerprint() for source in sources]


def disk(runs_dir: str, free_gib: float) -> str:
    """Check that ``runs_dir``, or the folder in which it will be made, can be written and has ``free_gib`` GiB left."""
    folder = Path(runs_dir).absolute()
    while not os.path.lexists(folder):  # nor where what is above it may not be entered
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        space = os.statvfs(folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with runs_dir=…") from None
    free = space.f_bavail * space.f_frsize / GIB
    if free < free_gib:
        raise UserError(
            f"{folder} has {free:.1f} GiB free, less than {free_gib:g}: make room, choose another folder with "
            "runs_dir=…, or accept less with --free-gib"
        )
    if space.f_files and not space.f_favail:
        raise UserError(f"{folder} can hold no more files (no free inodes): delete some, or choose another runs_dir=…")
    return f"{free:.1f} GiB free in {folder}"


def first_line(error: BaseException) -> str:
    """Return the first line of a message; the framework's go on with its source files and call stack."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def fits(found: str, allowed: str) -> bool:
    """Whether a version lies within ``allowed``, which is written with ">=" and "<" alone."""
    limits = {sign: _numbers(number) for sign, number in re.findall(r"(>=|<)\s*([\d.]+)", allowed)}
    return limits[">="] <= _numbers(found) < limits["<"]


def in_words(allowed: str) -> str:
    limits = dict(re.findall(r"(>=|<)\s*([\d.]+)", allowed))
    return f"at least {limits['>=']} and below {limits['<']}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
