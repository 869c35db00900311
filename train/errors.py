"""The one exception that means "you can fix this": shown as a line, without a traceback, with exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake in the configuration, the data or the environment. The message names it and says what to do."""


def near_matches(word: str, allowed: Iterable[str], limit: int = 3) -> str:
    """Return "did you mean a, b?" for the nearest of ``allowed``, or all of them when nothing is near."""
    allowed = list(allowed)
    near = difflib.get_close_matches(word, allowed, n=limit, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"allowed: {', '.join(sorted(allowed))}"
