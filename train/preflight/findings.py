"""What a check found, and the one table of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from train.runtime.errors import RunError


@dataclass(frozen=True)
class Finding:
    """The end of one check on one rank.

    Args:
        check: its name.
        ok: whether it passed.
        text: what was seen; of a failure, also what to do.
    """

    check: str
    ok: bool
    text: str


def look(check: str, action: Callable[[], str]) -> Finding:
    """Return what ``action`` says, or the :class:`RunError` that it raises."""
    try:
        return Finding(check, True, action())
    except RunError as error:
        return Finding(check, False, str(error))


def table(ranks: Sequence[Sequence[Finding]], numbers: Sequence[int] | None = None) -> list[str]:
    """Return the lines of a table with one row for each check, and the worst that any rank found.

    Args:
        ranks: for each rank its findings, the same checks in the same order.
        numbers: the ranks' numbers (None: 0, 1, ...).
    """
    numbers = numbers if numbers is not None else range(len(ranks))
    rows = [("check", "result", "found")]
    for findings in zip(*ranks, strict=True):
        bad = [number for number, finding in zip(numbers, findings, strict=True) if not finding.ok]
        if bad:
            who = "all ranks" if len(bad) == len(ranks) > 1 else f"rank {', '.join(map(str, bad))}"
            rows.append((findings[0].check, "FAILED", f"on {who}, see below"))
        else:
            rows.append((findings[0].check, "ok", findings[0].text))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]


def failures(ranks: Sequence[Sequence[Finding]], numbers: Sequence[int] | None = None) -> list[str]:
    """Return a line for each failure; one for all the ranks that failed in the same words."""
    numbers = numbers if numbers is not None else range(len(ranks))
    found: dict[tuple[str, str], list[int]] = {}
    for number, findings in zip(numbers, ranks, strict=True):
        for finding in findings:
            if not finding.ok:
                found.setdefault((finding.check, finding.text), []).append(number)
    return [f"rank {', '.join(map(str, who))}: {check}: {text}" for (check, text), who in found.items()]
