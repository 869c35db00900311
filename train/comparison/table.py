"""Numbers, lists and tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def number(value: float | None, digits: int = 6) -> str:
    """So many significant digits; a dash where there is no number."""
    return "–" if value is None else f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """A part of one as a percentage; a dash where there is none."""
    return "–" if value is None else f"{value:.0%}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``; at least one name."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with columns of one width; floats get six significant digits, None a dash."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)
