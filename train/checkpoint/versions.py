"""What a run is made with: packages, our own source and the reader's; all ranks must have the same."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from schedules import Schedule
from train.runtime import cores, distributed, packages

OWN_PACKAGES = ("train", "models", "schedules")


def sources(modules: Iterable[str]) -> dict[str, str]:
    """Return a digest of our own source, and of each of the reader's ``modules``, by what it is of.

    All ranks must run the same; a module that cannot be found is refused where it is imported.
    """
    found = {}
    for module in sorted({*OWN_PACKAGES, *modules}):
        with contextlib.suppress(ImportError, ValueError, OSError):
            origin = Path(getattr(importlib.util.find_spec(module), "origin", None) or "")
            files = sorted(origin.parent.rglob("*.py")) if module in OWN_PACKAGES else [origin]
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
            found[f"the source of {module}"] = digest
    return found


def versions(schedule: Schedule) -> dict[str, str]:
    """Return what the run is made with, for people and for a resumed run to compare."""
    import mindspore as ms

    # A CPU's kernels cut their sums by the number of cores that they see, which reaches the last bits of the weights.
    seen = {"cores of a rank": str(cores.seen())} if ms.get_context("device_target") == "CPU" else {}
    return {
        **packages.versions(),
        **seen,
        "world_size": str(distributed.world_size()),
        "schedule_fingerprint": schedule.fingerprint,
    }
