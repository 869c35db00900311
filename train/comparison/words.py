"""The sentences of the report, which stand in words.yaml in English and in Chinese."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import yaml

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

PAIRS: dict[str, tuple[str, str]] = yaml.load(
    Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader
)
"""By name: (English, Chinese), templates of :meth:`str.format`. A row of columns is separated by ``|``."""


class Words:
    """The sentences of one language: ``say("loss", loss="0.1")``; ``d`` is filled in, the sign of the direction."""

    def __init__(self, language: Language, direction: str):
        self.index = LANGUAGES.index(language)
        self.direction = direction

    def __call__(self, name: str, **figures: object) -> str:
        return PAIRS[name][self.index].format(**{"d": self.direction, **figures})

    def columns(self, name: str, **figures: object) -> list[str]:
        return self(name, **figures).split("|")

    def count(self, name: str, n: int) -> str:
        return self(name if n == 1 else f"{name}s", n=n)

    def phase(self, name: str) -> str:
        return self(f"phase {name}") if f"phase {name}" in PAIRS else name

    def yes(self, value: bool) -> str:
        return self("yes" if value else "no")

    def listed(self, items: Sequence[str]) -> str:
        """``a, b and c``; at least one item."""
        return self("and").join([*([self("comma").join(items[:-1])] if items[1:] else []), items[-1]])
