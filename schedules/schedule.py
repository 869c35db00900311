"""A learning-rate schedule as one array: what every update uses, its phases, its fingerprint."""

from __future__ import annotations

import bisect
import hashlib
import io
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from schedules.errors import MAX_FILE_BYTES, read_file


@dataclass(frozen=True)
class Phase:
    """A named run of steps: `start` ≤ t < `stop`."""

    name: str
    start: int
    stop: int


def fingerprint(lr: NDArray[np.float32]) -> str:
    """Twelve hex digits of SHA-256 over the dtype, the length and the little-endian float32 bytes of `lr`.

    Equal fingerprints mean equal schedules, bit for bit; the processor's byte order does not matter.
    """
    digest = hashlib.sha256(f"float32[{len(lr)}]".encode())
    digest.update(np.ascontiguousarray(lr, dtype="<f4").data)
    return digest.hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Schedule:
    """`lr[t]` is the learning rate of update t, t = 0 … total_steps − 1.

    Args:
        lr: float32, shape (total_steps,), finite and not negative; made read-only.
        phases: laid end to end from 0 to total_steps.
        notes: what is worth a line before training; no part of the fingerprint, of equality and of the file.

    Raises:
        ValueError: the array or the phases break one of these rules.
    """

    lr: NDArray[np.float32] = field(repr=False)
    phases: tuple[Phase, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.lr.dtype != np.float32 or self.lr.ndim != 1 or not self.lr.size:
            raise ValueError(
                f"lr must be a float32 array of shape (total_steps,) with total_steps ≥ 1, "
                f"not {self.lr.dtype} of shape {self.lr.shape}"
            )
        if not (self.lr.min() >= 0 and self.lr.max() < np.inf):
            raise ValueError("lr must be finite and not negative at every step")
        joints = [0, *(phase.stop for phase in self.phases)]
        laid = all(p.start == joint and p.start < p.stop for p, joint in zip(self.phases, joints, strict=False))
        if not laid or joints[-1] != self.lr.size:
            raise ValueError(f"phases must lie end to end from 0 to total_steps = {self.lr.size}, not {self.phases}")
        self.lr.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return self.phases == other.phases and np.array_equal(self.lr, other.lr)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def total_steps(self) -> int:
        return self.lr.size

    @cached_property
    def fingerprint(self) -> str:
        """Short hash over the length and the float32 bytes: shown in logs, compared between ranks."""
        return fingerprint(self.lr)

    def phase_at(self, t: int) -> str:
        """Name of the phase of update t.

        Raises:
            ValueError: t is not within 0 … total_steps − 1.
        """
        if not 0 <= t < self.total_steps:
            raise ValueError(f"t = {t}: the schedule has the steps 0 … {self.total_steps - 1}")
        return self.phases[bisect.bisect_right(self.phases, t, key=lambda phase: phase.start) - 1].name

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an uncompressed .npz without pickles; a reader never sees half a file."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            self.write(file)
        partial.replace(path)

    def write(self, file: BinaryIO) -> None:
        """Write what :meth:`load` reads into an open file."""
        np.savez(
            file,
            lr=self.lr,
            fingerprint=np.array(self.fingerprint),
            phase_names=np.array([phase.name for phase in self.phases]),
            phase_stops=np.array([phase.stop for phase in self.phases], dtype=np.int64),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str] | BinaryIO) -> Schedule:
        """Read what `save` wrote, bit for bit; from its place, or from a file that is open.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or is not a schedule.
        """
        # Read first: an error of the disk's is no damage.
        content = read_file(path) if isinstance(path, str | os.PathLike) else path.read(MAX_FILE_BYTES)
        path = path if isinstance(path, str | os.PathLike) else path.name
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                if sum(one.file_size for one in stored.zip.infolist()) > len(content):  # np.savez packs nothing
                    raise ValueError("it would unpack to more than its size")
                names, stops = stored["phase_names"].tolist(), stored["phase_stops"].tolist()
                expected = str(stored["fingerprint"])
                schedule = cls(stored["lr"], tuple(map(Phase, names, [0, *stops[:-1]], stops)))
        except Exception as error:  # whatever zipfile and NumPy raise over bytes in memory, the bytes are to blame
            raise ValueError(f"{path}: not a schedule, or damaged ({error})") from error
        if schedule.fingerprint != expected:
            raise ValueError(f"{path}: damaged: stored fingerprint {expected}, array {schedule.fingerprint}")
        return schedule
