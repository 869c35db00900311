"""Schedules as text: a table, a CSV, the difference between two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

import numpy as np

from schedules.schedule import Schedule

ROWS = 8  # evenly spaced rows of a table, besides joints and the steps asked for
SHOWN_PHASES = 12


def summary(schedule: Schedule) -> str:
    """Size and fingerprint, the phases with their first and last steps, and the notes."""
    spans = [
        f"{p.name} {p.start}" + (f"-{p.stop - 1}" if p.stop > p.start + 1 else "")
        for p in schedule.phases[:SHOWN_PHASES]
    ]
    if len(schedule.phases) > SHOWN_PHASES:
        spans.append(f"and {len(schedule.phases) - SHOWN_PHASES} more")
    size = f"{schedule.total_steps} steps, lr {schedule.lr.min()!s} to {schedule.lr.max()!s}"
    lines = [f"{size}, fingerprint {schedule.fingerprint}", f"phases: {', '.join(spans)}"]
    return "\n".join([*lines, *(f"note: {note}" for note in schedule.notes)])


def chosen_steps(schedule: Schedule, at: Sequence[int]) -> list[int]:
    """First and last step of every phase (of the first few), some in between, and those asked for.

    Raises:
        ValueError: a step asked for does not exist.
    """
    last = schedule.total_steps - 1
    for t in at:
        schedule.phase_at(t)
    joints = [t for p in schedule.phases[:SHOWN_PHASES] for t in (p.start, p.stop - 1)]
    spread = [round(last * k / ROWS) for k in range(ROWS + 1)]
    return sorted({*joints, *spread, *at})


def table(schedule: Schedule, at: Sequence[int] = (), steps_per_epoch: int | None = None) -> str:
    """One row a step: step, epoch if known, lr to the last float32 digit, phase. Steps in `at` bear an arrow."""
    header = ["step", *(["epoch"] if steps_per_epoch else []), "lr", "phase"]
    rows = []
    for t in chosen_steps(schedule, at):
        epoch = [f"{t / steps_per_epoch:.2f}"] if steps_per_epoch else []
        mark = "  <-" if t in at else ""
        rows.append([str(t), *epoch, str(schedule.lr[t]), schedule.phase_at(t) + mark])
    return columns([header, *rows])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as aligned columns, the last one to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


CSV_HEADER = "step,lr,phase\n"


def write_csv(schedule: Schedule, file: TextIO) -> None:
    """step,lr,phase for every step; lr in the fewest digits that read back to the same float32."""
    file.write(CSV_HEADER)
    file.writelines(_csv_lines(schedule))


def _csv_lines(schedule: Schedule) -> Iterator[str]:
    for phase in schedule.phases:
        for t in range(phase.start, phase.stop):
            yield f"{t},{schedule.lr[t]!s},{phase.name}\n"


def difference(a: Schedule, b: Schedule, at: Sequence[int] = ()) -> str:
    """Where two schedules part, by how much, and both side by side at a few steps."""
    common = min(a.total_steps, b.total_steps)
    delta = b.lr[:common].astype(np.float64) - a.lr[:common]
    parted = np.flatnonzero(delta)
    lines = [f"A: {summary(a)}", f"B: {summary(b)}"]
    if a.total_steps != b.total_steps:
        lines.append(f"lengths differ: {a.total_steps} and {b.total_steps}; the first {common} steps are compared")
    if not parted.size:
        return "\n".join([*lines, f"equal in all {common} steps, bit for bit"])
    worst = int(np.argmax(np.abs(delta)))
    lines += [
        f"they part at step {parted[0]} and differ in {parted.size} of {common} steps",
        f"largest difference: {delta[worst]:+.6g} at step {worst} ({a.lr[worst]!s} and {b.lr[worst]!s})",
    ]
    steps = {*chosen_steps(a, at), int(parted[0]), worst}
    return "\n".join([*lines, columns(_side_by_side(a, b, sorted(t for t in steps if t < common)))])


def _side_by_side(a: Schedule, b: Schedule, steps: Iterable[int]) -> list[list[str]]:
    rows = [["step", "A", "B", "B - A"]]
    for t in steps:
        rows.append([str(t), str(a.lr[t]), str(b.lr[t]), f"{float(b.lr[t]) - float(a.lr[t]):+.6g}"])
    return rows
