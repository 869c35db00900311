"""Numbers, names and tables as text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from train.runtime.console import escaped


def number(value: float | None, digits: int = 6) -> str:
    """So many significant digits; a dash where there is no number."""
    return "–" if value is None else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A part of one as a percentage; a dash where there is none."""
    return "–" if value is None else f"{value:.0%}"


_MEANS_SOMETHING = {"<": "&lt;", "`": "'", "\\": "\\\\", "|": "\\|", "*": "\\*", "$": "\\$"}


def plain(name: object) -> str:
    """A name that comes from a file, as text that means nothing else in Markdown, HTML, a formula or a terminal."""
    text = "".join(_MEANS_SOMETHING.get(c, c) if c.isprintable() else escaped(c) for c in str(name))
    return text.replace("](", "]\\(")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with columns of one width; floats get six significant digits, None a dash."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(map(_padded, row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Columns in a terminal, where a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
